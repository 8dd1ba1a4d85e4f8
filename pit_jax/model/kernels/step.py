"""Attention of one token a row over its cache, in one reading of keys and values, on NVIDIA's GPUs (Pallas, Triton).

XLA reads a cache in two passes, one for scores and one for the values they mix, and all of its slots. The kernel reads
a row from the first slot that its token sees to the last one, with the softmax as it goes along (Milakov and
Gimelshein, arXiv 1805.02867).
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from pit_jax.model.kernels.cudnn import OLDEST, capability

MASKED = -1e30  # as in mixing.py
BLOCK = 64  # slots that are read together: 16 KiB of keys in bfloat16 with heads of 128
LEAST = 132  # rows times heads, each of which is a program: fewer leave processors of an H100 without one
HEAD_SIZES = (32, 64, 128)  # powers of two, which Triton takes


def step_refusal(platform: str, dtype: str, cap: float, shape: tuple[int, ...]) -> str:
    """Why the kernel cannot be had for a cache of shape [B, K, S, H], or nothing."""
    batch, heads, slots, size = shape
    if platform != "gpu" or capability() < OLDEST:
        return f"this kernel runs on NVIDIA GPUs of compute capability {OLDEST} and above, found {platform}"
    if dtype != "bfloat16" or cap or size not in HEAD_SIZES:
        return f"this kernel takes bfloat16, no cap, and heads of {HEAD_SIZES}, found {dtype}, {cap} and {size}"
    if batch * heads < LEAST or slots < BLOCK:
        return f"this kernel takes {LEAST} heads of rows and {BLOCK} slots, found {batch * heads} and {slots}"
    return ""


def mixed_in_a_step(
    query_BKGH: jax.Array, key_BKSH: jax.Array, value_BKSH: jax.Array, seen_BS: jax.Array, *, interpret: bool = False
) -> jax.Array:
    """mixed_BKGH: `mixed_dense` of one query a row without a cap; zeros where it sees nothing.

    `interpret` runs the kernel on any device, slowly.
    """
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    batch, heads, groups, size = query_BKGH.shape
    slots = key_BKSH.shape[2]
    places_1S = jnp.arange(slots, dtype=jnp.int32)[None]
    first_B = jnp.min(jnp.where(seen_BS, places_1S, slots), axis=1)
    end_B = jnp.max(jnp.where(seen_BS, places_1S + 1, 0), axis=1)

    def of(*block: int) -> Any:
        """A block of a row and head, or of a row."""
        if len(block) == 1:
            return pl.BlockSpec((None, *block), lambda row, head: (row, 0))
        return pl.BlockSpec((None, None, *block), lambda row, head: (row, head, 0, 0))

    program = pl.pallas_call(
        partial(_row, slots=slots),
        grid=(batch, heads),
        in_specs=[of(groups, size), of(slots, size), of(slots, size), of(slots), of(2)],
        out_specs=of(groups, size),
        out_shape=jax.ShapeDtypeStruct(query_BKGH.shape, value_BKSH.dtype),
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=3),
        interpret=interpret,
    )
    bounds_B2 = jnp.stack([first_B, end_B], axis=1)
    mixed_BKGH: jax.Array = program(query_BKGH, key_BKSH, value_BKSH, seen_BS.astype(jnp.int32), bounds_B2)
    return mixed_BKGH


def _row(query: Any, key: Any, value: Any, seen: Any, bounds: Any, mixed: Any, *, slots: int) -> None:
    """One key head of one row: query and mixed [G, H], key and value [S, H], seen [S], bounds [2]."""
    from jax.experimental import pallas as pl

    groups, size = query.shape
    queries = [query[group, :].astype(jnp.float32)[None] for group in range(groups)]
    none = jnp.float32(MASKED), jnp.float32(0.0), jnp.zeros(size, jnp.float32)

    def block(number: jax.Array, sums: Any) -> Any:
        start = jnp.minimum(number * BLOCK, slots - BLOCK)  # the last one may begin within the one before
        places = pl.ds(start, BLOCK)
        keys_CH, values_CH = key[places, :].astype(jnp.float32), value[places, :].astype(jnp.float32)
        seen_C = (seen[places] > 0) & (start + jnp.arange(BLOCK, dtype=jnp.int32) >= number * BLOCK)
        added = []
        for query_1H, (top, total, sum_H) in zip(queries, sums, strict=True):
            scores_C = jnp.where(seen_C, jnp.sum(keys_CH * query_1H, axis=1), MASKED)
            higher = jnp.maximum(top, jnp.max(scores_C))
            kept = jnp.exp(top - higher)
            weights_C = jnp.where(seen_C, jnp.exp(scores_C - higher), 0.0)
            more_H = jnp.sum(weights_C[:, None] * values_CH, axis=0)
            added.append((higher, total * kept + jnp.sum(weights_C), sum_H * kept + more_H))
        return tuple(added)

    sums = jax.lax.fori_loop(bounds[0] // BLOCK, (bounds[1] + BLOCK - 1) // BLOCK, block, (none,) * groups)
    for group, (_, total, sum_H) in enumerate(sums):
        mixed[group, :] = (sum_H / jnp.where(total > 0, total, 1.0)).astype(mixed.dtype)
