"""One process owns a workdir: another waits, then says who it is; what a killed one leaves holds nobody up."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from pit_jax import paths
from pit_jax.errors import UserError
from pit_jax.parallel import lock
from pit_jax.parallel.lock import OWNER, Owner, owned

HOLD = """
import sys
from pathlib import Path
from pit_jax.parallel.lock import owned
with owned(Path(sys.argv[1]), print):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path: Path, repository: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that owns tmp_path until it reads a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        cwd=repository,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_another_process_is_named_and_waited_for(
    holder: subprocess.Popen[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "POLL", 0.01)
    who = re.escape(f"{tmp_path} is in use by process {holder.pid} on {socket.gethostname()}, since ")
    refused = f"{who}.*; wait until it has ended, end it, or pass another --workdir"
    with pytest.raises(UserError, match=refused), owned(tmp_path, lambda text: None, patience=0.02):
        pass
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        assert holder.stdin is not None
        holder.stdin.write("\n")
        holder.stdin.flush()

    with owned(tmp_path, say, patience=30.0) as waited:
        assert waited and re.fullmatch(f"{who}.*; waiting for it up to 30 s", said[0]) and len(said) == 1
    with owned(tmp_path / "seed-0", say), owned(tmp_path, say) as waited:
        assert not waited, "what is independent waits for nothing"
    assert not [path for path in tmp_path.iterdir() if path.is_file()], "nothing is left"


def test_what_is_killed_holds_nobody_up(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / OWNER).exists()
    with owned(tmp_path, print) as waited:
        assert not waited
    assert list(tmp_path.iterdir()) == []


HERE = Owner(socket.gethostname(), os.getpid(), lock._start(os.getpid()), "today")


@pytest.mark.parametrize(
    ("owner", "gone"),
    [
        (HERE, False),
        (replace(HERE, started="1"), True),  # another process has its number now
        (replace(HERE, pid=2**22 + 1), True),  # beyond the kernel's highest number
        (replace(HERE, host="elsewhere", pid=2**22 + 1), False),  # nobody can tell
    ],
)
def test_a_process_that_is_gone(owner: Owner, gone: bool) -> None:
    assert owner.is_gone == gone


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"POLL": 0.02, "BEAT": 0.1, "LEASE": 0.5}.items():
        monkeypatch.setattr(lock, name, seconds)


def test_in_a_bucket_an_owner_that_goes_on_writing_is_left_alone(bucket: str, fast: None) -> None:
    workdir = paths.to_path(bucket)
    with owned(workdir, print):
        refused = f"{workdir} is in use by process {os.getpid()} on"
        with pytest.raises(UserError, match=refused), owned(workdir, lambda text: None, patience=0.7):
            pass
        assert (workdir / OWNER).exists()
    assert not (workdir / OWNER).exists()


@pytest.mark.parametrize(
    ("left", "waits"),
    [
        (replace(HERE, started="1"), False),
        (replace(HERE, host="elsewhere"), True),
    ],
)
def test_in_a_bucket_what_is_left_is_taken(bucket: str, fast: None, left: Owner, waits: bool) -> None:
    """At once where the process is known to be gone, else when it has not written for long."""
    workdir, began = paths.to_path(bucket), time.monotonic()
    paths.put(workdir / OWNER, msgspec.json.encode(left))
    if waits:
        refused = f"process {left.pid} on elsewhere, .*. If that machine is gone for good, delete {workdir / OWNER}"
        with pytest.raises(UserError, match=refused), owned(workdir, lambda text: None, patience=0.0):
            pass
    with owned(workdir, lambda text: None, patience=30.0):
        assert (time.monotonic() - began > lock.LEASE) == waits


def test_in_a_bucket_who_was_out_of_reach_for_long_ends(
    bucket: str, fast: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = threading.Event()
    monkeypatch.setattr(os, "_exit", lambda code: ended.set())
    workdir = paths.to_path(bucket)
    with owned(workdir, print):
        paths.put(workdir / OWNER, msgspec.json.encode(replace(HERE, host="elsewhere")))
        assert ended.wait(10.0)
    assert (
        f"{workdir} could not be reached for long; process {os.getpid()} on elsewhere, since today owns it"
        in capsys.readouterr().err
    )
    assert (workdir / OWNER).exists(), "it is another's"
