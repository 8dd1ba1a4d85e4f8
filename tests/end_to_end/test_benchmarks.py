"""The benchmarks that train on a finished run: they end with their table, and write nothing into the run."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.conftest import MICRO


def run(repository: Path, environment: dict[str, str], name: str, *flags: str) -> str:
    command = [sys.executable, "-m", f"benchmarks.{name}", f"--config={MICRO}", *flags]
    environment = {**environment, "COLUMNS": "200"}
    done = subprocess.run(command, env=environment, cwd=repository, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.mark.slow
def test_controls_of_the_gap_model(
    repository: Path, environment: dict[str, str], finished: tuple[Path, str], tmp_path: Path
) -> None:
    """Two updates teach nothing: what counts is that controls are trained and measured, and that one is refused."""
    before = {path: path.stat().st_mtime_ns for path in finished[0].rglob("*") if path.is_file()}
    names = ("one batch", "labels swapped", "no reference")
    flags = (f"--workdir={finished[0]}", f"--scratch={tmp_path}", "--steps=2", f"--results={tmp_path}")
    output = run(repository, environment, "gap_controls", *flags, "--controls", *names)
    rows = [line for line in output.splitlines() if line.startswith("│ ")]
    assert [row.split("│")[1].strip() for row in rows] == list(names)
    assert all((tmp_path / name.replace(" ", "-") / "rm-improver" / "done.json").exists() for name in names)
    assert "NOT" in output
    assert {path: path.stat().st_mtime_ns for path in finished[0].rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_hot_settings(
    repository: Path, environment: dict[str, str], finished: tuple[Path, str], tmp_path: Path
) -> None:
    flags = (f"--workdir={finished[0]}", f"--scratch={tmp_path}", "--seeds=1", f"--results={tmp_path}")
    output = run(repository, environment, "hot_settings", *flags)
    assert "learning rates x5, KL / 6" in output and (tmp_path / "seed-0" / "rl-improver" / "done.json").exists()
