"""Families of Hugging Face checkpoints: how each one's config and tensors map onto the one transformer.

A field of a config that nothing here reads is an error, never ignored: it may change what the model computes.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from pit_jax.architecture import TransformerConfig
from pit_jax.errors import UserError
from pit_jax.model.pretrained.tensors import Entry, fused_heads, heads, heads_bias, heads_out, linear, same

HfConfig = Mapping[str, Any]

# Fields that say nothing of what a trained model computes: bookkeeping, special tokens, dropout, initialisation, and
# what AutoConfig has turned into layer_types. The last ones have an effect in the families that read them alone.
WITHOUT_EFFECT = {
    *("_name_or_path", "architectures", "chunk_size_feed_forward", "dtype", "id2label", "initializer_range"),
    *("is_decoder", "is_encoder_decoder", "label2id", "max_position_embeddings", "model_type", "output_attentions"),
    *("output_hidden_states", "pretraining_tp", "problem_type", "return_dict", "torch_dtype", "transformers_version"),
    *("use_cache", "bos_token_id", "eos_token_id", "pad_token_id", "attention_dropout", "classifier_dropout"),
    *("hidden_dropout", "_sliding_window_pattern", "max_window_layers"),
    *("sliding_window", "use_sliding_window", "layer_types", "attn_logit_softcapping", "partial_rotary_factor"),
}
ACTIVATIONS = {"silu": "swiglu", "gelu_pytorch_tanh": "geglu"}
SLIDING, FULL = "sliding_attention", "full_attention"


@dataclass(frozen=True)
class Family:
    """How a family's config is read, and which tensors a checkpoint of that architecture holds."""

    config: Callable[[HfConfig], TransformerConfig]
    entries: Callable[[TransformerConfig], list[Entry]]
    causal: str  # classes of transformers
    classifier: str


class _Reading(Mapping[str, Any]):
    """A config that remembers which of its fields were read."""

    def __init__(self, fields: HfConfig):
        self._found, self.read = fields, set[str]()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


def architecture(fields: HfConfig) -> TransformerConfig:
    """The transformer of a config as `AutoConfig.from_pretrained(..).to_dict()` gives it; vocab_rows is its vocabulary.

    Raises:
        UserError: an unknown family, a field that nothing reads, or a value that the transformer cannot follow.
    """
    reading = _Reading(fields)
    config = replace(family_of(fields).config(reading), vocab_rows=int(reading["vocab_size"]))
    if unread := sorted(fields.keys() - reading.read - WITHOUT_EFFECT):
        named = ", ".join(f"{name}={fields[name]!r}" for name in unread)
        raise UserError(f"{fields['model_type']} config: nothing here reads {named}; remove it if it has no effect")
    return config


def family_of(fields: HfConfig) -> Family:
    """UserError that lists the families for another one."""
    model_type = fields.get("model_type")
    if model_type not in FAMILIES:
        raise UserError(f"model_type {model_type!r} is no family known here; known: {', '.join(FAMILIES)}")
    return FAMILIES[model_type]


def _sizes(fields: HfConfig, *, kv_heads: int, head_size: int | None) -> TransformerConfig:
    """What all families say alike; heads share the width where no size of theirs is given."""
    queries = fields["num_attention_heads"]
    return TransformerConfig(
        width=fields["hidden_size"],
        layers=fields["num_hidden_layers"],
        query_heads=queries,
        kv_heads=kv_heads,
        head_size=head_size or fields["hidden_size"] // queries,
        ffn=fields["intermediate_size"],
        tied=fields["tie_word_embeddings"],
        embedding_scale=False,
    )


def _common(fields: HfConfig) -> TransformerConfig:
    """What all families but GPT-NeoX say alike."""
    act = fields.get("hidden_act") or fields.get("hidden_activation")
    if act not in ACTIVATIONS:
        raise UserError(f"{fields['model_type']} config: hidden activation {act!r}; known: {', '.join(ACTIVATIONS)}")
    sizes = _sizes(fields, kv_heads=fields["num_key_value_heads"], head_size=fields.get("head_dim"))
    activation: Literal["swiglu", "geglu"] = "swiglu" if ACTIVATIONS[act] == "swiglu" else "geglu"
    config = replace(sizes, activation=activation, norm_eps=fields["rms_norm_eps"])
    return _with_rope(config, fields)


