"""Means with intervals: by hand, and against the bootstrap that draws prompts one by one."""

import numpy as np
import pytest

from pit_jax.evaluation.stats.means import Estimate, estimate


def test_the_interval_of_two_prompts() -> None:
    """A quarter of the resamples is 0, a quarter 1."""
    assert estimate(np.array([0.0, 1.0]), resamples=2000, seed=0) == Estimate(0.5, 0.0, 1.0)


def test_equal_values_have_no_width() -> None:
    assert estimate(np.full(7, 0.25), resamples=10, seed=0) == Estimate(0.25, 0.25, 0.25)


def test_the_multinomial_draw_is_the_bootstrap_over_prompts() -> None:
    rng = np.random.default_rng(0)
    values_N = rng.integers(0, 9, size=300) / 8
    found = estimate(values_N, resamples=20_000, seed=0)
    means = values_N[rng.integers(300, size=(20_000, 300))].mean(axis=1)
    assert found.mean == pytest.approx(values_N.mean())
    assert (found.low, found.high) == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.005)


def test_the_order_of_the_prompts_says_nothing() -> None:
    values_N = np.random.default_rng(0).random(50)
    forward, backward = (estimate(values, resamples=200, seed=0) for values in (values_N, values_N[::-1]))
    assert (forward.low, forward.high) == (backward.low, backward.high)


@pytest.mark.parametrize("values", [[], [[0.5]], [0.5, float("nan")], [float("inf")]])
def test_values_that_have_no_mean_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="asked for a finite value for at least one prompt, found shape"):
        estimate(np.array(values), resamples=10, seed=0)


def test_no_resample_is_refused() -> None:
    with pytest.raises(ValueError, match="resamples=0: pass at least 1"):
        estimate(np.ones(3), resamples=0, seed=0)
