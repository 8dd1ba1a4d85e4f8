"""Eight simulated devices (fsdp x tensor = 4 x 2) give the losses of one device, in every stage."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

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
    ours, theirs = (first_rows(folder / name) for folder in (tmp_path, one))
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert ours[key] == pytest.approx(value, rel=1e-5, abs=1e-6), key


def first_rows(folder: Path) -> dict[tuple[str, str], float]:
    """The first train and the first eval row: later ones add up the rounding of every update."""
    found: dict[tuple[str, str], float] = {}
    for row in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()):
        for name, value in row.items():
            if name not in ("time", "phase", "step"):
                found.setdefault((row["phase"], name), value)
    return found
