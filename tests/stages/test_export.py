"""Exported folders, opened by transformers and torch: the same logits, the same scores, the same weights."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers
from rich.console import Console
from rich.progress import Progress
from safetensors.numpy import load_file

from pit_jax.config import AdapterConfig, Config, ExportConfig
from pit_jax.data.text.templates import Template
from pit_jax.data.text.tokenizers import load_tokenizer
from pit_jax.model import weights
from pit_jax.model.attention import causal_visible, segment_positions
from pit_jax.model.families import architecture, family_of
from pit_jax.model.networks import LanguageModel
from pit_jax.stages import models
from pit_jax.stages.base import load_base, with_base
from pit_jax.stages.context import Context
from pit_jax.stages.export import EXPORTS, check_export, run, write
from pit_jax.stages.models import load
from pit_jax.stages.rm import sequence_scores
from tests.stages import tiny_checkpoint

ROWS = np.array([[9, 30, 41, 7, 12], [8, 8, 60, 0, 0]], np.int32)  # right-padded; PAD is put in below
REAL = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], np.int32)


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def context(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, make_mesh: Any) -> Context:
    folder = tiny_checkpoint.write(tmp_path_factory.mktemp("llama"), tied=request.param)
    tokenizer = load_tokenizer(folder)
    data: Any = SimpleNamespace(tokenizer=tokenizer, template=Template(tokenizer), fingerprint="data")
    config = with_base(replace(Config(), base=str(folder), workdir=str(tmp_path_factory.mktemp("run"))))
    return Context(config, make_mesh(2, 2, 2), data, Console())


@pytest.fixture(scope="module")
def policy(context: Context) -> Any:
    return load_base(context)


@pytest.fixture(scope="module")
def gap(context: Context, policy: Any) -> Any:
    return {"trunk": policy, **context.init(context.scalar_model.init_head, jax.random.key(1))}


def rows(context: Context) -> np.ndarray:
    return np.where(REAL > 0, ROWS, context.data.tokenizer.pad_id).astype(np.int32)


def logits_in_torch(context: Context, theirs: Any) -> np.ndarray:
    """Of a torch model, on the rows above."""
    import torch

    inputs = {"input_ids": torch.tensor(rows(context)), "attention_mask": torch.tensor(REAL)}
    with torch.no_grad():
        found: np.ndarray = theirs.eval()(**inputs).logits.numpy()
    return found


def scores(context: Context, params: Any) -> np.ndarray:
    """Of a scalar model here, on the same rows [B]."""
    score = jax.jit(partial(sequence_scores, context.scalar_model))
    return np.asarray(jax.device_get(score(params, jnp.asarray(rows(context)), jnp.asarray(REAL))))


def test_a_language_model_has_its_logits_in_torch(context: Context, policy: Any, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    write(context, tmp_path / "policy", "policy", policy)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    expected = logits_in_torch(context, theirs)
    model, segments_BL = context.language_model, jnp.asarray(REAL)
    place = segment_positions(segments_BL), causal_visible(segments_BL)
    logits = jax.jit(lambda params: model.logits(params, model.hidden(params, jnp.asarray(rows(context)), *place)))
    found = np.asarray(jax.device_get(logits(policy)))
    assert found.shape == expected.shape and np.abs(found - expected)[REAL > 0].max() < 1e-4
    assert theirs.generation_config.eos_token_id == context.data.tokenizer.eos_id


def test_a_gap_model_has_its_scores_in_torch(context: Context, gap: Any, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    write(context, tmp_path / "gap", "gap", gap)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "gap")
    found_B = scores(context, gap)
    np.testing.assert_allclose(found_B, logits_in_torch(context, theirs)[:, 0], atol=1e-4)
    assert np.abs(found_B[0] - found_B[1]) > 1e-2


def test_what_is_exported_is_a_base_again(context: Context, policy: Any, tmp_path: Path) -> None:
    """The same weights, to the last bit; and the tokenizer knows its new tokens."""
    write(context, tmp_path / "policy", "policy", policy)
    found = architecture(transformers.AutoConfig.from_pretrained(tmp_path / "policy").to_dict())
    assert found == replace(context.config.transformer, vocab_rows=context.vocab_size)
    model, entries = LanguageModel(found, found.vocab_rows), family_of({"model_type": "llama"}).entries(found)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    again = weights.load(tmp_path / "policy", entries, shapes, context.mesh)
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), again, policy)))
    assert load_tokenizer(tmp_path / "policy").vocab_size == context.vocab_size
    next_run = with_base(replace(Config(), base=str(tmp_path / "policy")))
    assert next_run.transformer.vocab_rows == context.vocab_size


def test_bfloat16_and_the_card(context: Context, policy: Any, tmp_path: Path) -> None:
    half = replace(context, config=replace(context.config, export=ExportConfig(dtype="bfloat16")))
    write(half, tmp_path / "improver", "improver", policy)
    tensors = load_file(tmp_path / "improver" / "model.safetensors")
    assert {tensor.dtype.name for tensor in tensors.values()} == {"bfloat16"}
    assert json.loads((tmp_path / "improver" / "config.json").read_text())["dtype"] == "bfloat16"
    card = (tmp_path / "improver" / "README.md").read_text()
    assert "{prompt}<reference>{reference}<improve>" in card and context.config.base in card
    assert [path.name for path in tmp_path.iterdir()] == ["improver"], "nothing half written is left"


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # in peft
def test_adapters_lie_beside_the_weights_they_update(
    context: Context, policy: Any, gap: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """export/base and the four models in PEFT's format, which give the same scores in torch."""
    adapter = AdapterConfig(rank=2, alpha=4.0)
    settings = replace(context.config, adapter=adapter, export=ExportConfig(adapters="peft"), workdir=str(tmp_path))
    adapted = replace(context, config=settings, backbones={"root": policy})
    rng = np.random.default_rng(0)

    def restored(context: Context, stage: str, model: str, make: Any) -> Any:
        shapes = jax.eval_shape(make, jax.random.key(0))
        return jax.tree.map(lambda s: jnp.asarray(rng.normal(0, 0.3, s.shape), jnp.float32), shapes)

    monkeypatch.setattr(models, "restored", restored)
    for parent in adapted.folder("export", "").parents(settings):
        parent.path.mkdir(parents=True)
        parent.finish(round=1, digest=parent.name)
    folder = adapted.folder("export", "").path
    with Progress(console=Console(quiet=True)) as progress:
        run(adapted, progress)
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["base", *sorted(EXPORTS)]
    described = json.loads((folder / "gap" / "adapter_config.json").read_text())
    assert described["r"] == 2 and Path(described["base_model_name_or_path"]) == folder / "base"

    pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    rng = np.random.default_rng(0)  # the same numbers once more, up to the gap model's
    for place in list(EXPORTS.values())[:-1]:
        load(adapted, *place)
    params = load(adapted, *EXPORTS["gap"])
    base = transformers.AutoModelForSequenceClassification.from_pretrained(folder / "base", num_labels=1)
    theirs = peft.PeftModel.from_pretrained(base, folder / "gap")
    np.testing.assert_allclose(scores(adapted, params), logits_in_torch(context, theirs)[:, 0], atol=1e-4)


def test_what_no_hugging_face_class_holds_is_refused() -> None:
    config = replace(Config(), stage="export")
    check_export(replace(config, stage="all"))
    alone = replace(config, base="somewhere", export=ExportConfig(adapters="peft"))
    with pytest.raises(ValueError, match="this run has no adapters"):
        check_export(alone)
    with pytest.raises(ValueError, match="in the architecture of their base, found no --base"):
        check_export(config)
    pooled = replace(config.transformer, pooled_head=True)
    with pytest.raises(ValueError, match=r"pooled-head have a head that no Hugging Face class has"):
        check_export(replace(config, base="somewhere", transformer=pooled))
