"""Systems nobody trained, whose verdicts are known beforehand: what a judge says of them is about the judge."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from pit_jax.evaluation.stats.comparison import Comparison


@dataclass(frozen=True)
class Control:
    """`answer` makes the system's answer from the original one; a sound judge then says what `expected` tells people
    and `holds` tests of (control against original)."""

    name: str
    answer: Callable[[str], str]
    expected: str
    holds: Callable[[Comparison], bool]


def said_twice(text: str) -> str:
    """The text with its longest sentence said twice in a row; the whole text where no mark ends a sentence."""
    longest = max(re.split(r"(?<=[.!?])\s+", text.strip()), key=len)
    return text.replace(longest, f"{longest} {longest}", 1) if longest else text


CONTROLS = (
    # Longer than the original and nothing more: a judge that prefers it likes length. The longer one of two samples
    # would not tell, since it may be longer by what the other forgot.
    Control("longest", said_twice, "does not win", lambda comparison: comparison.low <= 0),
    Control(
        "copy", lambda text: text, "ties on every prompt", lambda comparison: comparison.win == comparison.lose == 0
    ),
    Control("empty", lambda text: "", "loses", lambda comparison: comparison.high < 0),
)
