"""Systems nobody trained, whose verdicts are known beforehand: what a judge says of them is about the judge."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pit_jax.data.text.segments import BETWEEN_SENTENCES, WORDS, behind
from pit_jax.evaluation.stats.comparison import Comparison


@dataclass(frozen=True)
class Control:
    """`answers` makes the system's answers from the original ones, a prompt each; a sound judge then says what
    `expected` tells people and `holds` tests of (control against original)."""

    name: str
    answers: Callable[[Sequence[str]], list[str]]
    expected: str
    holds: Callable[[Comparison], bool]


@dataclass(frozen=True)
class Standing:
    """A control against the originals, on the prompts whose answer it changes."""

    prompts: int
    win: float
    """The share of them at which the judge prefers the control."""
    lose: float


def standing(scores_N: np.ndarray) -> Standing:
    """Counted from a judge's scores, [N], of control against original.

    By hand: 2, -1, 0 and -3 are a win of 1/4 and a loss of 1/2.
    """
    count = max(len(scores_N), 1)
    return Standing(len(scores_N), float(np.sum(scores_N > 0)) / count, float(np.sum(scores_N < 0)) / count)


def said_twice(text: str) -> str:
    """The text with its longest sentence said twice in a row; the whole text where no mark ends a sentence."""
    longest = max(BETWEEN_SENTENCES.split(text.strip()), key=len)
    return text.replace(longest, longest + behind(longest) + longest, 1) if longest else text


def without_end(text: str) -> str:
    """The text without the last quarter of its words, at least one; fewer than two words have no end to lose."""
    ends = [word.end() for word in WORDS.finditer(text)]
    kept = len(ends) - max(1, len(ends) // 4)
    return text[: ends[kept - 1]] if kept > 0 else text


def of_another_prompt(texts: Sequence[str]) -> list[str]:
    """To every prompt the answer half the list away, since neighbours may be answers to one prompt.

    Where that is the same text nothing changes: of one prompt, or of answers that are all alike, this is a copy.
    """
    half = len(texts) // 2
    return [*texts[half:], *texts[:half]]


def loses(comparison: Comparison) -> bool:
    """The 95% interval lies below 0."""
    return comparison.high < 0


def _each(change: Callable[[str], str]) -> Callable[[Sequence[str]], list[str]]:
    return lambda texts: [change(text) for text in texts]


CONTROLS = (
    # Longer than the original and nothing more: a judge that prefers it likes length. The longer one of two samples
    # would not tell, since it may be longer by what the other forgot.
    Control("longest", _each(said_twice), "does not win", lambda comparison: comparison.low <= 0),
    Control("copy", list, "ties on every prompt", lambda comparison: comparison.win == comparison.lose == 0),
    Control("empty", _each(lambda text: ""), "loses", loses),
    Control("another", of_another_prompt, "loses", loses),
    Control("cut", _each(without_end), "loses", loses),
)
