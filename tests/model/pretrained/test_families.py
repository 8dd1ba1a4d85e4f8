"""Checkpoints that transformers itself writes: the same logits as torch, and the same tokens, family by family."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from jax.sharding import Mesh
from safetensors.numpy import load_file

from benchmarks.parity import CASES, SIZES, Checkpoint, family_in, main, written
from pit_jax.config import MeshConfig
from pit_jax.errors import UserError
from pit_jax.model.pretrained import weights
from pit_jax.model.pretrained.families import FAMILIES, WITH_IMAGES, architecture
from pit_jax.parallel.mesh import make_mesh

pytest.importorskip("torch", reason="the reference implementation needs torch, a test dependency")


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    yield make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))


@pytest.fixture(scope="module", params=CASES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, mesh: Mesh) -> Checkpoint:
    return written(request.param, tmp_path_factory.mktemp("checkpoint"), mesh)


def test_classes_are_those_of_transformers() -> None:
    auto = transformers.models.auto.modeling_auto
    for name, family in FAMILIES.items():
        assert family.causal == auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[name]
        assert family.classifier == auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.get(name)


def test_logits_equal_those_of_torch(checkpoint: Checkpoint) -> None:
    found, expected = checkpoint.logits
    assert np.abs(found - expected).max() < 1e-4
    assert expected.std() > 0.3


def test_greedy_answers_equal_those_of_torch(checkpoint: Checkpoint) -> None:
    """The cached decode, 64 tokens on."""
    np.testing.assert_array_equal(*checkpoint.greedy)


def test_the_weights_come_out_as_they_went_in(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """In the names of a causal language model, without what reads images."""
    weights.save(tmp_path, checkpoint.params, checkpoint.entries, dtype=np.float32)
    tensors, after = load_file(checkpoint.folder / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    named = weights.as_causal(weights.tensors_in(checkpoint.folder), checkpoint.entries)
    before = {name: tensors[tensor.name] for name, tensor in named.items() if not weights.UNREAD.search(name)}
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)


LONGROPE = {
    **{"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 64},
    **{"short_factor": [1.0], "long_factor": [2.0]},
}


def rope(**changes: Any) -> dict[str, Any]:
    return {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0, **changes}


def found_config(name: str, **changes: Any) -> dict[str, Any]:
    config = transformers.AutoConfig.for_model(name, **{**SIZES, "num_key_value_heads": 2, "head_dim": 16})
    return {**json.loads(config.to_json_string(use_diff=False)), **changes}


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("llama", {"model_type": "mamba"}, "model_type 'mamba' is no family known here; nearest: llama; known: llama,"),
        (
            "llama",
            {"model_type": "qwen2_5_vl"},
            "'qwen2_5_vl' is no family known here; nearest: qwen2; .* the text part",
        ),
        ("llama", {"attention_sinks": 4}, "llama config: nothing here reads attention_sinks=4"),
        ("llama", {"hidden_act": "relu"}, "llama config: hidden activation 'relu'; known: silu"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}},
            "yarn rope_parameters without factor, orig",
        ),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4}}, "rope_type 'dynamic'; known: defa"),
        ("llama", {"rope_parameters": rope(factor="2")}, "factor='2' in rope_parameters; asked for a number above 0"),
        ("llama", {"rope_parameters": rope(factor=float("nan"))}, "factor=nan in rope_parameters"),
        ("llama", {"rope_parameters": rope(factor=[2.0])}, r"factor=\[2.0\] in rope_parameters"),
        ("llama", {"rope_parameters": rope(rope_theta=10**400)}, "rope_theta=10+ in rope_parameters"),
        ("llama", {"rope_parameters": rope(rope_theta=None)}, "rope_theta=None in rope_parameters"),
        ("phi3", {"rope_parameters": LONGROPE | {"short_factor": ["1"]}}, r"short_factor=\['1'\] in rope_parameters"),
        ("llama", {"rope_parameters": LONGROPE}, "1 numbers in short_factor for 16 rotated components"),
        (
            "qwen3",
            {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 2]}},
            "qwen3 config: nothing here reads mrope_section of rope_parameters",
        ),
        ("qwen2", {"layer_types": ["full_attention"] * 2}, "2 layer_types for 3 layers"),
        ("qwen2", {"layer_types": ["linear_attention"] * 3}, "layer_types linear_attention; known: sliding_attention"),
        ("qwen3_moe", {"mlp_only_layers": [1]}, "layers without experts among those with"),
        ("ministral3", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, "without llama_4_scaling"),
        ("gemma2", {"sliding_window": None}, "sliding_attention in layer_types without a sliding_window"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention: a decoder here"),
    ],
)
def test_what_cannot_be_followed_is_named(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        architecture(found_config(name, **changes))


def test_every_family_is_tried() -> None:
    assert {family_in(name) for name in CASES} == {*FAMILIES, *WITH_IMAGES}


def test_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--only=llama linear", f"--results={tmp_path}"])
    assert "192/192" in capsys.readouterr().out
    assert json.loads((tmp_path / "parity.jsonl").read_text())["figures"]["llama linear"]["difference"] < 1e-4
