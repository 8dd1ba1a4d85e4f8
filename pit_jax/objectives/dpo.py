"""Direct preference optimisation: a policy learns from pairs without a reward model."""

import math

import jax
import jax.numpy as jnp

from pit_jax.errors import UserError
from pit_jax.masked import Mean
from pit_jax.objectives.logistic import smoothed_losses
from pit_jax.objectives.shapes import check


def dpo_loss(
    policy_chosen_B: jax.Array,
    policy_rejected_B: jax.Array,
    anchor_chosen_B: jax.Array,
    anchor_rejected_B: jax.Array,
    *,
    beta: float,
    label_smoothing: float = 0.0,
) -> tuple[jax.Array, dict[str, Mean]]:
    """Mean over pairs of the logistic loss on the difference of implicit rewards (DPO Eq. 7, arXiv 2305.18290).

        r_y = beta (log pi(y | x) - log pi_anchor(y | x)),   h = r_w - r_l
        L = - mean_b [ (1 - e) log s(h_b) + e log s(-h_b) ]

    with s the sigmoid. e > 0 is conservative DPO: a label is wrong with chance e, and h is drawn to log((1 - e) / e).

    Args:
      policy_chosen_B, policy_rejected_B: log-probs of the two responses, summed over their tokens, under the model
        being trained; any floating dtype; the maths is float32.
      anchor_chosen_B, anchor_rejected_B: the same under the frozen anchor.
      beta: how hard the policy is held to the anchor, > 0.
      label_smoothing: e, in [0, 0.5).
    Returns:
      The loss and metrics `loss`, `accuracy` (implicit reward of chosen > rejected), `rewards/chosen`,
      `rewards/rejected`, `rewards/margins` (h).
    Raises:
      ValueError: ranks, sizes or dtypes do not fit; beta or label_smoothing out of range.
    """
    if not 0 <= label_smoothing < 0.5:
        raise UserError(f"label_smoothing={label_smoothing}: pass a chance in [0, 0.5); at 0.5 labels say nothing")
    return smoothed_loss(
        policy_chosen_B, policy_rejected_B, anchor_chosen_B, anchor_rejected_B, beta=beta, smoothing=label_smoothing
    )


def smoothed_loss(
    policy_chosen_B: jax.Array,
    policy_rejected_B: jax.Array,
    anchor_chosen_B: jax.Array,
    anchor_rejected_B: jax.Array,
    *,
    beta: float,
    smoothing: float | jax.Array,
) -> tuple[jax.Array, dict[str, Mean]]:
    """`dpo_loss` with `smoothing` as e, one for all pairs or an array [B] in float32 of one each."""
    check(
        policy_chosen_B=policy_chosen_B,
        policy_rejected_B=policy_rejected_B,
        anchor_chosen_B=anchor_chosen_B,
        anchor_rejected_B=anchor_rejected_B,
    )
    if not 0 < beta < math.inf:
        raise UserError(f"beta={beta}: the implicit reward needs a finite scale above 0 (0.1 is usual)")
    chosen_B = beta * (policy_chosen_B.astype(jnp.float32) - anchor_chosen_B.astype(jnp.float32))
    rejected_B = beta * (policy_rejected_B.astype(jnp.float32) - anchor_rejected_B.astype(jnp.float32))
    margins_B = chosen_B - rejected_B
    losses_B = smoothed_losses(margins_B, smoothing)
    metrics = {
        "loss": Mean.of(losses_B),
        "accuracy": Mean.of(margins_B > 0),
        "rewards/chosen": Mean.of(chosen_B),
        "rewards/rejected": Mean.of(rejected_B),
        "rewards/margins": Mean.of(margins_B),
    }
    return jnp.mean(losses_B), metrics