def _with_rope(config: TransformerConfig, fields: HfConfig) -> TransformerConfig:
    """Frequencies: one kind for all layers, or one for those with a window and one for the others."""
    rope: Mapping[str, Any] = fields["rope_parameters"]
    if SLIDING in rope or FULL in rope:
        local = rope[SLIDING]
        if local["rope_type"] != "default":
            raise UserError(
                f"{fields['model_type']} config: rope_type {local['rope_type']!r} for {SLIDING}; known: default"
            )
        config, rope = replace(config, window_rope_theta=local["rope_theta"]), rope[FULL]
    known = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
    config = replace(config, rope_theta=rope["rope_theta"], rope_scaling="none")
    match rope["rope_type"]:
        case "linear":
            known |= {"factor"}
            config = replace(config, rope_scaling="linear", rope_factor=rope["factor"])
        case "llama3":
            known |= {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}
            config = replace(
                config,
                rope_scaling="llama3",
                rope_factor=rope["factor"],
                rope_low=rope["low_freq_factor"],
                rope_high=rope["high_freq_factor"],
                rope_length=rope["original_max_position_embeddings"],
            )
        case "default":
            pass
        case other:
            raise UserError(f"{fields['model_type']} config: rope_type {other!r}; known: default, linear, llama3")
    if unread := sorted(rope.keys() - known):
        raise UserError(f"{fields['model_type']} config: nothing here reads {', '.join(unread)} of rope_parameters")
    return config


def _with_windows(config: TransformerConfig, fields: HfConfig) -> TransformerConfig:
    """Which layers see a window: those that layer_types names."""
    window, kinds = fields["sliding_window"] or 0, fields["layer_types"]
    if other := sorted(set(kinds) - {SLIDING, FULL}):
        raise UserError(f"{fields['model_type']} config: layer_types {', '.join(other)}; known: {SLIDING}, {FULL}")
    if len(kinds) != config.layers:
        raise UserError(
            f"{fields['model_type']} config: {len(kinds)} layer_types for {config.layers} layers; give one a layer"
        )
    slides = tuple(kind == SLIDING for kind in kinds)
    if any(slides) and not window:
        raise UserError(f"{fields['model_type']} config: {SLIDING} in layer_types without a sliding_window")
    return replace(config, window=window if any(slides) else 0, windowed=slides if any(slides) else ())


def _biased(config: TransformerConfig, fields: HfConfig) -> TransformerConfig:
    """attention_bias is that of all four matrices of attention."""
    bias = bool(fields["attention_bias"])
    return replace(config, qkv_bias=bias, out_bias=bias)


def _llama(fields: HfConfig) -> TransformerConfig:
    return replace(_biased(_common(fields), fields), ffn_bias=bool(fields["mlp_bias"]))


def _mistral(fields: HfConfig) -> TransformerConfig:
    return replace(_common(fields), window=fields["sliding_window"] or 0)


def _qwen2(fields: HfConfig) -> TransformerConfig:
    return replace(_with_windows(_common(fields), fields), qkv_bias=True)


def _qwen3(fields: HfConfig) -> TransformerConfig:
    return replace(_with_windows(_biased(_common(fields), fields), fields), qk_norm=True)


def _gemma(fields: HfConfig) -> TransformerConfig:
    if fields.get("use_bidirectional_attention"):
        raise UserError(f"{fields['model_type']} config: use_bidirectional_attention: a decoder here looks back alone")
    return replace(_biased(_common(fields), fields), embedding_scale=True, norm_offset=1.0)


def _gemma2(fields: HfConfig) -> TransformerConfig:
    return replace(
        _with_windows(_gemma(fields), fields),
        post_norms=True,
        attention_scale=fields["query_pre_attn_scalar"] ** -0.5,
        attention_softcap=fields["attn_logit_softcapping"] or 0.0,
        logit_softcap=fields["final_logit_softcapping"] or 0.0,
    )


def _gemma3(fields: HfConfig) -> TransformerConfig:
    return replace(_gemma2(fields), qk_norm=True, attention_softcap=0.0)


