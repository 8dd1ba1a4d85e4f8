"""Names, shapes, dtypes and checksums of a tree's leaves; the checksums do not depend on how leaves are sharded."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from pit_jax.parallel.hosts import whole
from pit_jax.parallel.sharding import named_leaves

_UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


def leaf_specs(tree: Any) -> dict[str, dict[str, Any]]:
    """{"params/a/b": {"shape", "dtype", "bytes"}} of arrays or ShapeDtypeStructs, ready for JSON."""
    return {
        name: {"shape": list(x.shape), "dtype": str(x.dtype), "bytes": math.prod(x.shape) * x.dtype.itemsize}
        for name, x in named_leaves(tree).items()
    }


def leaf_sums(tree: Any) -> dict[str, int]:
    """32-bit checksum of every leaf: sum of bits * (2 * index + 1), so any one changed or moved element shows."""
    return {name: total for name, (total, _) in _read(named_leaves(tree)).items()}


def inspect(tree: Any) -> tuple[dict[str, dict[str, Any]], dict[str, bool]]:
    """(`leaf_specs` with `sum` added, whether every element of a leaf is finite)."""
    read = _read(named_leaves(tree))
    specs = {name: {**spec, "sum": read[name][0]} for name, spec in leaf_specs(tree).items()}
    return specs, {name: finite for name, (_, finite) in read.items()}


def _read(leaves: dict[str, jax.Array]) -> dict[str, tuple[int, bool]]:
    """(checksum, whether finite) of every leaf; all are queued before the first is waited for."""
    read = whole({name: _sum_and_finite(x) for name, x in leaves.items()})
    return {name: (int(total), bool(finite)) for name, (total, finite) in read.items()}


@jax.jit
def _sum_and_finite(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of one leaf: a state has few shapes of many leaves, and a program of all of them takes long to compile."""
    finite = jnp.all(jnp.isfinite(x)) if jnp.issubdtype(x.dtype, jnp.floating) else jnp.array(True)
    return _sum(x), finite


def _sum(x: jax.Array) -> jax.Array:
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    bits = jax.lax.bitcast_convert_type(x, _UNSIGNED[x.dtype.itemsize]).astype(jnp.uint32)
    # The flat index, axis by axis: a reshape would gather a sharded leaf.
    iotas = [jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis) for axis in range(x.ndim)]
    strides = [math.prod(x.shape[axis + 1 :]) % 2**32 for axis in range(x.ndim)]
    index = functools.reduce(jnp.add, [i * jnp.uint32(s) for i, s in zip(iotas, strides, strict=True)], jnp.uint32(0))
    return jnp.sum(bits * (2 * index + 1), dtype=jnp.uint32)
