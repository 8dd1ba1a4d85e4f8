"""Which tensors the checkpoints of a family hold, and the parameters in each."""

from collections.abc import Mapping

from pit_jax.architecture import TransformerConfig
from pit_jax.model.pretrained.tensors import (
    Entry,
    fused_heads,
    heads,
    heads_bias,
    heads_out,
    joined,
    linear,
    same,
)

LAYER, OURS = "model.layers.{layer}.", "blocks/"
# Norms of a layer, by what they are here.
NORMS = {"attention_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
NORMS_AROUND = {
    "attention_norm": "input_layernorm",
    "attention_post_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "ffn_post_norm": "post_feedforward_layernorm",
}
NORMS_OF_GLM4 = {
    "attention_norm": "input_layernorm",
    "attention_post_norm": "post_self_attn_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_post_norm": "post_mlp_layernorm",
}


def decoder(config: TransformerConfig) -> list[Entry]:
    """In the names of LlamaForCausalLM, with the norms of Gemma 2 where there are more of them."""
    names = NORMS_AROUND if config.post_norms else NORMS
    return [*_ends(config), *_norms(config, names), *_attention(config), *_gated(config)]


def phi3(config: TransformerConfig) -> list[Entry]:
    """Query, key and value in one tensor, gate and up in another."""
    n, k, h = config.query_heads, config.kv_heads, config.head_size
    parts = [heads("", f"{OURS}attention/{name}", count, h) for name, count in (("query", n), ("key", k), ("value", k))]
    attention = [
        joined(f"{LAYER}self_attn.qkv_proj.weight", parts, (n * h, k * h, k * h)),
        heads_out(f"{LAYER}self_attn.o_proj.weight", f"{OURS}attention/out", n, h),
    ]
    return [*_ends(config), *_norms(config, NORMS), *attention, *_gate_up_joined(config)]


def glm4(config: TransformerConfig) -> list[Entry]:
    """Components that are rotated together lie side by side, gate and up in one tensor."""
    attention = _attention(config, pairs=int(config.head_size * config.rope_share) // 2)
    return [*_ends(config), *_norms(config, NORMS_OF_GLM4), *attention, *_gate_up_joined(config)]


def gpt_neox(config: TransformerConfig) -> list[Entry]:
    layer, n, h = "gpt_neox.layers.{layer}.", config.query_heads, config.head_size
    entries = [same("gpt_neox.embed_in.weight", "embedding")]
    if not config.tied:
        entries.append(linear("embed_out.weight", "unembedding"))
    for theirs, ours in (
        ("gpt_neox.final_layer_norm", "final_norm"),
        (f"{layer}input_layernorm", "blocks/attention_norm"),
        (f"{layer}post_attention_layernorm", "blocks/ffn_norm"),
    ):
        entries += [same(f"{theirs}.weight", f"{ours}/scale"), same(f"{theirs}.bias", f"{ours}/shift")]
    roles = ("query", "key", "value")
    attention = [f"blocks/attention/{role}" for role in roles]
    entries += [
        fused_heads(f"{layer}attention.query_key_value.weight", attention, n, h),
        heads_out(f"{layer}attention.dense.weight", "blocks/attention/out", n, h),
    ]
    if config.qkv_bias:
        biases = [f"{name}_bias" for name in attention]
        entries += [
            fused_heads(f"{layer}attention.query_key_value.bias", biases, n, h),
            same(f"{layer}attention.dense.bias", "blocks/attention/out_bias"),
        ]
    for theirs, role in (("dense_h_to_4h", "up"), ("dense_4h_to_h", "down")):
        entries.append(linear(f"{layer}mlp.{theirs}.weight", f"blocks/ffn/{role}"))
        entries.append(same(f"{layer}mlp.{theirs}.bias", f"blocks/ffn/{role}_bias"))
    return entries


def _ends(config: TransformerConfig) -> list[Entry]:
    """Embedding, last norm and output."""
    entries = [same("model.embed_tokens.weight", "embedding"), same("model.norm.weight", "final_norm/scale")]
    return entries if config.tied else [*entries, linear("lm_head.weight", "unembedding")]


def _norms(config: TransformerConfig, names: Mapping[str, str]) -> list[Entry]:
    """Those of a layer that the transformer has, of `names`."""
    return [
        same(f"{LAYER}{theirs}.weight", f"{OURS}{ours}/scale")
        for ours, theirs in names.items()
        if config.pre_norms or ours.endswith("post_norm")
    ]


def _attention(config: TransformerConfig, pairs: int = 0) -> list[Entry]:
    """One tensor a matrix; `pairs` as for `heads`, in queries and keys."""
    n, k, h = config.query_heads, config.kv_heads, config.head_size
    layer, ours = f"{LAYER}self_attn.", f"{OURS}attention/"
    entries = [heads_out(f"{layer}o_proj.weight", f"{ours}out", n, h)]
    for name, count, rotated in (("query", n, pairs), ("key", k, pairs), ("value", k, 0)):
        entries.append(heads(f"{layer}{name[0]}_proj.weight", f"{ours}{name}", count, h, pairs=rotated))
        if config.qkv_bias:
            entries.append(heads_bias(f"{layer}{name[0]}_proj.bias", f"{ours}{name}_bias", count, h, pairs=rotated))
    if config.out_bias:
        entries.append(same(f"{layer}o_proj.bias", f"{ours}out_bias"))
    if config.qk_norm:
        entries += [same(f"{layer}{name[0]}_norm.weight", f"{ours}{name}_norm/scale") for name in ("query", "key")]
    return entries


def _gated(config: TransformerConfig) -> list[Entry]:
    """One tensor a matrix of the feed-forward, or of each expert."""
    layer, names = f"{LAYER}mlp.", ("gate", "up", "down")
    if config.experts:
        each = [linear(f"{layer}experts.{{expert}}.{name}_proj.weight", f"{OURS}ffn/expert_{name}") for name in names]
        return [*each, linear(f"{layer}gate.weight", f"{OURS}ffn/router")]
    entries = [linear(f"{layer}{name}_proj.weight", f"{OURS}ffn/{name}") for name in names]
    if config.ffn_bias:
        entries += [same(f"{layer}{name}_proj.bias", f"{OURS}ffn/{name}_bias") for name in names]
    return entries


def _gate_up_joined(config: TransformerConfig) -> list[Entry]:
    parts = [linear("", f"{OURS}ffn/gate"), linear("", f"{OURS}ffn/up")]
    return [
        joined(f"{LAYER}mlp.gate_up_proj.weight", parts, (config.ffn, config.ffn)),
        linear(f"{LAYER}mlp.down_proj.weight", f"{OURS}ffn/down"),
    ]
