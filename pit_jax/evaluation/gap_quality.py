"""Is this a gap model? What it says of pairs with a known winner, and the gates it must pass before RL trusts it.

Two letters name a gap: candidate, then reference; w is the better answer of a pair, l the other. A gap moves for two
reasons, which the four gaps of a pair tell apart:

    candidate effect  C = (wl + ww - ll - lw) / 2      the better text as candidate, whatever the reference
    reference effect  R = (wl + ll - ww - lw) / 2      the worse text as reference, whatever the candidate
    wl - lw = C + R,   ww - ll = C - R

Eq. 1 of PIT (arXiv 2310.00898) asks for ww ~ ll, so C and R each move half of the spread wl - lw. A model that ignores
its reference has R = 0: it ranks pairs well, yet ww - ll is as large as the whole spread.
The symmetrised gap h = (wl - lw) / 2 is the gap asked in both orders; its sign is the model's preference.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from pit_jax.config import GatesConfig
from pit_jax.errors import UserError
from pit_jax.evaluation.controls import Standing
from pit_jax.objectives.gap import COMPARISONS

NAMES = ("wl", "ww", "ll", "lw")
SIDE_PAIRS = 30  # fewest pairs on either side of a comparison by length, and fewest prompts that a control changes
BIN_PAIRS, MOST_BINS = 50, 10  # of the calibration: a bin's share is then known to 14 points (two standard errors)
_TINY = 1e-12  # the least divisor
FAILURES = {
    "length": "the preference is right or wrong with the length of the answers: the model counts tokens",
    "length-correlation": "the gap is little more than the difference in tokens",
    "direction": "the opposite of this gap would pass: chosen and rejected are swapped, or candidate and reference",
    "accuracy": "the model does not prefer the better answer often enough for this many pairs: it has not learned the "
    "labels, or they hold nothing to learn",
    "reference": "the gap hardly moves, or moves the wrong way, with the reference: the model ignores it",
    "candidate": "the gap hardly moves, or moves the wrong way, with the candidate: RL could learn nothing from it",
    "antisymmetry": "a over b and b over a do not add up to 0: the gap contradicts itself when two texts trade places",
    "order": "the four mean gaps are not ordered wl, then ww and ll, then lw",
    "weakest": "one of the five comparisons that the gap is trained on is not learned",
    "longest": "a sentence said twice wins: the model likes length, or what is said again",
    "empty": "an empty answer hardly loses: RL could learn to say nothing",
    "another": "the answer of another prompt hardly loses: the model ignores the prompt",
    "cut": "an answer without its end hardly loses: the model does not miss what is left out",
    "calibration": "the size of the gap says little about how often it is right: the model is far too sure, or too shy",
}


@dataclass(frozen=True)
class Bin:
    """Some of the pairs: how often the preference is right, and how often the model expects to be."""

    label: str
    pairs: int
    accuracy: float
    expected: float


@dataclass(frozen=True)
class Agreement:
    """What needs no label: a gap agrees with itself when the two texts trade places, or are the same text."""

    tie: float
    """mean |ww - ll| / mean |wl - lw|: 0 when equal texts have one gap, 1 when one of the two texts is ignored."""
    antisymmetry: float
    """mean |(wl - ll) + (lw - ww)| / mean |wl - lw|; the sum of the two centred gaps is the same for any zero."""


@dataclass(frozen=True)
class GapQuality:
    """All measurements over N pairs. An accuracy counts an exact tie as half."""

    pairs: int
    accuracies: dict[str, float]  # "wl_ww": share of pairs with wl > ww; five of them
    means: dict[str, float]  # of the four gaps
    reference_share: float  # mean R / (|mean R| + |mean C|), 0.5 when both texts count alike
    candidate_share: float  # mean C / (|mean R| + |mean C|)
    order: float  # smallest of the four steps of wl > (ww, ll) > lw between the means / |mean spread|, at most 0.5
    agreement: Agreement
    length_bias: float | None  # |accuracy where the better is longer - where it is shorter|; None for too few pairs
    length_correlation: float  # of h with the difference in tokens
    calibration_error: float  # expected, of sigmoid(h), over the bins of `by_confidence`
    by_confidence: tuple[Bin, ...]
    by_length: tuple[Bin, ...]
    by_truth: tuple[Bin, ...]  # by |truth difference|, right = the sign of the truth; empty without a truth
    controls: dict[str, Standing] = field(default_factory=dict)  # by name, against chosen answers; empty = not asked


@dataclass(frozen=True)
class Gate:
    """One condition: the figure must be at least (or at most) the limit. A figure that cannot be measured passes."""

    name: str
    figure: float | None
    limit: float
    least: bool
    passed: bool
    knob: str  # the flag that moves the limit; empty when none does
    meaning: str  # of a failure


def measure(
    gaps: Mapping[str, np.ndarray], length_difference_N: np.ndarray, truth_difference_N: np.ndarray | None = None
) -> GapQuality:
    """Every figure of a gap model over labelled pairs.

    By hand: three pairs of (wl, ww, ll, lw) = (3, 0, 1, -3), (3, 3, 0, 0), (0, 0, -1, 0) have means 2, 1, 0, -1, so
    C = 2, R = 1 and the reference share is 1/3. wl > ww holds once and ties twice, an accuracy of 2/3. |ww - ll| of 1,
    3, 1 over |wl - lw| of 6, 3, 0 is 5/9.

    Args:
        gaps: wl, ww, ll, lw, each [N], finite.
        length_difference_N: tokens of the better answer minus tokens of the other.
        truth_difference_N: true score of the better answer minus that of the other, where a truth is known.

    Raises:
        UserError: different lengths, no pair, NaN or infinite gaps.
    """
    wl, ww, ll, lw = _four(gaps)
    length_N = np.asarray(length_difference_N, np.float64)
    if length_N.shape != wl.shape:
        raise UserError(f"asked for one length difference a pair, found {length_N.shape} for gaps of {wl.shape}")
    half_N = (wl - lw) / 2
    by_name = {"wl": wl, "ww": ww, "ll": ll, "lw": lw}
    means = {name: float(gap_N.mean()) for name, gap_N in by_name.items()}
    reference = (means["wl"] + means["ll"] - means["ww"] - means["lw"]) / 2
    candidate = (means["wl"] + means["ww"] - means["ll"] - means["lw"]) / 2
    steps = [means[better] - means[worse] for better, worse in COMPARISONS if (better, worse) != ("wl", "lw")]
    moved = max(abs(reference) + abs(candidate), _TINY)
    by_confidence = _by_confidence(half_N)
    return GapQuality(
        pairs=len(wl),
        accuracies={f"{a}_{b}": accuracy(by_name[a] - by_name[b]) for a, b in COMPARISONS},
        means=means,
        reference_share=reference / moved,
        candidate_share=candidate / moved,
        order=min(steps) / max(abs(means["wl"] - means["lw"]), _TINY),
        agreement=agreement(gaps),
        length_bias=_length_bias(half_N, length_N),
        length_correlation=correlation(half_N, length_N),
        calibration_error=sum(b.pairs * abs(b.accuracy - b.expected) for b in by_confidence) / len(wl),
        by_confidence=by_confidence,
        by_length=_bins(
            half_N,
            [
                ("better answer longer", length_N > 0),
                ("better answer as long", length_N == 0),
                ("better answer shorter", length_N < 0),
            ],
        ),
        by_truth=() if truth_difference_N is None else _by_truth(half_N, np.asarray(truth_difference_N, np.float64)),
    )


def agreement(gaps: Mapping[str, np.ndarray]) -> Agreement:
    """The figures that stay the same when w and l are exchanged in any pair. Same arguments as `measure`."""
    wl, ww, ll, lw = _four(gaps)
    spread = max(float(np.abs(wl - lw).mean()), _TINY)
    return Agreement(float(np.abs(ww - ll).mean()) / spread, float(np.abs(wl + lw - ww - ll).mean()) / spread)


def oriented(gaps: Mapping[str, np.ndarray], better_N: np.ndarray) -> dict[str, np.ndarray]:
    """The gaps of the pairs whose two texts differ in worth, with w naming the better text of each.

    `better_N` > 0 where the text named w is the better one, < 0 where it is l; pairs with 0 are left out.
    """
    wl, ww, ll, lw = _four(gaps)
    kept_N, right_N = better_N != 0, better_N > 0
    named = {"wl": (wl, lw), "ww": (ww, ll), "ll": (ll, ww), "lw": (lw, wl)}
    return {name: np.where(right_N, as_is, exchanged)[kept_N] for name, (as_is, exchanged) in named.items()}


def gates(quality: GapQuality, limits: GatesConfig) -> list[Gate]:
    """The conditions in the order in which a failure explains most: the first that fails names what is wrong.

    `direction` is the accuracy gate of the opposite gap. The limit of `accuracy` is never within two standard errors
    of chance for this many pairs. A control's figure is lose - win.
    """
    preferred, chance = quality.accuracies["wl_lw"], 0.5 + quality.pairs**-0.5
    behind = {name: told.lose - told.win for name, told in quality.controls.items() if told.prompts >= SIDE_PAIRS}
    return [
        _most("length", quality.length_bias, limits.max_length_bias, "max-length-bias"),
        _most(
            "length-correlation",
            abs(quality.length_correlation),
            limits.max_length_correlation,
            "max-length-correlation",
        ),
        _least("direction", preferred, 1.0 - limits.min_accuracy, "min-accuracy"),
        _least("accuracy", preferred, max(limits.min_accuracy, chance), "min-accuracy"),
        _least("reference", quality.reference_share, limits.min_share, "min-share"),
        _least("candidate", quality.candidate_share, limits.min_share, "min-share"),
        _most("antisymmetry", quality.agreement.antisymmetry, limits.max_asymmetry, "max-asymmetry"),
        _least("order", quality.order, 0.0, ""),
        _least("weakest", min(quality.accuracies.values()), limits.min_weakest, "min-weakest"),
        _least("longest", behind.get("longest"), limits.min_longest, "min-longest"),
        _least("empty", behind.get("empty"), limits.min_empty, "min-empty"),
        _least("another", behind.get("another"), limits.min_another, "min-another"),
        _least("cut", behind.get("cut"), limits.min_cut, "min-cut"),
        _most("calibration", quality.calibration_error, limits.max_calibration_error, "max-calibration-error"),
    ]


def restore(content: Mapping[str, Any]) -> GapQuality:
    """The measurements back from the JSON of `dataclasses.asdict`. UserError where they are of another form."""
    try:
        return msgspec.convert(content, GapQuality)
    except msgspec.ValidationError as error:
        raise UserError(f"figures of a gap model: {error}; delete its quality.json to measure them again") from error


def verdict(gate: Gate) -> str:
    """`reference 0.020, asked for at least 0.200`."""
    figure = "not measurable" if gate.figure is None else f"{gate.figure:.3f}"
    return f"{gate.name} {figure}, asked for at {'least' if gate.least else 'most'} {gate.limit:.3f}"


def _least(name: str, figure: float | None, limit: float, knob: str) -> Gate:
    passed = figure is None or figure >= limit
    return Gate(name, figure, limit, True, passed, knob and f"--rm.gates.{knob}", FAILURES[name])


def _most(name: str, figure: float | None, limit: float, knob: str) -> Gate:
    return Gate(name, figure, limit, False, figure is None or figure <= limit, f"--rm.gates.{knob}", FAILURES[name])


def _four(gaps: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The four gaps as float64 [N]."""
    arrays = [np.asarray(gaps[name], np.float64) for name in NAMES]
    shapes = {gap_N.shape for gap_N in arrays}
    if len(shapes) != 1 or arrays[0].ndim != 1 or not arrays[0].size:
        raise UserError(f"asked for four gaps of every pair, found shapes {[gap_N.shape for gap_N in arrays]}")
    bad = int((~np.isfinite(np.stack(arrays))).any(axis=0).sum())
    if bad:
        raise UserError(f"{bad} of {arrays[0].size} pairs have a NaN or infinite gap; train the gap model again")
    return arrays


