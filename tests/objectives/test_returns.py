"""objectives/returns.py: KL estimates, shaped rewards, advantages, by hand and against plain Python loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pit_jax.errors import UserError
from pit_jax.objectives.returns import gae, kl_estimate, shaped_rewards

JUNK = (np.nan, np.inf, -np.inf, 1e38)


def plain_gae(
    rewards: list[float], values: list[float], gamma: float, gae_lambda: float
) -> tuple[list[float], list[float]]:
    """The definition: A_t = sum over k of (gamma lambda)^k delta_{t+k}, one row without padding."""
    deltas = [r + gamma * (values[t + 1] if t + 1 < len(values) else 0.0) - values[t] for t, r in enumerate(rewards)]
    advantages = []
    for t in range(len(deltas)):
        total = 0.0
        for k in range(len(deltas) - t):
            total += (gamma * gae_lambda) ** k * deltas[t + k]
        advantages.append(total)
    return advantages, [a + v for a, v in zip(advantages, values, strict=True)]


def test_kl_estimates_by_hand() -> None:
    """d = ln 2 and -ln 2: k1 = d, k2 = d^2 / 2, k3 = 1/2 - 1 + ln 2 and 2 - 1 - ln 2."""
    logprobs_BT, ref_BT = jnp.log(jnp.array([[0.5, 0.25]])), jnp.log(jnp.array([[0.25, 0.5]]))
    ln2 = np.log(2)
    np.testing.assert_allclose(kl_estimate(logprobs_BT, ref_BT, kind="k1"), [[ln2, -ln2]], rtol=1e-6)
    np.testing.assert_allclose(kl_estimate(logprobs_BT, ref_BT, kind="k2"), [[ln2**2 / 2] * 2], rtol=1e-6)
    np.testing.assert_allclose(kl_estimate(logprobs_BT, ref_BT, kind="k3"), [[ln2 - 0.5, 1 - ln2]], rtol=1e-5)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000))
def test_k2_and_k3_are_never_negative(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logprobs_BT, ref_BT = (jnp.asarray(-rng.exponential(2.0, (3, 5)), jnp.float32) for _ in range(2))
    for kind in ("k2", "k3"):
        assert (np.asarray(kl_estimate(logprobs_BT, ref_BT, kind=kind)) >= 0).all()


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_equal_policies_are_at_distance_zero(kind: str) -> None:
    logprobs_BT = jnp.array([[-1.0, -20.0]])
    np.testing.assert_array_equal(kl_estimate(logprobs_BT, logprobs_BT, kind=kind), [[0.0, 0.0]])


@pytest.mark.parametrize("kind", ["k1", "k3"])
def test_k1_and_k3_are_unbiased(kind: str) -> None:
    """Weighted by the policy's own probabilities they give the KL divergence exactly."""
    p_BT, q_BT = jnp.array([[0.7, 0.2, 0.1]]), jnp.array([[0.3, 0.3, 0.4]])
    expected = jnp.sum(p_BT * kl_estimate(jnp.log(p_BT), jnp.log(q_BT), kind=kind))
    np.testing.assert_allclose(expected, np.sum(np.asarray(p_BT) * np.log(np.asarray(p_BT / q_BT))), rtol=1e-5)


def test_k3_keeps_its_digits_for_tiny_differences() -> None:
    """d^2 / 2 to leading order; exp(-d) - 1 + d computed naively loses most digits."""
    estimate = kl_estimate(jnp.array([[1e-3]]), jnp.array([[0.0]]), kind="k3")
    np.testing.assert_allclose(estimate, [[5e-7]], rtol=0.1)


def test_an_unknown_estimator_lists_the_known() -> None:
    with pytest.raises(UserError, match="unknown KL estimator 'k4'; choose one of k1, k2, k3"):
        kl_estimate(jnp.zeros((1, 1)), jnp.zeros((1, 1)), kind="k4")


def test_shaped_rewards_by_hand() -> None:
    """KL 1, 2, 4 at coefficient 1/2; the score 10 lands on the last real token; the empty row's score nowhere."""
    mask_BT = jnp.array([[True, True, False], [True, True, True], [False, False, False]])
    kl_BT = jnp.array([[1.0, 2.0, jnp.nan], [1.0, 2.0, 4.0], [jnp.inf, jnp.nan, 1.0]])
    rewards_BT = shaped_rewards(jnp.array([10.0, 10.0, jnp.nan]), kl_BT, mask_BT, kl_coef=0.5)
    np.testing.assert_allclose(rewards_BT, [[-0.5, 9.0, 0.0], [-0.5, -1.0, 8.0], [0.0, 0.0, 0.0]])


def test_the_kl_coefficient_may_live_on_the_device() -> None:
    rewards_BT = jax.jit(shaped_rewards)(
        jnp.array([1.0]), jnp.array([[2.0]]), jnp.array([[True]]), kl_coef=jnp.float32(0.25)
    )
    np.testing.assert_allclose(rewards_BT, [[0.5]])


