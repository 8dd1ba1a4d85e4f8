"""objectives/dpo.py: Eq. 7 by hand, against numpy, under a swap of labels, and where smoothing draws the margin."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from pit_jax.errors import UserError
from pit_jax.objectives.dpo import dpo_loss
from pit_jax.objectives.reward import bradley_terry_loss

POLICY_CHOSEN_B = jnp.array([-8.0, -12.0, -6.0, -9.0])
POLICY_REJECTED_B = jnp.array([-7.0, -10.0, -13.0, -4.0])
ANCHOR_CHOSEN_B = jnp.array([-10.0, -11.0, -10.0, -9.0])
ANCHOR_REJECTED_B = jnp.array([-7.0, -11.0, -15.0, -10.0])
PAIRS = (POLICY_CHOSEN_B, POLICY_REJECTED_B, ANCHOR_CHOSEN_B, ANCHOR_REJECTED_B)


def swap(chosen_B: jax.Array, rejected_B: jax.Array, anchor_chosen_B: jax.Array, anchor_rejected_B: jax.Array) -> tuple:
    return rejected_B, chosen_B, anchor_rejected_B, anchor_chosen_B


def test_by_hand() -> None:
    """Log-ratios 2, -1, 4, 0 and 0, 1, 2, 6; at beta 1/2 rewards 1, -0.5, 2, 0 and 0, 0.5, 1, 3: h = 1, -1, 1, -3."""
    loss, metrics = dpo_loss(*PAIRS, beta=0.5)
    want = np.mean(np.log1p(np.exp([-1.0, 1.0, -1.0, 3.0])))
    np.testing.assert_allclose(loss, want, rtol=1e-6)
    values = {name: mean.value for name, mean in metrics.items()}
    assert values.pop("loss") == pytest.approx(want, rel=1e-6)
    assert values == {"accuracy": 0.5, "rewards/chosen": 0.625, "rewards/rejected": 1.125, "rewards/margins": -0.5}
    assert {float(mean.count) for mean in metrics.values()} == {4.0}


def test_smoothing_by_hand() -> None:
    """The same h with e = 1/4: 3/4 softplus(-h) + 1/4 softplus(h); the other metrics do not see e."""
    loss, metrics = dpo_loss(*PAIRS, beta=0.5, label_smoothing=0.25)
    h_B = np.array([1.0, -1.0, 1.0, -3.0])
    want = np.mean(0.75 * np.log1p(np.exp(-h_B)) + 0.25 * np.log1p(np.exp(h_B)))
    np.testing.assert_allclose(loss, want, rtol=1e-6)
    assert metrics["loss"].value == pytest.approx(want, rel=1e-6)
    plain = dpo_loss(*PAIRS, beta=0.5)[1]
    assert all(metrics[name].value == plain[name].value for name in metrics if name != "loss")


@settings(max_examples=20)
@given(beta=st.floats(0.01, 2.0), smoothing=st.floats(0.0, 0.49), seed=st.integers(0, 99))
def test_against_the_equation_in_numpy(beta: float, smoothing: float, seed: int) -> None:
    arrays = np.random.default_rng(seed).normal(-40.0, 4.0, size=(4, 7)).astype(np.float32)
    loss, _ = dpo_loss(*(jnp.asarray(x_B) for x_B in arrays), beta=beta, label_smoothing=smoothing)
    chosen_B, rejected_B, anchor_chosen_B, anchor_rejected_B = arrays.astype(np.float64)
    h_B = beta * (chosen_B - anchor_chosen_B) - beta * (rejected_B - anchor_rejected_B)
    right_B, wrong_B = 1 / (1 + np.exp(-h_B)), 1 / (1 + np.exp(h_B))
    want = -np.mean((1 - smoothing) * np.log(right_B) + smoothing * np.log(wrong_B))
    np.testing.assert_allclose(loss, want, rtol=1e-5)


def test_it_is_bradley_terry_on_implicit_rewards() -> None:
    loss, metrics = dpo_loss(*PAIRS, beta=0.3)
    chosen_B, rejected_B = 0.3 * (POLICY_CHOSEN_B - ANCHOR_CHOSEN_B), 0.3 * (POLICY_REJECTED_B - ANCHOR_REJECTED_B)
    want, want_metrics = bradley_terry_loss(chosen_B, rejected_B)
    np.testing.assert_allclose(loss, want, rtol=1e-6)
    assert {n: m.value for n, m in metrics.items()} == pytest.approx({n: m.value for n, m in want_metrics.items()})


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_anchor_itself_costs_ln_2_and_is_not_right(smoothing: float) -> None:
    """h = 0: ln 2 for every e; the slope of a pair is -(1 - 2e) beta / 2, halved again by the mean over two pairs."""
    anchor = (jnp.array([-3.0, -9.0]), jnp.array([-4.0, -8.0]))

    def loss_at(chosen_B: jax.Array, rejected_B: jax.Array) -> jax.Array:
        return dpo_loss(chosen_B, rejected_B, *anchor, beta=0.4, label_smoothing=smoothing)[0]

    np.testing.assert_allclose(loss_at(*anchor), np.log(2), rtol=1e-6)
    assert dpo_loss(*anchor, *anchor, beta=0.4)[1]["accuracy"].value == 0.0
    grads = jax.grad(loss_at, argnums=(0, 1))(*anchor)
    slope = (1 - 2 * smoothing) * 0.4 / 4
    np.testing.assert_allclose(grads, [[-slope] * 2, [slope] * 2], rtol=1e-6)


def test_smoothing_draws_the_margin_to_the_odds_of_a_right_label() -> None:
    """e = 1/4: the least loss is at h = ln 3, and is the entropy of a coin with 1/4: ln 4 - 3/4 ln 3."""

    def loss_at(margin: jax.Array) -> jax.Array:
        return dpo_loss(margin[None] / 0.5, *(jnp.zeros(1),) * 3, beta=0.5, label_smoothing=0.25)[0]

    loss, slope = jax.value_and_grad(loss_at)(jnp.log(3.0))
    np.testing.assert_allclose(loss, np.log(4) - 0.75 * np.log(3), rtol=1e-6)
    np.testing.assert_allclose(slope, 0.0, atol=1e-6)
    assert loss < min(loss_at(jnp.float32(1.0)), loss_at(jnp.float32(1.2)))


@settings(max_examples=20)
@given(shift=st.floats(-10, 10))
def test_what_both_responses_share_cancels(shift: float) -> None:
    """log Z(x) in the reward, or a prompt that both models like less: the same for chosen and rejected."""
    chosen_B, rejected_B, anchor_chosen_B, anchor_rejected_B = PAIRS
    moved, _ = dpo_loss(chosen_B + shift, rejected_B + shift, anchor_chosen_B, anchor_rejected_B, beta=0.5)
    np.testing.assert_allclose(moved, dpo_loss(*PAIRS, beta=0.5)[0], rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_swapping_the_labels(smoothing: float) -> None:
    """-log s(h) and -log s(-h) differ by h, of which e is there already: (1 - 2e) mean h; accuracies add up to 1."""
    loss, metrics = dpo_loss(*PAIRS, beta=0.5, label_smoothing=smoothing)
    swapped, swapped_metrics = dpo_loss(*swap(*PAIRS), beta=0.5, label_smoothing=smoothing)
    np.testing.assert_allclose(swapped - loss, (1 - 2 * smoothing) * -0.5, rtol=1e-5)
    assert swapped_metrics["accuracy"].value == 1 - metrics["accuracy"].value
    assert swapped_metrics["rewards/chosen"].value == metrics["rewards/rejected"].value
    assert swapped_metrics["rewards/margins"].value == -metrics["rewards/margins"].value


def test_the_order_of_pairs_does_not_matter() -> None:
    loss, _ = dpo_loss(*PAIRS, beta=0.5)
    np.testing.assert_allclose(loss, dpo_loss(*(x_B[::-1] for x_B in PAIRS), beta=0.5)[0], rtol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_gradient_against_finite_differences(smoothing: float) -> None:
    def loss_at(chosen_B: jax.Array, rejected_B: jax.Array) -> jax.Array:
        return dpo_loss(chosen_B, rejected_B, ANCHOR_CHOSEN_B, ANCHOR_REJECTED_B, beta=0.5, label_smoothing=smoothing)[
            0
        ]

    check_grads(loss_at, (POLICY_CHOSEN_B, POLICY_REJECTED_B), order=1, modes=["rev"], rtol=1e-2)


def test_extreme_margins_stay_finite() -> None:
    """softplus(200) = 200 where exp(200) overflows float32; a pair that is 200 right costs and pulls nothing."""
    policy_B, zeros_B = jnp.array([-200.0, 200.0]), jnp.zeros(2)
    loss, grad_B = jax.value_and_grad(lambda a_B: dpo_loss(a_B, zeros_B, zeros_B, zeros_B, beta=1.0)[0])(policy_B)
    np.testing.assert_allclose(loss, 100.0, rtol=1e-6)
    np.testing.assert_allclose(grad_B, [-0.5, 0.0], atol=1e-6)


def test_half_precision_is_widened_first() -> None:
    loss, _ = dpo_loss(*(x_B.astype(jnp.bfloat16) for x_B in PAIRS), beta=0.3)
    np.testing.assert_allclose(loss, dpo_loss(*PAIRS, beta=0.3)[0], rtol=1e-6)  # all exact in bfloat16
    assert loss.dtype == jnp.float32


def test_a_wrong_shape_is_named() -> None:
    with pytest.raises(ValueError, match="axis B is 4 in policy_chosen_B but 3 in anchor_chosen_B"):
        dpo_loss(POLICY_CHOSEN_B, POLICY_REJECTED_B, ANCHOR_CHOSEN_B[1:], ANCHOR_REJECTED_B, beta=0.1)
    with pytest.raises(ValueError, match=r"anchor_rejected_B needs 1 axes \['B'\], found shape \(\)"):
        dpo_loss(POLICY_CHOSEN_B, POLICY_REJECTED_B, ANCHOR_CHOSEN_B, jnp.float32(1), beta=0.1)


@pytest.mark.parametrize("beta", [0.0, -0.1, float("nan"), float("inf")])
def test_a_beta_without_a_scale_is_named(beta: float) -> None:
    with pytest.raises(UserError, match=f"beta={beta}: the implicit reward needs a finite scale above 0"):
        dpo_loss(*PAIRS, beta=beta)


@pytest.mark.parametrize("smoothing", [-0.1, 0.5, 1.0, float("nan")])
def test_a_smoothing_that_is_no_chance_is_named(smoothing: float) -> None:
    with pytest.raises(UserError, match=rf"label_smoothing={smoothing}: pass a chance in \[0, 0.5\)"):
        dpo_loss(*PAIRS, beta=0.1, label_smoothing=smoothing)
