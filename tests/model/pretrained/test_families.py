"""Checkpoints that transformers itself writes: the same logits as torch, and the same tokens, family by family."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers
from jax.sharding import Mesh

from pit_jax.batch import DecodeSpec
from pit_jax.config import MeshConfig
from pit_jax.errors import UserError
from pit_jax.inference.engine import Engine
from pit_jax.inference.sampling import Sampling
from pit_jax.model.networks import LanguageModel
from pit_jax.model.pretrained import weights
from pit_jax.model.pretrained.families import FAMILIES, architecture, family_of
from pit_jax.model.rows import Sequences
from pit_jax.parallel.mesh import make_mesh

torch = pytest.importorskip("torch", reason="the reference implementation needs torch, a test dependency")

VOCAB, LENGTH, NEW = 97, 24, 64
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "eos_token_id": None,
    "bos_token_id": None,
    "pad_token_id": None,
}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
GEMMA3_ROPE = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
BIASES = {"attention_bias": True, "mlp_bias": True}
# Each has an effect in some families; the classes of the others pass over it.
OF_OTHERS: dict[str, Any] = {"sliding_window": 6, "use_sliding_window": True, "attn_logit_softcapping": 5.0}
HALF: dict[str, Any] = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}}
CASES: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2},
    "llama scaled, biased, tied": {
        "num_key_value_heads": 4,
        "head_dim": 20,
        "tie_word_embeddings": True,
        "rope_parameters": {**LLAMA3, "original_max_position_embeddings": 64},
        **BIASES,
    },
    "llama linear": {
        "num_key_value_heads": 1,
        "rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0},
    },
    "mistral": {"num_key_value_heads": 2, "sliding_window": 7},
    "mistral without a window": {"num_key_value_heads": 2, "sliding_window": None, "head_dim": 16},
    "qwen2": {"num_key_value_heads": 2},
    "qwen2 with windows": {
        "num_key_value_heads": 2,
        "use_sliding_window": True,
        "sliding_window": 6,
        "max_window_layers": 1,
        "tie_word_embeddings": True,
    },
    "qwen3": {"num_key_value_heads": 2, "head_dim": 16},
    "qwen3 biased": {"num_key_value_heads": 4, "head_dim": 8, "attention_bias": True, "tie_word_embeddings": True},
    "gemma": {"num_key_value_heads": 1, "head_dim": 16},
    "gemma2": {
        "num_key_value_heads": 2,
        "head_dim": 16,
        "sliding_window": 6,
        "query_pre_attn_scalar": 24,
        "attn_logit_softcapping": 5.0,
        "final_logit_softcapping": 3.0,
    },
    "gemma2 without caps": {
        "num_key_value_heads": 4,
        "head_dim": 16,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
    },
    "gemma3_text": {"num_key_value_heads": 2, "head_dim": 16, "sliding_window": 6, "num_hidden_layers": 7},
    "gemma3_text scaled": {
        "num_key_value_heads": 2,
        "head_dim": 16,
        "sliding_window": 5,
        "query_pre_attn_scalar": 24,
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
        "rope_parameters": GEMMA3_ROPE,
    },
    "llama, fields of others": {"num_key_value_heads": 2, **OF_OTHERS, **HALF},
    "mistral, fields of others": {"num_key_value_heads": 2, **OF_OTHERS, **HALF, "use_sliding_window": False},
    "qwen3, fields of others": {"num_key_value_heads": 2, "head_dim": 16, **HALF, "attn_logit_softcapping": 5.0},
    "gemma, fields of others": {"num_key_value_heads": 1, "head_dim": 16, **OF_OTHERS, **HALF},
    "gemma3_text, fields of others": {
        "num_key_value_heads": 2,
        "head_dim": 16,
        **OF_OTHERS,
        "final_logit_softcapping": 3.0,
    },
    "gpt_neox": {"rotary_pct": 0.25, "hidden_size": 64},
    "gpt_neox, an odd share of a head": {"rotary_pct": 0.25},
    "gpt_neox in series, without biases": {"rotary_pct": 1.0, "use_parallel_residual": False, "attention_bias": False},
}


@dataclass
class Checkpoint:
    """A folder that transformers wrote, its torch model, and what is made of it here."""

    folder: Path
    torch_model: Any
    model: LanguageModel
    entries: list[Any]
    params: Any
    tied: str | None


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    yield make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))


@pytest.fixture(scope="module", params=CASES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, mesh: Mesh) -> Checkpoint:
    torch.manual_seed(0)
    described = transformers.AutoConfig.for_model(
        request.param.split()[0].strip(","), **{**SIZES, **CASES[request.param]}
    )
    reference = transformers.AutoModelForCausalLM.from_config(described, attn_implementation="eager").eval()
    for parameter in reference.parameters():  # biases start at 0 and norms at 1 or 0: a slip would not show
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 0.1, 0.3)
    folder = tmp_path_factory.mktemp("checkpoint")
    reference.save_pretrained(folder)
    found = transformers.AutoConfig.from_pretrained(folder).to_dict()
    config = architecture(found)
    model = LanguageModel(config, config.vocab_rows)
    entries, tied = family_of(found).entries(model.config), "lm_head.weight" if model.config.tied else None
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return Checkpoint(folder, reference, model, entries, weights.load(folder, entries, shapes, mesh, tied=tied), tied)


def test_classes_are_those_of_transformers() -> None:
    auto = transformers.models.auto.modeling_auto
    for name, family in FAMILIES.items():
        assert family.causal == auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[name]
        assert family.classifier == auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES[name]


def prompts() -> tuple[np.ndarray, np.ndarray]:
    """Left-padded rows [3, LENGTH] and their mask."""
    tokens_BL = np.random.default_rng(0).integers(3, VOCAB, (3, LENGTH))
    return tokens_BL, np.arange(LENGTH)[None] >= np.array([0, 5, 11])[:, None]


def torch_inputs(tokens_BL: np.ndarray, mask_BL: np.ndarray) -> dict[str, Any]:
    positions_BL = np.maximum(mask_BL.cumsum(axis=1) - 1, 0)
    named = {"input_ids": tokens_BL, "attention_mask": mask_BL.astype(np.int64), "position_ids": positions_BL}
    return {name: torch.tensor(value) for name, value in named.items()}


def test_logits_equal_those_of_torch(checkpoint: Checkpoint, mesh: Mesh) -> None:
    tokens_BL, mask_BL = prompts()
    with torch.no_grad():
        expected_BLV = checkpoint.torch_model(**torch_inputs(tokens_BL, mask_BL)).logits.numpy()
    rows, model = Sequences.alone(jnp.asarray(mask_BL.astype(np.int32))), checkpoint.model

    @jax.jit
    def logits(params: Any) -> jax.Array:
        return model.logits(params, model.hidden(params, jnp.asarray(tokens_BL.astype(np.int32)), rows))

    found_BLV = np.asarray(jax.device_get(logits(checkpoint.params)))
    assert np.abs(found_BLV - expected_BLV)[mask_BL].max() < 1e-4
    assert expected_BLV.std() > 0.3


def test_greedy_answers_equal_those_of_torch(checkpoint: Checkpoint) -> None:
    """The cached decode, 64 tokens on, beyond every window."""
    tokens_BL, mask_BL = prompts()
    inputs = torch_inputs(tokens_BL, mask_BL)
    del inputs["position_ids"]
    # Without a cache: that of transformers keeps a window which the config of a Llama names and its layers ignore.
    asked = {"max_new_tokens": NEW, "do_sample": False, "pad_token_id": 0, "use_cache": False}
    expected = checkpoint.torch_model.generate(**inputs, **asked)
    engine = Engine(checkpoint.model, DecodeSpec(NEW, eos_id=VOCAB, pad_id=0, suffix=()))  # an EOS never drawn
    prompt = jnp.asarray(tokens_BL.astype(np.int32)), jnp.asarray(mask_BL)
    found = engine.complete(checkpoint.params, *prompt, jax.random.key(0), Sampling(temperature=0.0))
    np.testing.assert_array_equal(found.tokens_BT, expected[:, LENGTH:].numpy())


def test_the_weights_come_out_as_they_went_in(checkpoint: Checkpoint, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    weights.save(tmp_path, checkpoint.params, checkpoint.entries, dtype=np.float32)
    before, after = load_file(checkpoint.folder / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def found_config(name: str, **changes: Any) -> dict[str, Any]:
    config = transformers.AutoConfig.for_model(name, **{**SIZES, "num_key_value_heads": 2, "head_dim": 16})
    return {**json.loads(config.to_json_string(use_diff=False)), **changes}


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("llama", {"model_type": "mamba"}, "model_type 'mamba' is no family known here; known: llama, mistral"),
        ("llama", {"attention_sinks": 4}, "llama config: nothing here reads attention_sinks=4"),
        ("llama", {"hidden_act": "relu"}, "llama config: hidden activation 'relu'; known: silu"),
        ("llama", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_type 'yarn'; known: default"),
        (
            "qwen3",
            {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 2]}},
            "qwen3 config: nothing here reads mrope_section of rope_parameters",
        ),
        ("qwen2", {"layer_types": ["full_attention"] * 2}, "2 layer_types for 3 layers"),
        ("qwen2", {"layer_types": ["linear_attention"] * 3}, "layer_types linear_attention; known: sliding_attention"),
        ("gemma2", {"sliding_window": None}, "sliding_attention in layer_types without a sliding_window"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention: a decoder here"),
    ],
)
def test_what_cannot_be_followed_is_named(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        architecture(found_config(name, **changes))


def test_every_family_is_tried() -> None:
    assert {name.split()[0].strip(",") for name in CASES} == set(FAMILIES)