def test_gae_by_hand() -> None:
    """gamma 1/2, lambda 1/2, rewards 0, 0, 8, values 2, 4, 6, then padding.

    delta = 0 + 2 - 2 = 0;  0 + 3 - 4 = -1;  8 - 6 = 2.
    A_2 = 2;  A_1 = -1 + 2 / 4 = -0.5;  A_0 = 0 - 0.5 / 4 = -0.125.
    """
    advantages_BT, returns_BT = gae(
        jnp.array([[0.0, 0.0, 8.0, jnp.nan]]),
        jnp.array([[2.0, 4.0, 6.0, jnp.inf]]),
        jnp.array([[True, True, True, False]]),
        gamma=0.5,
        gae_lambda=0.5,
    )
    np.testing.assert_allclose(advantages_BT, [[-0.125, -0.5, 2.0, 0.0]])
    np.testing.assert_allclose(returns_BT, [[1.875, 3.5, 8.0, 0.0]])


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    gamma=st.sampled_from([0.0, 0.9, 1.0]),
    gae_lambda=st.sampled_from([0.0, 0.95, 1.0]),
    junk=st.sampled_from(JUNK),
    trailing=st.booleans(),
)
def test_gae_against_the_definition(seed: int, gamma: float, gae_lambda: float, junk: float, trailing: bool) -> None:
    """Each row equals the plain double loop over its real tokens: padding (trailing or not) is as if dropped."""
    rng = np.random.default_rng(seed)
    rewards_BT, values_BT = (rng.normal(size=(3, 7)).astype(np.float32) for _ in range(2))
    mask_BT = np.arange(7)[None] < rng.integers(0, 8, 3)[:, None] if trailing else rng.random((3, 7)) < 0.6
    dirty_rewards_BT, dirty_values_BT = (
        jnp.asarray(np.where(mask_BT, x, np.float32(junk))) for x in (rewards_BT, values_BT)
    )
    advantages_BT, returns_BT = map(
        np.asarray,
        gae(dirty_rewards_BT, dirty_values_BT, jnp.asarray(mask_BT), gamma=gamma, gae_lambda=gae_lambda),
    )
    assert (advantages_BT[~mask_BT] == 0).all() and (returns_BT[~mask_BT] == 0).all()
    for b in range(3):
        real = mask_BT[b]
        advantages, returns = plain_gae(list(rewards_BT[b, real]), list(values_BT[b, real]), gamma, gae_lambda)
        np.testing.assert_allclose(advantages_BT[b, real], advantages, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(returns_BT[b, real], returns, rtol=1e-4, atol=1e-5)


def test_lambda_one_gives_the_rewards_to_come() -> None:
    """With gamma = lambda = 1 the return is the plain sum of future rewards, whatever the values are."""
    rewards_BT = jnp.array([[1.0, 2.0, 3.0]])
    for values_BT in (jnp.zeros((1, 3)), jnp.array([[5.0, -7.0, 0.5]])):
        _, returns_BT = gae(rewards_BT, values_BT, jnp.ones((1, 3), bool), gamma=1.0, gae_lambda=1.0)
        np.testing.assert_allclose(returns_BT, [[6.0, 5.0, 3.0]], rtol=1e-6)


def test_lambda_zero_gives_one_step_errors() -> None:
    """A_t = r_t + gamma v_{t+1} - v_t: 1 + 2 - 1, 1 + 4 - 2, 1 - 4."""
    advantages_BT, _ = gae(
        jnp.ones((1, 3)), jnp.array([[1.0, 2.0, 4.0]]), jnp.ones((1, 3), bool), gamma=1.0, gae_lambda=0.0
    )
    np.testing.assert_allclose(advantages_BT, [[2.0, 3.0, -3.0]])


def test_half_precision_is_widened_first() -> None:
    x_BT = jnp.ones((1, 3), jnp.bfloat16)
    advantages_BT, returns_BT = gae(x_BT, x_BT, jnp.ones((1, 3), bool), gamma=1.0, gae_lambda=1.0)
    rewards_BT = shaped_rewards(x_BT[:, 0], x_BT, jnp.ones((1, 3), bool), kl_coef=1.0)
    dtypes = {x.dtype for x in (advantages_BT, returns_BT, rewards_BT, kl_estimate(x_BT, x_BT, kind="k1"))}
    assert dtypes == {jnp.dtype("float32")}


def test_a_wrong_shape_is_named() -> None:
    x_BT = jnp.zeros((2, 3))
    with pytest.raises(ValueError, match="axis T is 3 in rewards_BT but 2 in values_BT"):
        gae(x_BT, x_BT[:, 1:], x_BT > 0, gamma=1.0, gae_lambda=1.0)
    with pytest.raises(ValueError, match="axis B is 1 in score_B but 2 in kl_BT"):
        shaped_rewards(x_BT[:1, 0], x_BT, x_BT > 0, kl_coef=1.0)
