"""What of a network a stage does not train, and the dtype in which that is kept."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from pit_jax.config import Config
from pit_jax.model.networks import Params
from pit_jax.run.loads import Loads
from pit_jax.training.optimizer import decay_mask


def trains_fully(config: Config, name: str) -> bool:
    """Whether the stage (or the value model) of this name trains all its weights."""
    return config.adapter.rank == 0 or name in config.adapter.full


def trained_share(config: Config, name: str) -> float:
    """What a stage's updates compute, as a share of what training all weights does.

    Over frozen matrices there are the forward pass and the gradients of activations, two thirds; the few operations of
    the adapters are not counted, and attention, which has no weights, a little too low.
    """
    return 1.0 if trains_fully(config, name) else 2 / 3


def as_trained(loads: Loads, config: Config, id: str) -> Loads:
    """The loads of a stage, the operations of its update without gradients that are not computed."""
    if "update" not in loads:
        return loads
    update = loads["update"]
    work = replace(update.work, flops=trained_share(config, id) * update.work.flops)
    return {**loads, "update": replace(update, work=work)}


def frozen_weights(params: Params, config: Config) -> Params:
    """A network of which these weights are not trained, arrays or ShapeDtypeStructs: its matrices in frozen_dtype.

    Adapters, heads, norms and biases, which are small, stay as they are, and so does the very object of what has the
    dtype.
    """
    matrices = jax.tree_util.tree_map_with_path(
        lambda path, decays: decays and "adapter" not in jax.tree_util.keystr(path), decay_mask(params)
    )
    return cast_where(params, matrices, jnp.dtype(config.transformer.frozen_dtype))


def cast_where(params: Params, which: Params, dtype: jnp.dtype) -> Params:
    """The leaves that `which` (a tree of booleans) names in another dtype; those that have it are the very objects."""

    def cast(x: Any, chosen: bool) -> Any:
        if not chosen or x.dtype == dtype:
            return x
        if isinstance(x, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(x.shape, dtype, sharding=x.sharding)
        return x.astype(dtype)  # elementwise: it stays in its shards

    return jax.tree.map(cast, params, which)
