"""Families of Hugging Face checkpoints: how each one's config and tensors map onto the one transformer."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace

from pit_jax.architecture import TransformerConfig
from pit_jax.errors import UserError
from pit_jax.model.pretrained import configs, entries
from pit_jax.model.pretrained.fields import OF_IMAGES, HfConfig, Reading, check_read
from pit_jax.model.pretrained.tensors import Entry
from pit_jax.ranges import out_of_range


@dataclass(frozen=True)
class Family:
    """How a family's config is read, and which tensors a checkpoint of that architecture holds."""

    config: Callable[[HfConfig], TransformerConfig]
    entries: Callable[[TransformerConfig], list[Entry]]
    causal: str  # classes of transformers
    classifier: str | None


FAMILIES = {
    name: Family(config, tensors, f"{classes}ForCausalLM", f"{classes}ForSequenceClassification")
    for name, config, tensors, classes in (
        ("llama", configs.llama, entries.decoder, "Llama"),
        ("mistral", configs.mistral, entries.decoder, "Mistral"),
        ("ministral3", configs.ministral3, entries.decoder, "Ministral3"),
        ("qwen2", configs.qwen2, entries.decoder, "Qwen2"),
        ("qwen3", configs.qwen3, entries.decoder, "Qwen3"),
        ("qwen3_moe", configs.qwen3_moe, entries.decoder, "Qwen3Moe"),
        ("smollm3", configs.smollm3, entries.decoder, "SmolLM3"),
        ("phi3", configs.phi3, entries.phi3, "Phi3"),
        ("granite", configs.granite, entries.decoder, "Granite"),
        ("olmo2", configs.olmo2, entries.decoder, "Olmo2"),
        ("glm4", configs.glm4, entries.glm4, "Glm4"),
        ("gemma", configs.gemma, entries.decoder, "Gemma"),
        ("gemma2", configs.gemma2, entries.decoder, "Gemma2"),
        ("gemma3_text", configs.gemma3, entries.decoder, "Gemma3"),
        ("gpt_neox", configs.gpt_neox, entries.gpt_neox, "GPTNeoX"),
    )
}
# What transformers names otherwise, or lacks.
FAMILIES["gemma3_text"] = replace(FAMILIES["gemma3_text"], classifier="Gemma3TextForSequenceClassification")
FAMILIES["granite"] = replace(FAMILIES["granite"], classifier=None)

# Models of images and text whose text part is one of these.
WITH_IMAGES = {"gemma3": ("gemma3_text",), "mistral3": ("mistral", "ministral3")}


def architecture(fields: HfConfig) -> TransformerConfig:
    """The transformer of a config as `AutoConfig.from_pretrained(..).to_dict()` gives it; vocab_rows is its vocabulary.

    Raises:
        UserError: an unknown family, a field that nothing reads, or a value that the transformer cannot follow.
    """
    text = text_part(fields)
    reading = Reading(text)
    config = replace(family_of(text).config(reading), vocab_rows=int(reading["vocab_size"]))
    check_read(text, reading.read)
    if wrong := [f"{name}={found}: asked for {asked}" for name, found, asked in out_of_range(config)]:
        raise UserError(f"{text['model_type']} config: {'; '.join(wrong)}")
    return config


def text_part(fields: HfConfig) -> HfConfig:
    """The config of the text part of a model of images and text; another config itself.

    Its output is tied to its embedding where both configs say so.
    """
    known = WITH_IMAGES.get(str(fields.get("model_type")))
    text = fields.get("text_config")
    if known is None or not isinstance(text, dict):
        return fields
    if text.get("model_type") not in known:
        raise UserError(
            f"{fields['model_type']} config: its text part is of type {text.get('model_type')!r}; known: "
            f"{', '.join(known)}"
        )
    check_read(fields, OF_IMAGES)
    tied = fields["tie_word_embeddings"] and text["tie_word_embeddings"]
    return {**text, "tie_word_embeddings": tied}


def family_of(fields: HfConfig) -> Family:
    """UserError that names the nearest family, and lists them, for another one."""
    model_type = text_part(fields).get("model_type")
    if model_type in FAMILIES:
        return FAMILIES[model_type]
    text = fields.get("text_config")
    inner = text.get("model_type") if isinstance(text, dict) else None
    near = difflib.get_close_matches(str(inner or model_type), FAMILIES, 1, cutoff=0.0)[0]
    within = f" (its text_config says {inner!r})" if inner else ""
    raise UserError(
        f"model_type {model_type!r}{within} is no family known here; nearest: {near}; known: {', '.join(FAMILIES)}. "
        "Of a model with more than text, the text part, saved as a checkpoint of its own, may be one of these"
    )
