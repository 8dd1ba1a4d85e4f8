"""What the config of each family says of the one transformer: functions of its fields."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from pit_jax.architecture import TransformerConfig
from pit_jax.errors import UserError
from pit_jax.model.pretrained.fields import HfConfig

ACTIVATIONS = {"silu": "swiglu", "gelu_pytorch_tanh": "geglu"}
SLIDING, FULL = "sliding_attention", "full_attention"
# Knobs of scaled frequencies, by what rope_parameters calls them.
SCALINGS: Mapping[str, Mapping[str, str]] = {
    "linear": {"factor": "rope_factor"},
    "llama3": {
        "factor": "rope_factor",
        "low_freq_factor": "rope_low",
        "high_freq_factor": "rope_high",
        "original_max_position_embeddings": "rope_length",
    },
    "yarn": {
        "factor": "rope_factor",
        "original_max_position_embeddings": "rope_length",
    },
    "longrope": {"short_factor": "rope_divisors", "original_max_position_embeddings": "rope_length"},
}
LARGEST = 3e38  # a number beyond it is not finite in float32
ABOVE_ZERO = {"rope_theta", "factor", "original_max_position_embeddings"}
OF_GROWTH = ("llama_4_scaling_beta", "original_max_position_embeddings")
OF_LONGROPE = {"long_factor", "factor", "attention_factor"}
OF_YARN = {"beta_slow", "beta_fast", "truncate", "attention_factor", "mscale", "mscale_all_dim"}  # with defaults


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


def _common(fields: HfConfig, activation_field: str = "hidden_act") -> TransformerConfig:
    """What all families but GPT-NeoX say alike."""
    act = fields[activation_field]
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
        _check_numbers(local, fields)
        config, rope = replace(config, window_rope_theta=local["rope_theta"]), rope[FULL]
    _check_numbers(rope, fields)
    kind = rope["rope_type"]
    if kind != "default" and kind not in SCALINGS:
        raise UserError(
            f"{fields['model_type']} config: rope_type {kind!r}; known: {', '.join(['default', *SCALINGS])}"
        )
    names = SCALINGS.get(kind, {})
    if absent := [name for name in names if rope.get(name) is None]:
        raise UserError(f"{fields['model_type']} config: {kind} rope_parameters without {', '.join(absent)}; add it")
    knobs = {knob: rope[name] for name, knob in names.items()}
    config = replace(config, rope_theta=rope["rope_theta"], rope_scaling="none" if kind == "default" else kind, **knobs)
    known = {"rope_type", "type", "rope_theta", "partial_rotary_factor", *names}
    if kind == "yarn":
        config, known = _yarn(config, rope), known | OF_YARN
    if kind == "longrope":
        config, known = _longrope(config, rope, fields), known | OF_LONGROPE
    if fields["model_type"] == "ministral3":
        known |= {*OF_GROWTH, "max_position_embeddings"}
    if unread := sorted(rope.keys() - known):
        raise UserError(f"{fields['model_type']} config: nothing here reads {', '.join(unread)} of rope_parameters")
    return config


def _check_numbers(rope: Mapping[str, Any], fields: HfConfig) -> None:
    """UserError for what is no number in rope_parameters, of which transformers checks names alone."""
    numbers = {name: x for name, x in rope.items() if name not in ("rope_type", "type") and x is not None}
    numbers["rope_theta"] = rope.get("rope_theta")
    for name, value in numbers.items():
        above_zero = name in ABOVE_ZERO
        parts = value if isinstance(value, list | tuple) and not above_zero else [value]
        if not all(isinstance(x, int | float) and abs(x) <= LARGEST and (x > 0 or not above_zero) for x in parts):
            asked = "a number above 0" if above_zero else "a number"
            raise UserError(f"{fields['model_type']} config: {name}={value!r} in rope_parameters; asked for {asked}")


def _yarn(config: TransformerConfig, rope: Mapping[str, Any]) -> TransformerConfig:
    """Its gain is as given, or g(1) with g(m) = 0.1 m log(factor) + 1, or g(mscale) / g(mscale_all_dim)."""

    def g(times: float) -> float:
        return 0.1 * times * math.log(rope["factor"]) + 1.0 if rope["factor"] > 1 else 1.0

    gain = rope.get("attention_factor")
    if gain is None:
        both = rope.get("mscale") and rope.get("mscale_all_dim")
        gain = g(rope["mscale"]) / g(rope["mscale_all_dim"]) if both else g(1.0)
    return replace(
        config,
        rope_low=rope.get("beta_slow") or 1.0,
        rope_high=rope.get("beta_fast") or 32.0,
        rope_whole=rope.get("truncate", True),
        rope_gain=float(gain),
    )


def _longrope(config: TransformerConfig, rope: Mapping[str, Any], fields: HfConfig) -> TransformerConfig:
    """For rows that are no longer than those of pre-training: the gain counts in them too, long_factor does not."""
    divisors = tuple(float(number) for number in config.rope_divisors)
    rotated = int(config.head_size * rope.get("partial_rotary_factor", 1.0))
    if 2 * len(divisors) != rotated:
        raise UserError(
            f"{fields['model_type']} config: {len(divisors)} numbers in short_factor for {rotated} rotated components; "
            "give one to every two"
        )
    longer = rope.get("factor") or fields["max_position_embeddings"] / config.rope_length
    gain = rope.get("attention_factor")
    if gain is None:
        gain = math.sqrt(1 + math.log(longer) / math.log(config.rope_length)) if longer > 1 else 1.0
    return replace(config, rope_divisors=divisors, rope_gain=float(gain))


def _with_windows(config: TransformerConfig, fields: HfConfig) -> TransformerConfig:
    """Which layers see a window: those that layer_types names."""
    window, kinds = fields["sliding_window"] or 0, fields["layer_types"]
    if other := sorted(set(kinds) - {SLIDING, FULL}):
        raise UserError(f"{fields['model_type']} config: layer_types {', '.join(other)}; known: {SLIDING}, {FULL}")
    _one_a_layer(config, fields, "layer_types")
    slides = tuple(kind == SLIDING for kind in kinds)
    if any(slides) and not window:
        raise UserError(f"{fields['model_type']} config: {SLIDING} in layer_types without a sliding_window")
    return replace(config, window=window if any(slides) else 0, windowed=slides if any(slides) else ())


def _one_a_layer(config: TransformerConfig, fields: HfConfig, name: str) -> None:
    if len(fields[name]) != config.layers:
        raise UserError(
            f"{fields['model_type']} config: {len(fields[name])} {name} for {config.layers} layers; give one a layer"
        )


def _biased(config: TransformerConfig, fields: HfConfig) -> TransformerConfig:
    """attention_bias is that of all four matrices of attention."""
    bias = bool(fields["attention_bias"])
    return replace(config, qkv_bias=bias, out_bias=bias)


def _with_share(config: TransformerConfig, fields: HfConfig) -> TransformerConfig:
    """The share of a head that is rotated; most families pass over it."""
    return replace(config, rope_share=fields["rope_parameters"].get("partial_rotary_factor", 1.0))


def llama(fields: HfConfig) -> TransformerConfig:
    return replace(_biased(_common(fields), fields), ffn_bias=bool(fields["mlp_bias"]))


def mistral(fields: HfConfig) -> TransformerConfig:
    return replace(_common(fields), window=fields["sliding_window"] or 0)


def ministral3(fields: HfConfig) -> TransformerConfig:
    """A Mistral whose queries grow with their position."""
    config, rope = mistral(fields), fields["rope_parameters"]
    if absent := [name for name in OF_GROWTH if rope.get(name) is None]:
        raise UserError(f"ministral3 config: rope_parameters without {', '.join(absent)}; add it")
    growth, length = (rope[name] for name in OF_GROWTH)
    return replace(config, query_growth=growth, rope_length=length)


def qwen2(fields: HfConfig) -> TransformerConfig:
    return replace(_with_windows(_common(fields), fields), qkv_bias=True)


def qwen3(fields: HfConfig) -> TransformerConfig:
    return replace(_with_windows(_biased(_common(fields), fields), fields), qk_norm=True)


def qwen3_moe(fields: HfConfig) -> TransformerConfig:
    """A Qwen 3 with experts in every layer; the loss of its router is no part of the model."""
    if fields["decoder_sparse_step"] != 1 or fields["mlp_only_layers"]:
        raise UserError(
            f"qwen3_moe config: decoder_sparse_step={fields['decoder_sparse_step']} and "
            f"mlp_only_layers={fields['mlp_only_layers']}: layers without experts among those with; known: 1 and none"
        )
    return replace(
        _biased(_common(fields), fields),
        window=fields["sliding_window"] or 0,
        qk_norm=True,
        ffn=fields["moe_intermediate_size"],
        experts=fields["num_local_experts"],
        experts_per_token=fields["num_experts_per_tok"],
        experts_renormed=fields["norm_topk_prob"],
    )


def smollm3(fields: HfConfig) -> TransformerConfig:
    """A Llama with layers that do not rotate (a 0 in no_rope_layers)."""
    config = _with_windows(llama(fields), fields)
    _one_a_layer(config, fields, "no_rope_layers")
    rotated = tuple(bool(rotates) for rotates in fields["no_rope_layers"])
    return replace(config, rope_layers=() if all(rotated) else rotated)


def phi3(fields: HfConfig) -> TransformerConfig:
    return _with_share(mistral(fields), fields)


def granite(fields: HfConfig) -> TransformerConfig:
    return replace(
        llama(fields),
        embedding_factor=float(fields["embedding_multiplier"]),
        residual_factor=float(fields["residual_multiplier"]),
        attention_scale=float(fields["attention_multiplier"]),
        logit_divisor=float(fields["logits_scaling"]),
    )


def olmo2(fields: HfConfig) -> TransformerConfig:
    config = _biased(_common(fields), fields)
    return replace(config, pre_norms=False, post_norms=True, qk_norm=True, qk_norm_over="layer")


def glm4(fields: HfConfig) -> TransformerConfig:
    config = replace(_common(fields), qkv_bias=bool(fields["attention_bias"]), post_norms=True)
    return _with_share(config, fields)


def gemma(fields: HfConfig, activation_field: str = "hidden_act") -> TransformerConfig:
    if fields.get("use_bidirectional_attention"):
        raise UserError(f"{fields['model_type']} config: use_bidirectional_attention: a decoder here looks back alone")
    config = _biased(_common(fields, activation_field), fields)
    return replace(config, embedding_scale=True, norm_offset=1.0)


def gemma2(fields: HfConfig) -> TransformerConfig:
    return replace(
        _with_windows(gemma(fields, "hidden_activation"), fields),
        post_norms=True,
        attention_scale=fields["query_pre_attn_scalar"] ** -0.5,
        attention_softcap=fields["attn_logit_softcapping"] or 0.0,
        logit_softcap=fields["final_logit_softcapping"] or 0.0,
    )


def gemma3(fields: HfConfig) -> TransformerConfig:
    return replace(gemma2(fields), qk_norm=True, attention_softcap=0.0)


def gpt_neox(fields: HfConfig) -> TransformerConfig:
    if fields["hidden_act"] != "gelu":
        raise UserError(f"gpt_neox config: hidden_act {fields['hidden_act']!r}; known: gelu")
    config = replace(
        _sizes(fields, kv_heads=fields["num_attention_heads"], head_size=None),
        activation="gelu",
        norm="layer",
        norm_eps=fields["layer_norm_eps"],
        parallel=fields["use_parallel_residual"],
        ffn_bias=True,
    )
    return _biased(_with_share(_with_rope(config, fields), fields), fields)
