"""Eight simulated devices (fsdp x tensor = 4 x 2) give the losses of one device, in every stage."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

STAGES = {
    ("sft", "policy"): (),
    ("sft", "improver"): ("sft-policy",),
    ("rm", "policy"): ("sft-policy",),
    ("rm", "improver"): ("sft-improver", "sft-policy"),
    ("rl", "policy"): ("sft-policy", "rm-policy"),
    ("rl", "improver"): ("sft-improver", "rm-improver", "sft-policy", "rm-policy", "rl-policy"),
}


@pytest.mark.parametrize(("stage", "model"), STAGES)
def test_losses_do_not_depend_on_the_mesh(
    stage: str, model: str, finished: tuple[Path, str], execute: Callable[..., str], tmp_path: Path
) -> None:
    one, name = finished[0], f"{stage}-{model}"
    for parent in ("data", *STAGES[stage, model]):
        shutil.copytree(one / parent, tmp_path / parent)
    execute(tmp_path, f"--stage={stage}", f"--model={model}", "--mesh.simulate=8", "--mesh.fsdp=4", "--mesh.tensor=2")
    compared = first_rows if stage == "rl" else losses
    ours, theirs = (compared(folder / name) for folder in (tmp_path, one))
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert ours[key] == pytest.approx(value, rel=1e-5, abs=1e-6), key


def read(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder: Path) -> dict[tuple[str, int], float]:
    """The loss of every row. (The offset of a reward or gap is free: no loss sees it, and rounding moves it.)"""
    return {(row["phase"], row["step"]): row["loss"] for row in read(folder)}


def first_rows(folder: Path) -> dict[tuple[str, str], float]:
    """Every metric of the first train and the first eval row: once rounding moves a sampled token, rollouts differ."""
    found: dict[tuple[str, str], float] = {}
    for row in read(folder):
        for name, value in row.items():
            if name not in ("time", "phase", "step"):
                found.setdefault((row["phase"], name), value)
    return found
