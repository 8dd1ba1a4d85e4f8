"""`--stage=all`: every stage leaves what the next one and a person need, and a second run finds it all finished."""

import json
import math
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pit_jax.files import read_jsonl

STAGES = ("sft-policy", "sft-improver", "rm-policy", "rm-improver", "rl-policy", "rl-improver")


BLOCK = """
import importlib.util
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        blocked = name.partition(".")[0] in ("tensorflow", "seqio", "datasets")
        return importlib.util.spec_from_loader(name, self) if blocked else None

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        raise ModuleNotFoundError(f"{module.__name__} is not installed here", name=module.__name__)

sys.meta_path.insert(0, Blocked())
"""


def rows(workdir: Path, stage: str, phase: str) -> list[dict[str, float]]:
    lines = (workdir / stage / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["phase"] == phase]


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_is_finished_with_config_lineage_and_metrics(finished: tuple[Path, str], stage: str) -> None:
    workdir, _ = finished
    lineage = json.loads((workdir / stage / "lineage.json").read_text())
    assert set(lineage) - {"notes"} == {"config", "data", "ancestors", "package"}
    assert bool(lineage["ancestors"]) == (stage != "sft-policy")
    for ancestor, digest in lineage["ancestors"].items():
        assert digest == json.loads((workdir / ancestor / "done.json").read_text())["digest"]
    assert json.loads((workdir / stage / "config.json").read_text())["seed"] == 0
    assert all(
        math.isfinite(value) for row in rows(workdir, stage, "train") for value in row.values() if value != row["phase"]
    )
    assert rows(workdir, stage, "train") and rows(workdir, stage, "eval")


@pytest.mark.parametrize("stage", STAGES)
def test_every_training_tells_what_it_made_of_its_machine(finished: tuple[Path, str], stage: str) -> None:
    """Seconds by phase that add up, real tokens, operations and memory; no MFU, since nobody knows a CPU's peak."""
    workdir, _ = finished
    found = rows(workdir, stage, "performance")
    assert len(found) > 1 and max(row["step"] for row in found) == rows(workdir, stage, "train")[-1]["step"]
    trained = [row for row in found if "perf/total_num_tokens" in row]
    assert trained and all(row["perf/tokens_per_second"] > 0 and row["perf/flops"] > 0 for row in trained)
    told = {name for row in found for name in row}
    phases = {"rollout", "score"} if stage.startswith("rl") else {"data"}
    assert {f"perf/seconds_{phase}" for phase in phases | {"update", "evaluate", "save", "compile"}} <= told
    for row in found:
        assert row["perf/seconds"] == pytest.approx(sum(row[name] for name in row if "seconds_" in name))
        assert row["perf/host_peak_bytes"] > 0 and "perf/mfu" not in row
    assert sum(row["perf/seconds"] for row in found) <= found[-1]["time"] + 0.01
    page = (workdir / "report" / "index.html").read_text()
    assert "<h2>Performance</h2>" in page and f'<td class="text">{stage}</td>' in page


def test_rl_shows_proxy_and_truth_and_the_curriculum_switch(finished: tuple[Path, str]) -> None:
    workdir, _ = finished
    evaluated = rows(workdir, "rl-improver", "eval")
    assert [row["step"] for row in evaluated] == [0, 2, 4]
    assert all({"objective/scores", "truth/score", "objective/kl"} <= row.keys() for row in evaluated)
    assert [row["curriculum/phase"] for row in rows(workdir, "rl-improver", "train")] == [0, 0, 1, 1]
    assert abs(evaluated[0]["objective/kl"]) < 1e-4  # before any update the improver is its own anchor
    coefficients = [row["kl_coef"] for row in rows(workdir, "rl-improver", "train")]
    assert len(set(coefficients)) > 1  # the adaptive controller moves


def test_the_word_model_is_fitted_and_rewards_both_models(finished: tuple[Path, str]) -> None:
    """What it is worth is told, and it stands in the lineage of all that its scores have touched."""
    workdir, output = finished
    done = json.loads((workdir / "rm-word-model" / "done.json").read_text())
    assert 0.5 < done["right"] <= 1 and f"right on {done['right']:.1%} of {done['heldout']} held-out ones" in output
    assert "Beside both counts a word model" in (workdir / "report" / "index.html").read_text()
    for stage in ("rl-policy", "rl-improver", "improve", "evaluate"):
        lineage = json.loads((workdir / stage / "lineage.json").read_text())
        assert lineage["ancestors"]["rm-word-model"] == done["digest"]
    for stage in ("rl-policy", "rl-improver"):
        assert all(row["reward/word-model"] != 0 for row in rows(workdir, stage, "eval"))


