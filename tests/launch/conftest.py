"""A Google Cloud of one machine: tests/launch/stand_in/gcloud on PATH, its world in a temporary folder."""

import ast
import hashlib
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from launch import gcloud, tpu_vm

STAND_IN = Path(__file__).parent / "stand_in"
SLICE = ("pit", "--zone=us-west4-a", "--accelerator-type=v4-8", "--nfs=10.0.0.2:/share")
TWO = "--accelerator-type=v4-16"  # workers
QUICK = ("--poll=0.15", "--patience=3")
FLAGS = ("--", "--stage=all", "--config=configs/hh_rlhf.py", "--workdir=/mnt/pit/hh")


@dataclass(frozen=True)
class Cloud:
    """The stand-in's folder."""

    folder: Path

    @property
    def world(self) -> dict[str, Any]:
        content: dict[str, Any] = ast.literal_eval((self.folder / "world").read_text())
        return content

    def set(self, **facts: Any) -> None:
        (self.folder / "world").write_text(repr(self.world | facts))

    def exits(self, host: str, *ends: int | str) -> None:
        """How the run ends on a worker, time after time."""
        (self.folder / "exits" / host).write_text("".join(f"{end}\n" for end in ends))

    def ran(self, host: str) -> list[str]:
        """One line for each time that the run was started on a worker: commit, secret, flags."""
        path = self.folder / f"ran-{host}"
        return path.read_text().splitlines() if path.exists() else []

    def under_way(self, *hosts: str) -> None:
        """Wait until the run has begun on each of the workers."""
        for _ in range(1000):
            if all(self.ran(host) for host in hosts):
                return
            time.sleep(0.02)
        raise AssertionError("no run has begun")

    @property
    def calls(self) -> list[list[str]]:
        path = self.folder / "calls"
        return [ast.literal_eval(line) for line in path.read_text().splitlines()] if path.exists() else []

    def verbs(self, *wanted: str) -> list[str]:
        """The verbs of the calls, in their order."""
        verbs = {"create", "describe", "delete", "ssh", "scp", "list"}
        return [word for call in self.calls for word in call[:4] if word in verbs & set(wanted)]

    def start(self, *more: str) -> int:
        if TWO in more:
            self.set(workers=2)
        slices = [word.replace("--node-count", "--mesh.slices") for word in more if word.startswith("--node-count=")]
        return tpu_vm.main(["run", *SLICE, *QUICK, *more, *FLAGS, *slices])


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the files that shipping needs, committed."""
    root = tmp_path_factory.mktemp("checkout")
    files = [
        "setup.py",
        ".gitattributes",
        ".gitignore",
        "pit_jax/__init__.py",
        "pit_jax/errors.py",
        "pit_jax/paths.py",
        "pit_jax/run/commit.txt",
    ]
    launchers = [str(path.relative_to(gcloud.ROOT)) for path in (gcloud.ROOT / "launch").glob("*.*")]
    for name in (*files, *launchers, *gcloud.LOCKS):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(gcloud.ROOT / name, root / name)
    who = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    for words in (("init", "-q"), ("add", "-A"), (*who, "commit", "-q", "-m", "one")):
        subprocess.run(["git", *words], cwd=root, check=True)
    return root


@pytest.fixture
def cloud(tmp_path: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    """One worker a slice, nobody's yet."""
    texts = [(checkout / name).read_bytes() for name in ("setup.py", *gcloud.LOCKS)]
    world: dict[str, Any] = {
        "resource": None,
        "plan": [],
        "events": [],
        "cut off": [],
        "workers": 1,
        "environment": hashlib.sha256(b"".join(texts)).hexdigest(),
    }
    (tmp_path / "exits").mkdir()
    (tmp_path / "world").write_text(repr(world))
    monkeypatch.setenv("STAND_IN", str(tmp_path))
    # Not by way of a version manager's shim, which takes longer than the stand-in itself.
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").symlink_to(Path(sys.executable).resolve())
    path = (str(tmp_path / "bin"), str(STAND_IN), os.environ["PATH"])
    monkeypatch.setenv("PATH", os.pathsep.join(path))
    monkeypatch.setattr(gcloud, "ROOT", checkout)
    monkeypatch.setattr(gcloud, "STAGING", str(tmp_path / "staging"))
    return Cloud(tmp_path)
