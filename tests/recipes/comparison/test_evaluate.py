"""The evaluation and its two halves: what each draws, asks and writes, and what is missing where it cannot."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from pit_jax.config import Config, EvaluateConfig, ImproveConfig
from pit_jax.evaluation.judges.judge import Judge
from pit_jax.evaluation.results import Results, read_results
from pit_jax.evaluation.systems import POLICY, POLICY_SFT, SFT_IMPROVER, pit
from pit_jax.evaluation.texts import kept_and_new
from pit_jax.files import read_jsonl
from pit_jax.parallel import mesh as mesh_module
from pit_jax.recipes import pipeline
from pit_jax.recipes.catalogue import catalogue
from pit_jax.recipes.comparison import evaluate
from pit_jax.recipes.comparison.evaluate import headline_temperature, pairs_of
from pit_jax.run.context import Context
from pit_jax.run.folders import Run
from pit_jax.run.params import Models
from pit_jax.run.provenance import StageId
from tests.recipes.comparison.conftest import CONFIG, EVALUATE
from tests.world import MakeContext, finish

ANSWER, JUDGE = StageId("answer"), StageId("judge")
MINE = Judge("mine", lambda prompts, answers: [float(len(answer)) for answer in answers])
FILES = ("pit", "policy", "policy-sft", "sft-improver")


def judged_by(*names: str) -> Config:
    return replace(CONFIG, evaluate=replace(CONFIG.evaluate, judges=names))


def results_of(context: Context) -> Results:
    found = read_results(context.folder_of(EVALUATE).path / "results.json", Results)
    assert found is not None
    return found


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


@pytest.fixture
def evaluated(ready: MakeContext, mesh: Any, without_outputs: None) -> Context:
    """The context of a finished evaluation by the gap model and by the number of words."""
    context = ready(truth=True)
    evaluate.run(context)
    return context


def without_devices(context: Context, *judges: str) -> Context:
    """The context of --stage=judge on the same run."""
    config = replace(context.config, evaluate=replace(context.config.evaluate, judges=judges))
    return replace(context, config=config, run=Run(config, catalogue()), stage=catalogue()[JUDGE], devices=None)


@pytest.fixture
def nothing_but_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever loads a model, makes a mesh or a key, or puts an array on a device fails."""

    def fail(*args: Any, **kwargs: Any) -> None:
        pytest.fail("asked for a device")

    monkeypatch.setattr(Models, "load", fail)
    monkeypatch.setattr(Context, "key", fail)
    monkeypatch.setattr(Context, "mesh", property(fail))
    monkeypatch.setattr(mesh_module, "make_mesh", fail)
    monkeypatch.setattr(pipeline, "make_mesh", fail)
    for name in ("device_put", "jit", "devices"):
        monkeypatch.setattr(jax, name, fail)


def test_an_evaluation_is_answers_verdicts_and_typed_results(evaluated: Context) -> None:
    workdir, found = evaluated.run.workdir, results_of(evaluated)
    assert {path.name for path in (workdir / "answers").iterdir()} == {f"{name}@0.8.jsonl" for name in FILES}
    assert sorted(path.name for path in (workdir / "verdicts").iterdir()) == ["gap", "rubric"]
    assert (found.judges, found.headline_temperature) == (["rubric", "gap"], 0.8)
    assert [(row.judge, row.left, row.right) for row in found.rows] == [
        (judge, *pair) for judge in ("rubric", "gap") for pair in pairs_of(2, ())
    ]
    assert {row.n for row in found.rows} == {6}
    assert [row.system for row in found.systems] == [POLICY, pit(1), pit(2), SFT_IMPROVER, POLICY_SFT]
    assert all(row.score_mean is not None for row in found.systems)
    copies = [control for control in found.controls if control.row.left.source == "copy"]
    assert len(found.controls) == 10 and [control.holds for control in copies] == [True, True]
    assert [row.system for row in found.rewrites] == [pit(1), pit(2), SFT_IMPROVER]
    assert all(row.temperature == 0.8 and row.flaws and row.gap for row in found.rewrites)
    done = evaluated.folder.done()
    assert done is not None and done["round"] == 2


