"""Exported folders, opened by transformers and torch: the same logits, the same scores, the same weights."""

import json
from collections.abc import Callable
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
from safetensors.numpy import load_file

from pit_jax.config import AdapterConfig, Config, ExportConfig
from pit_jax.data.features import right_padded
from pit_jax.data.text.templates import Template
from pit_jax.data.text.tokenizers import load_tokenizer
from pit_jax.evaluation.results import Results, write_results
from pit_jax.model.networks import LanguageModel, trunk_of
from pit_jax.model.pretrained import weights
from pit_jax.model.pretrained.families import architecture, family_of
from pit_jax.model.rows import Sequences
from pit_jax.model.scoring import end_scores
from pit_jax.parallel.sharding import init_sharded
from pit_jax.recipes.catalogue import catalogue
from pit_jax.recipes.export import EXPORTS, exported, hf_config, run, write
from pit_jax.run import params as run_params
from pit_jax.run.base import described, load_base, with_base
from pit_jax.run.context import Context
from pit_jax.run.folders import Run
from pit_jax.run.params import Models
from pit_jax.run.provenance import StageId
from pit_jax.run.screen import Screen
from tests import tiny_checkpoint
from tests.report.pages import compared
from tests.world import DATA, finish_parents

ROWS = np.array([[9, 30, 41, 7, 12], [8, 8, 60, 0, 0]], np.int32)  # right-padded; PAD is put in below
REAL = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], np.int32)
EXPORT = StageId("export")


def placed(config: Config, data: Any, mesh: Any) -> Context:
    """The context of the export of a run."""
    stages = catalogue()
    return Context(config, Run(config, stages), stages[EXPORT], data, mesh, Screen(Console(quiet=True)))


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def context(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, make_mesh: Any) -> Context:
    folder = tiny_checkpoint.write(tmp_path_factory.mktemp("llama"), tied=request.param)
    tokenizer = load_tokenizer(folder)
    data: Any = SimpleNamespace(tokenizer=tokenizer, template=Template(tokenizer), fingerprint=DATA)
    config = with_base(replace(Config(), base=str(folder), workdir=str(tmp_path_factory.mktemp("run"))))
    return placed(config, data, make_mesh(2, 2, 2))


@pytest.fixture(scope="module")
def policy(context: Context) -> Any:
    sizes = {"ids": context.data.tokenizer.vocab_size, "rows": context.vocab_size}
    return load_base(context.config, context.mesh, context.key("new tokens"), **sizes)


@pytest.fixture(scope="module")
def gap(context: Context, policy: Any) -> Any:
    return {**trunk_of(policy), **init_sharded(context.scalar_model.init_head, jax.random.key(1), context.mesh)}


def python_of(card: Path) -> str:
    """The code on a card."""
    return card.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]


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
    score = jax.jit(partial(end_scores, context.scalar_model))
    return np.asarray(jax.device_get(score(params, jnp.asarray(rows(context)), jnp.asarray(REAL))))


