"""A run killed with SIGKILL and started again ends with the parameters, to the bit, of a run that was left alone.

And what is resumed holds no more arrays than what has begun.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.metric_rows import repeatable

KINDS = {
    ("sft", "policy"): ("data",),
    ("rm", "improver"): ("data", "sft-improver", "sft-policy"),
    ("rl", "improver"): (
        "data",
        "sft-improver",
        "rm-improver",
        "rm-word-model",
        "sft-policy",
        "rm-policy",
        "rl-policy",
    ),
}

COUNTED = """
import gc, sys
import jax
from pit_jax import cli
from pit_jax.training.session import Session

def counted(session, rounds=Session.rounds):
    gc.collect()
    print("live bytes:", sum(array.nbytes for array in jax.live_arrays()), flush=True)
    return rounds(session)

Session.rounds = counted
sys.exit(cli.main(sys.argv[1:]))
"""  # the command, which says what the devices hold when the loop begins


def saved_rounds(folder: Path) -> list[int]:
    return sorted(int(p.name) for p in (folder / "checkpoints").glob("*") if p.name.isdigit())


def losses(folder: Path) -> list[tuple[int, str, float | None]]:
    return [(row["step"], row["phase"], row.get("loss", row.get("objective/scores"))) for row in repeatable(folder)]


# The loop of SFT and reward models is one: the fork checks of docs/howto kill it too.
@pytest.mark.parametrize(
    ("stage", "model"), [pytest.param(*id, marks=pytest.mark.slow if id[0] != "rl" else ()) for id in KINDS]
)
def test_a_killed_run_resumes_bit_identically(
    stage: str,
    model: str,
    finished: tuple[Path, str],
    command: Callable[..., list[str]],
    environment: dict[str, str],
    tmp_path: Path,
) -> None:
    whole, name = finished[0], f"{stage}-{model}"
    flags = command(tmp_path, f"--stage={stage}", f"--model={model}")[2:]
    for parent in KINDS[stage, model]:
        shutil.copytree(whole / parent, tmp_path / parent)

    def begun() -> subprocess.Popen[str]:
        argv = [sys.executable, "-c", COUNTED, *flags]
        return subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    process = begun()
    deadline = time.monotonic() + 300
    while not saved_rounds(tmp_path / name) or saved_rounds(tmp_path / name) == [0]:
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "no checkpoint within five minutes"
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    fresh = live_bytes(process)
    assert not (tmp_path / name / "done.json").exists(), "killed too late to prove anything"

    process = begun()
    assert live_bytes(process) == fresh
    assert process.returncode == 0
    assert json.loads((tmp_path / name / "done.json").read_text()) == json.loads(
        (whole / name / "done.json").read_text()
    )
    last = saved_rounds(whole / name)[-1]
    assert saved_rounds(tmp_path / name)[-1] == last
    assert leaf_digests(tmp_path / name, last) == leaf_digests(whole / name, last)
    assert losses(tmp_path / name) == losses(whole / name)


def leaf_digests(folder: Path, round: int) -> dict[str, str]:
    """Digests of every leaf of a checkpoint: parameters, both optimizers, counters, KL coefficient, curriculum."""
    (meta,) = (folder / "checkpoints" / str(round) / "meta").glob("metadata")
    return {name: leaf["digest"] for name, leaf in json.loads(meta.read_text())["leaves"].items()}


def live_bytes(process: subprocess.Popen[str]) -> int:
    """What a counted command printed, once it has ended."""
    output, _ = process.communicate(timeout=600)
    found = re.search(r"live bytes: (\d+)", output)
    assert found is not None, output[-4000:]
    return int(found[1])
