"""Optimizers: clipping, Adam with decoupled decay of matrices, warm-up and schedules."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from pit_jax.config import OptimizerConfig, RlConfig
from pit_jax.errors import UserError


def schedule(config: OptimizerConfig, num_steps: int, *, learning_rate: float | None = None) -> optax.Schedule:
    """Learning rate of update `step` (from 0), float32; `learning_rate` replaces the config's peak.

    Warm-up is W = round(warmup * num_steps) updates long: update s < W gets peak * (s + 1) / (W + 1), update W the
    peak. Then, with t = (s - W) / (num_steps - W): constant stays at the peak, linear goes to `final` times the peak
    in a straight line, cosine along half a cosine; updates past num_steps stay at the end value.

    Raises UserError for a peak of 0, with which nothing would be learned.
    """
    peak = config.learning_rate if learning_rate is None else learning_rate
    if not peak > 0:
        raise UserError("a learning rate of 0 gets its number from recipes/choices.py, which has none here; give one")
    warmup_steps = round(config.warmup * num_steps)

    def rate(step: Any) -> jax.Array:
        step = jnp.asarray(step).astype(jnp.float32)
        t = jnp.clip((step - warmup_steps) / max(num_steps - warmup_steps, 1), 0.0, 1.0)
        if config.schedule == "constant":
            share = jnp.ones_like(t)
        elif config.schedule == "linear":
            share = 1.0 - (1.0 - config.final) * t
        else:
            share = config.final + (1.0 - config.final) * 0.5 * (1.0 + jnp.cos(jnp.pi * t))
        return peak * share * jnp.minimum((step + 1.0) / (warmup_steps + 1.0), 1.0)

    return rate


def decay_mask(params: Any) -> Any:
    """True for the leaves that weight decay may shrink: matrices, but no norm scale, no bias, nothing of a head.

    Blocks are stacked, so a leaf below `blocks` has one axis (layers) more than its weight.
    """

    def decays(path: tuple[Any, ...], leaf: Any) -> bool:
        names = [jax.tree_util.keystr((entry,), simple=True) for entry in path]
        if "head" in names or (names and names[-1].endswith(("scale", "shift", "bias"))):
            return False
        return leaf.ndim - ("blocks" in names) >= 2

    return jax.tree_util.tree_map_with_path(decays, params)


def make_optimizer(
    config: OptimizerConfig, num_steps: int, *, learning_rate: float | None = None
) -> optax.GradientTransformation:
    """Global-norm clipping, then AdamW on the schedule; `learning_rate` replaces the config's peak.

    eps sits in the bias-corrected form, as in PyTorch (PAPERS 5.2 item 12).
    """
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            schedule(config, num_steps, learning_rate=learning_rate),
            b1=config.beta1,
            b2=config.beta2,
            eps=config.eps,
            weight_decay=config.weight_decay,
            mask=decay_mask,
        ),
    )


def make_rl_optimizer(config: RlConfig, rounds: int, *, critic: bool) -> optax.GradientTransformation:
    """For params {"policy": ...} and, with a critic, "value", over epochs x minibatches of so many rounds."""
    updates = rounds * config.epochs * config.minibatches
    if critic:
        return make_actor_critic_optimizer(config.optimizer, updates, value_learning_rate=config.value_learning_rate)
    return make_optimizer(config.optimizer, updates)


def make_actor_critic_optimizer(
    config: OptimizerConfig, num_steps: int, *, value_learning_rate: float
) -> optax.GradientTransformation:
    """For params {"policy": ..., "value": ...}: two optimizers, each with its own clipping and learning rate.

    A gradient spike of one network never scales down the update of the other.
    Raises UserError at `init` for other top-level keys.
    """

    def labels(params: Any) -> Any:
        if set(params) != {"policy", "value"}:
            raise UserError(
                f"the actor-critic optimizer needs params with keys policy and value, found {sorted(params)}"
            )
        return {name: jax.tree.map(lambda _, name=name: name, tree) for name, tree in params.items()}

    return optax.partition(
        {
            "policy": make_optimizer(config, num_steps),
            "value": make_optimizer(config, num_steps, learning_rate=value_learning_rate),
        },
        labels,
    )