def test_a_language_model_has_its_logits_in_torch(context: Context, policy: Any, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    write(context, tmp_path / "policy", "policy", policy)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    expected = logits_in_torch(context, theirs)
    model, tokens_BL, alone = context.language_model, jnp.asarray(rows(context)), Sequences.alone(jnp.asarray(REAL))
    logits = jax.jit(lambda params: model.logits(params, model.hidden(params, tokens_BL, alone)))
    found = np.asarray(jax.device_get(logits(policy)))
    assert found.shape == expected.shape and np.abs(found - expected)[REAL > 0].max() < 1e-4
    assert theirs.generation_config.eos_token_id == context.data.tokenizer.eos_id


def test_a_gap_model_has_its_scores_in_torch(
    context: Context, gap: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of rows, and of the texts on its card."""
    pytest.importorskip("torch")
    write(context, tmp_path / "gap", "gap", gap)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "gap")
    found_B = scores(context, gap)
    np.testing.assert_allclose(found_B, logits_in_torch(context, theirs)[:, 0], atol=1e-4)
    assert np.abs(found_B[0] - found_B[1]) > 1e-2

    monkeypatch.chdir(tmp_path / "gap")
    namespace: dict[str, Any] = {}
    exec(python_of(Path("README.md")), namespace)
    template, eos_id = context.data.template, context.data.tokenizer.eos_id
    x, y_ref, y = namespace["prompt"], namespace["reference"], "Thank you, but I can't."
    asked = [*template.improver_prefix(x), *template.response(y_ref), *template.improver_suffix]
    rows = [[*asked, *template.response(answer), eos_id] for answer in (y, y_ref)]
    tokens_BL, mask_BL = right_padded(rows, max(map(len, rows)), context.data.tokenizer.pad_id)
    score = jax.jit(partial(end_scores, context.scalar_model))
    better, worse = np.asarray(jax.device_get(score(gap, tokens_BL, mask_BL.astype(np.int32))))
    assert float(capsys.readouterr().out) == pytest.approx(better - worse, abs=1e-4)


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


def test_a_text_part_is_written_as_a_model_of_its_own(context: Context, tmp_path: Path) -> None:
    """With what its config leaves to the defaults within the other one."""
    text = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "sliding_window_pattern": 2}
    outer = {"model_type": "gemma3", "text_config": text, "vision_config": {}, "image_token_index": 3}
    (tmp_path / "config.json").write_text(json.dumps(outer))
    images = replace(context, config=replace(context.config, base=str(tmp_path)))
    expected = architecture(described(tmp_path))
    written = hf_config(images, scalar=False)
    assert written["architectures"] == ["Gemma3ForCausalLM"] and written["model_type"] == "gemma3_text"
    (tmp_path / "config.json").write_text(json.dumps(written))
    assert architecture(described(tmp_path)) == replace(expected, vocab_rows=context.vocab_size)
    assert expected.windowed == (True, False)


def test_a_family_without_a_classifier_has_no_reward_to_export(context: Context, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "granite"}))
    assert [*exported(context.config)] == [*EXPORTS]
    assert [*exported(replace(context.config, base=str(tmp_path)))] == ["policy", "improver"]


def test_bfloat16_and_the_card(context: Context, policy: Any, tmp_path: Path) -> None:
    half = replace(context, config=replace(context.config, export=ExportConfig(dtype="bfloat16")))
    write(half, tmp_path / "improver", "improver", policy)
    tensors = load_file(tmp_path / "improver" / "model.safetensors")
    assert {tensor.dtype.name for tensor in tensors.values()} == {"bfloat16"}
    assert json.loads((tmp_path / "improver" / "config.json").read_text())["dtype"] == "bfloat16"
    card = (tmp_path / "improver" / "README.md").read_text()
    assert "{prompt}<reference>{reference}<improve>" in card and context.config.base in card
    assert [path.name for path in tmp_path.iterdir()] == ["improver"], "nothing half written is left"


def test_the_card_holds_the_comparisons_of_the_run(context: Context, policy: Any, tmp_path: Path) -> None:
    """By names for people; and of results that are none it says what is wrong."""
    path = context.folder_of(StageId("evaluate")).path / "results.json"
    write_results(path, Results(["gap"], 0.8, None, [compared(judge="gap", delta=5.0)], [], []))
    write(context, tmp_path / "policy", "policy", policy)
    card = (tmp_path / "policy" / "README.md").read_text()
    assert "| 0.8 | gap | PIT x1 vs policy | +5.0 | +1.5 to +8.5 | 1024 |" in card
    path.write_text("{}")
    with pytest.raises(ValueError, match="results.json: asked for what its stage writes, .*missing required field"):
        write(context, tmp_path / "policy", "policy", policy)
    assert (tmp_path / "policy" / "README.md").read_text() == card, "what was exported before stays"
    path.unlink()


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # in peft
def test_adapters_lie_beside_the_weights_they_update(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """export/base and the four models in PEFT's format, which give the same scores in torch."""
    adapter = AdapterConfig(rank=2, alpha=4.0)
    settings = replace(context.config, adapter=adapter, export=ExportConfig(adapters="peft"), workdir=str(tmp_path))
    adapted = finish_parents(placed(settings, context.data, context.mesh))

    def restored(context: Context, folder: Any, make: Callable[..., Any], round: int | None = None) -> Any:
        rng, shapes = np.random.default_rng(len(folder.name)), jax.eval_shape(make, jax.random.key(0))
        return jax.tree.map(lambda s: jnp.asarray(rng.normal(0, 0.3, s.shape), jnp.float32), shapes)

    monkeypatch.setattr(run_params, "restored", restored)
    run(adapted)
    folder = adapted.folder.path
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["base", *sorted(EXPORTS)]
    described = json.loads((folder / "gap" / "adapter_config.json").read_text())
    assert described["r"] == 2 and Path(described["base_model_name_or_path"]) == folder / "base"

    pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    params = Models(adapted).load(EXPORTS["gap"])
    theirs = peft.AutoPeftModelForSequenceClassification.from_pretrained(folder / "gap")
    np.testing.assert_allclose(scores(adapted, params), logits_in_torch(context, theirs)[:, 0], atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "in the architecture of their base, found no --base"),
        ({"base": "somewhere", "export": ExportConfig(adapters="peft")}, "this run has no adapters"),
        (
            {"base": "somewhere", "transformer": replace(Config().transformer, pooled_head=True)},
            "pooled-head have a head that no Hugging Face class has",
        ),
    ],
)
def test_what_no_hugging_face_class_holds_is_refused(changes: dict[str, Any], message: str) -> None:
    """Where it is asked: a run that is never exported may have it."""
    with pytest.raises(ValueError, match=message):
        catalogue()[EXPORT].check(replace(Config(), **changes))
    assert not catalogue()[EXPORT].in_all(Config())


def test_a_run_with_a_base_is_exported() -> None:
    alone = replace(Config(), base="somewhere", transformer=replace(Config().transformer, pooled_head=False))
    catalogue()[EXPORT].check(alone)
    catalogue()[EXPORT].check(replace(alone, adapter=AdapterConfig(rank=2), export=ExportConfig(adapters="peft")))
