"""One process owns a workdir: another command waits for it a while, then says who it is.

On a disk it is a lock of the operating system, which ends with its process, however that ends: no old one is left
behind. An object store has none. There the owner writes an object again every few seconds, and one that nobody writes
for LEASE seconds, or whose process is known to be gone from this machine, is another's to take.
"""

import contextlib
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import filelock
import msgspec

from pit_jax import paths
from pit_jax.errors import UserError
from pit_jax.files import cannot_write, write_json
from pit_jax.parallel import hosts
from pit_jax.terminal import tell

PATIENCE = 120.0  # seconds that a command waits
POLL = 0.5  # seconds
BEAT, LEASE = 15.0, 90.0  # seconds, in an object store
LOCK, OWNER = ".lock", ".owner.json"


@dataclass(frozen=True)
class Owner:
    """A process, known from others that have its number later by when it started."""

    host: str
    pid: int
    started: str
    since: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"

    @property
    def is_gone(self) -> bool:
        """Whether it ran on this machine and runs no more; False where that cannot be told."""
        return self.host == socket.gethostname() and os.path.isdir("/proc/self") and _start(self.pid) != self.started


def _start(pid: int) -> str:
    """When a process of this machine started, in ticks since the machine did; "" where there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]


def _this() -> Owner:
    pid = os.getpid()
    return Owner(socket.gethostname(), pid, _start(pid), time.strftime("%Y-%m-%d %H:%M:%S %Z"))


@contextlib.contextmanager
def owned(workdir: Path, say: Callable[[str], None], *, patience: float | None = None) -> Iterator[bool]:
    """Be the one process that writes into `workdir`; of several hosts main is it for all.

    Yields:
        Whether another process had to be waited for, which may have changed what lies there.

    Raises:
        UserError: another process still owns it after `patience` seconds (default: PATIENCE).
    """
    lock: _DiskLock | _Lease | None = None
    waited = False
    with hosts.main_first("workdir"):
        if hosts.is_main():
            lock = _Lease(workdir) if paths.is_remote(workdir) else _DiskLock(workdir)
            waited = _wait(lock, workdir, say, PATIENCE if patience is None else patience)
    try:
        yield waited
    finally:
        if lock is not None:
            lock.release()


def _wait(lock: "_DiskLock | _Lease", workdir: Path, say: Callable[[str], None], patience: float) -> bool:
    began, waited = time.monotonic(), False
    while not lock.take():
        owner = lock.owner()
        held = f"{workdir} is in use by {owner or 'another process'}"
        if time.monotonic() - began > patience:
            elsewhere = owner is not None and owner.host != socket.gethostname()
            cure = f". If that machine is gone for good, delete {lock.path}" if elsewhere else ""
            raise UserError(f"{held}; wait until it has ended, end it, or pass another --workdir{cure}")
        if not waited:
            say(f"{held}; waiting for it" + (f" up to {patience:.0f} s" if math.isfinite(patience) else ""))
        waited = True
        time.sleep(POLL)
    return waited


class _DiskLock:
    def __init__(self, workdir: Path):
        self.path = workdir / LOCK
        self._owner = workdir / OWNER
        self._lock = filelock.FileLock(self.path, timeout=0)

    def take(self) -> bool:
        with cannot_write(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire()
            except filelock.Timeout:
                return False
        write_json(self._owner, asdict(_this()))
        return True

    def owner(self) -> Owner | None:
        try:
            return _decoded(self._owner.read_bytes())
        except FileNotFoundError:  # it is being taken, or let go
            return None

    def release(self) -> None:
        self._owner.unlink(missing_ok=True)
        if self.path.exists() and not self.path.stat().st_size:  # what stands in for a lock removes its own file
            self.path.unlink()
        self._lock.release()


class _Lease:
    def __init__(self, workdir: Path):
        self.path = workdir / OWNER
        self._mine, self._ended = _this(), threading.Event()
        self._seen, self._since = "", 0.0  # another's generation, and when it was first seen

    def take(self) -> bool:
        if not paths.create(self.path, msgspec.json.encode(self._mine)):
            self._let_go()
            return False
        threading.Thread(target=self._beat, daemon=True, name="lease").start()
        return True

    def owner(self) -> Owner | None:
        found = paths.content_of(self.path)
        return None if found is None else _decoded(found[0])

    def release(self) -> None:
        self._ended.set()
        if self.owner() == self._mine:
            paths.remove(self.path)

    def _let_go(self) -> None:
        """Remove what a process has left that is gone."""
        if (found := paths.content_of(self.path)) is None:
            return
        content, generation = found
        if generation != self._seen:
            self._seen, self._since = generation, time.monotonic()
        owner = _decoded(content)
        if (owner is not None and owner.is_gone) or time.monotonic() - self._since > LEASE:
            paths.remove_generation(self.path, generation)

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            with contextlib.suppress(UserError):  # out of reach: the next beat tries again
                if self.owner() != self._mine:
                    if not self._ended.is_set():
                        tell(
                            f"error: {self.path.parent} could not be reached for long; {self.owner()} owns it now",
                            error=True,
                        )
                        os._exit(os.EX_TEMPFAIL)
                    return
                paths.put(self.path, msgspec.json.encode(self._mine))


def _decoded(content: bytes) -> Owner | None:
    """None for what is no owner: it is being written."""
    try:
        return msgspec.json.decode(content, type=Owner)
    except msgspec.MsgspecError:
        return None
