"""The two networks as pure functions of a parameter tree: a language model and a scalar model (reward, gap, value)."""

import abc
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from pit_jax.architecture import AdapterConfig, TransformerConfig
from pit_jax.model.adapters import has_adapters, merge, split
from pit_jax.model.cache import Cache
from pit_jax.model.heads import PooledScalarHead, ScalarHead
from pit_jax.model.rows import Continuation, Rows, Sequences
from pit_jax.model.transformer import Transformer

Params = Any  # nested dict of float32 arrays
TURNED = "turned_blocks"  # the name of blocks whose matrices are turned over
# Axes of the inputs of every matrix that is turned over; those of experts are not.
INPUTS = {"query": 1, "key": 1, "value": 1, "out": 2, "gate": 1, "up": 1, "down": 1, "unembedding": 1}


class ScalarTransformer(nnx.Module):
    def __init__(self, config: TransformerConfig, vocab_size: int, adapter: AdapterConfig | None, *, rngs: nnx.Rngs):
        self.trunk = Transformer(config, vocab_size, adapter, output=False, rngs=rngs)
        self.head = (PooledScalarHead if config.pooled_head else ScalarHead)(config.width, rngs=rngs)


@dataclass(frozen=True)
class Network(abc.ABC):
    """What both are: functions of a parameter tree, hashable, so that jitted programs can close over them.

    Parameters with adapters (model/adapters.py) and without are both taken, in any call.
    """

    config: TransformerConfig
    vocab_size: int
    adapter: AdapterConfig | None = None

    def init(self, key: jax.Array) -> Params:
        """Fresh parameters, without adapters."""
        return nnx.to_pure_dict(nnx.state(self._build(key, None), nnx.Param))

    def init_adapter(self, key: jax.Array) -> Params:
        """What is trained over frozen weights: fresh adapters, which change nothing yet, and a fresh head if any."""
        return split(nnx.to_pure_dict(nnx.state(self._build(key, self.adapter), nnx.Param)))[1]

    @abc.abstractmethod
    def _build(self, key: jax.Array, adapter: AdapterConfig | None) -> nnx.Module:
        """The module with fresh parameters, with adapters where they are given."""

    def _bind(self, params: Params) -> Any:
        return self._bound(self._build, params)

    def _bound(self, build: Callable[..., nnx.Module], params: Params) -> Any:
        adapter = self.adapter if has_adapters(params) else None
        abstract = nnx.eval_shape(lambda: build(jax.random.key(0), adapter))
        return nnx.merge(nnx.graphdef(abstract), params)


@dataclass(frozen=True)
class LanguageModel(Network):
    """Parameters in, logits out."""

    def hidden(self, params: Params, tokens_BL: jax.Array, rows: Rows) -> jax.Array:
        """hidden_BLD of whole rows."""
        return self._bind(params)(tokens_BL, rows)[0]

    def decode(
        self,
        params: Params,
        tokens_BL: jax.Array,
        rows: Sequences | Continuation,
        cache: Cache,
    ) -> tuple[jax.Array, Cache]:
        """hidden_BLD of the first slots of the rows, or of a piece behind them, and the cache with what it adds."""
        hidden_BLD, updated = self._bind(params)(tokens_BL, rows, cache)
        assert updated is not None
        return hidden_BLD, updated

    def for_decoding(self, params: Params, parts: int = 1) -> Params:
        """The same model as `decode` reads it fastest: adapters merged, matrices in the compute dtype, norms as given.

        Without adapters the results are the same to the last bit, since every use of a matrix casts it so. The
        vocabulary gets rows of zeros until it divides into `parts`: with the tokens that PIT adds, those of published
        models seldom divide by a mesh, and would be whole on every device. Nobody may draw them.
        """
        merged = dict(merge(params, self.adapter) if self.adapter is not None else params)
        if unused := -self.vocab_size % parts:
            added = {"embedding": ((0, unused), (0, 0)), "unembedding": ((0, 0), (0, unused))}
            merged |= {name: jnp.pad(merged[name], sides) for name, sides in added.items() if name in merged}

        def cast(path: Any, leaf: jax.Array) -> jax.Array:
            is_norm = jax.tree_util.keystr(path[-1:], simple=True) in ("scale", "shift")
            return leaf if is_norm else leaf.astype(self.config.dtype)

        return jax.tree_util.tree_map_with_path(cast, merged)

    def logits(self, params: Params, hidden_BLD: jax.Array) -> jax.Array:
        """logits_BLV, float32; with weights of `for_decoding` in parts, of the rows that it added too."""
        return self._bind(params).logits(hidden_BLD)

    def unembedding(self, params: Params) -> jax.Array:
        """matrix_DV whose product with hidden states is the logits, before any softcap."""
        return params["embedding"].T if self.config.tied else params["unembedding"]

    def _build(self, key: jax.Array, adapter: AdapterConfig | None) -> Transformer:
        return Transformer(self.config, self.vocab_size, adapter, rngs=nnx.Rngs(params=key))

    def _build_apart(self, key: jax.Array, adapter: AdapterConfig | None, *, turned: bool) -> Transformer:
        rngs = nnx.Rngs(params=key)
        return Transformer(self.config, self.vocab_size, adapter, apart=True, turned=turned, rngs=rngs)

    def _bind(self, params: Params) -> Any:
        if not has_layers_apart(params):
            return self._bound(self._build, params)
        turned = TURNED in params
        given = {"blocks" if name == TURNED else name: part for name, part in params.items()}
        return self._bound(partial(self._build_apart, turned=turned), given)


def layers_apart(language: Params, layers: int) -> Params:
    """A language model's parameters with an array for every layer in place of one for all of them."""
    blocks = {layer: jax.tree.map(itemgetter(layer), language["blocks"]) for layer in range(layers)}
    return {**language, "blocks": blocks}


def turned_over(language: Params) -> Params:
    """A language model's parameters with layers apart, each matrix [*outputs, *inputs] (products.turned_product)."""

    def turned(path: Any, leaf: jax.Array) -> jax.Array:
        inputs = INPUTS.get(jax.tree_util.keystr(path[-1:], simple=True))
        return leaf if inputs is None else jnp.moveaxis(leaf, range(inputs), range(-inputs, 0))

    rest = {name: part for name, part in language.items() if name != "blocks"}
    return jax.tree_util.tree_map_with_path(turned, {**rest, TURNED: language["blocks"]})


def has_layers_apart(params: Params) -> bool:
    """Whether a language model's layers are apart."""
    return TURNED in params or 0 in params["blocks"]


def trunk_of(language: Params) -> Params:
    """{"trunk": ...}: a language model's parameters in a scalar model, which has no use for an unembedding."""
    return {"trunk": {name: part for name, part in language.items() if name != "unembedding"}}


@dataclass(frozen=True)
class ScalarModel(Network):
    """The transformer with a scalar head: parameters {"trunk": see `trunk_of`, "head": ...}."""

    def init_head(self, key: jax.Array) -> Params:
        """{"head": ...}, to be put beside `trunk_of` a language model's parameters."""
        return {"head": self.init(key)["head"]}

    def scalars(self, params: Params, tokens_BL: jax.Array, rows: Rows) -> jax.Array:
        """One float32 scalar per slot, [B, L]."""
        model = self._bind(params)
        hidden_BLD, _ = model.trunk(tokens_BL, rows)
        return model.head(hidden_BLD, rows)

    def _build(self, key: jax.Array, adapter: AdapterConfig | None) -> ScalarTransformer:
        return ScalarTransformer(self.config, self.vocab_size, adapter, rngs=nnx.Rngs(params=key))
