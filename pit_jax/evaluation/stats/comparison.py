"""Two systems on the same prompts: win, lose, tie and delta with a 95% interval."""

from dataclasses import dataclass

import numpy as np

from pit_jax.errors import UserError


@dataclass(frozen=True)
class Comparison:
    """Left against right over n prompts, in percent. delta = win - lose; [low, high] is its 95% interval."""

    win: float
    lose: float
    tie: float
    delta: float
    low: float
    high: float
    n: int


def outcomes(left_scores_N: np.ndarray, right_scores_N: np.ndarray, *, tie_margin: float) -> np.ndarray:
    """[N] 1 where left's score exceeds right's by more than `tie_margin`, 0 where right's does, 0.5 for a tie.

    Args:
        left_scores_N: [N] finite scores of the left system.
        right_scores_N: [N] scores of the right system on the same prompts.
        tie_margin: largest absolute difference that counts as a tie, >= 0.

    Raises:
        UserError: different lengths, no prompt, NaN or infinite scores, negative margin.
    """
    left_N, right_N = np.asarray(left_scores_N, np.float64), np.asarray(right_scores_N, np.float64)
    if left_N.ndim != 1 or left_N.shape != right_N.shape:
        raise UserError(
            f"scores must be two vectors over the same prompts, found shapes {left_N.shape} and {right_N.shape}"
        )
    if left_N.size == 0:
        raise UserError("no prompts to compare: pass at least one score per system")
    bad = np.flatnonzero(~(np.isfinite(left_N) & np.isfinite(right_N)))
    if bad.size:
        raise UserError(f"{bad.size} of {left_N.size} prompts have a NaN or infinite score, first at index {bad[0]}")
    if not tie_margin >= 0:
        raise UserError(f"tie_margin={tie_margin}: a difference is never negative; pass 0 or more")
    difference_N = left_N - right_N
    return np.where(np.abs(difference_N) <= tie_margin, 0.5, (difference_N > 0).astype(np.float64))


def compare(
    left_scores_N: np.ndarray, right_scores_N: np.ndarray, *, tie_margin: float, resamples: int, seed: int
) -> Comparison:
    """The `outcomes` of two systems, counted.

    The interval is the percentile bootstrap over prompts. A resample of n prompts only matters through its counts of
    wins, losses and ties, and those counts are multinomial: drawing them directly is the same bootstrap, and fast.
    It cannot see past the sample: when every prompt ties, or every prompt is won, it has no width.

    By hand, tie_margin 0.5: differences of 2, 1, -1, 0, 0.5, 0, 0, -0.5, 8 and 1 are 4 wins, 1 loss and 5 ties, delta
    40 - 10 = 30. One win and one loss resample to deltas of 100, 0, 0 and -100: delta 0, interval -100 to 100.

    Args:
        left_scores_N: [N] finite scores of the left system.
        right_scores_N: [N] scores of the right system on the same prompts.
        tie_margin: largest absolute difference that counts as a tie, >= 0.
        resamples: bootstrap resamples, >= 1.
        seed: of the resampling.

    Raises:
        UserError: what `outcomes` raises, or no resample.
    """
    outcomes_N = outcomes(left_scores_N, right_scores_N, tie_margin=tie_margin)
    if resamples < 1:
        raise UserError(f"resamples={resamples}: pass at least 1 (2000 gives steady intervals)")
    n = outcomes_N.size
    wins, losses = int(np.sum(outcomes_N == 1)), int(np.sum(outcomes_N == 0))
    shares = np.array([wins, losses, n - wins - losses]) / n
    counts = np.random.default_rng(seed).multinomial(n, shares, size=resamples)
    low, high = np.percentile((counts[:, 0] - counts[:, 1]) * (100.0 / n), [2.5, 97.5])
    win, lose, tie = (float(share) * 100.0 for share in shares)
    return Comparison(win, lose, tie, (wins - losses) * 100.0 / n, float(low), float(high), n)
