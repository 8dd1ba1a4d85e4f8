"""The state of training: everything a checkpoint must hold to resume exactly."""

from dataclasses import dataclass
from functools import partial
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
    extras: dict[str, Any]  # what else must survive: KL coefficient, curriculum, evaluations, anchor


@dataclass(frozen=True)
class Partition:
    """A network's parameters in two: what training moves, and the frozen rest (None where there is none)."""

    trainable: Any
    frozen: Any | None = None

    def combine(self, trainable: Any) -> Any:
        """The network's parameters with `trainable` in the place of what training began with."""
        return trainable if self.frozen is None else joined(self.frozen, trainable)


def joined(frozen: Any, trainable: Any) -> Any:
    """One nested dict of two: the parameters of a network of which only `trainable` is trained. Nothing is copied."""
    both = {name: joined(frozen[name], trainable[name]) for name in frozen.keys() & trainable.keys()}
    return {**frozen, **trainable, **both}


def create_state(
    params: Any, optimizer: optax.GradientTransformation, *, seed: int, extras: dict[str, Any]
) -> TrainState:
    """The state before the first update. Pure; holds `params` itself, not a copy (`StatePlan.begin` copies)."""
    return TrainState(
        params=params,
        opt_state=optimizer.init(params),
        step=jnp.zeros((), jnp.int32),
        round=jnp.zeros((), jnp.int32),
        key=jax.random.key(seed),
        extras=dict(extras),
    )


def abstract_state(state: TrainState, sharding: TrainState) -> TrainState:
    """`state` (arrays or ShapeDtypeStructs) as ShapeDtypeStructs, placed by `sharding`."""
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, sharding)


def state_sharding(state: TrainState, param_sharding: Any, replicated: NamedSharding) -> TrainState:
    """A NamedSharding for every leaf of `state` (arrays or ShapeDtypeStructs).

    A leaf of the optimizer or the extras whose path ends in a parameter's path and that has its shape (a moment, a
    frozen copy) lives where the parameter lives, also below `optax.partition` and `optax.masked`; every other leaf is
    replicated.
    """
    shapes = {_path(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(state.params)}
    places = {_path(path): sharding for path, sharding in jax.tree_util.tree_leaves_with_path(param_sharding)}
    assert shapes.keys() == places.keys(), f"params and their shardings differ: {shapes.keys() ^ places.keys()}"

    def sharding_of(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        parts = _path(path)
        for start in range(1, len(parts)):
            tail = parts[start:]
            if parts[0] in ("params", "opt_state", "extras") and tail in places and shapes[tail] == leaf.shape:
                return places[tail]
        return replicated

    return jax.tree_util.tree_map_with_path(sharding_of, state)


@dataclass(frozen=True)
class StatePlan:
    """A state before it exists: how it begins and where its leaves live. `abstract` is what a checkpoint must fit."""

    optimizer: optax.GradientTransformation
    seed: int
    sharding: TrainState
    abstract: TrainState

    def begin(self, params: Any, extras: dict[str, Any]) -> TrainState:
        """The state before the first update, on the mesh.

        It owns its buffers: donating it to a step leaves `params` alive (a frozen anchor may hold them). The shardings
        are pinned on the way out, since zero moments depend on no input and would gather on one device.
        """
        create = partial(_copied_state, optimizer=self.optimizer, seed=self.seed)
        state: TrainState = jax.jit(create, out_shardings=self.sharding)(params, extras)
        return state


def plan_state(
    params: Any,
    optimizer: optax.GradientTransformation,
    replicated: NamedSharding,
    *,
    seed: int,
    extras: dict[str, Any],
) -> StatePlan:
    """The plan of a state over `params`, placed arrays or ShapeDtypeStructs; nothing is computed."""
    shapes = jax.eval_shape(partial(_copied_state, optimizer=optimizer, seed=seed), params, extras)
    sharding = state_sharding(shapes, jax.tree.map(lambda x: x.sharding, params), replicated)
    return StatePlan(optimizer, seed, sharding, abstract_state(shapes, sharding))


def _copied_state(
    params: Any, extras: dict[str, Any], *, optimizer: optax.GradientTransformation, seed: int
) -> TrainState:
    params, extras = jax.tree.map(jnp.copy, (params, extras))
    return create_state(params, optimizer, seed=seed, extras=extras)


def _path(path: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(jax.tree_util.keystr((entry,), simple=True) for entry in path)