def test_rewrites_are_measured_against_the_policys_answers(evaluated: Context) -> None:
    """Those of the second round too; what the policy wrote is no rewrite."""
    found = {row.system: row for row in results_of(evaluated).rewrites}
    first, second = found[pit(1)], found[pit(2)]
    assert first.flaws and second.flaws and first.flaws.of == second.flaws.of
    workdir = evaluated.run.workdir
    rewrites = [row["drafts"][1]["text"] for row in read_jsonl(workdir / "answers" / "pit@0.8.jsonl")]
    answers = [row["drafts"][0]["text"] for row in read_jsonl(workdir / "answers" / "policy@0.8.jsonl")]
    kept_N, new_N = kept_and_new(rewrites, answers)
    assert (second.kept.mean, second.new.mean) == pytest.approx((kept_N.mean(), new_N.mean()))
    verdicts = read_jsonl(workdir / "verdicts" / "gap" / "pit-x2~policy@0.8.jsonl")
    assert second.gap and second.gap.taken == np.mean([verdict["score"] > 0 for verdict in verdicts])


def test_words_alone_are_counted_without_a_truth_and_no_gap_without_its_judge(
    ready: MakeContext, mesh: Any, without_outputs: None, evaluated: Context
) -> None:
    evaluate.judge(without_devices(evaluated, "rubric"))
    assert all(row.flaws and row.gap is None for row in results_of(evaluated).rewrites)
    unknown = ready()
    evaluate.run(unknown)
    assert [(row.flaws, row.gap) for row in results_of(unknown).rewrites] == [(None, None)] * 3


def test_answering_first_is_the_same(
    ready: MakeContext, mesh: Any, without_outputs: None, evaluated: Context, tmp_path: Path
) -> None:
    """--stage=answer, then --stage=evaluate: the same files, and nothing drawn twice."""
    whole = {path.name: path.read_bytes() for path in (tmp_path / "answers").iterdir()}
    results = (tmp_path / "evaluate" / "results.json").read_bytes()
    shutil.rmtree(tmp_path / "answers")
    shutil.rmtree(tmp_path / "evaluate")
    evaluate.answer(ready(CONFIG, ANSWER, truth=True))
    assert {path.name: path.read_bytes() for path in (tmp_path / "answers").iterdir()} == whole
    assert not (tmp_path / "evaluate").exists()
    before = snapshot(tmp_path / "answers") | snapshot(tmp_path / "verdicts")
    evaluate.run(ready(truth=True))
    assert snapshot(tmp_path / "answers") | snapshot(tmp_path / "verdicts") == before
    assert (tmp_path / "evaluate" / "results.json").read_bytes() == results


def test_another_judge_needs_no_device_and_no_model(
    evaluated: Context, declare: Callable[[Judge], Judge], nothing_but_files: None, tmp_path: Path
) -> None:
    """What was drawn and said stays; results.json is that of the judges who were asked now."""
    declare(MINE)
    before = snapshot(tmp_path / "answers") | snapshot(tmp_path / "verdicts")
    evaluate.judge(without_devices(evaluated, "mine", "gap"))
    after = snapshot(tmp_path / "answers") | snapshot(tmp_path / "verdicts")
    assert {path: after[path] for path in before} == before
    assert {Path(path).parent.name for path in after.keys() - before.keys()} == {"mine"}
    assert results_of(evaluated).judges == ["mine", "gap"]


def test_the_gap_models_rows_are_the_same_by_either_way(evaluated: Context, nothing_but_files: None) -> None:
    before = results_of(evaluated)
    evaluate.judge(without_devices(evaluated, "gap"))
    after = results_of(evaluated)
    assert after.rows == [row for row in before.rows if row.judge == "gap"]
    assert after.controls == [control for control in before.controls if control.row.judge == "gap"]
    assert after.systems == before.systems and after.rewrites == before.rewrites


