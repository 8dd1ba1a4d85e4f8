"""One finished micro run, shared by the tests of this folder, and a way to run commands as a user does."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from pit_jax import cli

MICRO = Path(__file__).resolve().parents[2] / "configs" / "micro.py"
Command = Callable[..., list[str]]


@pytest.fixture(scope="session")
def command(repository: Path) -> Command:
    """command(workdir, *flags) -> argv of a run on one device."""
    entry = [sys.executable, str(repository / "launch" / "tpu_run.py"), f"--config={MICRO}"]
    return lambda workdir, *flags: [*entry, f"--workdir={workdir}", *flags]


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """The environment of a user: no simulated devices. What many processes run is worth a little optimising."""
    flags = [flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag]
    return {**os.environ, "XLA_FLAGS": " ".join(flags).replace("level=0", "level=1")}


@pytest.fixture(scope="session")
def execute(command: Command, environment: dict[str, str]) -> Callable[..., str]:
    """execute(workdir, *flags) -> what the command printed; fails the test unless it ended well."""

    def run(workdir: Path, *flags: str) -> str:
        done = subprocess.run(command(workdir, *flags), env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return done.stdout

    return run


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], str]], tuple[Path, str]]:
    """once(name, make) -> (a folder of this xdist worker's own, output): the first worker to ask makes it by
    make(folder) -> output, the others copy it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def run(name: str, make: Callable[[Path], str]) -> tuple[Path, str]:
        first, output = shared / f"{name}-first", shared / f"{name}-output.txt"
        with FileLock(shared / f"{name}.lock"):
            if not output.exists():
                shutil.rmtree(first, ignore_errors=True)
                first.mkdir()
                output.write_text(make(first))
        return shutil.copytree(first, tmp_path_factory.mktemp(name), dirs_exist_ok=True), output.read_text()

    return run


@pytest.fixture(scope="session")
def finished(once: Callable[..., tuple[Path, str]], execute: Callable[..., str]) -> tuple[Path, str]:
    """(workdir, output) of an uninterrupted `--stage=all`."""
    return once("finished", lambda workdir: execute(workdir, "--stage=all"))


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """refused(*flags) -> the message of a command that must end with exit code 2."""

    def run(*flags: str, workdir: Path = tmp_path / "run") -> str:
        assert cli.main([f"--config={MICRO}", f"--workdir={workdir}", *flags]) == 2
        return capsys.readouterr().err

    return run
