"""Advantages without a critic: each response of a group against the others of the same (prompt, reference)."""

import jax
import jax.numpy as jnp

from pit_jax.errors import UserError
from pit_jax.objectives.shapes import check

GROUP_KINDS = ("grpo", "rloo", "dr_grpo")
STD_EPS = 1e-4  # beside the standard deviation of a group, so that equal rewards give 0, as in TRL


def advantages(rewards_BK: jax.Array, *, kind: str) -> jax.Array:
    """advantages_BK, float32, of K responses to each of B (prompt, reference) pairs; a group's add up to 0.

        grpo      (r - mean) / (std + 1e-4), std with divisor K - 1          (arXiv 2402.03300, Eq. 4.1.2)
        rloo      r - mean of the K - 1 others = K / (K - 1) (r - mean)      (arXiv 2402.14740, Eq. 8)
        dr_grpo   r - mean: hard and easy prompts count alike                (arXiv 2503.20783, Eq. 3)

    By hand, rewards 1, 2, 6: mean 3, differences -2, -1, 3, std sqrt((4 + 1 + 9) / 2) = 2.6458. grpo gives -0.7559,
    -0.3780, 1.1339 (each but for the 1e-4), rloo 3/2 of the differences: -3, -1.5, 4.5, dr_grpo -2, -1, 3.

    Args:
      rewards_BK: one reward a response, any floating dtype; the maths is float32.
    Raises:
      ValueError: another kind, fewer than two responses a group, or a rank or dtype that does not fit.
    """
    check(rewards_BK=rewards_BK)
    size = rewards_BK.shape[1]
    if kind not in GROUP_KINDS:
        raise UserError(f"unknown group advantage {kind!r}; choose one of {', '.join(GROUP_KINDS)}")
    if size < 2:
        raise UserError(f"{kind} compares the responses of a group, found {size}; draw two or more for each prompt")
    rewards_BK = rewards_BK.astype(jnp.float32)
    rewards_BK = rewards_BK - rewards_BK[:, :1]  # equal rewards become 0 before a mean can round them apart
    differences_BK = rewards_BK - jnp.mean(rewards_BK, axis=1, keepdims=True)
    if kind == "rloo":
        return differences_BK * (size / (size - 1))
    if kind == "dr_grpo":
        return differences_BK
    variance_B1 = jnp.sum(jnp.square(differences_BK), axis=1, keepdims=True) / (size - 1)
    return differences_BK / (jnp.sqrt(variance_B1) + STD_EPS)
