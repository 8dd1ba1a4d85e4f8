"""Grouped-query attention with rotary positions, over rows of any kind and over a cache."""

from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from pit_jax.architecture import TransformerConfig
from pit_jax.errors import UserError
from pit_jax.model.adapters import Adapter, updated
from pit_jax.model.cache import Cache, Layer
from pit_jax.model.kernels.cudnn import cudnn_refusal, mixed_by_cudnn
from pit_jax.model.kernels.splash import BLOCK, mixed_by_splash, splash_refusal
from pit_jax.model.kernels.step import mixed_in_a_step, step_refusal
from pit_jax.model.mixing import CHUNK, mixed_by_chunks, mixed_by_nodes, mixed_dense
from pit_jax.model.norms import RmsNorm
from pit_jax.model.placement import (
    heads_to_rows,
    heads_to_weights,
    mixed_on_devices,
    to_rows,
    to_weights,
)
from pit_jax.model.products import Product
from pit_jax.model.rope import Rotation, rope
from pit_jax.model.rows import Continuation, Rows, Sequences, Tree, is_step, near, visible, visible_from
from pit_jax.parallel.target import on_one_device, platform

# Slots of the longest rows that `auto` keeps from a kernel. Up to two of splash's smallest blocks there is nothing to
# win: it pads rows to whole blocks, skips next to none of them, and one mask's scores are hardly larger than its own.
SHORTEST = {"splash": 2 * BLOCK, "cudnn": 0}


def windowed_layers(config: TransformerConfig) -> tuple[bool, ...]:
    """Whether each layer sees a window alone."""
    return config.windowed or (config.window > 0,) * config.layers


def way_of(config: TransformerConfig, rows: Sequences | Tree) -> str:
    """dense, chunks, nodes, splash or cudnn, for the devices that the program is traced for (parallel/target.py).

    A token of a gap tree sees nodes that lie apart in its row and not those between, which the kernels' masks cannot
    say without an array of [L, L] for every row: on all platforms a tree is mixed by nodes, or in chunks of queries.

    Raises UserError where a kernel that is asked for by name cannot be had.
    """
    asked, length, kind = config.attention, rows.positions_BL.shape[1], platform()
    if asked in ("dense", "chunks"):
        return asked
    reasons = {
        "splash": splash_refusal(kind, config.head_size),
        "cudnn": cudnn_refusal(kind, config.dtype, config.head_size, config.attention_softcap)
        or ("" if isinstance(rows, Tree) or rows.single else "cuDNN takes rows of one sequence each, found several"),
    }
    if reasons.get(asked):
        raise UserError(f"--transformer.attention={asked}: {reasons[asked]}; choose auto, dense or chunks")
    if isinstance(rows, Tree) and rows.slots is not None:
        return "nodes"
    if isinstance(rows, Tree):
        return "chunks" if asked != "auto" or length > CHUNK else "dense"
    if asked != "auto":
        return asked
    kernels = [way for way, reason in reasons.items() if not reason and length > SHORTEST[way]]
    return next(iter(kernels), "chunks" if length > CHUNK else "dense")


def takes_kernel(config: TransformerConfig, cache: tuple[int, ...]) -> bool:
    """Whether a step reads a cache of shape [B, K, S, H] by the kernel of GPUs, on one device."""
    refusal = step_refusal(platform(), config.dtype, config.attention_softcap, cache)
    return config.attention in ("auto", "cudnn") and on_one_device() and not refusal


def add_bias(x_BLX: jax.Array, bias: nnx.Param[jax.Array]) -> jax.Array:
    """x with a bias of its trailing axes (one, or heads and their size)."""
    return x_BLX + bias[...].astype(x_BLX.dtype)[None, None]


