"""The paper's tables on a finished run, from ablations that branch off it; and a branch of one's own."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pit_jax.evaluation.results import PaperResults, read_results

TRAINED = (
    "data",
    "sft-policy",
    "sft-improver",
    "rm-policy",
    "rm-improver",
    "rm-word-model",
    "rl-policy",
    "rl-improver",
)


@pytest.fixture(scope="module")
def paper(
    finished: tuple[Path, str], execute: Callable[..., str], once: Callable[..., tuple[Path, str]]
) -> tuple[Path, str]:
    """(workdir, output) of --stage=paper on a copy of the finished run."""

    def make(workdir: Path) -> str:
        for stage in TRAINED:
            shutil.copytree(finished[0] / stage, workdir / stage)
        return execute(workdir, "--stage=paper")

    return once("paper", make)


def test_the_ablations_are_trained_as_branches(paper: tuple[Path, str]) -> None:
    workdir, _ = paper
    for name, stage, rounds in (("first-only", "rl-improver", 4), ("direct-rlhf", "rl-policy", 6)):
        folder = workdir / "paper" / name
        assert [path.name for path in folder.iterdir()] == [stage], "everything else is the parent run's"
        rows = [json.loads(line) for line in (folder / stage / "metrics.jsonl").read_text().splitlines()]
        assert max(row["step"] for row in rows) == rounds
        ours, theirs = (json.loads((path / "lineage.json").read_text()) for path in (folder / stage, workdir / stage))
        assert (
            ours["config"] != theirs["config"] and ours["ancestors"]["sft-policy"] == theirs["ancestors"]["sft-policy"]
        )
    lineage = json.loads((workdir / "paper" / "score-difference" / "rl-improver" / "lineage.json").read_text())
    assert "rm-policy" in lineage["ancestors"] and "rm-improver" not in lineage["ancestors"], "no gap model is asked"
    assert (workdir / "dpo-policy" / "done.json").exists()


def test_every_table_is_written_and_shown(paper: tuple[Path, str]) -> None:
    workdir, output = paper
    results = read_results(workdir / "paper" / "results.json", PaperResults)
    assert results is not None
    names = [row.name for row in results.systems]
    expected = "policy, PIT x1, PIT x2, chosen, SFT improver x1, first-only x1, direct-rlhf, score-difference x1, DPO"
    assert names[:9] == expected.split(", ") and names[9].startswith("best of ")
    assert names[10:] == ["Self-Refine x4", "one-line"]
    assert [str(row.left) for row in results.table if row.judge == "gap"] == names[1:]
    assert {row.temperature for row in results.sweep} == {0.5, 1.0}
    assert all(row.n == 16 for rows in (results.table, results.sweep, results.curriculum) for row in rows)
    assert [row.name for row in results.gap_losses] == ["five terms", "difference of two scores"]
    assert {"first-only: rl-improver", "direct-rlhf: rl-policy"} <= {row.name for row in results.costs.training}
    page = (workdir / "report" / "index.html").read_text()
    assert "direct-rlhf" in output and "direct-rlhf" in page


def test_a_second_run_skips_everything(paper: tuple[Path, str], execute: Callable[..., str]) -> None:
    output = execute(paper[0], "--stage=paper")
    assert "paper: finished before, skipped" in output and "rl-improver eval" not in output


@pytest.mark.slow  # tests/run/test_branches.py, and the pages of docs/howto branch off a run
def test_a_branch_runs_what_its_knobs_change(
    finished: tuple[Path, str], execute: Callable[..., str], tmp_path: Path
) -> None:
    """Another length of the policy's SFT would change all; other RL of the improver changes that alone."""
    before = {path: path.stat().st_mtime_ns for path in finished[0].rglob("*") if path.is_file()}
    output = execute(tmp_path, "--stage=all", f"--parent-run={finished[0]}", "--rl.curriculum.rounds", "1", "1")
    assert {path.name for path in tmp_path.iterdir()} == {
        *("rl-improver", "improve", "evaluate", "report", "answers", "verdicts", "run.json")
    }
    assert "rl-improver eval 2" in output and "rm-improver: finished before in" in output
    page = (tmp_path / "report" / "index.html").read_text()
    assert "Not there yet" not in page and "rm-improver/config.json" in page, (
        "what the parent run trained is shown as well"
    )
    after = {path: path.stat().st_mtime_ns for path in finished[0].rglob("*") if path.is_file()}
    assert after == before, "the parent run is only read"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--stage=rl", "--parent-run={empty}"], "asked for the workdir of a run, found no prepared data in it"),
        (["--stage=rl", "--parent-run={finished}", "--workdir={finished}"], "is the workdir itself"),
        (["--stage=paper", "--parent-run={finished}"], "--stage=paper makes branches of a run: leave --parent-run out"),
        (["--stage=paper", "--paper.ablations", "first"], "--paper.ablations: found first; name each of first-only"),
        (["--stage=paper", "--paper.wording={empty}"], "feedback.txt: no such file; the wording needs feedback.txt"),
        (["--stage=paper"], "stage paper needs finished"),
    ],
)
def test_what_cannot_branch_is_refused(
    finished: tuple[Path, str], refused: Callable[..., str], tmp_path: Path, flags: list[str], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"empty": tmp_path / "empty", "finished": finished[0]}
    assert message in refused(*(flag.format(**places) for flag in flags), workdir=tmp_path / "branch")
