"""A run killed with SIGKILL and started again ends with the parameters, to the bit, of a run that was left alone."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pit_jax.files import read_jsonl

KINDS = {
    ("sft", "policy"): ("data",),
    ("rm", "improver"): ("data", "sft-improver", "sft-policy"),
    ("rl", "improver"): ("data", "sft-improver", "rm-improver", "sft-policy", "rm-policy", "rl-policy"),
}


def saved_rounds(folder: Path) -> list[int]:
    return sorted(int(p.name) for p in (folder / "checkpoints").glob("*") if p.name.isdigit())


def losses(folder: Path) -> list[tuple[int, str, float | None]]:
    found = [row for row in read_jsonl(folder / "metrics.jsonl") if row["phase"] != "performance"]
    return [(row["step"], row["phase"], row.get("loss", row.get("objective/scores"))) for row in found]


@pytest.mark.parametrize(
    ("stage", "model"), [*(id for id in KINDS if id[0] != "rm"), pytest.param("rm", "improver", marks=pytest.mark.slow)]
)
def test_a_killed_run_resumes_bit_identically(
    stage: str,
    model: str,
    finished: tuple[Path, str],
    command: Callable[..., list[str]],
    execute: Callable[..., str],
    environment: dict[str, str],
    tmp_path: Path,
) -> None:
    whole, name = finished[0], f"{stage}-{model}"
    for parent in KINDS[stage, model]:
        shutil.copytree(whole / parent, tmp_path / parent)
    process = subprocess.Popen(
        command(tmp_path, f"--stage={stage}", f"--model={model}"),
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    while not saved_rounds(tmp_path / name) or saved_rounds(tmp_path / name) == [0]:
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "no checkpoint within five minutes"
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / name / "done.json").exists(), "killed too late to prove anything"

    execute(tmp_path, f"--stage={stage}", f"--model={model}")
    assert json.loads((tmp_path / name / "done.json").read_text()) == json.loads(
        (whole / name / "done.json").read_text()
    )
    last = saved_rounds(whole / name)[-1]
    assert saved_rounds(tmp_path / name)[-1] == last
    assert leaf_sums(tmp_path / name, last) == leaf_sums(whole / name, last)
    assert losses(tmp_path / name) == losses(whole / name)


def leaf_sums(folder: Path, round: int) -> dict[str, int]:
    """Checksums of every leaf of a checkpoint: parameters, both optimizers, counters, KL coefficient, curriculum."""
    (meta,) = (folder / "checkpoints" / str(round) / "meta").glob("metadata")
    return {name: leaf["sum"] for name, leaf in json.loads(meta.read_text())["leaves"].items()}
