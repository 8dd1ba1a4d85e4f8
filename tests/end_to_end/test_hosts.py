"""Two processes with two devices each, as two hosts of a run: what they leave is what one process leaves."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from benchmarks.command import free_port
from tests.end_to_end.test_mesh_runs import TOLERANCES
from tests.metric_rows import repeatable

TRAINED = ("sft-policy", "sft-improver", "rm-policy", "rm-improver", "rl-policy", "rl-improver")
Start = Callable[..., list[subprocess.Popen[str]]]


@pytest.fixture
def start(command: Callable[..., list[str]], environment: dict[str, str]) -> Iterator[Start]:
    """start(workdir, *flags) -> two processes of one run, which a failed test leaves to nobody."""
    started: list[subprocess.Popen[str]] = []

    def run(workdir: Path, *flags: str) -> list[subprocess.Popen[str]]:
        coordinator = f"127.0.0.1:{free_port()}"
        shared = [
            "--mesh.fsdp=2",
            "--mesh.tensor=2",
            f"--hosts.coordinator={coordinator}",
            "--hosts.count=2",
            "--hosts.heartbeat=20",
        ]
        compiler = f"{environment['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
        devices = {"XLA_FLAGS": f"{compiler} --xla_backend_optimization_level=0"}  # nothing here runs often
        running = [
            subprocess.Popen(
                command(workdir, *flags, *shared, f"--hosts.index={index}"),
                env={**environment, **devices},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for index in range(2)
        ]
        started.extend(running)
        return running

    yield run
    for process in started:
        process.kill()


def ended(running: list[subprocess.Popen[str]]) -> tuple[list[int], str, str]:
    """(exit codes, what main printed, what the other one printed)."""
    said = [process.communicate(timeout=600) for process in running]
    return [process.returncode for process in running], said[0][0] + said[0][1], said[1][0]


def test_rl_on_two_hosts_leaves_what_it_leaves_on_one(finished: tuple[Path, str], start: Start, tmp_path: Path) -> None:
    """Rollouts, updates and held-out figures of the policy, from the models of a run on one."""
    one = finished[0]
    shutil.copytree(one, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("rl-*", "improve", "evaluate"))
    codes, main, other = ended(start(tmp_path, "--stage=rl", "--model=policy"))
    assert codes == [0, 0], main
    assert "rl-policy" in main and "rl-policy" not in other, "main alone prints"
    assert_same_training(tmp_path / "rl-policy", one / "rl-policy")


@pytest.mark.slow
def test_two_hosts_leave_what_one_leaves(finished: tuple[Path, str], start: Start, tmp_path: Path) -> None:
    """Data, losses, parameters and the table: to 1e-5, over fsdp x tensor = 2 x 2.

    Digests are of bits: those of the stages on two hosts are not those of one, whose sums have another order.
    """
    one = finished[0]
    codes, main, other = ended(start(tmp_path, "--stage=all"))
    assert codes == [0, 0], main
    assert "PIT x1 vs policy" in main and "policy" not in other, "main alone prints"
    assert (tmp_path / "report" / "index.html").exists()
    assert numbers(tmp_path / "evaluate" / "results.json") == pytest.approx(
        numbers(one / "evaluate" / "results.json"), rel=1e-5
    )
    for name in TRAINED:
        assert_same_training(tmp_path / name, one / name)


def assert_same_training(found: Path, expected: Path) -> None:
    """Metrics and parameters of a stage's folder, to 1e-5."""
    for mine, theirs in zip(repeatable(found), repeatable(expected), strict=True):
        for key in mine.keys() - {"time", "phase"}:
            tolerance = next((size for end, size in TOLERANCES.items() if key.endswith(end)), 1e-6)
            assert mine[key] == pytest.approx(theirs[key], rel=1e-5, abs=tolerance), (found.name, key, mine["step"])
    for ours, given in zip(parameters(found), parameters(expected), strict=True):
        np.testing.assert_allclose(ours, given, rtol=1e-5, atol=1e-5)


def numbers(path: Path) -> dict[str, float]:
    """Every number of a JSON file by its place."""

    def walk(content: Any, place: str) -> dict[str, float]:
        entries = content.items() if isinstance(content, dict) else enumerate(content)
        found: dict[str, float] = {}
        for name, value in entries:
            if isinstance(value, dict | list):
                found |= walk(value, f"{place}/{name}")
            elif isinstance(value, int | float):
                found[f"{place}/{name}"] = value
        return found

    return walk(json.loads(path.read_text()), "")


def parameters(folder: Path) -> list[np.ndarray]:
    """The leaves of the selected checkpoint."""
    round = json.loads((folder / "done.json").read_text())["round"]
    path = (folder / "checkpoints" / str(round) / "state").absolute()
    with ocp.PyTreeCheckpointer() as reader:
        kinds = jax.tree.map(
            lambda _: ocp.RestoreArgs(restore_type=np.ndarray), reader.metadata(path).item_metadata.tree
        )
        tree = reader.restore(path, restore_args=kinds)
    leaves: list[np.ndarray] = []

    def walk(node: Any) -> None:
        for value in node.values() if isinstance(node, dict) else [node]:
            walk(value) if isinstance(value, dict) else leaves.append(np.asarray(value))

    walk(tree["params"])
    return leaves


def test_what_one_host_cannot_do_ends_both(finished: tuple[Path, str], start: Start, tmp_path: Path) -> None:
    """Main says what the other found: here the data, which it cannot read once main has."""
    shutil.copytree(finished[0] / "data", tmp_path / "data")
    (tmp_path / "data" / "done.json").write_text("{")
    codes, main, _ = ended(start(tmp_path, "--stage=sft", "--model=policy"))
    assert codes == [2, 2], main
    assert "done.json: asked for the file that was written" in main
