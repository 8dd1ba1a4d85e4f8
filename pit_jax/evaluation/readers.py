"""What two quick readers make of pairs before anything is trained: how plain their labels are, and how often wrong.

A reader is a word model (data/text/word_model.py), which is fitted in seconds. Two of them, each on pairs of a fold of
its own, and the labels of held-out pairs are three judges of the same pairs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pit_jax.batch import Triple
from pit_jax.data.text.word_model import differences, fitted

FOLDS = ("sft", "rm")  # a reader each
MOST_READ = 4_000  # pairs of a fold: four times as many bring a reader one point more, and take four times as long
MOST_ASKED = 2_000  # held-out pairs: shares are then known to two points
FEWEST_ASKED = 100
RESAMPLES = 10_000


@dataclass(frozen=True)
class Share:
    """A share of pairs, with its 95% bootstrap interval over them."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Reading:
    """What the readers say of held-out pairs.

    `right` is how often a reader agrees with the label, the mean of both; `half` the same of readers of half the pairs.
    `agree` is how often the readers agree. `wrong_labels` is the share of labels that are wrong at most, None where the
    readers know nothing.
    """

    read: int
    asked: int
    half: float
    right: float
    agree: float
    wrong_labels: Share | None


def reading(folds: Mapping[str, Sequence[Triple]], heldout: Sequence[Triple]) -> Reading | None:
    """Fit a reader on each of two folds and ask both about the held-out pairs; None for too few of those.

    Args:
      folds: the pairs of sft and rm at least; of each, and of `heldout`, the first ones are read.
    """
    asked = heldout[:MOST_ASKED]
    count = min(MOST_READ, *(len(folds[name]) for name in FOLDS))
    if len(asked) < FEWEST_ASKED or count < 2:
        return None
    asked_NF = differences(asked)
    halves, wholes = [], []
    for name in FOLDS:
        read_NF = differences(folds[name][:count])
        halves.append(asked_NF @ fitted(read_NF[: count // 2]) > 0)
        wholes.append(asked_NF @ fitted(read_NF) > 0)
    first_N, second_N = wholes
    return Reading(
        read=count,
        asked=len(asked),
        half=float(np.mean(halves)),
        right=float(np.mean(wholes)),
        agree=float(np.mean(first_N == second_N)),
        wrong_labels=wrong_labels(first_N, second_N),
    )


def wrong_labels(first_N: np.ndarray, second_N: np.ndarray) -> Share | None:
    """How many labels are wrong, from how often two readers agree with them and with each other.

    Where three judges err independently, each with a chance of its own, the share on which two of them agree is
    (1 + (1 - 2 e)(1 - 2 f)) / 2 (Dawid and Skene 1979, with two classes that are as frequent): so for the labels

        (1 - 2 e)^2 = (2 a - 1)(2 b - 1) / (2 c - 1)

    with a and b the shares on which each reader agrees with the label, c that of the readers with each other. Readers
    of one kind err on the same pairs more often than by chance, which is laid to the labels: the share is one at most.

    By hand: readers that are right on 90% each, and 10% of labels wrong: a = b = c = 0.82, so (1 - 2 e)^2 = 0.64.

    Args:
      first_N, second_N: [N] whether the reader agrees with the label.
    Returns:
      None where a share is 1/2 or less: such a reader says nothing.
    """
    cells = np.array([np.sum((first_N == a) & (second_N == b)) for a in (True, False) for b in (True, False)])
    estimate = _wrong(cells[None])[0]
    if not np.isfinite(estimate):
        return None
    resampled = np.random.default_rng(0).multinomial(cells.sum(), cells / cells.sum(), RESAMPLES)
    low, high = np.nanpercentile(_wrong(resampled), [2.5, 97.5])
    return Share(float(estimate), float(low), float(high))


def _wrong(cells_R4: np.ndarray) -> np.ndarray:
    """e of each row of counts: both agree with the label, the first alone, the second alone, none. NaN: none known."""
    both_R, first_R, second_R, none_R = (cells_R4 / cells_R4.sum(axis=1, keepdims=True)).T
    a_R, b_R, c_R = (2 * share_R - 1 for share_R in (both_R + first_R, both_R + second_R, both_R + none_R))
    known_R = (a_R > 0) & (b_R > 0) & (c_R > 0)
    square_R = np.where(known_R, a_R * b_R / np.where(known_R, c_R, 1), np.nan)
    wrong_R: np.ndarray = (1 - np.sqrt(np.minimum(square_R, 1))) / 2
    return wrong_R
