"""Fields of a checkpoint's config: which ones say nothing of what the model computes, and which ones were read.

A field that is neither is an error, never passed over: it may change what the model computes.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pit_jax.errors import UserError

HfConfig = Mapping[str, Any]

# The one list of fields that are passed over, whatever they hold.
WITHOUT_EFFECT = {
    # bookkeeping, and what other programs ask
    *("_name_or_path", "architectures", "auto_map", "model_type", "transformers_version", "transformers.js_config"),
    *("_commit_hash", "is_llama_config", "tokenizer_class", "prefix", "finetuning_task", "task_specific_params"),
    *("dtype", "torch_dtype", "use_cache", "cache_implementation", "pretraining_tp", "low_cpu_mem_usage"),
    *("torchscript", "use_bfloat16", "tf_legacy_loss", "unsloth_fixed", "unsloth_version"),
    *("_attn_implementation", "_attn_implementation_autoset", "attn_implementation", "_flash_attn_2_enabled"),
    *("use_flash_attention", "use_flash_attn", "chunk_size_feed_forward", "gradient_checkpointing"),
    *("output_attentions", "output_hidden_states", "output_scores", "return_dict", "return_dict_in_generate"),
    *("is_decoder", "is_encoder_decoder", "is_composition", "tie_encoder_decoder"),
    *("id2label", "label2id", "num_labels", "problem_type", "remove_invalid_values"),
    # training: initialisation, dropout, noise, losses that are not part of a model's output
    *("initializer_range", "attention_dropout", "classifier_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop"),
    *("neftune_noise_alpha", "output_router_logits", "router_aux_loss_coef"),
    # lengths: rows have the length that they have, and what scaled frequencies need is in rope_parameters
    *("max_position_embeddings", "original_max_position_embeddings", "max_sequence_length", "model_max_length"),
    # special tokens, and how others generate
    *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id"),
    *("forced_bos_token_id", "forced_eos_token_id", "begin_suppress_tokens", "suppress_tokens", "bad_words_ids"),
    *("do_sample", "temperature", "top_k", "top_p", "typical_p", "max_length", "min_length", "max_new_tokens"),
    *("num_beams", "num_beam_groups", "num_return_sequences", "early_stopping", "diversity_penalty"),
    *("length_penalty", "repetition_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size"),
    "exponential_decay_length_penalty",
    # said again by layer_types and no_rope_layers, which AutoConfig makes of them
    *("_sliding_window_pattern", "sliding_window_pattern", "sliding_window_size", "max_window_layers"),
    "no_rope_layer_interval",
    # with an effect in the families that read them, and passed over by the classes of the others
    *("sliding_window", "use_sliding_window", "layer_types", "attn_logit_softcapping", "partial_rotary_factor"),
    *("hidden_act", "hidden_activation"),
}

# Fields that ask for nothing while they hold this, and for what nothing here does while they hold anything else.
NEUTRAL: Mapping[str, Sequence[Any]] = {
    "add_cross_attention": (False, None),
    "attention_bias": (False, None),
    "cross_attention_hidden_size": (None,),
    "full_attn_mod": (1, None),
    "interpolate_factor": (1, None),
    "lm_head_bias": (False, None),
    "mlp_bias": (False, None),
    "pruned_heads": ({}, None),
    "rope_interleaved": (False, None),
    "use_mrope": (False, None),
}

# Fields beside the text part of a model of images and text.
OF_IMAGES = {
    *("text_config", "vision_config", "mm_tokens_per_image", "boi_token_index", "eoi_token_index"),
    *("image_token_index", "image_token_id", "boi_token_id", "eoi_token_id", "projector_hidden_act"),
    *("vision_feature_layer", "multimodal_projector_bias", "spatial_merge_size", "tie_word_embeddings"),
}


class Reading(Mapping[str, Any]):
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


def check_read(fields: HfConfig, read: set[str]) -> None:
    """UserError that names the fields which may have an effect and are not among those `read`."""
    neutral = {name for name, values in NEUTRAL.items() if name in fields and fields[name] in values}
    if unread := sorted(fields.keys() - read - WITHOUT_EFFECT - neutral):
        named = ", ".join(f"{name}={fields[name]!r}" for name in unread)
        raise UserError(
            f"{fields['model_type']} config: nothing here reads {named}, which may change what the model computes; "
            "take a checkpoint without it, or show that it changes nothing and add it to "
            "pit_jax/model/pretrained/fields.py"
        )
