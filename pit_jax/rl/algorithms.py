"""RL algorithms as values: responses a prompt, their advantages, the loss, and whether there is a critic."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp

from pit_jax.batch import Experience
from pit_jax.config import RlConfig
from pit_jax.errors import UserError
from pit_jax.masked import Mean, fill, mean_of_rows, mean_of_slots, whiten
from pit_jax.objectives import group
from pit_jax.objectives.ppo import policy_loss, surrogate, value_loss
from pit_jax.objectives.returns import gae, kl_estimate
from pit_jax.table import Table

Metrics = dict[str, Mean]


@dataclass(frozen=True)
class Advantages:
    """What a rollout is trained on."""

    advantages_BT: jax.Array
    returns_BT: jax.Array | None = None  # of the critic, where there is one


@dataclass(frozen=True)
class Algorithm:
    """One RL algorithm. Everything beside these fields, from sampling to the monitors, is the same for all."""

    name: str
    advantages: Callable[..., Advantages]
    """advantages(rewards_BT, values_BT, mask_BT, *, samples, config: RlConfig) -> Advantages; rewards as
    `shaped_rewards` makes them, values_BT None without a critic, rows of one (prompt, reference) side by side."""
    loss: Callable[..., tuple[jax.Array, Metrics]]
    """loss(logprobs_BT, values_BT, batch: Experience, *, config: RlConfig) -> (loss, metrics), with those of
    objectives.ppo.surrogate."""
    critic: bool = False
    """Whether a value model is trained. Without one there is none: not in memory, in checkpoints or in costs."""
    samples: int = 1
    """Responses of each (prompt, reference), where no knob says otherwise."""
    kl: Literal["reward", "loss"] = "reward"
    """Where the KL to the anchor counts: in the rewards of a token, or in the loss, estimated by k3."""


MEANS: dict[str, Callable[[jax.Array, jax.Array], Mean]] = {
    "tokens": Mean.of,
    "responses": mean_of_rows,
    "slots": mean_of_slots,
}


def algorithm_of(config: RlConfig, role: str) -> Algorithm:
    """The algorithm of a model's RL. UserError for a name that nobody has declared."""
    return ALGORITHMS[config.policy_algorithm if role == "policy" else config.improver_algorithm]


def samples_of(config: RlConfig, role: str) -> int:
    """Responses of each (prompt, reference) in a model's RL."""
    asked = config.policy_samples if role == "policy" else config.improver_samples
    return asked or algorithm_of(config, role).samples


def check_algorithm(config: RlConfig, role: str) -> None:
    """UserError for an unknown algorithm, groups of one for an algorithm that compares, and rows that do not divide."""
    algorithm, samples = algorithm_of(config, role), samples_of(config, role)
    if config.batch_size % samples:
        raise UserError(
            f"--rl.batch-size={config.batch_size} is no multiple of the {samples} responses that {algorithm.name} "
            f"draws for a prompt; change it or --rl.{role}-samples"
        )
    if algorithm.samples > 1 and samples < 2:
        raise UserError(
            f"--rl.{role}-samples={samples}: {algorithm.name} compares the responses of a prompt; draw two or more"
        )


def gae_advantages(
    rewards_BT: jax.Array, values_BT: jax.Array, mask_BT: jax.Array, *, samples: int, config: RlConfig
) -> Advantages:
    """Generalised advantages over a critic's values, whitened over the whole rollout."""
    advantages_BT, returns_BT = gae(rewards_BT, values_BT, mask_BT, gamma=config.gamma, gae_lambda=config.gae_lambda)
    return Advantages(whiten(advantages_BT, mask_BT), returns_BT)


def group_advantages(
    rewards_BT: jax.Array, values_BT: None, mask_BT: jax.Array, *, samples: int, config: RlConfig, kind: str
) -> Advantages:
    """objectives.group.advantages of the responses' summed rewards, the same for every token of a response."""
    rewards_B = jnp.sum(fill(rewards_BT, mask_BT), axis=1)
    advantages_B = group.advantages(rewards_B.reshape(-1, samples), kind=kind).reshape(-1)
    return Advantages(fill(jnp.broadcast_to(advantages_B[:, None], mask_BT.shape), mask_BT))


def ppo_loss(
    logprobs_BT: jax.Array, values_BT: jax.Array, batch: Experience, *, config: RlConfig
) -> tuple[jax.Array, Metrics]:
    """Clipped policy loss + vf_coef * clipped value loss, the latter a token mean."""
    actor, metrics = mean_policy_loss(logprobs_BT, values_BT, batch, config=config, usual="tokens")
    old_values_BT, returns_BT = batch.old_values_BT, batch.returns_BT
    assert old_values_BT is not None and returns_BT is not None, "PPO has a critic"
    critic, value_metrics = value_loss(
        values_BT, old_values_BT, returns_BT, batch.mask_BT, clip_eps=config.value_clip_eps
    )
    total, count = actor + config.vf_coef * critic, metrics["loss"].count
    return total, {**metrics, **value_metrics, "loss": Mean(total * count, count)}


def mean_policy_loss(
    logprobs_BT: jax.Array,
    values_BT: jax.Array | None,
    batch: Experience,
    *,
    config: RlConfig,
    usual: str,
) -> tuple[jax.Array, Metrics]:
    """The surrogate and, where a batch brings the anchor, kl_coef times k3, by the mean that rl.loss_mean names.

    `usual` is the algorithm's own: tokens, responses or slots.
    """
    arrays = logprobs_BT, batch.old_logprobs_BT, batch.advantages_BT, batch.mask_BT
    how = usual if config.loss_mean == "algorithm" else config.loss_mean
    if how == "tokens" and batch.anchor_logprobs_BT is None:
        return policy_loss(*arrays, clip_eps=config.clip_eps)
    losses_BT, metrics = surrogate(*arrays, clip_eps=config.clip_eps)
    if batch.anchor_logprobs_BT is not None:
        assert batch.kl_coef_B is not None, "a KL in the loss has a weight"
        mask_BT = batch.mask_BT
        kl_BT = kl_estimate(fill(logprobs_BT, mask_BT), fill(batch.anchor_logprobs_BT, mask_BT), kind="k3")
        losses_BT = losses_BT + fill(batch.kl_coef_B[:, None] * kl_BT, mask_BT)
    mean = MEANS[how](losses_BT, batch.mask_BT)
    return mean.sum / jnp.maximum(mean.count, 1.0), {**metrics, "loss": mean}


def _group(name: str, *, usual: str, kl: Literal["reward", "loss"]) -> Algorithm:
    advantages, loss = partial(group_advantages, kind=name), partial(mean_policy_loss, usual=usual)
    return Algorithm(name, advantages, loss, samples=4, kl=kl)


ALGORITHMS: Table[Algorithm] = Table(
    "RL algorithm",
    Algorithm("ppo", gae_advantages, ppo_loss, critic=True),
    _group("grpo", usual="responses", kl="loss"),
    _group("rloo", usual="tokens", kl="reward"),
    _group("dr_grpo", usual="slots", kl="loss"),
)
