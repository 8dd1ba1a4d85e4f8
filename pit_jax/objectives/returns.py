"""From scores and log-probs to what PPO is trained on: KL estimates, per-token rewards, advantages and returns."""

import jax
import jax.numpy as jnp

from pit_jax.errors import UserError
from pit_jax.masked import fill
from pit_jax.objectives.shapes import check

KL_KINDS = ("k1", "k2", "k3")


def kl_estimate(logprobs_BT: jax.Array, ref_logprobs_BT: jax.Array, *, kind: str) -> jax.Array:
    """Per-token estimate of KL(policy || reference) from the policy's own samples, in nats, [B, T] float32.

    With d = logprobs - ref_logprobs (joschu.net/blog/kl-approx.html):
        k1 = d                     unbiased, may be negative
        k2 = d^2 / 2               biased, never negative
        k3 = exp(-d) - 1 + d       unbiased, never negative

    There is no mask here: a padded slot holds whatever its inputs held, and the user of the estimate masks it.
    Raises ValueError for another kind, or when ranks, sizes or dtypes do not fit.
    """
    check(logprobs_BT=logprobs_BT, ref_logprobs_BT=ref_logprobs_BT)
    if kind not in KL_KINDS:
        raise UserError(f"unknown KL estimator {kind!r}; choose one of {', '.join(KL_KINDS)}")
    d_BT = logprobs_BT.astype(jnp.float32) - ref_logprobs_BT.astype(jnp.float32)
    if kind == "k1":
        return d_BT
    if kind == "k2":
        return 0.5 * jnp.square(d_BT)
    return jnp.expm1(-d_BT) + d_BT


def shaped_rewards(
    score_B: jax.Array, kl_BT: jax.Array, mask_BT: jax.Array, *, kl_coef: float | jax.Array
) -> jax.Array:
    """Per-token rewards [B, T] float32: -kl_coef * kl everywhere, plus the score on the last real token.

    Padded slots are 0, and so is a row without a real token (its score goes nowhere).
    Source: N implementation details of RLHF, item 8 (PAPERS 5.2).
    Raises ValueError when ranks, sizes or dtypes do not fit.
    """
    check(score_B=score_B, kl_BT=kl_BT, mask_BT=mask_BT)
    mask_BT = mask_BT.astype(bool)
    steps = mask_BT.shape[1]
    last_B = steps - 1 - jnp.argmax(mask_BT[:, ::-1], axis=1)
    is_last_BT = (jnp.arange(steps)[None, :] == last_B[:, None]) & mask_BT
    score_BT = jnp.broadcast_to(score_B.astype(jnp.float32)[:, None], mask_BT.shape)
    return fill(score_BT, is_last_BT) - kl_coef * fill(kl_BT.astype(jnp.float32), mask_BT)


def gae(
    rewards_BT: jax.Array, values_BT: jax.Array, mask_BT: jax.Array, *, gamma: float, gae_lambda: float
) -> tuple[jax.Array, jax.Array]:
    """Generalised advantage estimates and returns, both [B, T] float32, 0 in padding (arXiv 1506.02438, Eq. 16).

        delta_t = r_t + gamma v_{t+1} - v_t,   A_t = delta_t + gamma lambda A_{t+1},   R_t = A_t + v_t

    v and A after a row's last real token are 0. t + 1 means the next real token: padding anywhere is skipped, as if
    it had been dropped. Raises ValueError when ranks, sizes or dtypes do not fit.
    """
    check(rewards_BT=rewards_BT, values_BT=values_BT, mask_BT=mask_BT)
    mask_BT = mask_BT.astype(bool)
    rewards_BT = fill(rewards_BT.astype(jnp.float32), mask_BT)
    values_BT = fill(values_BT.astype(jnp.float32), mask_BT)

    def backward(
        carry: tuple[jax.Array, jax.Array], now: tuple[jax.Array, jax.Array, jax.Array]
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        next_advantage_B, next_value_B = carry
        reward_B, value_B, mask_B = now
        advantage_B = reward_B + gamma * next_value_B - value_B + gamma * gae_lambda * next_advantage_B
        carry = (jnp.where(mask_B, advantage_B, next_advantage_B), jnp.where(mask_B, value_B, next_value_B))
        return carry, fill(advantage_B, mask_B)

    zeros_B = jnp.zeros_like(values_BT[:, 0])
    _, advantages_TB = jax.lax.scan(backward, (zeros_B, zeros_B), (rewards_BT.T, values_BT.T, mask_BT.T), reverse=True)
    advantages_BT = advantages_TB.T
    return advantages_BT, advantages_BT + values_BT
