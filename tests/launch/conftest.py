"""A Google Cloud of one machine: tests/launch/stand_in/gcloud on PATH, its world in a temporary folder."""

import hashlib
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from launch import gcloud, tpu_vm

STAND_IN = Path(__file__).parent / "stand_in"
SLICE = ("pit", "--zone=us-west4-a", "--accelerator-type=v5litepod-16", "--nfs=10.0.0.2:/share")
QUICK = ("--poll=0.02", "--patience=3", "--ship-head")
FLAGS = ("--", "--stage=all", "--config=configs/hh_rlhf.py", "--workdir=/mnt/pit/hh")


@dataclass(frozen=True)
class Cloud:
    """The stand-in's folder."""

    folder: Path

    @property
    def world(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.folder / "world.json").read_text())
        return content

    def set(self, **facts: Any) -> None:
        (self.folder / "world.json").write_text(json.dumps(self.world | facts))

    def exits(self, host: str, *ends: int | str) -> None:
        """How the run ends on a worker, time after time."""
        (self.folder / "exits" / host).write_text("".join(f"{end}\n" for end in ends))

    def ran(self, host: str) -> list[str]:
        """One line for each time that the run was started on a worker: commit, secret, flags."""
        path = self.folder / f"ran-{host}"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def calls(self) -> list[list[str]]:
        path = self.folder / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def verbs(self, *wanted: str) -> list[str]:
        """The verbs of the calls, in their order."""
        verbs = (
            next(word for word in call if word in ("create", "describe", "delete", "ssh", "scp", "list"))
            for call in self.calls
        )
        return [verb for verb in verbs if verb in wanted]

    def start(self, *more: str) -> int:
        return tpu_vm.main(["run", *SLICE, *QUICK, *more, *FLAGS])


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    """Four workers a slice, nobody's yet."""
    locks = sorted(gcloud.ROOT.glob("constraints-py3*.txt"))
    # As the code that is shipped has them, not the working tree.
    texts = [
        subprocess.run(["git", "show", f"HEAD:{path.name}"], cwd=gcloud.ROOT, capture_output=True, check=True).stdout
        for path in (gcloud.ROOT / "setup.py", *locks)
    ]
    world = {
        "resource": None,
        "plan": [],
        "events": [],
        "workers": 4,
        "environment": hashlib.sha256(b"".join(texts)).hexdigest(),
    }
    (tmp_path / "exits").mkdir()
    (tmp_path / "world.json").write_text(json.dumps(world))
    monkeypatch.setenv("STAND_IN", str(tmp_path))
    monkeypatch.setenv("PATH", f"{STAND_IN}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(gcloud, "STAGING", str(tmp_path / "staging"))
    return Cloud(tmp_path)
