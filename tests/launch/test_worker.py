"""launch/tpu_worker.sh on one machine: what a worker says of its run, whatever became of it."""

import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

STAND_IN = Path(__file__).parent / "stand_in"
Ask = Callable[..., str]


@pytest.fixture
def ask(tmp_path: Path, repository: Path) -> Iterator[Ask]:
    """Call the script as ssh would; what it prints."""
    folder, base = tmp_path / "pit", tmp_path / "opt"
    (folder / "code" / "pit_jax" / "run").mkdir(parents=True)
    (folder / "code" / "pit_jax" / "run" / "commit.txt").write_text("abc\n")
    (base / "venv" / "bin").mkdir(parents=True)
    (base / "venv" / "bin" / "python").symlink_to(STAND_IN / "python")
    (tmp_path / "exits").mkdir()
    shutil.copy(repository / "launch" / "tpu_worker.sh", folder)
    paths = {"STAND_IN": tmp_path, "PIT_HOME": base, "PIT_LOCKFILE": tmp_path / "lock"}
    known = {"PIT_HOST": "w-0", "PIT_PAUSE": "0", "PIT_RESTARTS": "2"} | {
        name: str(path) for name, path in paths.items()
    }

    def call(*words: str) -> str:
        command = ["bash", "pit/tpu_worker.sh", *words]
        done = subprocess.run(command, cwd=tmp_path, env={**os.environ, **known}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    yield call
    call("stop")


def ended(ask: Ask) -> str:
    """The state once it is no longer `running`."""
    for _ in range(200):
        if "running" not in (state := ask("state")):
            return state
        time.sleep(0.02)
    raise AssertionError("the run has no end")


def test_before_the_first_run(ask: Ask, tmp_path: Path) -> None:
    assert ask("state") == "pit-state w-0 installing\n"
    (tmp_path / "opt" / "state").write_text("failed\n")
    assert ask("state") == "pit-state w-0 failed\n"


def test_the_code_of_the_run_and_its_log(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "exits" / "w-0").write_text("3\n")
    (tmp_path / "lock").touch()
    assert ask("start", "--a=b c") == "pit-state w-0 started\n"
    assert ended(ask).startswith("pit-state w-0 exit 3 ")
    assert not (tmp_path / "lock").exists(), "left by a process that was killed"
    log = "step 1 of w-0\nerror: the loss of w-0 is not finite\n"
    assert ask("log", "0") == f"pit-size {len(log)}\n{log}"
    assert ask("log", "14") == f"pit-size {len(log)}\n{log[14:]}" == ask("log", f"-{len(log) - 14}")
    assert ask("log", str(len(log))) == f"pit-size {len(log)}\n"
    assert ask("lines", "1") == "w-0\terror: the loss of w-0 is not finite\n"
    assert (tmp_path / "ran-w-0").read_text() == "abc no secret launch/tpu_run.py --a=b c\n"


def test_notices_are_followed_so_often_and_no_more(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "exits" / "w-0").write_text("75\n" * 5)
    ask("start")
    assert ended(ask).startswith("pit-state w-0 exit 75 ")
    assert len((tmp_path / "ran-w-0").read_text().splitlines()) == 3


def test_a_run_is_started_once_and_stopped_whole(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "exits" / "w-0").write_text("hang\n")
    ask("start", "--a=b c", "--d=é")
    flags = hashlib.sha256(b"--a=b c\0--d=\xc3\xa9\0").hexdigest()[:12]
    assert ask("state") == ask("start", "--other") == f"pit-state w-0 running abc {flags}\n"
    group = int((tmp_path / "pit" / "run" / "pid").read_text())
    ask("stop")
    with pytest.raises(ProcessLookupError):
        os.killpg(group, 0)
    (tmp_path / "opt" / "state").write_text("ready\n")
    assert ask("state") == "pit-state w-0 ready\n"
    assert ask("log", "0").startswith("pit-size "), "the log stays"


def test_a_machine_that_was_started_again_knows_that_its_run_is_gone(ask: Ask, tmp_path: Path) -> None:
    """Another process may have the number by then."""
    (tmp_path / "exits" / "w-0").write_text("hang\n")
    ask("start")
    boot = tmp_path / "pit" / "run" / "boot"
    here = boot.read_text()
    boot.write_text("another\n")
    assert ask("state") == "pit-state w-0 gone\n"
    boot.write_text(here)
