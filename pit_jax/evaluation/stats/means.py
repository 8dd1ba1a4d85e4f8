"""A mean over prompts with its 95% interval."""

from dataclasses import dataclass

import numpy as np

from pit_jax.errors import UserError


@dataclass(frozen=True)
class Estimate:
    """A mean over prompts; [low, high] is its 95% interval."""

    mean: float
    low: float
    high: float


def estimate(values_N: np.ndarray, *, resamples: int, seed: int) -> Estimate:
    """The mean of one value a prompt, with the percentile bootstrap over prompts.

    A resample of N prompts only matters through how often it holds each distinct value: those counts are multinomial,
    and are drawn directly. By hand: of 0 and 1 a quarter of the resamples is 0, a quarter 1: mean 0.5, interval 0 to 1.

    Args:
        values_N: [N] finite values.
        resamples: bootstrap resamples, >= 1.
        seed: of the resampling.

    Raises:
        UserError: no prompt, values that are not finite, no resample.
    """
    values_N = np.asarray(values_N, np.float64)
    if values_N.ndim != 1 or not values_N.size or not np.isfinite(values_N).all():
        raise UserError(f"asked for a finite value for at least one prompt, found shape {values_N.shape}: {values_N}")
    if resamples < 1:
        raise UserError(f"resamples={resamples}: pass at least 1 (2000 gives steady intervals)")
    distinct_K, counts_K = np.unique(values_N, return_counts=True)
    drawn_RK = np.random.default_rng(seed).multinomial(values_N.size, counts_K / values_N.size, size=resamples)
    low, high = np.percentile(drawn_RK @ distinct_K / values_N.size, [2.5, 97.5])
    return Estimate(float(values_N.mean()), float(low), float(high))
