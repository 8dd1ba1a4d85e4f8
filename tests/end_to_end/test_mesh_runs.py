"""Eight simulated devices (fsdp x tensor = 4 x 2) give the metrics of one device, in a supervised training and in RL.

The losses and gradients of every training: tests/recipes/test_meshes.py.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.metric_rows import repeatable

TOLERANCES = {
    "clipfrac_avg": 2e-3,  # a share of tokens over a threshold: rounding may carry one token across
    "objective/kl": 1e-5,  # a sum over tokens, zero but for rounding before the first update
}
STAGES = {
    ("rm", "improver"): ("sft-improver", "sft-policy"),
    ("rl", "improver"): ("sft-improver", "rm-improver", "rm-word-model", "sft-policy", "rm-policy", "rl-policy"),
}


@pytest.mark.slow  # test_hosts.py: the same on two hosts, for every training
@pytest.mark.parametrize(("stage", "model"), STAGES)
def test_metrics_do_not_depend_on_the_mesh(
    stage: str, model: str, finished: tuple[Path, str], execute: Callable[..., str], tmp_path: Path
) -> None:
    one, name = finished[0], f"{stage}-{model}"
    for parent in ("data", *STAGES[stage, model]):
        shutil.copytree(one / parent, tmp_path / parent)
    execute(tmp_path, f"--stage={stage}", f"--model={model}", "--mesh.simulate=8", "--mesh.fsdp=4", "--mesh.tensor=2")
    rows = first_rows if stage == "rl" else repeatable
    ours, theirs = (rows(folder / name) for folder in (tmp_path, one))
    assert len(ours) == len(theirs) > 1
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.keys() == other.keys()
        for key in mine.keys() - {"time", "phase"}:
            tolerance = next((size for name, size in TOLERANCES.items() if key.endswith(name)), 1e-6)
            assert mine[key] == pytest.approx(other[key], rel=1e-5, abs=tolerance), (key, mine["step"])


def first_rows(folder: Path) -> list[dict[str, Any]]:
    """The first train and the first eval row: once rounding moves a sampled token, rollouts differ."""
    rows = repeatable(folder)
    return [next(row for row in rows if row["phase"] == phase) for phase in ("train", "eval")]
