"""Keys and values of what a model has read, so that the next token costs one token."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, Self

import jax
import jax.numpy as jnp

from pit_jax.architecture import TransformerConfig
from pit_jax.parallel.sharding import BATCH_AXES, P, constrain

# Rows over data and fsdp, heads over tensor; fewer heads than that axis has are on all of it.
WITH_ROWS = P(None, BATCH_AXES, "tensor")
Layer = int | jax.Array  # which one; an array where layers are scanned


class Cache(Protocol):
    """What attention asks of one. Arrays are written in place inside a decode loop."""

    def written(self, key_BKLH: jax.Array, value_BKLH: jax.Array, layer: Layer, slot: int | jax.Array) -> Self:
        """With the keys and values of a layer from a slot on."""

    def of(self, layer: Layer) -> tuple[jax.Array, jax.Array]:
        """(keys_BKSH, values_BKSH) of a layer."""

    def repeated(self, times: int) -> Self:
        """With every row so many times, side by side."""

    def with_rows(self, rows_DG: jax.Array, new: Self) -> Self:
        """With the first slots of some rows from another cache; see `replaced_rows`."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Stacked:
    """Of all layers in one array: for layers that are scanned, whose program is as large as one layer's."""

    keys_UBKSH: jax.Array
    values_UBKSH: jax.Array

    @staticmethod
    def empty(config: TransformerConfig, batch: int, slots: int) -> "Stacked":
        """Zeros in the compute dtype."""
        shape = (config.layers, *_shape(config, batch, slots))
        return Stacked(jnp.zeros(shape, config.dtype), jnp.zeros(shape, config.dtype))._placed()

    def _placed(self) -> "Stacked":
        return Stacked(constrain(self.keys_UBKSH, WITH_ROWS), constrain(self.values_UBKSH, WITH_ROWS))

    def written(self, key_BKLH: jax.Array, value_BKLH: jax.Array, layer: Layer, slot: int | jax.Array) -> "Stacked":
        def write(cache_UBKSH: jax.Array, new_BKLH: jax.Array) -> jax.Array:
            return jax.lax.dynamic_update_slice(cache_UBKSH, new_BKLH[None], _starts(layer, 0, 0, slot, 0))

        return Stacked(write(self.keys_UBKSH, key_BKLH), write(self.values_UBKSH, value_BKLH))._placed()

    def of(self, layer: Layer) -> tuple[jax.Array, jax.Array]:
        return self.keys_UBKSH[layer], self.values_UBKSH[layer]

    def repeated(self, times: int) -> "Stacked":
        return Stacked(*(jnp.repeat(x, times, axis=1) for x in (self.keys_UBKSH, self.values_UBKSH)))._placed()

    def with_rows(self, rows_DG: jax.Array, new: "Stacked") -> "Stacked":
        put = jax.vmap(partial(replaced_rows, rows_DG))
        return Stacked(put(self.keys_UBKSH, new.keys_UBKSH), put(self.values_UBKSH, new.values_UBKSH))._placed()


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Apart:
    """An array for every layer, on one device, which is read where it lies: XLA's backends for CPUs and GPUs copy a
    layer out of a stack first, which on a CPU takes as long again as all that a step does with it."""

    keys: tuple[jax.Array, ...]  # BKSH
    values: tuple[jax.Array, ...]

    @staticmethod
    def empty(config: TransformerConfig, batch: int, slots: int) -> "Apart":
        """Zeros in the compute dtype."""
        shape = _shape(config, batch, slots)

        def zeros() -> tuple[jax.Array, ...]:
            return tuple(jnp.zeros(shape, config.dtype) for _ in range(config.layers))

        return Apart(zeros(), zeros())

    def written(self, key_BKLH: jax.Array, value_BKLH: jax.Array, layer: Layer, slot: int | jax.Array) -> "Apart":
        assert isinstance(layer, int), "layers apart are not scanned"

        def write(caches: tuple[jax.Array, ...], new_BKLH: jax.Array) -> tuple[jax.Array, ...]:
            updated_BKSH = jax.lax.dynamic_update_slice(caches[layer], new_BKLH, _starts(0, 0, slot, 0))
            return (*caches[:layer], updated_BKSH, *caches[layer + 1 :])

        return replace(self, keys=write(self.keys, key_BKLH), values=write(self.values, value_BKLH))

    def of(self, layer: Layer) -> tuple[jax.Array, jax.Array]:
        assert isinstance(layer, int), "layers apart are not scanned"
        return self.keys[layer], self.values[layer]

    def repeated(self, times: int) -> "Apart":
        return jax.tree.map(partial(jnp.repeat, repeats=times, axis=0), self)

    def with_rows(self, rows_DG: jax.Array, new: "Apart") -> "Apart":
        return jax.tree.map(partial(replaced_rows, rows_DG), self, new)


def replaced_rows(rows_DG: jax.Array, old_BX: jax.Array, new_GX: jax.Array) -> jax.Array:
    """old[rows] = new, in the first places of each axis behind.

    Rows are in D parts that stay on their devices, and counted from 0 in each; one that its part does not have is left
    out.
    """
    parts = len(rows_DG)
    places = tuple(slice(size) for size in new_GX.shape[1:])

    def put(rows_G: jax.Array, old_BX: jax.Array, new_GX: jax.Array) -> jax.Array:
        return old_BX.at[rows_G, *places].set(new_GX, mode="drop")

    split = (x.reshape(parts, -1, *x.shape[1:]) for x in (old_BX, new_GX))
    return jax.vmap(put)(rows_DG, *split).reshape(old_BX.shape)


def _shape(config: TransformerConfig, batch: int, slots: int) -> tuple[int, ...]:
    return batch, config.kv_heads, slots, config.head_size


def _starts(*places: int | jax.Array) -> list[jax.Array]:
    return [jnp.asarray(place, jnp.int32) for place in places]
