"""Negatives: answers made worse on purpose, whatever the data are, so that a model meets faults that no pair shows it.

Each kind is a function (prompt, answer, other, rng) -> a text that is worse than `answer` as a rule, or `answer` itself
where it can make none. `other` is an answer to another prompt, or "" where there is none. Neither it nor `answer` has
white space around it.
What stands between sentences stays: a negative must not be told by its line breaks.

Words and sentences are those of data/text/segments.py; a sentence also ends with its line, and a text of a single word
has its characters for words.
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

from pit_jax.batch import Triple
from pit_jax.data.text.segments import BETWEEN_SENTENCES_OR_LINES, BETWEEN_WORDS, behind
from pit_jax.data.worlds.words import broken
from pit_jax.table import Table

_PIECES = re.compile(r"\w+|\W")


def repeated(prompt: str, answer: str, other: str, rng: random.Random) -> str:
    """A sentence is said twice, the second time anywhere."""
    sentences, gaps = _split(answer, BETWEEN_SENTENCES_OR_LINES)
    place = rng.randrange(len(sentences) + 1)
    sentences.insert(place, rng.choice(sentences))
    gaps.insert(place, rng.choice(gaps or [behind(answer)]))
    return _joined(sentences, gaps)


def cut(prompt: str, answer: str, other: str, rng: random.Random) -> str:
    """The end is missing: 10% to 90% of the words."""
    words, gaps = _words(answer)
    kept = round(len(words) * rng.uniform(0.1, 0.9))
    kept = max(1, min(kept, len(words) - 1))
    return _joined(words[:kept], gaps[: kept - 1])


def shuffled(prompt: str, answer: str, other: str, rng: random.Random) -> str:
    """The sentences stand in another order; of a single one, the words of a span."""
    pieces, gaps = _split(answer, BETWEEN_SENTENCES_OR_LINES)
    first, stop = 0, len(pieces)
    if stop == 1:
        pieces, gaps = _words(answer)
        first = rng.randrange(max(len(pieces) - 1, 1))
        stop = first + rng.randint(2, len(pieces) + 1)
    before = pieces[first:stop]
    after = rng.sample(before, len(before))
    pieces[first:stop] = after if after != before else [*before[1:], before[0]]
    return _joined(pieces, gaps)


def another(prompt: str, answer: str, other: str, rng: random.Random) -> str:
    """What was said to another prompt."""
    return other or answer


def noisy(prompt: str, answer: str, other: str, rng: random.Random) -> str:
    """A word of a sentence is lost, doubled, swapped with the next one, or taken from `other`."""
    sentences, gaps = _split(answer, BETWEEN_SENTENCES_OR_LINES)
    place = rng.randrange(len(sentences))
    sentences[place] = broken(sentences[place], [other or answer], rng)
    return _joined(sentences, gaps)


def confused(prompt: str, answer: str, other: str, rng: random.Random) -> str:
    """A word that the prompt has too stands for another such word: what was asked for is mixed up."""
    pieces, asked = _PIECES.findall(answer), set(_PIECES.findall(prompt))
    places = [place for place, piece in enumerate(pieces) if piece in asked and piece[0].isalnum()]
    shared = sorted({pieces[place] for place in places})
    if len(shared) < 2:
        return answer
    place = rng.choice(places)
    pieces[place] = rng.choice([word for word in shared if word != pieces[place]])
    return "".join(pieces)


@dataclass(frozen=True)
class Negative:
    """A kind of negatives, by the name that --rm.negative-kinds calls it."""

    name: str
    make: Callable[[str, str, str, random.Random], str]


NEGATIVES = Table(
    "kind of negatives",
    *(Negative(make.__name__, make) for make in (repeated, cut, shuffled, another, noisy, confused)),
)


def negative_pairs(
    triples: Sequence[Triple], *, share: float, kinds: Sequence[str], seed: int
) -> list[tuple[str, Triple]]:
    """(kind, (prompt, an answer, a negative of it)): on average `share` of all pairs, the given ones included.

    The answer is the chosen one half of the time and the rejected one the other half, so that faults are learned at
    every quality: were it always the better one, telling good answers from bad ones, as the given pairs teach, could
    do. What comes from another row comes from the same side of it, so that its quality does not tell it.

    Which negatives a row has depends on (seed, its number, how many rows there are) and, but for what is taken from
    another answer, on its own texts. A kind that can make none gives way to the next one; a negative never is empty,
    nor one of the two answers of its row. Raises UserError for an unknown kind.
    """
    makers, found = [NEGATIVES[kind] for kind in kinds], []
    for row in range(len(triples)):
        rng = random.Random(f"{seed}:{row}")
        for _ in range(int(share / (1 - share) + rng.random())):
            pair, foreign = triples[row], triples[rng.randrange(len(triples))]
            side = rng.choice(("chosen", "rejected"))
            answer, other = getattr(pair, side), "" if foreign.prompt == pair.prompt else getattr(foreign, side).strip()
            if not (text := answer.strip()):
                continue
            for kind in rng.sample(makers, len(makers)):
                made = kind.make(pair.prompt, text, other, rng).strip()
                if made not in ("", pair.chosen.strip(), pair.rejected.strip()):
                    found.append((kind.name, Triple(pair.prompt, answer, answer.replace(text, made, 1))))
                    break
    return found


def _split(text: str, between: re.Pattern[str]) -> tuple[list[str], list[str]]:
    """(pieces, what stands between each of them and the next)."""
    return between.split(text), between.findall(text)


def _words(text: str) -> tuple[list[str], list[str]]:
    words, gaps = _split(text, BETWEEN_WORDS)
    return (words, gaps) if gaps else (list(text), [""] * (len(text) - 1))


def _joined(pieces: Sequence[str], gaps: Sequence[str]) -> str:
    return "".join(chain.from_iterable(zip_longest(pieces, gaps, fillvalue="")))
