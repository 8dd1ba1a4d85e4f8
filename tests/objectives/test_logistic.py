"""objectives/logistic.py: the loss of a label that may be wrong, by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from pit_jax.objectives.logistic import smoothed_losses


@pytest.mark.parametrize("smoothing", [0.25, jnp.array([0.25, 0.25], jnp.float32)])
def test_by_hand(smoothing: float) -> None:
    """d = 2 and -1: three parts softplus(-d) and one softplus(d)."""
    found_B = smoothed_losses(jnp.array([2.0, -1.0]), smoothing)
    expected = [
        0.75 * np.log1p(np.exp(-2)) + 0.25 * np.log1p(np.exp(2)),
        0.75 * np.log1p(np.e) + 0.25 * np.log1p(1 / np.e),
    ]
    np.testing.assert_allclose(found_B, expected, rtol=1e-6)


def test_one_for_each() -> None:
    """A label that is never wrong, and one that is wrong half of the time: softplus(-d), and the mean of both."""
    found_B = smoothed_losses(jnp.array([3.0, 3.0]), jnp.array([0.0, 0.5], jnp.float32))
    right, wrong = np.log1p(np.exp(-3)), np.log1p(np.exp(3))
    np.testing.assert_allclose(found_B, [right, (right + wrong) / 2], rtol=1e-6)
