"""objectives/reward.py: Bradley-Terry by hand, against numpy, and under a swap of labels."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from pit_jax.objectives.reward import bradley_terry_loss

CHOSEN_B = jnp.array([1.0, -0.5, 2.0, 0.0])
REJECTED_B = jnp.array([0.0, 0.5, 1.0, 3.0])


def test_by_hand() -> None:
    """Differences 1, -1, 1, -3: softplus of -1, 1, -1, 3; two of four are right; margins average -0.5."""
    loss, metrics = bradley_terry_loss(CHOSEN_B, REJECTED_B)
    want = np.mean(np.log1p(np.exp([-1.0, 1.0, -1.0, 3.0])))
    np.testing.assert_allclose(loss, want, rtol=1e-6)
    values = {name: mean.value for name, mean in metrics.items()}
    assert values.pop("loss") == pytest.approx(want, rel=1e-6)
    assert values == {"accuracy": 0.5, "rewards/chosen": 0.625, "rewards/rejected": 1.125, "rewards/margins": -0.5}
    assert {float(mean.count) for mean in metrics.values()} == {4.0}


def test_a_margin_is_subtracted_from_the_difference() -> None:
    """Margins 0, 1, 2, 3 make the differences 1, -2, -1, -6; accuracy and margins do not see them."""
    loss, metrics = bradley_terry_loss(CHOSEN_B, REJECTED_B, margin=jnp.arange(4.0))
    np.testing.assert_allclose(loss, np.mean(np.log1p(np.exp([-1.0, 2.0, 1.0, 6.0]))), rtol=1e-6)
    assert metrics["accuracy"].value == 0.5
    assert metrics["rewards/margins"].value == -0.5


def test_a_margin_of_zero_changes_no_bit() -> None:
    def loss_and_grads(**margin: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        with_margin: Any = functools.partial(bradley_terry_loss, **margin)
        return jax.jit(jax.value_and_grad(lambda a, b: with_margin(a, b)[0], argnums=(0, 1)))(CHOSEN_B, REJECTED_B)

    plain, zero = loss_and_grads(), loss_and_grads(margin=jnp.zeros(4))
    for one, other in zip(jax.tree.leaves(plain), jax.tree.leaves(zero), strict=True):
        np.testing.assert_array_equal(one, other)


def test_equal_rewards_cost_ln_2_and_are_not_right() -> None:
    loss, metrics = bradley_terry_loss(CHOSEN_B, CHOSEN_B)
    np.testing.assert_allclose(loss, np.log(2), rtol=1e-6)
    assert metrics["accuracy"].value == 0.0


@settings(max_examples=20, deadline=None, derandomize=True)
@given(shift=st.floats(-10, 10))
def test_only_the_difference_counts(shift: float) -> None:
    loss, _ = bradley_terry_loss(CHOSEN_B, REJECTED_B)
    moved, _ = bradley_terry_loss(CHOSEN_B + shift, REJECTED_B + shift)
    np.testing.assert_allclose(loss, moved, rtol=1e-5)


def test_swapping_the_labels() -> None:
    """-log s(d) and -log s(-d) differ by d; accuracies add up to 1; the gradients change places and sign."""
    loss, metrics = bradley_terry_loss(CHOSEN_B, REJECTED_B)
    swapped, swapped_metrics = bradley_terry_loss(REJECTED_B, CHOSEN_B)
    np.testing.assert_allclose(swapped - loss, jnp.mean(CHOSEN_B - REJECTED_B), rtol=1e-5)
    assert swapped_metrics["accuracy"].value == 1 - metrics["accuracy"].value
    grads = jax.grad(lambda a, b: bradley_terry_loss(a, b)[0], argnums=(0, 1))(CHOSEN_B, REJECTED_B)
    np.testing.assert_allclose(grads[0], -grads[1], rtol=1e-6)


def test_the_order_of_pairs_does_not_matter() -> None:
    loss, _ = bradley_terry_loss(CHOSEN_B, REJECTED_B)
    np.testing.assert_allclose(loss, bradley_terry_loss(CHOSEN_B[::-1], REJECTED_B[::-1])[0], rtol=1e-6)


def test_gradient_against_finite_differences() -> None:
    check_grads(lambda a, b: bradley_terry_loss(a, b)[0], (CHOSEN_B, REJECTED_B), order=1, modes=["rev"], rtol=1e-2)


def test_extreme_differences_stay_finite() -> None:
    """softplus(200) = 200 where exp(200) overflows float32."""
    loss, grad_B = jax.value_and_grad(lambda a: bradley_terry_loss(a, jnp.zeros(2))[0])(jnp.array([-200.0, 200.0]))
    np.testing.assert_allclose(loss, 100.0, rtol=1e-6)
    np.testing.assert_allclose(grad_B, [-0.5, 0.0], atol=1e-6)


def test_half_precision_is_widened_first() -> None:
    loss, _ = bradley_terry_loss(CHOSEN_B.astype(jnp.bfloat16), REJECTED_B.astype(jnp.bfloat16))
    np.testing.assert_allclose(loss, bradley_terry_loss(CHOSEN_B, REJECTED_B)[0], rtol=1e-6)  # all exact in bfloat16
    assert loss.dtype == jnp.float32


def test_a_wrong_shape_is_named() -> None:
    with pytest.raises(ValueError, match="axis B is 4 in chosen_B but 3 in rejected_B"):
        bradley_terry_loss(CHOSEN_B, REJECTED_B[1:])
    with pytest.raises(ValueError, match=r"margin_B needs 1 axes \['B'\], found shape \(\)"):
        bradley_terry_loss(CHOSEN_B, REJECTED_B, margin=jnp.float32(1))
