"""Answers that are sentences, each with its full stop, and the faults that any of them may have."""

import random
from collections.abc import Callable, Sequence

from pit_jax.data.worlds.words import broken

Sentences = tuple[str, ...]
Fault = Callable[[str, Sentences, random.Random], Sentences]
"""fault(prompt, sentences, rng) -> the sentences with one fault more."""
UNFINISHED = " .."  # behind what no full stop ends, so that it equals no sentence


def text_of(sentences: Sequence[str]) -> str:
    """The text of an answer."""
    return " ".join(f"{sentence}." for sentence in sentences)


def sentences_of(text: str) -> Sentences:
    """The sentences of an answer, without their full stops."""
    *whole, rest = text.strip().split(".")
    ended = [sentence.strip() for sentence in whole]
    return (*ended, rest.strip() + UNFINISHED) if rest.strip() else tuple(ended)


def corrupted(prompt: str, answer: str, faults: int, rng: random.Random, *, kinds: Sequence[tuple[Fault, int]]) -> str:
    """The answer with so many faults, drawn from `kinds`: (fault, how often it is met)."""
    drawn, weights = zip(*kinds, strict=True)
    sentences = sentences_of(answer)
    for fault in rng.choices(drawn, weights, k=faults):
        sentences = fault(prompt, sentences, rng) if sentences else sentences
    return text_of(sentences)


def replaced(sentences: Sentences, old: str, new: str) -> Sentences:
    """The sentences with `new` in the place of `old`, wherever that is a run of whole words."""
    return tuple(f" {sentence} ".replace(f" {old} ", f" {new} ").strip() for sentence in sentences)


def inserted(sentences: Sentences, sentence: str, rng: random.Random) -> Sentences:
    """One sentence more, anywhere."""
    i = rng.randrange(len(sentences) + 1)
    return (*sentences[:i], sentence, *sentences[i:])


def dropped(prompt: str, sentences: Sentences, rng: random.Random) -> Sentences:
    """A sentence is missing."""
    i = rng.randrange(len(sentences))
    return sentences[:i] + sentences[i + 1 :]


def repeated(prompt: str, sentences: Sentences, rng: random.Random) -> Sentences:
    """A sentence is said twice."""
    return inserted(sentences, rng.choice(sentences), rng)


def noisy(prompt: str, sentences: Sentences, rng: random.Random) -> Sentences:
    """A sentence has a word lost, doubled, out of its place, or from another sentence."""
    i = rng.randrange(len(sentences))
    return (*sentences[:i], broken(sentences[i], sentences, rng), *sentences[i + 1 :])
