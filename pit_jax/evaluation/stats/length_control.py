"""What of a win rate is left when both answers are equally long."""

from dataclasses import dataclass

import numpy as np

from pit_jax.errors import UserError

# A side that wins everywhere has no maximum: the first bounds its rate. The second makes equal lengths solvable.
INTERCEPT_RIDGE, SLOPE_RIDGE = 1e-1, 1e-7
STEPS, PRECISION = 100, 1e-10  # of a fit, the latter in its log-likelihood


@dataclass(frozen=True)
class LengthControl:
    """Lengths of left and right in tokens, and left's length-controlled win rate in percent; [low, high] its 95%
    interval. `win_tokens` and `lose_tokens` say how much longer left is, on average, where it wins and where it loses;
    None without such a prompt."""

    left_tokens: float
    right_tokens: float
    win_tokens: float | None
    lose_tokens: float | None
    lc_win_rate: float
    lc_low: float
    lc_high: float


def control_length(
    outcomes_N: np.ndarray, left_tokens_N: np.ndarray, right_tokens_N: np.ndarray, *, resamples: int, seed: int
) -> LengthControl:
    """The win rate (ties half) that a logistic model of this comparison's own prompts gives equally long answers.

    P(left wins) = sigmoid(a + b tanh(d / s)) for a difference of d tokens, and the rate is 100 sigmoid(a): the model
    of length-controlled AlpacaEval (arXiv 2404.04475) without its difficulty of the instruction, which is
    known for its own 805 prompts only. s is the root mean square of d: a spread about 0, where the model is read, so
    that left being longer everywhere does not squash every d to 1.

    By hand: left is 5 tokens longer on 3,000 prompts and wins 90% of them (odds 9), 5 shorter on 1,000 and wins half
    (odds 1). Then exp(a + b t) = 9 and exp(a - b t) = 1, exp(a) = 3, and the rate is 75% where the plain one is 80%.

    A small ridge keeps the fit finite when length separates wins from losses. It is far weaker on b than on a, which
    puts down to length what length alone explains: a left that is longer everywhere and wins everywhere gets 50, not
    100, since no prompt tells its quality from its length. Such a rate has an interval without width, too.

    The interval is the percentile bootstrap over prompts, drawn as counts of the distinct (outcome, difference) pairs.

    Args:
        outcomes_N: [N] 1 for a win of left, 0.5 for a tie, 0 for a loss (`comparison.outcomes`).
        left_tokens_N: [N] lengths of left's answers.
        right_tokens_N: [N] lengths of right's answers.
        resamples: bootstrap resamples, >= 1.
        seed: of the resampling.

    Raises:
        UserError: not one length and outcome a prompt, no prompt, outcomes outside [0, 1], lengths that are negative
            or not finite, no resample.
    """
    outcomes_N = np.asarray(outcomes_N, np.float64)
    left_N, right_N = np.asarray(left_tokens_N, np.float64), np.asarray(right_tokens_N, np.float64)
    _check(outcomes_N, left_N, right_N, resamples)
    difference_N = left_N - right_N
    cells_K2, counts_K = np.unique(np.stack([outcomes_N, difference_N], axis=1), axis=0, return_counts=True)
    scale = float(np.sqrt(np.mean(difference_N**2))) or 1.0
    outcomes_K, lengths_K = cells_K2[:, 0], np.tanh(cells_K2[:, 1] / scale)
    drawn_RK = np.random.default_rng(seed).multinomial(outcomes_N.size, counts_K / outcomes_N.size, size=resamples)
    found_21 = _fit(counts_K[None], outcomes_K, lengths_K, np.zeros((2, 1)))
    intercepts_R, _ = _fit(drawn_RK, outcomes_K, lengths_K, np.repeat(found_21, resamples, axis=1))
    low, high = np.percentile(_percent(intercepts_R), [2.5, 97.5])
    return LengthControl(
        left_tokens=float(left_N.mean()),
        right_tokens=float(right_N.mean()),
        win_tokens=_mean(difference_N[outcomes_N == 1]),
        lose_tokens=_mean(difference_N[outcomes_N == 0]),
        lc_win_rate=float(_percent(found_21[0, 0])),
        lc_low=float(low),
        lc_high=float(high),
    )