def accuracy(difference_N: np.ndarray) -> float:
    """The share of differences [N] that are above 0; an exact tie counts as half."""
    return float(np.mean((difference_N > 0) + 0.5 * (difference_N == 0)))


def _sure(half_N: np.ndarray) -> np.ndarray:
    """How sure the model is of its own preference: sigmoid |h|, from 0.5 to 1."""
    return 1.0 / (1.0 + np.exp(-np.abs(half_N)))


def _bins(half_N: np.ndarray, picks: Sequence[tuple[str, np.ndarray]]) -> tuple[Bin, ...]:
    """One bin for each mask or index that picks at least one pair; right is h > 0."""
    return tuple(
        Bin(label, len(half_N[pick]), accuracy(half_N[pick]), float(_sure(half_N[pick]).mean()))
        for label, pick in picks
        if half_N[pick].size
    )


def _by_confidence(half_N: np.ndarray) -> tuple[Bin, ...]:
    """Bins of equal size, from the least to the most sure."""
    sure_N = _sure(half_N)
    order = np.argsort(sure_N, kind="stable")
    parts = np.array_split(order, int(np.clip(len(half_N) // BIN_PAIRS, 1, MOST_BINS)))
    return _bins(half_N, [(f"sure {sure_N[part[0]]:.2f} to {sure_N[part[-1]]:.2f}", part) for part in parts])


def _by_truth(half_N: np.ndarray, truth_N: np.ndarray) -> tuple[Bin, ...]:
    """Up to four bins of the size of the true difference, cut at quartiles; pairs of equal worth are left out."""
    half_N, size_N = (half_N * np.sign(truth_N))[truth_N != 0], np.abs(truth_N[truth_N != 0])
    if not size_N.size:
        return ()
    cuts = np.unique(np.quantile(size_N, (0.25, 0.5, 0.75), method="lower"))
    part_N = np.searchsorted(cuts, size_N)
    picks = [part_N == part for part in range(len(cuts) + 1)]
    ranges = [(size_N[pick].min(), size_N[pick].max()) if pick.any() else (0.0, 0.0) for pick in picks]
    return _bins(
        half_N,
        [(f"truth {low:g} to {high:g} apart", pick) for (low, high), pick in zip(ranges, picks, strict=True)],
    )


def _length_bias(half_N: np.ndarray, length_N: np.ndarray) -> float | None:
    """A model of the answers' quality is right on either side; one of their length is right on one side alone."""
    sides = half_N[length_N > 0], half_N[length_N < 0]
    if min(len(side) for side in sides) < SIDE_PAIRS:
        return None
    return abs(accuracy(sides[0]) - accuracy(sides[1]))


def correlation(a_N: np.ndarray, b_N: np.ndarray) -> float:
    """Pearson's of two lists of numbers [N]; 0 where one of the two does not vary."""
    a_N, b_N = a_N - a_N.mean(), b_N - b_N.mean()
    return float((a_N * b_N).sum() / max(float(np.sqrt((a_N**2).sum() * (b_N**2).sum())), _TINY))
