"""LoRA: low-rank updates of a layer's matrices, kept apart from the weights they update (arXiv 2106.09685).

A network with adapters has the parameters of one without, and beside each block's `attention` and `ffn` an `adapter`:
{"query_a": [U, in, rank], "query_b": [U, rank, out], ..}. Heads and their sizes are one axis there.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from pit_jax.architecture import AdapterConfig, TransformerConfig

Params = Any  # nested dict of arrays
ATTENTION, FFN = ("query", "key", "value", "out"), ("gate", "up", "down")
TRAINED = ("adapter", "head")  # what is trained beside frozen weights


def matrix_sizes(config: TransformerConfig) -> dict[str, tuple[int, int]]:
    """(in, out) of every matrix of a layer that an adapter can update: those of experts have none."""
    d, f = config.width, config.ffn
    queries, keys = config.query_heads * config.head_size, config.kv_heads * config.head_size
    sizes = {"query": (d, queries), "key": (d, keys), "value": (d, keys), "out": (queries, d)}
    if config.experts:
        return sizes
    sizes |= {"gate": (d, f), "up": (d, f), "down": (f, d)}
    return {name: size for name, size in sizes.items() if name != "gate" or config.activation != "gelu"}


class Adapter(nnx.Module):
    """The updates of one layer: x W + (alpha / rank) x A B, with A uniform as in PEFT and B zero at the start."""

    def __init__(self, config: TransformerConfig, adapter: AdapterConfig, *, rngs: nnx.Rngs):
        self.scale = adapter.alpha / adapter.rank
        for name, (rows, columns) in matrix_sizes(config).items():
            if name in adapter.targets:
                bound = rows**-0.5
                a = jax.random.uniform(rngs.params(), (rows, adapter.rank), minval=-bound, maxval=bound)
                setattr(self, f"{name}_a", nnx.Param(a))
                setattr(self, f"{name}_b", nnx.Param(jnp.zeros((adapter.rank, columns))))


def updated(adapter: Adapter | None, name: str, x_BLX: jax.Array, y: jax.Array) -> jax.Array:
    """y [B, L, ...] with the update of matrix `name` for its input x; y itself where that matrix has none."""
    if adapter is None or not hasattr(adapter, f"{name}_a"):
        return y
    a_XR, b_RY = (getattr(adapter, f"{name}_{part}")[...].astype(x_BLX.dtype) for part in "ab")
    flat_TX = x_BLX.reshape(-1, x_BLX.shape[-1])  # as in products.product
    return y + (flat_TX @ a_XR @ b_RY).reshape(y.shape) * jnp.asarray(adapter.scale, y.dtype)


def split(params: Params) -> tuple[Params, Params]:
    """(frozen, trained) parts of a network with adapters: its weights; its adapters, and a scalar head."""
    frozen: dict[str, Any] = {}
    trained: dict[str, Any] = {}
    for name, part in params.items():
        if name in TRAINED:
            trained[name] = part
        elif isinstance(part, Mapping):
            below, above = split(part)
            frozen |= {name: below} if below else {}
            trained |= {name: above} if above else {}
        else:
            frozen[name] = part
    return frozen, trained


def has_adapters(params: Params) -> bool:
    """Whether a language model's or a scalar model's parameters hold adapters."""
    blocks = params.get("trunk", params)["blocks"]
    return "adapter" in blocks.get(0, blocks)  # of layers apart in each


def merge(params: Params, adapter: AdapterConfig) -> Params:
    """The network without adapters that computes the same: W + (alpha / rank) A B. `params` itself without any."""
    if not has_adapters(params):
        return params
    if "trunk" in params:
        return {**params, "trunk": merge(params["trunk"], adapter)}
    blocks = {name: part for name, part in params["blocks"].items() if name != "adapter"}
    updates = params["blocks"]["adapter"]
    for sublayer, names in (("attention", ATTENTION), ("ffn", FFN)):
        merged = dict(blocks[sublayer])
        for name in names:
            if f"{name}_a" in updates:
                update = jnp.einsum("UXR,URY->UXY", updates[f"{name}_a"], updates[f"{name}_b"])
                weight = merged[name].astype(update.dtype)  # frozen ones may be bfloat16
                merged[name] = weight + update.reshape(weight.shape) * (adapter.alpha / adapter.rank)
        blocks[sublayer] = merged
    return {**params, "blocks": blocks}