class Attention(nnx.Module):
    def __init__(self, config: TransformerConfig, product: Product, *, rngs: nnx.Rngs):
        d, n, k, h = config.width, config.query_heads, config.kv_heads, config.head_size
        self.config, self.product = config, product
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
            together = config.qk_norm_over == "layer"
            self.query_norm = RmsNorm(n * h if together else h, config.norm_eps, config.norm_offset)
            self.key_norm = RmsNorm(k * h if together else h, config.norm_eps, config.norm_offset)

    def __call__(
        self,
        x_BLD: jax.Array,
        rows: Rows,
        rotations: Mapping[str, Rotation],
        cache: Cache | None,
        layer: Layer,
        adapter: Adapter | None,
    ) -> tuple[jax.Array, Cache | None]:
        """Attend over the rows and write this layer's keys and values into the cache, where there is one.

        Whole rows begin the cache and see themselves alone; a Continuation sees all that the cache holds.
        """
        query, key, value = self._heads(x_BLD, rows, rotations, layer, adapter)
        key_BKSH, value_BKSH = key.swapaxes(1, 2), value.swapaxes(1, 2)
        if cache is not None:
            cache = cache.written(key_BKSH, value_BKSH, layer, rows.slot if isinstance(rows, Continuation) else 0)
        if isinstance(rows, Continuation):
            assert cache is not None, "a continuation needs the cache it continues"
            key_BKSH, value_BKSH = cache.of(layer)
        self._check_length(key_BKSH.shape[2])
        b, length, n, h = query.shape
        k, dtype = key_BKSH.shape[1], x_BLD.dtype
        scale = self.config.attention_scale or h**-0.5
        query_BLKGH = query.reshape(b, length, k, n // k, h) * jnp.asarray(scale, dtype)
        mixed = self._mixed(query_BLKGH, key_BKSH, value_BKSH, rows, layer).reshape(b, length, n, h)
        mixed = heads_to_weights(mixed, is_step(rows))
        out_BLD = self.product(mixed, self.out[...].astype(dtype), inner=2)
        out_BLD = updated(adapter, "out", mixed.reshape(b, length, n * h), out_BLD)
        out_BLD = to_rows(out_BLD, is_step(rows))
        if self.config.out_bias:
            out_BLD = add_bias(out_BLD, self.out_bias)
        return out_BLD, cache

    def _heads(
        self,
        x_BLD: jax.Array,
        rows: Rows,
        rotations: Mapping[str, Rotation],
        layer: Layer,
        adapter: Adapter | None,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """query_BLNH, key_BLKH and value_BLKH, the first two rotated."""
        dtype, positions_BL = x_BLD.dtype, rows.positions_BL
        x_BLD = to_weights(x_BLD, is_step(rows))
        query = self.product(x_BLD, self.query[...].astype(dtype))
        key = self.product(x_BLD, self.key[...].astype(dtype))
        value = self.product(x_BLD, self.value[...].astype(dtype))
        query = updated(adapter, "query", x_BLD, query)
        key = updated(adapter, "key", x_BLD, key)
        value = updated(adapter, "value", x_BLD, value)
        query, key, value = (heads_to_rows(heads, is_step(rows)) for heads in (query, key, value))
        if self.config.qkv_bias:
            query = add_bias(query, self.query_bias)
            key = add_bias(key, self.key_bias)
            value = add_bias(value, self.value_bias)
        if self.config.qk_norm:
            query, key = (
                norm(heads.reshape(*heads.shape[:2], -1, norm.scale.shape[0])).reshape(heads.shape)
                for norm, heads in ((self.query_norm, query), (self.key_norm, key))
            )
        rotation = self._rotation(layer, rotations)
        query, key = rope(query, rotation), rope(key, rotation)
        if self.config.query_growth:
            times_BL = jnp.log1p(jnp.floor(positions_BL.astype(jnp.float32) / self.config.rope_length))
            growth_BL = 1.0 + self.config.query_growth * times_BL
            query = query * growth_BL[:, :, None, None].astype(dtype)
        return query, key, value

    def _check_length(self, slots: int) -> None:
        if self.config.rope_scaling == "longrope" and slots > self.config.rope_length:
            raise UserError(
                f"rows of {slots} slots for a model with longrope, which turns those of more than "
                f"{self.config.rope_length} otherwise than is done here; ask for shorter prompts and answers "
                "(--data.prompt-length, --data.response-length)"
            )

    def _rotation(self, layer: Layer, rotations: Mapping[str, Rotation]) -> Rotation:
        """That of a layer; one by angles of 0 leaves queries and keys as they are."""
        config, rotation = self.config, rotations["all"]
        if "windowed" in rotations:
            windowed = jnp.asarray(windowed_layers(config))[layer]
            rotation = jax.tree.map(partial(jnp.where, windowed), rotations["windowed"], rotation)
        if config.rope_layers:
            rotated = jnp.asarray(config.rope_layers)[layer]
            sin, cos = jnp.where(rotated, rotation.sin_BL1R, 0.0), jnp.where(rotated, rotation.cos_BL1R, 1.0)
            rotation = Rotation(sin, cos)
        return rotation

    def _mixed(
        self, query_BLKGH: jax.Array, key_BKSH: jax.Array, value_BKSH: jax.Array, rows: Rows, layer: Layer
    ) -> jax.Array:
        """mixed_BLKGH, in the way that config.attention names."""
        config, operands = self.config, (query_BLKGH, key_BKSH, value_BKSH)
        if isinstance(rows, Continuation) and is_step(rows) and takes_kernel(config, key_BKSH.shape):
            return mixed_in_a_step(query_BLKGH[:, 0], key_BKSH, value_BKSH, self._seen(rows, layer)[:, 0])[:, None]
        way = "dense" if isinstance(rows, Continuation) else way_of(config, rows)
        if isinstance(rows, Continuation) or way == "dense":
            return mixed_dense(*operands, self._seen(rows, layer), cap=config.attention_softcap)
        if isinstance(rows, Sequences) and way != "chunks":
            return self._mixed_by_kernel(*operands, rows, layer, way)
        window, cap = self._window(layer), config.attention_softcap
        if isinstance(rows, Tree) and rows.slots is not None:
            return mixed_by_nodes(*operands, rows.positions_BL, rows.nodes_BL, rows.slots, window=window, cap=cap)
        return mixed_by_chunks(*operands, partial(visible_from, rows, window=window), cap=cap)

    def _window(self, layer: Layer) -> jax.Array | None:
        """That of a layer, without end for those that have none; None where no layer has one."""
        layers = windowed_layers(self.config)
        if not any(layers):
            return None
        return jnp.where(jnp.asarray(layers)[layer], self.config.window, jnp.iinfo(jnp.int32).max)

    def _mixed_by_kernel(
        self,
        query_BLKGH: jax.Array,
        key_BKSH: jax.Array,
        value_BKSH: jax.Array,
        rows: Sequences,
        layer: Layer,
        way: str,
    ) -> jax.Array:
        """mixed_BLKGH by splash or cuDNN; where layers differ in their window, by one of two such kernels."""
        config, (b, length, k, g, h) = self.config, query_BLKGH.shape
        query_BLNH = query_BLKGH.reshape(b, length, k * g, h)
        operands = query_BLNH, key_BKSH.swapaxes(1, 2), value_BKSH.swapaxes(1, 2), rows.segments_BL

        def within(window: int) -> Callable[..., jax.Array]:
            kernel = partial(mixed_by_splash, cap=config.attention_softcap) if way == "splash" else mixed_by_cudnn
            return partial(mixed_on_devices, partial(kernel, window=window))

        layers = windowed_layers(config)
        if len({*layers}) == 1:
            mixed_BLNH = within(config.window if layers[0] else 0)(*operands)
        else:
            mixed_BLNH = jax.lax.cond(jnp.asarray(layers)[layer], within(config.window), within(0), *operands)
        return mixed_BLNH.reshape(query_BLKGH.shape)

    def _seen(self, rows: Rows, layer: Layer) -> jax.Array:
        """visible_BLS of this layer."""
        window, seen_BLS = self._window(layer), visible(rows)
        return seen_BLS if window is None else seen_BLS & near(rows, window)