def _neox(fields: HfConfig) -> TransformerConfig:
    if fields["hidden_act"] != "gelu":
        raise UserError(f"gpt_neox config: hidden_act {fields['hidden_act']!r}; known: gelu")
    config = replace(
        _sizes(fields, kv_heads=fields["num_attention_heads"], head_size=None),
        activation="gelu",
        norm="layer",
        norm_eps=fields["layer_norm_eps"],
        parallel=fields["use_parallel_residual"],
        ffn_bias=True,
        rope_share=fields["rope_parameters"].get("partial_rotary_factor", 1.0),
    )
    return _biased(_with_rope(config, fields), fields)


def _decoder_entries(config: TransformerConfig) -> list[Entry]:
    """Tensors of every family but GPT-NeoX, in the names of LlamaForCausalLM."""
    n, k, h = config.query_heads, config.kv_heads, config.head_size
    layer, ours = "model.layers.{layer}.", "blocks/"
    entries = [
        same("model.embed_tokens.weight", "embedding"),
        same("model.norm.weight", "final_norm/scale"),
        same(f"{layer}input_layernorm.weight", f"{ours}attention_norm/scale"),
        heads(f"{layer}self_attn.q_proj.weight", f"{ours}attention/query", n, h),
        heads(f"{layer}self_attn.k_proj.weight", f"{ours}attention/key", k, h),
        heads(f"{layer}self_attn.v_proj.weight", f"{ours}attention/value", k, h),
        heads_out(f"{layer}self_attn.o_proj.weight", f"{ours}attention/out", n, h),
        *(linear(f"{layer}mlp.{name}_proj.weight", f"{ours}ffn/{name}") for name in ("gate", "up", "down")),
    ]
    if not config.tied:
        entries.append(linear("lm_head.weight", "unembedding"))
    if config.qkv_bias:
        for name, count in (("query", n), ("key", k), ("value", k)):
            entries.append(
                heads_bias(f"{layer}self_attn.{name[0]}_proj.bias", f"{ours}attention/{name}_bias", count, h)
            )
    if config.out_bias:
        entries.append(same(f"{layer}self_attn.o_proj.bias", f"{ours}attention/out_bias"))
    if config.ffn_bias:
        entries += [same(f"{layer}mlp.{name}_proj.bias", f"{ours}ffn/{name}_bias") for name in ("gate", "up", "down")]
    if config.qk_norm:
        entries += [
            same(f"{layer}self_attn.{n[0]}_norm.weight", f"{ours}attention/{n}_norm/scale") for n in ("query", "key")
        ]
    after = f"{layer}post_attention_layernorm.weight"
    if not config.post_norms:
        return [*entries, same(after, f"{ours}ffn_norm/scale")]
    return [
        *entries,
        same(after, f"{ours}attention_post_norm/scale"),
        same(f"{layer}pre_feedforward_layernorm.weight", f"{ours}ffn_norm/scale"),
        same(f"{layer}post_feedforward_layernorm.weight", f"{ours}ffn_post_norm/scale"),
    ]


def _neox_entries(config: TransformerConfig) -> list[Entry]:
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


FAMILIES = {
    "llama": Family(_llama, _decoder_entries, "LlamaForCausalLM", "LlamaForSequenceClassification"),
    "mistral": Family(_mistral, _decoder_entries, "MistralForCausalLM", "MistralForSequenceClassification"),
    "qwen2": Family(_qwen2, _decoder_entries, "Qwen2ForCausalLM", "Qwen2ForSequenceClassification"),
    "qwen3": Family(_qwen3, _decoder_entries, "Qwen3ForCausalLM", "Qwen3ForSequenceClassification"),
    "gemma": Family(_gemma, _decoder_entries, "GemmaForCausalLM", "GemmaForSequenceClassification"),
    "gemma2": Family(_gemma2, _decoder_entries, "Gemma2ForCausalLM", "Gemma2ForSequenceClassification"),
    "gemma3_text": Family(_gemma3, _decoder_entries, "Gemma3ForCausalLM", "Gemma3TextForSequenceClassification"),
    "gpt_neox": Family(_neox, _neox_entries, "GPTNeoXForCausalLM", "GPTNeoXForSequenceClassification"),
}
