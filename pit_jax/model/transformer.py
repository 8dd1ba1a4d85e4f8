"""The one decoder-only transformer, layers scanned: what families of checkpoints differ in are its knobs."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from pit_jax.architecture import AdapterConfig, TransformerConfig
from pit_jax.errors import UserError
from pit_jax.model.adapters import Adapter, updated
from pit_jax.model.attention import Attention, add_bias
from pit_jax.model.cache import Cache, Layer
from pit_jax.model.experts import ExpertFfn
from pit_jax.model.mixing import softcap
from pit_jax.model.norms import make_norm
from pit_jax.model.placement import between_weights, to_rows, to_weights
from pit_jax.model.products import Product, product, turned_product
from pit_jax.model.rope import Rotation, rotations_of
from pit_jax.model.rows import Rows, is_step
from pit_jax.parallel.sharding import constrain_batch

Carry = tuple[jax.Array, Cache | None]
REMAT = {  # what is kept of a block that is computed again
    "full": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "offload": jax.checkpoint_policies.offload_dot_with_no_batch_dims("device", "pinned_host"),
}


class GatedFfn(nnx.Module):
    """SwiGLU or GeGLU (arXiv 2002.05202)."""

    def __init__(self, config: TransformerConfig, product: Product, *, rngs: nnx.Rngs):
        d, f = config.width, config.ffn
        self.product = product
        self.gate_function = jax.nn.silu if config.activation == "swiglu" else jax.nn.gelu
        self.gate = nnx.Param(jax.random.normal(rngs.params(), (d, f)) * d**-0.5)
        self.up = nnx.Param(jax.random.normal(rngs.params(), (d, f)) * d**-0.5)
        self.down = nnx.Param(jax.random.normal(rngs.params(), (f, d)) * (f * 2 * config.layers) ** -0.5)
        self.biased = config.ffn_bias
        if self.biased:
            self.gate_bias, self.up_bias = nnx.Param(jnp.zeros((f,))), nnx.Param(jnp.zeros((f,)))
            self.down_bias = nnx.Param(jnp.zeros((d,)))

    def __call__(self, x_BLD: jax.Array, rows: Rows, adapter: Adapter | None) -> jax.Array:
        dtype, x_BLD = x_BLD.dtype, to_weights(x_BLD, is_step(rows))
        gate_BLF = updated(adapter, "gate", x_BLD, self.product(x_BLD, self.gate[...].astype(dtype)))
        up_BLF = updated(adapter, "up", x_BLD, self.product(x_BLD, self.up[...].astype(dtype)))
        if self.biased:
            gate_BLF = add_bias(gate_BLF, self.gate_bias)
            up_BLF = add_bias(up_BLF, self.up_bias)
        inner_BLF = between_weights(self.gate_function(gate_BLF) * up_BLF, is_step(rows))
        down_BLD = updated(adapter, "down", inner_BLF, self.product(inner_BLF, self.down[...].astype(dtype)))
        out_BLD = to_rows(down_BLD, is_step(rows))
        return add_bias(out_BLD, self.down_bias) if self.biased else out_BLD


class PlainFfn(nnx.Module):
    """down gelu(up x), with biases, as in GPT-NeoX."""

    def __init__(self, config: TransformerConfig, product: Product, *, rngs: nnx.Rngs):
        d, f = config.width, config.ffn
        self.product = product
        self.up = nnx.Param(jax.random.normal(rngs.params(), (d, f)) * d**-0.5)
        self.down = nnx.Param(jax.random.normal(rngs.params(), (f, d)) * (f * 2 * config.layers) ** -0.5)
        self.biased = config.ffn_bias
        if self.biased:
            self.up_bias, self.down_bias = nnx.Param(jnp.zeros((f,))), nnx.Param(jnp.zeros((d,)))

    def __call__(self, x_BLD: jax.Array, rows: Rows, adapter: Adapter | None) -> jax.Array:
        dtype, x_BLD = x_BLD.dtype, to_weights(x_BLD, is_step(rows))
        up_BLF = updated(adapter, "up", x_BLD, self.product(x_BLD, self.up[...].astype(dtype)))
        if self.biased:
            up_BLF = add_bias(up_BLF, self.up_bias)
        inner_BLF = between_weights(jax.nn.gelu(up_BLF, approximate=False), is_step(rows))
        down_BLD = updated(adapter, "down", inner_BLF, self.product(inner_BLF, self.down[...].astype(dtype)))
        out_BLD = to_rows(down_BLD, is_step(rows))
        return add_bias(out_BLD, self.down_bias) if self.biased else out_BLD


class Block(nnx.Module):
    def __init__(self, config: TransformerConfig, adapter: AdapterConfig | None, product: Product, *, rngs: nnx.Rngs):
        self.parallel, self.factor = config.parallel, config.residual_factor
        self.pre_norms, self.post_norms = config.pre_norms, config.post_norms
        if config.pre_norms:
            self.attention_norm, self.ffn_norm = make_norm(config), make_norm(config)
        self.attention = Attention(config, product, rngs=rngs)
        if config.experts:
            self.ffn: ExpertFfn | PlainFfn | GatedFfn = ExpertFfn(config, rngs=rngs)
        else:
            self.ffn = (PlainFfn if config.activation == "gelu" else GatedFfn)(config, product, rngs=rngs)
        if config.post_norms:
            self.attention_post_norm, self.ffn_post_norm = make_norm(config), make_norm(config)
        self.adapted = adapter is not None
        if adapter is not None:
            self.adapter = Adapter(config, adapter, rngs=rngs)

    def __call__(
        self,
        x_BLD: jax.Array,
        rows: Rows,
        rotations: Mapping[str, Rotation],
        cache: Cache | None,
        layer: Layer,
    ) -> tuple[jax.Array, Cache | None]:
        adapter = self.adapter if self.adapted else None
        normed_BLD = self.attention_norm(x_BLD) if self.pre_norms else x_BLD
        mixed_BLD, cache = self.attention(normed_BLD, rows, rotations, cache, layer, adapter)
        if self.post_norms:
            mixed_BLD = self.attention_post_norm(mixed_BLD)
        mixed_BLD = self._scaled(mixed_BLD)
        if self.parallel:
            return constrain_batch(x_BLD + mixed_BLD + self._fed(x_BLD, rows, adapter)), cache
        x_BLD = constrain_batch(x_BLD + mixed_BLD)
        return constrain_batch(x_BLD + self._fed(x_BLD, rows, adapter)), cache

    def _fed(self, x_BLD: jax.Array, rows: Rows, adapter: Adapter | None) -> jax.Array:
        """What the feed-forward adds to the residual stream."""
        fed_BLD = self.ffn(self.ffn_norm(x_BLD) if self.pre_norms else x_BLD, rows, adapter)
        return self._scaled(self.ffn_post_norm(fed_BLD) if self.post_norms else fed_BLD)

    def _scaled(self, x_BLD: jax.Array) -> jax.Array:
        return x_BLD if self.factor == 1.0 else x_BLD * jnp.asarray(self.factor, x_BLD.dtype)


class Transformer(nnx.Module):
    """Tokens to hidden states; `logits`, where there is an output, maps hidden states to the vocabulary."""

    def __init__(
        self,
        config: TransformerConfig,
        vocab_size: int,
        adapter: AdapterConfig | None = None,
        *,
        output: bool = True,
        apart: bool = False,
        turned: bool = False,
        rngs: nnx.Rngs,
    ):
        """With layers stacked, and scanned; or apart, one after the other, and their matrices turned over or not."""
        if config.experts and (config.activation == "gelu" or config.ffn_bias):
            raise UserError("experts have a gate and no biases; choose another activation, or no ffn_bias")
        if config.experts and not 0 < config.experts_per_token <= config.experts:
            raise UserError(f"experts_per_token={config.experts_per_token} of experts={config.experts}; take 1 or more")
        if config.query_heads % config.kv_heads:
            raise UserError(
                f"query_heads={config.query_heads} is not a multiple of kv_heads={config.kv_heads}; change one of them"
            )
        self.config, self.turned = config, turned
        self.product = way = turned_product if turned else product
        self.embedding = nnx.Param(jax.random.normal(rngs.params(), (vocab_size, config.width)) * config.width**-0.5)
        if output and not config.tied:
            scale = config.width**-0.5
            self.unembedding = nnx.Param(jax.random.normal(rngs.params(), (config.width, vocab_size)) * scale)

        @nnx.split_rngs(splits=config.layers)
        @nnx.vmap(in_axes=0, out_axes=0)
        def stack(rngs: nnx.Rngs) -> Block:
            return Block(config, adapter, way, rngs=rngs)

        self.blocks: Block | nnx.List[Block]
        if apart:
            self.blocks = nnx.List([Block(config, adapter, way, rngs=rngs) for _ in range(config.layers)])
        else:
            self.blocks = stack(rngs)
        self.final_norm = make_norm(config)

    def __call__(
        self,
        tokens_BL: jax.Array,
        rows: Rows,
        cache: Cache | None = None,
    ) -> tuple[jax.Array, Cache | None]:
        """hidden_BLD and the cache, where there is one, with keys and values written from the rows' slot on."""
        tokens_BL = to_weights(tokens_BL, is_step(rows))
        x_BLD = self.embedding[...].astype(self.config.dtype)[tokens_BL]
        if self.config.embedding_scale:
            x_BLD = x_BLD * jnp.asarray(self.config.width**0.5, self.config.dtype)
        if self.config.embedding_factor != 1.0:
            x_BLD = x_BLD * jnp.asarray(self.config.embedding_factor, self.config.dtype)
        x_BLD = constrain_batch(to_weights(x_BLD, is_step(rows)))
        rotations = rotations_of(self.config, rows.positions_BL)

        if isinstance(self.blocks, nnx.List):
            for layer, of_layer in enumerate(self.blocks):
                x_BLD, cache = of_layer(x_BLD, rows, rotations, cache, layer)
            return self.final_norm(x_BLD), cache

        def block(block: Block, carry: Carry, layer: jax.Array) -> Carry:
            x_BLD, cache = carry
            return block(x_BLD, rows, rotations, cache, layer)

        body = block if self.config.remat == "none" else nnx.remat(block, policy=REMAT[self.config.remat])
        scan = nnx.scan(body, in_axes=(0, nnx.Carry, 0), out_axes=nnx.Carry, unroll=self.config.unroll)
        x_BLD, cache = scan(self.blocks, (x_BLD, cache), jnp.arange(self.config.layers, dtype=jnp.int32))
        return self.final_norm(x_BLD), cache

    def logits(self, hidden_BLD: jax.Array) -> jax.Array:
        """logits_BLV in float32."""
        matrix = self.embedding[...] if self.config.tied else self.unembedding[...]
        if self.config.tied and not self.turned:  # an embedding is [V, D], which is an unembedding turned over
            matrix = matrix.T
        logits_BLV = self.product(hidden_BLD, matrix.astype(hidden_BLD.dtype), dtype=jnp.float32)
        return softcap(logits_BLV, self.config.logit_softcap) / self.config.logit_divisor
