"""Grouped-query attention with rotary positions, over an explicit visibility mask."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from pit_jax.config import TransformerConfig

MASKED = -1e30


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cache:
    """Keys and values of all layers, updated in place inside a decode loop."""

    keys_UBKSH: jax.Array
    values_UBKSH: jax.Array

    @staticmethod
    def empty(config: TransformerConfig, batch: int, slots: int) -> "Cache":
        """Zeros in the compute dtype."""
        shape = (config.layers, batch, config.kv_heads, slots, config.head_size)
        return Cache(jnp.zeros(shape, config.dtype), jnp.zeros(shape, config.dtype))


def causal_visible(segments_BL: jax.Array) -> jax.Array:
    """visible_BLS: earlier or same slot, same segment, not padding (segment 0)."""
    length = segments_BL.shape[1]
    causal_LS = jnp.tril(jnp.ones((length, length), bool))
    same_BLS = segments_BL[:, :, None] == segments_BL[:, None, :]
    return causal_LS[None] & same_BLS & (segments_BL > 0)[:, None, :]


def tree_visible(nodes_BL: jax.Array, parents: dict[int, tuple[int, ...]]) -> jax.Array:
    """visible_BLS of rows that hold a tree: earlier or same slot, in the same node or one of its ancestors."""
    size = max(parents) + 1
    table = [[k in parents.get(q, ()) for k in range(size)] for q in range(size)]
    length = nodes_BL.shape[1]
    causal_LS = jnp.tril(jnp.ones((length, length), bool))
    return causal_LS[None] & jnp.asarray(table)[nodes_BL[:, :, None], nodes_BL[:, None, :]]


def segment_positions(segments_BL: jax.Array) -> jax.Array:
    """positions_BL of rows with one segment: the count of real tokens before each slot, whatever the padding side."""
    return jnp.maximum(jnp.cumsum((segments_BL > 0).astype(jnp.int32), axis=1) - 1, 0)


def rope(x_BLNH: jax.Array, positions_BL: jax.Array, *, theta: float) -> jax.Array:
    """Rotary position embedding (arXiv 2104.09864), halves rotated as in Llama."""
    half = x_BLNH.shape[-1] // 2
    frequencies_H = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles_BL1H = (positions_BL.astype(jnp.float32)[:, :, None] * frequencies_H[None, None, :])[:, :, None, :]
    sin, cos = jnp.sin(angles_BL1H), jnp.cos(angles_BL1H)
    a, b = jnp.split(x_BLNH.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x_BLNH.dtype)


class Attention(nnx.Module):
    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        d, n, k, h = config.width, config.query_heads, config.kv_heads, config.head_size
        self.theta = config.rope_theta
        normal = jax.random.normal
        self.query = nnx.Param(normal(rngs.params(), (d, n, h)) * d**-0.5)
        self.key = nnx.Param(normal(rngs.params(), (d, k, h)) * d**-0.5)
        self.value = nnx.Param(normal(rngs.params(), (d, k, h)) * d**-0.5)
        self.out = nnx.Param(normal(rngs.params(), (n, h, d)) * (n * h * 2 * config.layers) ** -0.5)

    def __call__(
        self,
        x_BLD: jax.Array,
        positions_BL: jax.Array,
        visible_BLS: jax.Array,
        cache: Cache | None,
        layer: jax.Array,
        slot: jax.Array,
    ) -> tuple[jax.Array, Cache | None]:
        """Attend over the row; with a cache, write this layer's keys and values at `slot` and attend over it."""
        dtype = x_BLD.dtype
        query = jnp.einsum("BLD,DNH->BLNH", x_BLD, self.query[...].astype(dtype))
        key = jnp.einsum("BLD,DKH->BLKH", x_BLD, self.key[...].astype(dtype))
        value = jnp.einsum("BLD,DKH->BLKH", x_BLD, self.value[...].astype(dtype))
        query, key = rope(query, positions_BL, theta=self.theta), rope(key, positions_BL, theta=self.theta)
        key_BKSH, value_BKSH = key.swapaxes(1, 2), value.swapaxes(1, 2)
        if cache is not None:
            cache = Cache(
                _write(cache.keys_UBKSH, key_BKSH, layer, slot), _write(cache.values_UBKSH, value_BKSH, layer, slot)
            )
            key_BKSH, value_BKSH = cache.keys_UBKSH[layer], cache.values_UBKSH[layer]
        b, length, n, h = query.shape
        k = key_BKSH.shape[1]
        query_BLKGH = query.reshape(b, length, k, n // k, h) * jnp.asarray(h**-0.5, dtype)
        scores_BKGLS = jnp.einsum("BLKGH,BKSH->BKGLS", query_BLKGH, key_BKSH).astype(jnp.float32)
        scores_BKGLS = jnp.where(visible_BLS[:, None, None, :, :], scores_BKGLS, MASKED)
        weights_BKGLS = jax.nn.softmax(scores_BKGLS, axis=-1).astype(dtype)
        mixed = jnp.einsum("BKGLS,BKSH->BLKGH", weights_BKGLS, value_BKSH).reshape(b, length, n, h)
        return jnp.einsum("BLNH,NHD->BLD", mixed, self.out[...].astype(dtype)), cache


def _write(cache_UBKSH: jax.Array, new_BKLH: jax.Array, layer: jax.Array, slot: jax.Array) -> jax.Array:
    zero = jnp.zeros((), slot.dtype)
    return jax.lax.dynamic_update_slice(cache_UBKSH, new_BKLH[None], (layer, zero, zero, slot, zero))
