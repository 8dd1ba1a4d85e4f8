"""objectives/spa.py: the numbers of the docstrings, DPO with and without smoothing, windows, extrapolated logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from pit_jax.errors import UserError
from pit_jax.objectives.dpo import dpo_loss
from pit_jax.objectives.spa import Window, confidence_window, empty_window, extrapolated_logprobs, refined_dpo_loss

PAIRS = (
    jnp.array([-8.0, -12.0, -6.0, -9.0]),
    jnp.array([-7.0, -10.0, -13.0, -4.0]),
    jnp.array([-10.0, -11.0, -10.0, -9.0]),
    jnp.array([-7.0, -11.0, -15.0, -10.0]),
)  # at beta 1/2 the margins are 1, -1, 1, -3
NOISY_B = jnp.array([0.0, 1.0, 1.0, 0.0])


def test_the_loss_by_hand() -> None:
    first, second, third, fourth = (x_B[jnp.array([0, 3])] for x_B in PAIRS)
    loss, metrics = refined_dpo_loss(first, second, third, fourth, jnp.array([0.0, 1.0]), beta=0.5, alpha=0.1)
    np.testing.assert_allclose(loss, 1.5309, atol=1e-4)
    assert metrics["loss"].value == pytest.approx(float(loss))
    assert metrics["noisy"].value == 0.5 and metrics["rewards/margins"].value == -1.0


@settings(max_examples=20)
@given(alpha=st.floats(0.0, 0.49), beta=st.floats(0.05, 1.0), noisy=st.lists(st.booleans(), min_size=4, max_size=4))
def test_it_is_dpo_smoothed_where_a_label_may_be_wrong(alpha: float, beta: float, noisy: list[bool]) -> None:
    plain, smoothed = (
        np.array([dpo_loss(*(x_B[i : i + 1] for x_B in PAIRS), beta=beta, label_smoothing=e)[0] for i in range(4)])
        for e in (0.0, alpha)
    )
    loss, metrics = refined_dpo_loss(*PAIRS, jnp.array(noisy, jnp.float32), beta=beta, alpha=alpha)
    np.testing.assert_allclose(loss, np.mean(np.where(noisy, smoothed, plain)), rtol=1e-5)
    others = dpo_loss(*PAIRS, beta=beta)[1]
    assert {name: metrics[name].value for name in others if name != "loss"} == {
        name: mean.value for name, mean in others.items() if name != "loss"
    }


def test_gradients_are_those_of_finite_differences_and_none_flows_into_the_flags() -> None:
    def loss_at(chosen_B: jax.Array, rejected_B: jax.Array) -> jax.Array:
        return refined_dpo_loss(chosen_B, rejected_B, *PAIRS[2:], NOISY_B, beta=0.5, alpha=0.3)[0]

    check_grads(loss_at, PAIRS[:2], order=1, modes=["rev"], rtol=1e-2)
    flags = jax.grad(lambda noisy_B: refined_dpo_loss(*PAIRS, noisy_B, beta=0.5, alpha=0.3)[0])(NOISY_B)
    np.testing.assert_array_equal(flags, 0.0)


def test_extreme_margins_stay_finite() -> None:
    zeros_B = jnp.zeros(2)
    loss, _ = refined_dpo_loss(jnp.array([-300.0, 300.0]), zeros_B, zeros_B, zeros_B, jnp.ones(2), beta=1.0, alpha=0.1)
    np.testing.assert_allclose(loss, (0.9 * 300 + 0.1 * 300) / 2, rtol=1e-6)


def test_what_the_loss_cannot_take_is_named() -> None:
    with pytest.raises(UserError, match="alpha=0.5: pass a chance"):
        refined_dpo_loss(*PAIRS, NOISY_B, beta=0.5, alpha=0.5)
    with pytest.raises(UserError, match="beta=0.0: the implicit reward"):
        refined_dpo_loss(*PAIRS, NOISY_B, beta=0.0, alpha=0.1)
    with pytest.raises(ValueError, match="axis B is 4 in policy_chosen_B but 3 in noisy_B"):
        refined_dpo_loss(*PAIRS, NOISY_B[1:], beta=0.5, alpha=0.1)


def test_the_window_by_hand() -> None:
    window, threshold = confidence_window(empty_window(4), jnp.array([3.0, 1.0]), share=0.25)
    assert threshold == -jnp.inf
    window, threshold = confidence_window(window, jnp.array([4.0, 2.0]), share=0.25)
    assert threshold == -jnp.inf, "only two were seen before"
    window, threshold = confidence_window(window, jnp.array([0.0, 9.0]), share=0.25)
    assert threshold == 1.5 and window.margins_W.tolist() == [4.0, 2.0, 0.0, 9.0] and window.seen == 6
    assert confidence_window(window, jnp.zeros(1), share=0.25)[1] == 1.0
    assert confidence_window(window, jnp.zeros(1), share=0.2)[1] == -jnp.inf, "less than one pair of four"


@settings(max_examples=20)
@given(st.lists(st.floats(-5, 5, width=32), min_size=12, max_size=12), st.sampled_from([1, 2, 3, 4, 6, 12]))
def test_a_window_is_the_last_pairs_however_they_came(margins: list[float], parts: int) -> None:
    """Updates of any size, smaller than the window or larger; share of the window that lies below the threshold."""
    window = empty_window(5)
    for part in np.split(np.array(margins, np.float32), parts):
        window, _ = confidence_window(window, jnp.asarray(part), share=0.4)
    np.testing.assert_array_equal(window.margins_W, np.array(margins[-5:], np.float32))
    assert window.seen == 12
    threshold = float(confidence_window(window, jnp.zeros(1), share=0.4)[1])
    below = int(np.sum(np.array(margins[-5:], np.float32) < threshold))
    assert below == 2 or len(set(margins[-5:])) < 5 and below <= 2


def test_a_window_in_a_compiled_step() -> None:
    """A state in and a state out, as a checkpoint needs it; no gradient flows back through it."""

    def step(window: Window, margins_B: jax.Array) -> tuple[Window, jax.Array]:
        return confidence_window(window, margins_B, share=0.5)

    window = Window(jnp.array([1.0, 2.0]), jnp.array(2, jnp.int32))
    found, threshold = jax.jit(step)(window, jnp.array([7.0], jnp.bfloat16))
    assert threshold == 1.5 and found.margins_W.tolist() == [2.0, 7.0] and found.margins_W.dtype == jnp.float32
    grad = jax.grad(lambda x_B: jnp.sum(step(window, x_B)[0].margins_W))(jnp.array([7.0]))
    assert grad.tolist() == [0.0]


def test_extrapolated_logits_by_hand() -> None:
    policy, anchor = jnp.array([[[np.log(2.0), 0.0]]], jnp.float32), jnp.zeros((1, 1, 2))
    found = [extrapolated_logprobs(policy, anchor, jnp.array([[t]]), strength=1.0).item() for t in (0, 1)]
    np.testing.assert_allclose(np.exp(found), [0.8, 0.2], rtol=1e-6)


@pytest.mark.parametrize("strength", [0.0, 0.125, 0.5, 2.0])
def test_extrapolated_logits_against_numpy(strength: float) -> None:
    """A constant that is added to all logits of a slot changes nothing; an anchor like the policy neither."""
    rng = np.random.default_rng(0)
    policy_BTV, anchor_BTV = rng.normal(0, 3, (2, 2, 3, 7)).astype(np.float32)
    targets_BT = rng.integers(0, 7, (2, 3)).astype(np.int32)

    def found(policy_BTV: np.ndarray, anchor_BTV: np.ndarray) -> jax.Array:
        return extrapolated_logprobs(*map(jnp.asarray, (policy_BTV, anchor_BTV, targets_BT)), strength=strength)

    def picked(logits_BTV: np.ndarray) -> np.ndarray:
        logprobs_BTV = logits_BTV - np.log(np.exp(logits_BTV).sum(-1, keepdims=True))
        return np.take_along_axis(logprobs_BTV, targets_BT[..., None], -1)[..., 0]

    mixed_BTV = (1 + strength) * policy_BTV.astype(np.float64) - strength * anchor_BTV.astype(np.float64)
    np.testing.assert_allclose(found(policy_BTV, anchor_BTV), picked(mixed_BTV), atol=1e-5)
    np.testing.assert_allclose(found(policy_BTV + 100, anchor_BTV - 30), picked(mixed_BTV), atol=2e-4)
    np.testing.assert_allclose(found(policy_BTV, policy_BTV), picked(policy_BTV.astype(np.float64)), atol=1e-5)
