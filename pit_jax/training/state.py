"""The state of training: everything a checkpoint must hold to resume exactly."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Parameters, optimizer and counters. Nested plain dicts of arrays, so a checkpoint needs no code to be read."""

    params: Any
    opt_state: Any
    step: jax.Array  # int32 scalar, optimizer updates so far
    round: jax.Array  # int32 scalar, outer rounds finished
    key: jax.Array  # typed PRNG key of the stage; never advanced, folded with step or round
    extras: dict[str, Any]  # what else must survive: KL coefficient, curriculum, evaluations, data position, anchor


def joined(frozen: Any, trained: Any) -> Any:
    """One nested dict of two: the parameters of a network of which only `trained` is trained. Nothing is copied."""
    both = {name: joined(frozen[name], trained[name]) for name in frozen.keys() & trained.keys()}
    return {**frozen, **trained, **both}


def create_state(
    params: Any, optimizer: optax.GradientTransformation, *, seed: int, extras: dict[str, Any]
) -> TrainState:
    """The state before the first update. Pure; holds `params` itself, not a copy (`place_state` copies)."""
    return TrainState(
        params=params,
        opt_state=optimizer.init(params),
        step=jnp.zeros((), jnp.int32),
        round=jnp.zeros((), jnp.int32),
        key=jax.random.key(seed),
        extras=dict(extras),
    )


def abstract_state(state: TrainState, sharding: TrainState | None = None) -> TrainState:
    """`state` as ShapeDtypeStructs, placed by `sharding` (or as the arrays already are)."""
    if sharding is None:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, sharding)


def state_sharding(state: TrainState, param_sharding: Any, replicated: NamedSharding) -> TrainState:
    """A NamedSharding for every leaf of `state` (arrays or ShapeDtypeStructs).

    A leaf of the optimizer or the extras whose path ends in a parameter's path and that has its shape (a moment, a
    frozen copy) lives where the parameter lives, also below `optax.partition` and `optax.masked`; every other leaf is
    replicated.
    """
    shapes = {_path(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(state.params)}
    places = {_path(path): place for path, place in jax.tree_util.tree_leaves_with_path(param_sharding)}
    assert shapes.keys() == places.keys(), f"params and their shardings differ: {shapes.keys() ^ places.keys()}"

    def place(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        parts = _path(path)
        for start in range(1, len(parts)):
            tail = parts[start:]
            if parts[0] in ("params", "opt_state", "extras") and tail in places and shapes[tail] == leaf.shape:
                return places[tail]
        return replicated

    return jax.tree_util.tree_map_with_path(place, state)


def place_state(
    params: Any,
    optimizer: optax.GradientTransformation,
    param_sharding: Any,
    replicated: NamedSharding,
    *,
    seed: int,
    extras: dict[str, Any],
) -> tuple[TrainState, TrainState]:
    """A fresh state on the mesh and the shardings of its leaves.

    The state owns its buffers: donating it to a step leaves `params` alive (a frozen reference may hold them).
    The shardings are pinned on the way out, since zero moments depend on no input and would gather on one device.
    """

    def create(params: Any, extras: dict[str, Any]) -> TrainState:
        params, extras = jax.tree.map(jnp.copy, (params, extras))
        return create_state(params, optimizer, seed=seed, extras=extras)

    sharding = state_sharding(jax.eval_shape(create, params, extras), param_sharding, replicated)
    return jax.jit(create, out_shardings=sharding)(params, extras), sharding


def _path(path: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(jax.tree_util.keystr((entry,), simple=True) for entry in path)