def test_the_gap_model_is_measured_and_its_failed_gates_are_noted(finished: tuple[Path, str]) -> None:
    workdir, output = finished
    quality = json.loads((workdir / "rm-improver" / "quality.json").read_text())
    assert quality["quality"]["pairs"] == len(json.loads((workdir / "rm-improver" / "gaps.json").read_text())["wl"])
    assert quality["quality"]["by_truth"]
    failed = [gate["name"] for gate in quality["gates"] if not gate["passed"]]
    assert failed, "eight updates make no gap model"
    note = json.loads((workdir / "rl-improver" / "lineage.json").read_text())["notes"]["gates"]
    assert note.startswith("ignored: ") and all(name in note for name in failed)
    assert "gates of the gap model" in output and note.removeprefix("ignored: ") in output
    outputs = json.loads((workdir / "evaluate" / "gap_outputs.json").read_text())["sets"]
    sizes = {name: figures["pairs"] for name, figures in outputs.items()}
    assert len(sizes) == 5 and sizes["PIT rewriting rejected+chosen"] == 32 and sizes["PIT rewriting policy-rl"] == 16
    assert 0 < outputs["PIT rewriting rejected+chosen"]["quality"]["pairs"] <= 32


def test_the_trails_and_the_table_are_written(finished: tuple[Path, str]) -> None:
    workdir, output = finished
    trails = [json.loads(line) for line in (workdir / "improve" / "trails.jsonl").read_text().splitlines()]
    assert len(trails) == 16
    assert all(len(t["answers"]) == 3 and len(t["gaps"]) == 2 and len(t["scores"]) == 3 for t in trails)
    assert all(len(t["tokens"]) == 3 and t["chosen"] == 2 for t in trails)
    results = json.loads((workdir / "evaluate" / "results.json").read_text())
    for row in results["rows"]:
        assert row["n"] == 16 and row["low"] <= row["delta"] <= row["high"]
        assert row["win"] + row["lose"] + row["tie"] == pytest.approx(100.0)
        assert 0.0 <= row["lc_low"] <= row["lc_high"] <= 100.0 and 0.0 <= row["lc_win_rate"] <= 100.0
    assert {row["judge"] for row in results["rows"]} == {"rubric", "gap"}
    copies = [control["row"] for control in results["controls"] if control["row"]["left"]["source"] == "copy"]
    assert len(results["controls"]) == 10 and [row["tie"] for row in copies] == [100.0, 100.0]
    improved = [row for row in results["systems"] if row["name"].startswith("PIT")]
    assert len(improved) == 2 and all(0.0 <= row["edit_distance"] <= 1 - row["copy_rate"] for row in improved)
    page = (workdir / "report" / "index.html").read_text()
    assert page.count("<svg") >= 4 and "PIT x2" in page
    assert "PIT x1" in output and "index.html" in output


def test_what_improving_drew_is_what_was_evaluated(finished: tuple[Path, str]) -> None:
    """Token for token: the trails' answers are the rows that the comparison read, with their mean scores."""
    workdir, _ = finished
    trails = [json.loads(line) for line in (workdir / "improve" / "trails.jsonl").read_text().splitlines()]
    files = ("policy@0.8", "pit@0.8", "sft-improver@0.8", "policy-sft@0.8")
    assert sorted(path.stem for path in (workdir / "answers").iterdir()) == sorted(files)
    policy, pit = (read_jsonl(workdir / "answers" / f"{n}.jsonl") for n in files[:2])
    drafts = [[*first["drafts"], *later["drafts"]] for first, later in zip(policy, pit, strict=True)]
    assert [trail["answers"] for trail in trails] == [[draft["text"] for draft in row] for row in drafts]
    systems = {row["name"]: row for row in json.loads((workdir / "evaluate" / "results.json").read_text())["systems"]}
    for round, name in enumerate(("policy", "PIT x1", "PIT x2")):
        assert systems[name]["score_mean"] == pytest.approx(sum(trail["scores"][round] for trail in trails) / 16)


def test_a_second_run_skips_everything(finished: tuple[Path, str], execute: Callable[..., str]) -> None:
    workdir, _ = finished
    before = {path: path.stat().st_mtime_ns for path in workdir.glob("*-*/checkpoints/*/_CHECKPOINT_METADATA")}
    output = execute(workdir, "--stage=all")
    assert output.count("finished before, skipped") == 9
    assert before and {path: path.stat().st_mtime_ns for path in before} == before


def test_training_goes_on_without_tensorflow(
    finished: tuple[Path, str], command: Callable[..., list[str]], environment: dict[str, str], tmp_path: Path
) -> None:
    """Once the data are prepared, a stage runs on a machine where TensorFlow and seqio cannot be imported."""
    workdir, _ = finished
    fresh = tmp_path / "run"
    shutil.copytree(workdir / "data", fresh / "data")
    hook = tmp_path / "hook" / "sitecustomize.py"
    hook.parent.mkdir()
    hook.write_text(BLOCK)
    done = subprocess.run(
        command(fresh, "--stage=sft", "--model=policy"),
        env={**environment, "PYTHONPATH": str(hook.parent)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    before = json.loads((workdir / "sft-policy" / "done.json").read_text())
    assert json.loads((fresh / "sft-policy" / "done.json").read_text()) == before
