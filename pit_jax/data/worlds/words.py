"""Words of worlds: lists of them, and noise among those of a sentence."""

import random
from collections.abc import Sequence


def listed(text: str) -> list[str]:
    """The entries of a text that commas part."""
    return [entry.strip() for entry in text.split(",")]


def broken(sentence: str, foreign: Sequence[str], rng: random.Random) -> str:
    """The sentence with a word lost, doubled, swapped with its neighbour, or replaced by one of a foreign sentence.

    A sentence may be empty: noise before took its only word.
    """
    words = sentence.split()
    if not words:
        return sentence
    j = rng.randrange(len(words))
    match rng.randrange(4):
        case 0:
            del words[j]
        case 1:
            words.insert(j, words[j])
        case 2:
            k = (j + 1) % len(words)
            words[j], words[k] = words[k], words[j]
        case _:
            words[j] = rng.choice(rng.choice(foreign).split() or ["it"]).strip("{}") or "it"
    return " ".join(words)
