"""Grouped-query attention with rotary positions, over an explicit visibility mask."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from pit_jax.architecture import TransformerConfig
from pit_jax.model.adapters import Adapter, updated
from pit_jax.model.norms import RmsNorm
from pit_jax.model.rope import rope, rope_frequencies

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


def windowed_layers(config: TransformerConfig) -> tuple[bool, ...]:
    """Whether each layer sees a window alone."""
    return config.windowed or (config.window > 0,) * config.layers


def near(positions_BL: jax.Array, cache: Cache | None, slot: jax.Array, window: int) -> jax.Array:
    """near_BLS: less than `window` positions behind.

    With a cache, slots are counted instead: those of a prompt and its response follow one another.
    """
    if cache is None:
        distance_BLS = positions_BL[:, :, None] - positions_BL[:, None, :]
    else:
        slots_1L1 = slot + jnp.arange(positions_BL.shape[1], dtype=jnp.int32)[None, :, None]
        distance_BLS = slots_1L1 - jnp.arange(cache.keys_UBKSH.shape[3], dtype=jnp.int32)[None, None, :]
    return distance_BLS < window


def add_bias(x_BLX: jax.Array, bias: nnx.Param[jax.Array]) -> jax.Array:
    """x with a bias of its trailing axes (one, or heads and their size)."""
    return x_BLX + bias[...].astype(x_BLX.dtype)[None, None]


def softcap(x: jax.Array, cap: float) -> jax.Array:
    """cap tanh(x / cap): x where it is small, never beyond the cap; x itself for a cap of 0."""
    return jnp.tanh(x / cap) * cap if cap else x


class Attention(nnx.Module):
    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        d, n, k, h = config.width, config.query_heads, config.kv_heads, config.head_size
        self.config = config
        normal = jax.random.normal
        self.query = nnx.Param(normal(rngs.params(), (d, n, h)) * d**-0.5)
        self.key = nnx.Param(normal(rngs.params(), (d, k, h)) * d**-0.5)
        self.value = nnx.Param(normal(rngs.params(), (d, k, h)) * d**-0.5)
        self.out = nnx.Param(normal(rngs.params(), (n, h, d)) * (n * h * 2 * config.layers) ** -0.5)
        if config.qkv_bias:
            self.query_bias = nnx.Param(jnp.zeros((n, h)))
            self.key_bias = nnx.Param(jnp.zeros((k, h)))
            self.value_bias = nnx.Param(jnp.zeros((k, h)))
        if config.out_bias:
            self.out_bias = nnx.Param(jnp.zeros((d,)))
        if config.qk_norm:
            self.query_norm = RmsNorm(h, config.norm_eps, config.norm_offset)
            self.key_norm = RmsNorm(h, config.norm_eps, config.norm_offset)

    def __call__(
        self,
        x_BLD: jax.Array,
        positions_BL: jax.Array,
        visible_BLS: jax.Array,
        cache: Cache | None,
        layer: jax.Array,
        slot: jax.Array,
        adapter: Adapter | None,
    ) -> tuple[jax.Array, Cache | None]:
        """Attend over the row; with a cache, write this layer's keys and values at `slot` and attend over it."""
        query, key, value = self._heads(x_BLD, positions_BL, layer, adapter)
        visible_BLS = self._seen(visible_BLS, positions_BL, cache, layer, slot)
        key_BKSH, value_BKSH = key.swapaxes(1, 2), value.swapaxes(1, 2)
        if cache is not None:
            cache = Cache(
                _write(cache.keys_UBKSH, key_BKSH, layer, slot), _write(cache.values_UBKSH, value_BKSH, layer, slot)
            )
            key_BKSH, value_BKSH = cache.keys_UBKSH[layer], cache.values_UBKSH[layer]
        b, length, n, h = query.shape
        k, dtype = key_BKSH.shape[1], x_BLD.dtype
        scale = self.config.attention_scale or h**-0.5
        query_BLKGH = query.reshape(b, length, k, n // k, h) * jnp.asarray(scale, dtype)
        scores_BKGLS = jnp.einsum("BLKGH,BKSH->BKGLS", query_BLKGH, key_BKSH).astype(jnp.float32)
        scores_BKGLS = softcap(scores_BKGLS, self.config.attention_softcap)
        scores_BKGLS = jnp.where(visible_BLS[:, None, None, :, :], scores_BKGLS, MASKED)
        weights_BKGLS = jax.nn.softmax(scores_BKGLS, axis=-1).astype(dtype)
        mixed = jnp.einsum("BKGLS,BKSH->BLKGH", weights_BKGLS, value_BKSH).reshape(b, length, n, h)
        out_BLD = jnp.einsum("BLNH,NHD->BLD", mixed, self.out[...].astype(dtype))
        out_BLD = updated(adapter, "out", mixed.reshape(b, length, n * h), out_BLD)
        if self.config.out_bias:
            out_BLD = add_bias(out_BLD, self.out_bias)
        return out_BLD, cache

    def _heads(
        self, x_BLD: jax.Array, positions_BL: jax.Array, layer: jax.Array, adapter: Adapter | None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """query_BLNH, key_BLKH and value_BLKH, the first two rotated."""
        dtype = x_BLD.dtype
        query = jnp.einsum("BLD,DNH->BLNH", x_BLD, self.query[...].astype(dtype))
        key = jnp.einsum("BLD,DKH->BLKH", x_BLD, self.key[...].astype(dtype))
        value = jnp.einsum("BLD,DKH->BLKH", x_BLD, self.value[...].astype(dtype))
        query = updated(adapter, "query", x_BLD, query)
        key = updated(adapter, "key", x_BLD, key)
        value = updated(adapter, "value", x_BLD, value)
        if self.config.qkv_bias:
            query = add_bias(query, self.query_bias)
            key = add_bias(key, self.key_bias)
            value = add_bias(value, self.value_bias)
        if self.config.qk_norm:
            query, key = self.query_norm(query), self.key_norm(key)
        frequencies_H = self._frequencies(layer)
        return rope(query, positions_BL, frequencies_H), rope(key, positions_BL, frequencies_H), value

    def _frequencies(self, layer: jax.Array) -> jax.Array:
        usual_H = rope_frequencies(self.config, windowed=False)
        if not self.config.window_rope_theta:
            return usual_H
        own_H = rope_frequencies(self.config, windowed=True)
        return jnp.where(jnp.asarray(windowed_layers(self.config))[layer], own_H, usual_H)

    def _seen(
        self,
        visible_BLS: jax.Array,
        positions_BL: jax.Array,
        cache: Cache | None,
        layer: jax.Array,
        slot: jax.Array,
    ) -> jax.Array:
        """visible_BLS of this layer."""
        layers = windowed_layers(self.config)
        if not any(layers):
            return visible_BLS
        return visible_BLS & (near(positions_BL, cache, slot, self.config.window) | ~jnp.asarray(layers)[layer])


def _write(cache_UBKSH: jax.Array, new_BKLH: jax.Array, layer: jax.Array, slot: jax.Array) -> jax.Array:
    zero = jnp.zeros((), slot.dtype)
    return jax.lax.dynamic_update_slice(cache_UBKSH, new_BKLH[None], (layer, zero, zero, slot, zero))