def _fit(counts_RK: np.ndarray, outcomes_K: np.ndarray, lengths_K: np.ndarray, start_2R: np.ndarray) -> np.ndarray:
    """(a, b) [2, R] of R fits; fit r sees outcomes_K[k] and lengths_K[k] counts_RK[r, k] times.

    Newton's method on the ridged log-likelihood, which is strictly concave; a step that would lower it is halved.
    """
    counts_RK = counts_RK.astype(np.float64)
    ridge_21 = np.array([[INTERCEPT_RIDGE], [SLOPE_RIDGE]])

    def likelihood(at_2R: np.ndarray) -> np.ndarray:
        logits_RK = at_2R[0][:, None] + at_2R[1][:, None] * lengths_K
        found_RK = outcomes_K * logits_RK - np.logaddexp(0, logits_RK)
        return np.einsum("rk,rk->r", counts_RK, found_RK) - np.sum(ridge_21 * at_2R**2, axis=0) / 2

    at_2R, now_R = start_2R, likelihood(start_2R)
    for _ in range(STEPS):
        shares_RK = _percent(at_2R[0][:, None] + at_2R[1][:, None] * lengths_K) / 100
        residuals_RK = counts_RK * (outcomes_K - shares_RK)
        weights_RK = counts_RK * shares_RK * (1 - shares_RK)
        slope_2R = np.stack([residuals_RK.sum(axis=1), residuals_RK @ lengths_K]) - ridge_21 * at_2R
        aa_R, ab_R, bb_R = (weights_RK @ lengths_K**power for power in (0, 1, 2))
        aa_R, bb_R = aa_R + INTERCEPT_RIDGE, bb_R + SLOPE_RIDGE
        step_2R = np.stack([bb_R * slope_2R[0] - ab_R * slope_2R[1], aa_R * slope_2R[1] - ab_R * slope_2R[0]])
        step_2R /= aa_R * bb_R - ab_R**2
        if np.sum(slope_2R * step_2R, axis=0).max() < PRECISION:
            break
        while np.any(lower_R := (next_R := likelihood(at_2R + step_2R)) < now_R - PRECISION):
            step_2R = np.where(lower_R, step_2R / 2, step_2R)
        at_2R, now_R = at_2R + step_2R, next_R
    return at_2R


def _percent(logits: np.ndarray) -> np.ndarray:
    """100 sigmoid, without overflow."""
    return 50.0 + 50.0 * np.tanh(logits / 2)


def _mean(values_N: np.ndarray) -> float | None:
    return float(values_N.mean()) if values_N.size else None


def _check(outcomes_N: np.ndarray, left_N: np.ndarray, right_N: np.ndarray, resamples: int) -> None:
    shapes = [values.shape for values in (outcomes_N, left_N, right_N)]
    if outcomes_N.ndim != 1 or outcomes_N.size == 0 or len(set(shapes)) > 1:
        raise UserError(f"asked for an outcome and two lengths for at least one prompt, found shapes {shapes}")
    if not np.all((outcomes_N >= 0) & (outcomes_N <= 1)):
        raise UserError("an outcome is 1 for a win, 0.5 for a tie or 0 for a loss, found others")
    lengths_N = np.concatenate([left_N, right_N])
    if not np.all(np.isfinite(lengths_N) & (lengths_N >= 0)):
        raise UserError("lengths must be finite and not negative; pass the tokens of every answer")
    if resamples < 1:
        raise UserError(f"resamples={resamples}: pass at least 1 (2000 gives steady intervals)")
