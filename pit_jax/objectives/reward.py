"""The pointwise reward model: Bradley-Terry on pairs."""

import jax
import jax.numpy as jnp

from pit_jax.masked import Mean
from pit_jax.objectives.shapes import check


def bradley_terry_loss(
    chosen_B: jax.Array, rejected_B: jax.Array, *, margin: jax.Array | None = None
) -> tuple[jax.Array, dict[str, Mean]]:
    """Mean over pairs of -log sigmoid(chosen - rejected - margin).

        L = - mean_b log sigmoid(R(x, y_w) - R(x, y_l) - m_b)      (PAPERS: L_P^RM; margin as in arXiv 2307.09288)

    Args:
      chosen_B, rejected_B: scalar rewards of the two answers, any floating dtype; the maths is float32.
      margin: [B], how far apart the pair should be; None = 0.
    Returns:
      The loss and metrics `loss`, `accuracy` (chosen > rejected, margin or not), `rewards/chosen`,
      `rewards/rejected`, `rewards/margins` (chosen - rejected).
    Raises:
      ValueError: ranks, sizes or dtypes do not fit.
    """
    check(chosen_B=chosen_B, rejected_B=rejected_B)
    chosen_B, rejected_B = chosen_B.astype(jnp.float32), rejected_B.astype(jnp.float32)
    difference_B = chosen_B - rejected_B
    if margin is None:
        losses_B = jax.nn.softplus(-difference_B)
    else:
        check(chosen_B=chosen_B, margin_B=margin)
        losses_B = jax.nn.softplus(margin.astype(jnp.float32) - difference_B)
    metrics = {
        "loss": Mean.of(losses_B),
        "accuracy": Mean.of(difference_B > 0),
        "rewards/chosen": Mean.of(chosen_B),
        "rewards/rejected": Mean.of(rejected_B),
        "rewards/margins": Mean.of(difference_B),
    }
    return jnp.mean(losses_B), metrics