@pytest.mark.parametrize("name", FILES)
def test_missing_answers_name_the_stage_that_draws_them(
    evaluated: Context, nothing_but_files: None, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "answers" / f"{name}@0.8.jsonl"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=rf"{name}@0.8.jsonl lacks answers; draw them first, with --stage=answer"):
        evaluate.judge(without_devices(evaluated))


def test_missing_verdicts_of_the_gap_model_name_the_stage_that_asks_it(
    evaluated: Context, nothing_but_files: None, tmp_path: Path
) -> None:
    shutil.rmtree(tmp_path / "verdicts" / "gap")
    with pytest.raises(ValueError, match=r"gap/.*jsonl lacks verdicts, .*: let --stage=evaluate ask it, where there"):
        evaluate.judge(without_devices(evaluated))


def test_the_judge_stage_is_known_to_need_no_device() -> None:
    stages = catalogue()
    assert not stages[JUDGE].needs_devices and stages[JUDGE].always_runs
    assert stages[ANSWER].needs_devices and stages[ANSWER].always_runs and stages[EVALUATE].derived
    assert not stages[ANSWER].in_all(Config()) and not stages[JUDGE].in_all(Config())


def test_a_finished_evaluation_is_made_again_when_its_judges_or_models_change(
    evaluated: Context,
) -> None:
    """It is derived from what lies on disk: nothing is refused, and nothing stale is shown as finished."""
    stage = catalogue()[EVALUATE]
    assert not pipeline.is_stale(evaluated, stage)
    other = replace(evaluated.config, evaluate=replace(evaluated.config.evaluate, judges=("gap",)))
    assert pipeline.is_stale(replace(evaluated, config=other), stage)
    finish(evaluated.folder_of(StageId("rl", "improver")), "another digest")
    assert pipeline.is_stale(evaluated, stage)


def test_the_gap_model_on_outputs_is_measured_once(
    ready: MakeContext, mesh: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of the same models and prompts; another gap model is measured anew."""
    calls: list[int] = []

    def measure(context: Context, texts: Any) -> dict[str, Any]:
        calls.append(1)
        return {"set": len(calls)}

    monkeypatch.setattr(evaluate, "measure_outputs", measure)
    evaluate.run(ready())
    evaluate.run(ready())
    path = tmp_path / "evaluate" / "gap_outputs.json"
    assert json.loads(path.read_text())["sets"] == {"set": 1} and len(calls) == 1
    fewer = replace(CONFIG, rl=replace(CONFIG.rl, heldout_prompts=8))
    evaluate.run(ready(fewer))
    assert json.loads(path.read_text())["sets"] == {"set": 2}


@pytest.mark.parametrize(
    ("temperatures", "headline"), [((0.4, 0.8, 1.0), 0.8), ((0.4, 1.0), 0.4), ((), 0.8), ((0.8,), 0.8)]
)
def test_the_headline_is_a_temperature_that_is_evaluated(temperatures: Sequence[float], headline: float) -> None:
    config = Config(evaluate=EvaluateConfig(temperatures=tuple(temperatures)), improve=ImproveConfig(temperature=0.8))
    assert headline_temperature(config) == headline


def test_the_last_improvement_meets_the_first() -> None:
    assert (pit(3), pit(1)) in pairs_of(3, ())
    assert all(left != right for left, right in pairs_of(1, ()))
    assert len(set(pairs_of(3, ()))) == len(pairs_of(3, ()))


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"judges": ("gap", "gapp")}, "no judge 'gapp'; did you mean gap"),
    ],
)
@pytest.mark.parametrize("id", [EVALUATE, ANSWER, JUDGE], ids=str)
def test_knobs_that_compare_nothing_are_refused(id: StageId, knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        catalogue()[id].check(Config(evaluate=EvaluateConfig(**knobs)))


def test_the_code_of_a_forks_judge_is_part_of_the_hash(declare: Callable[[Judge], Judge]) -> None:
    declare(MINE)
    stage = catalogue()[EVALUATE]
    assert stage.depends_on(judged_by("mine"))["code of judge mine"] == "0123456789ab"
    assert "code of judge mine" not in stage.depends_on(judged_by("gap"))
