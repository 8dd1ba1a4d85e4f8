"""An RL algorithm of your own: REINFORCE against the mean of the whole batch, without a critic and without groups.

pit-jax --fork=examples/forks/batch_reinforce.py --stage=rl --rl.improver-algorithm=batch-reinforce
"""

import jax
import jax.numpy as jnp

from pit_jax.fork import Advantages, Algorithm, Experience, Mean, RlConfig, fill, fork, masked_mean


def advantages(
    rewards_BT: jax.Array, values_BT: None, mask_BT: jax.Array, *, samples: int, config: RlConfig
) -> Advantages:
    """Each response's summed reward less the mean of all, for every token of it.

    By hand: responses with rewards 1, 2 and 6 get -2, -1 and 3.
    """
    rewards_B = jnp.sum(fill(rewards_BT, mask_BT), axis=1)
    real_B = jnp.any(mask_BT, axis=1)
    advantages_B = rewards_B - masked_mean(rewards_B, real_B)
    return Advantages(fill(jnp.broadcast_to(advantages_B[:, None], mask_BT.shape), mask_BT))


def loss(
    logprobs_BT: jax.Array, values_BT: None, batch: Experience, *, config: RlConfig
) -> tuple[jax.Array, dict[str, Mean]]:
    """Token mean of -A log pi: the plain policy gradient, with what every algorithm reports."""
    mask_BT = batch.mask_BT
    logprobs_BT, old_BT = fill(logprobs_BT, mask_BT), fill(batch.old_logprobs_BT, mask_BT)
    losses_BT = -fill(batch.advantages_BT, mask_BT) * logprobs_BT
    log_ratio_BT = logprobs_BT - old_BT
    metrics = {
        "loss": Mean.of(losses_BT, mask_BT),
        "policy/approxkl_avg": Mean.of(0.5 * jnp.square(log_ratio_BT), mask_BT),
        "val/ratio": Mean.of(jnp.exp(log_ratio_BT), mask_BT),
    }
    return masked_mean(losses_BT, mask_BT), metrics


fork(Algorithm("batch-reinforce", advantages, loss))
