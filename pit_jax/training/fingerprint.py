"""Names, shapes, dtypes and digests of a tree's leaves; the digests do not depend on how leaves are sharded."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from pit_jax.parallel.hosts import whole
from pit_jax.parallel.sharding import named_leaves

_UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}
_KEYS = (0x9E3779B9, 0x3C6EF372)  # of the golden ratio; two sums of 32 bits


def leaf_specs(tree: Any) -> dict[str, dict[str, Any]]:
    """{"params/a/b": {"shape", "dtype", "bytes"}} of arrays or ShapeDtypeStructs, ready for JSON."""
    return {
        name: {"shape": list(x.shape), "dtype": str(x.dtype), "bytes": math.prod(x.shape) * x.dtype.itemsize}
        for name, x in named_leaves(tree).items()
    }


def leaf_digests(tree: Any) -> dict[str, str]:
    """16 hex digits for every leaf, which change with any element and with the place of any.

    Two sums of 32-bit words, each word mixed with its place in the leaf first, so that no two changes cancel; they are
    taken where the shards lie. They name what happens by accident (as 64 random bits would), not what somebody makes
    to deceive: their keys are in this file.
    """
    return {name: digest for name, (digest, _) in _read(named_leaves(tree)).items()}


def inspect(tree: Any) -> tuple[dict[str, dict[str, Any]], dict[str, bool]]:
    """(`leaf_specs` with `digest` added, whether every element of a leaf is finite)."""
    read = _read(named_leaves(tree))
    specs = {name: {**spec, "digest": read[name][0]} for name, spec in leaf_specs(tree).items()}
    return specs, {name: finite for name, (_, finite) in read.items()}


def _read(leaves: dict[str, jax.Array]) -> dict[str, tuple[str, bool]]:
    """(digest, whether finite) of every leaf; all are queued before the first is waited for."""
    read = whole({name: _sums_and_finite(x) for name, x in leaves.items()})
    return {name: ("".join(f"{int(s):08x}" for s in sums), bool(finite)) for name, (sums, finite) in read.items()}


@jax.jit
def _sums_and_finite(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of one leaf: a state has few shapes of many leaves, and a program of all of them takes long to compile."""
    finite = jnp.all(jnp.isfinite(x)) if jnp.issubdtype(x.dtype, jnp.floating) else jnp.array(True)
    words = _words(x)
    mixed = _mixed(words[None] ^ _places(words.shape))
    return jnp.sum(mixed, axis=range(1, mixed.ndim), dtype=jnp.uint32), finite


def _words(x: jax.Array) -> jax.Array:
    """The bits of every element."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    return jax.lax.bitcast_convert_type(x, _UNSIGNED[x.dtype.itemsize]).astype(jnp.uint32)


def _places(shape: tuple[int, ...]) -> jax.Array:
    """[2, *shape]: numbers for every place, axis by axis: a flat index would gather a sharded leaf, and end at 2^32."""
    place = jnp.array(_KEYS, jnp.uint32).reshape(2, *(1 for _ in shape))
    for axis, size in enumerate(shape, start=1):
        along = [size if i == axis else 1 for i in range(place.ndim)]
        place = _mixed(place + jax.lax.broadcasted_iota(jnp.uint32, along, axis))
    return place


def _mixed(x: jax.Array) -> jax.Array:
    """A permutation of 32-bit words in which every bit moves every other (lowbias32 of C. Wellons' hash-prospector)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
