"""A fork's judge on a finished evaluation, where there is no device at all."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pit_jax.files import read_jsonl

JUDGE = """
from pit_jax.fork import Judge, fork


def shorter(prompts, firsts, seconds):
    return [(len(a) < len(b)) - (len(a) > len(b)) for a, b in zip(firsts, seconds)]


fork(Judge("shorter", shorter, kind="verdict", batch=5))
"""


@pytest.fixture
def judge(
    finished: tuple[Path, str], command: Callable[..., list[str]], environment: dict[str, str], tmp_path: Path
) -> Callable[..., tuple[Path, subprocess.CompletedProcess[str]]]:
    """judge(source, *judges) -> (workdir, what ended) of --stage=judge by a fork, on a platform that JAX lacks."""

    def run(source: str, *judges: str) -> tuple[Path, subprocess.CompletedProcess[str]]:
        workdir, fork = tmp_path / "run", tmp_path / "mine.py"
        shutil.copytree(finished[0], workdir, ignore=shutil.ignore_patterns("checkpoints", "report"))
        fork.write_text(source)
        argv = command(workdir, "--stage=judge", f"--fork={fork}", "--evaluate.judges", *judges)
        nowhere = {**environment, "JAX_PLATFORMS": "nowhere", "COLUMNS": "120"}
        return workdir, subprocess.run(argv, env=nowhere, capture_output=True, text=True, timeout=120)

    return run


def rows_of(workdir: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((workdir / "evaluate" / "results.json").read_text())["rows"]
    return found


def test_answers_are_read_the_judge_is_asked_and_the_comparison_is_made_anew(
    finished: tuple[Path, str], judge: Callable[..., Any]
) -> None:
    workdir, done = judge(JUDGE, "shorter", "gap")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    rows = rows_of(workdir)
    assert {row["judge"] for row in rows} == {"shorter", "gap"} and "shorter" in done.stdout
    assert [row for row in rows if row["judge"] == "gap"] == [r for r in rows_of(finished[0]) if r["judge"] == "gap"]
    said = read_jsonl(workdir / "verdicts" / "shorter" / "pit-x1~policy@0.8.jsonl")
    assert len(said) == 16 and {row["score"] for row in said} <= {-1.0, 0.0, 1.0}
    assert "shorter" in (workdir / "report" / "index.html").read_text()


def test_an_error_in_the_judge_names_its_file_and_line(judge: Callable[..., Any]) -> None:
    workdir, done = judge(JUDGE.replace("(len(a) <", "(missing <"), "shorter")
    assert done.returncode == 2
    error = done.stderr.splitlines()[-1]
    assert error.startswith(f"error: fork {workdir.parent / 'mine.py'}, line 6, in ") and "'missing'" in error
    assert {row["judge"] for row in rows_of(workdir)} == {"rubric", "gap"}, "the results before stay"
