"""Proximal policy optimisation: clipped policy and value losses, and the weight of the KL penalty."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from pit_jax.errors import UserError
from pit_jax.masked import Mean, fill, masked_mean
from pit_jax.objectives.shapes import check


def policy_loss(
    logprobs_BT: jax.Array,
    old_logprobs_BT: jax.Array,
    advantages_BT: jax.Array,
    mask_BT: jax.Array,
    *,
    clip_eps: float,
) -> tuple[jax.Array, dict[str, Mean]]:
    """Token mean of `surrogate`, whose arguments and metrics it has; the loss is 0 when nothing counts."""
    losses_BT, metrics = surrogate(logprobs_BT, old_logprobs_BT, advantages_BT, mask_BT, clip_eps=clip_eps)
    return masked_mean(losses_BT, mask_BT.astype(bool)), metrics


def surrogate(
    logprobs_BT: jax.Array,
    old_logprobs_BT: jax.Array,
    advantages_BT: jax.Array,
    mask_BT: jax.Array,
    *,
    clip_eps: float,
) -> tuple[jax.Array, dict[str, Mean]]:
    """The clipped surrogate of each token (arXiv 1707.06347, Eq. 7), sign turned so that lower is better.

        ratio = exp(logprobs - old_logprobs),   L_t = max(-A ratio, -A clip(ratio, 1 - eps, 1 + eps))

    Args:
      logprobs_BT: of the model being trained; old_logprobs_BT: of the sampler, at the same temperature.
      advantages_BT: constants (no gradient should reach them).
      mask_BT: True on response tokens.
    Returns:
      losses_BT, 0 in padding, and, over real tokens only, metrics `loss`, `loss/policy_avg`, `policy/approxkl_avg`
      (half the mean squared log-ratio), `policy/clipfrac_avg` (clipping made the loss larger), `val/ratio`.
    Raises:
      ValueError: ranks, sizes or dtypes do not fit.
    """
    check(logprobs_BT=logprobs_BT, old_logprobs_BT=old_logprobs_BT, advantages_BT=advantages_BT, mask_BT=mask_BT)
    mask_BT = mask_BT.astype(bool)
    logprobs_BT = fill(logprobs_BT.astype(jnp.float32), mask_BT)
    old_logprobs_BT = fill(old_logprobs_BT.astype(jnp.float32), mask_BT)
    advantages_BT = fill(advantages_BT.astype(jnp.float32), mask_BT)
    log_ratio_BT = logprobs_BT - old_logprobs_BT
    ratio_BT = jnp.exp(log_ratio_BT)
    free_BT = -advantages_BT * ratio_BT
    clipped_BT = -advantages_BT * jnp.clip(ratio_BT, 1.0 - clip_eps, 1.0 + clip_eps)
    losses_BT = jnp.maximum(free_BT, clipped_BT)
    metrics = {
        "loss": Mean.of(losses_BT, mask_BT),
        "loss/policy_avg": Mean.of(losses_BT, mask_BT),
        "policy/approxkl_avg": Mean.of(0.5 * jnp.square(log_ratio_BT), mask_BT),
        "policy/clipfrac_avg": Mean.of(clipped_BT > free_BT, mask_BT),
        "val/ratio": Mean.of(ratio_BT, mask_BT),
    }
    return losses_BT, metrics


def value_loss(
    values_BT: jax.Array, old_values_BT: jax.Array, returns_BT: jax.Array, mask_BT: jax.Array, *, clip_eps: float
) -> tuple[jax.Array, dict[str, Mean]]:
    """Token mean of one half of the larger of the unclipped and the clipped squared error (PAPERS 5.3).

        L = mean_t 1/2 max((v - R)^2, (v_old + clip(v - v_old, -eps, eps) - R)^2)

    Args:
      values_BT: of the model being trained; old_values_BT: of the rollout; returns_BT: from `gae`.
      mask_BT: True on response tokens.
    Returns:
      The loss (0 when nothing counts) and, over real tokens only, metrics `loss`, `loss/value_avg`,
      `val/clipfrac_avg` (clipping made the loss larger).
    Raises:
      ValueError: ranks, sizes or dtypes do not fit.
    """
    check(values_BT=values_BT, old_values_BT=old_values_BT, returns_BT=returns_BT, mask_BT=mask_BT)
    mask_BT = mask_BT.astype(bool)
    values_BT = fill(values_BT.astype(jnp.float32), mask_BT)
    old_values_BT = fill(old_values_BT.astype(jnp.float32), mask_BT)
    returns_BT = fill(returns_BT.astype(jnp.float32), mask_BT)
    near_BT = old_values_BT + jnp.clip(values_BT - old_values_BT, -clip_eps, clip_eps)
    free_BT, clipped_BT = jnp.square(values_BT - returns_BT), jnp.square(near_BT - returns_BT)
    losses_BT = 0.5 * jnp.maximum(free_BT, clipped_BT)
    metrics = {
        "loss": Mean.of(losses_BT, mask_BT),
        "loss/value_avg": Mean.of(losses_BT, mask_BT),
        "val/clipfrac_avg": Mean.of(clipped_BT > free_BT, mask_BT),
    }
    return masked_mean(losses_BT, mask_BT), metrics


@dataclass(frozen=True)
class AdaptiveKL:
    """A KL coefficient steered towards a target (arXiv 1909.08593, section 2.2; PAPERS 5.2 item 11)."""

    target: float
    """KL per response, in nats."""
    horizon: float
    """Episodes over which the coefficient moves."""

    def __post_init__(self) -> None:
        if self.target <= 0 or self.horizon <= 0:
            raise UserError(f"AdaptiveKL needs target > 0 and horizon > 0, found {self.target} and {self.horizon}")

    def update(self, kl_coef: float | jax.Array, kl: float | jax.Array, episodes: int) -> jax.Array:
        """kl_coef * (1 + clip(kl / target - 1, -0.2, 0.2) * episodes / horizon); `kl` in nats per response."""
        error = jnp.clip(kl / self.target - 1.0, -0.2, 0.2)
        return kl_coef * (1.0 + error * (episodes / self.horizon))
