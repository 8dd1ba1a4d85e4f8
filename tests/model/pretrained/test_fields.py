"""Configs as hubs hold them: the names of their fields, with small values of our own, read as --base reads them."""

import json
from pathlib import Path
from typing import Any

import pytest

from pit_jax.architecture import TransformerConfig
from pit_jax.errors import UserError
from pit_jax.model.pretrained.families import FAMILIES, WITH_IMAGES, architecture
from pit_jax.model.pretrained.fields import NEUTRAL
from pit_jax.run.base import described

SMALL: dict[str, Any] = {
    **{"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 300},
    **{"num_key_value_heads": 2, "max_position_embeddings": 256, "rms_norm_eps": 1e-6, "initializer_range": 0.02},
    **{"torch_dtype": "bfloat16", "use_cache": True, "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2},
    **{"transformers_version": "4.47.0", "rope_theta": 10000.0},
}
LLAMA: dict[str, Any] = {**SMALL, "model_type": "llama", "hidden_act": "silu", "tie_word_embeddings": True}
QWEN2: dict[str, Any] = {
    **{**SMALL, "model_type": "qwen2", "hidden_act": "silu", "tie_word_embeddings": False},
    **{"max_window_layers": 2, "sliding_window": 128, "use_sliding_window": False},
}
GEMMA: dict[str, Any] = {**SMALL, "head_dim": 4, "attention_bias": False}
GEMMA3: dict[str, Any] = {
    **{**GEMMA, "model_type": "gemma3_text", "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 4},
    **{"attn_logit_softcapping": None, "final_logit_softcapping": None, "cache_implementation": "hybrid"},
    **{"rope_local_base_freq": 10000, "rope_scaling": None, "sliding_window": 64, "num_hidden_layers": 6},
}
# What a config within another one holds when all defaults were written down.
WRITTEN_OUT: dict[str, Any] = {
    **{"_attn_implementation_autoset": False, "add_cross_attention": False, "bad_words_ids": None, "prefix": None},
    **{"begin_suppress_tokens": None, "cross_attention_hidden_size": None, "decoder_start_token_id": None},
    **{"diversity_penalty": 0.0, "do_sample": False, "early_stopping": False, "encoder_no_repeat_ngram_size": 0},
    **{"exponential_decay_length_penalty": None, "finetuning_task": None, "forced_bos_token_id": None},
    **{"forced_eos_token_id": None, "length_penalty": 1.0, "max_length": 20, "min_length": 0, "num_beams": 1},
    **{"no_repeat_ngram_size": 0, "num_beam_groups": 1, "num_return_sequences": 1, "output_scores": False},
    **{"pruned_heads": {}, "remove_invalid_values": False, "repetition_penalty": 1.0, "tie_encoder_decoder": False},
    **{"return_dict_in_generate": False, "sep_token_id": None, "suppress_tokens": None, "task_specific_params": None},
    **{"temperature": 1.0, "tf_legacy_loss": False, "tokenizer_class": None, "top_k": 50, "top_p": 1.0},
    **{"torchscript": False, "typical_p": 1.0, "use_bfloat16": False, "is_decoder": False},
}
PHI3: dict[str, Any] = {
    **{**SMALL, "model_type": "phi3", "hidden_act": "silu", "tie_word_embeddings": False, "rope_scaling": None},
    **{"embd_pdrop": 0.0, "resid_pdrop": 0.0, "original_max_position_embeddings": 256, "pad_token_id": 0},
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "Qwen 2.5 base": {**QWEN2, "use_mrope": False},
    "a distillation into Qwen 2.5": {**QWEN2, "use_mrope": False, "sliding_window": 4096, "_name_or_path": "x"},
    "Qwen 2.5, long": {
        **QWEN2,
        "rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 64, "type": "yarn"},
    },
    "Qwen 3": {
        **{**QWEN2, "model_type": "qwen3", "head_dim": 4, "sliding_window": None, "attention_bias": False},
        "rope_scaling": None,
    },
    "Qwen 3, experts": {
        **{**QWEN2, "model_type": "qwen3_moe", "head_dim": 4, "sliding_window": None, "attention_bias": False},
        **{"decoder_sparse_step": 1, "mlp_only_layers": [], "moe_intermediate_size": 8, "norm_topk_prob": True},
        **{"num_experts": 4, "num_experts_per_tok": 2, "output_router_logits": False, "router_aux_loss_coef": 0.001},
    },
    "Llama 3.2": {
        **{**LLAMA, "attention_bias": False, "head_dim": 4, "mlp_bias": False, "pretraining_tp": 1},
        "rope_scaling": {
            **{"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "rope_type": "llama3"},
            "original_max_position_embeddings": 64,
        },
    },
    "a mirror by Unsloth": {**LLAMA, "unsloth_fixed": True, "unsloth_version": "2025.1", "pad_token_id": 4},
    "a Llama trained with NEFTune": {**LLAMA, "neftune_noise_alpha": 5.0},
    "saved by transformers 4.46": {**LLAMA, "_attn_implementation_autoset": True},
    "a Llama with a length of its own": {**LLAMA, "max_sequence_length": 2048, "rope_scaling": None},
    "for a browser": {**LLAMA, "transformers.js_config": {"dtype": "q4", "kv_cache_dtype": {"q4f16": "float16"}}},
    "a known type with code of its own": {**LLAMA, "auto_map": {"AutoConfig": "configuration.Own"}},
    "SmolLM": {**LLAMA, "is_llama_config": True, "rope_interleaved": False, "rope_scaling": None, "pretraining_tp": 1},
    "SmolLM3": {
        **{
            **LLAMA,
            "model_type": "smollm3",
            "attention_bias": False,
            "mlp_bias": False,
            "layer_types": ["full_attention"] * 2,
        },
        **{"max_window_layers": 28, "no_rope_layer_interval": 4, "no_rope_layers": [1, 0], "pretraining_tp": 2},
        **{"rope_scaling": None, "sliding_window": None, "use_sliding_window": False},
    },
    "Mistral 7B": {**LLAMA, "model_type": "mistral", "sliding_window": None, "tie_word_embeddings": False},
    "Phi-3 mini": {
        **{**PHI3, "attention_bias": False, "sliding_window": 47},
        "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config", "AutoModelForCausalLM": "modeling_phi3.Phi3"},
    },
    "Phi-4": {**PHI3, "sliding_window": None, "rope_theta": 250000},
    "Phi-4 mini": {
        **{**PHI3, "full_attn_mod": 1, "interpolate_factor": 1, "lm_head_bias": False, "mlp_bias": False},
        **{"partial_rotary_factor": 0.5, "original_max_position_embeddings": 32},
        "rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [2.0]},
    },
    "Granite 3": {
        **{**LLAMA, "model_type": "granite", "attention_bias": False, "mlp_bias": False, "rope_scaling": None},
        **{
            "attention_multiplier": 0.02,
            "embedding_multiplier": 12.0,
            "logits_scaling": 8.0,
            "residual_multiplier": 0.2,
        },
    },
    "OLMo 2": {**LLAMA, "model_type": "olmo2", "attention_bias": False, "rope_scaling": None},
    "GLM-4": {
        **{**LLAMA, "model_type": "glm4", "attention_bias": True, "head_dim": 8, "partial_rotary_factor": 0.5},
        "tie_word_embeddings": False,
    },
    "Gemma 1": {**GEMMA, "model_type": "gemma", "hidden_act": "gelu", "hidden_activation": None, "rope_scaling": None},
    "Gemma 2": {
        **{**GEMMA, "model_type": "gemma2", "hidden_act": "gelu_pytorch_tanh", "sliding_window": 64},
        **{"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "hidden_activation": "gelu_pytorch_tanh"},
        **{"query_pre_attn_scalar": 4, "sliding_window_size": 64, "cache_implementation": "hybrid"},
    },
    "Gemma 3 1B": {**GEMMA3, "sliding_window_pattern": 6},
    "Gemma 3 270M": {
        **{**GEMMA3, "_sliding_window_pattern": 6, "use_bidirectional_attention": False},
        "layer_types": [*["sliding_attention"] * 5, "full_attention"],
    },
    "Gemma 3 4B": {
        **{"model_type": "gemma3", "boi_token_index": 9, "eoi_token_index": 10, "eos_token_id": [1, 106]},
        **{"image_token_index": 11, "initializer_range": 0.02, "mm_tokens_per_image": 256, "torch_dtype": "bfloat16"},
        "text_config": {**GEMMA3, "vocab_size": 300, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}},
        "vision_config": {"model_type": "siglip_vision_model", "hidden_size": 8, "vision_use_head": False},
    },
    "Mistral Small 3.1": {
        **{"model_type": "mistral3", "image_token_index": 10, "multimodal_projector_bias": False},
        **{"projector_hidden_act": "gelu", "spatial_merge_size": 2, "vision_feature_layer": -1},
        "text_config": {**SMALL, **WRITTEN_OUT, "model_type": "mistral", "hidden_act": "silu", "head_dim": 4},
        "vision_config": {"model_type": "pixtral", "hidden_size": 8, "num_attention_heads": 1},
    },
    "Ministral 3": {
        **{"model_type": "ministral3", "head_dim": 4, "hidden_act": "silu", "sliding_window": None},
        **{**SMALL, "tie_word_embeddings": True},
        "rope_parameters": {
            **{"beta_fast": 32.0, "beta_slow": 1.0, "factor": 16.0, "llama_4_scaling_beta": 0.1, "mscale": 1.0},
            **{"mscale_all_dim": 1.0, "original_max_position_embeddings": 16, "rope_theta": 1e6, "rope_type": "yarn"},
            **{"max_position_embeddings": 256, "type": "yarn"},
        },
    },
    "Pythia": {
        **{"model_type": "gpt_neox", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2},
        **{"num_attention_heads": 4, "vocab_size": 300, "hidden_act": "gelu", "layer_norm_eps": 1e-5},
        **{"rotary_emb_base": 10000, "rotary_pct": 0.25, "use_parallel_residual": True, "classifier_dropout": 0.1},
    },
}


def read(folder: Path, fields: dict[str, Any]) -> TransformerConfig:
    (folder / "config.json").write_text(json.dumps(fields))
    return architecture(described(folder))


@pytest.mark.parametrize("name", PUBLISHED)
def test_it_is_read(name: str, tmp_path: Path) -> None:
    found = read(tmp_path, PUBLISHED[name])
    assert (found.width, found.layers, found.vocab_rows) == (16, 6 if name.startswith("Gemma 3") else 2, 300)


def test_every_family_has_a_published_config() -> None:
    assert {fields["model_type"] for fields in PUBLISHED.values()} == {*FAMILIES, *WITH_IMAGES}


def test_fields_with_an_effect_have_it(tmp_path: Path) -> None:
    assert read(tmp_path, {**GEMMA3, "sliding_window_pattern": 3}).windowed == (True, True, False) * 2
    assert read(tmp_path, PUBLISHED["Gemma 3 1B"]).windowed == (True,) * 5 + (False,)
    gemma2 = {**PUBLISHED["Gemma 2"], "hidden_act": "relu"}
    assert read(tmp_path, gemma2).activation == "geglu", "hidden_activation is what Gemma 2 reads"
    assert read(tmp_path, {**LLAMA, "hidden_activation": "relu"}).activation == "swiglu"
    assert read(tmp_path, PUBLISHED["Gemma 1"]).activation == "geglu"
    assert read(tmp_path, PUBLISHED["SmolLM3"]).rope_layers == (True, False)


WITH_EFFECT: dict[str, Any] = {
    **{name: True for name in NEUTRAL if name not in ("attention_bias", "mlp_bias")},
    **{"full_attn_mod": 2, "interpolate_factor": 4, "pruned_heads": {"0": [1]}, "attention_sinks": 4},
    **{"quantization_config": {"bits": 4}, "cross_attention_hidden_size": 8},
}


@pytest.mark.parametrize("name", WITH_EFFECT)
def test_what_may_change_the_maths_is_an_error_that_tells_nobody_to_remove_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"nothing here reads {name}=.*, which may change what the model") as caught:
        read(tmp_path, {**LLAMA, name: WITH_EFFECT[name]})
    assert not any(word in str(caught.value) for word in ("remove", "delete", "leave it out"))
