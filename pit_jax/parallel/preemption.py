"""Notices that this machine is about to be taken away: a signal, or what the metadata server of Google Cloud says."""

import os
import signal
import threading
import time
from types import FrameType

from jax.experimental import multihost_utils

from pit_jax import signals
from pit_jax.errors import Preempted
from pit_jax.parallel import hosts

# What a machine of Compute Engine says of itself, and the answers that mean that nothing is coming
# (cloud.google.com/compute/docs/metadata/getting-live-migration-notice, .../docs/instances/create-use-spot).
EVENTS = {"maintenance-event": ("NONE", "MIGRATE_ON_HOST_MAINTENANCE"), "preempted": ("FALSE",)}
POLL = 5.0  # seconds; a spot machine has 30 from its notice to its end


class _Notice:
    came, asked = False, 0


def heed() -> None:
    """Take SIGTERM, and the metadata server's events, as a notice. A second SIGTERM ends a run of one process, and the
    first one does where nothing is to be saved: it raises Preempted in what is not `signals.deferring`.

    To be called by the main thread, after hosts.start: of several processes JAX listens to the signal, and tells all.
    """
    if hosts.count() == 1:
        signal.signal(signal.SIGTERM, _note)
    if hosts.has_tpu() or "GCE_METADATA_IP" in os.environ:
        threading.Thread(target=_poll, daemon=True, name="events of this machine").start()


def check(where: str) -> None:
    """Raise `preempted(where)` if a notice came. As `noticed`."""
    if noticed():
        raise preempted(where)


def preempted(where: str) -> Preempted:
    """What ends a run behind a notice; `where` says what is saved."""
    return Preempted(f"this machine is about to be taken away; {where}, and the same command goes on")


def noticed() -> bool:
    """Whether a notice came. Every process must ask equally often: all get the same answer at the same time."""
    if hosts.count() == 1:
        return _Notice.came
    _Notice.asked += 1
    _Notice.came = _Notice.came or multihost_utils.reached_preemption_sync_point(_Notice.asked)
    return _Notice.came


def _note(number: int, frame: FrameType | None) -> None:
    _Notice.came = True
    signal.signal(number, signal.SIG_DFL)
    if not signals.deferring():
        signals.interrupt(preempted("what is finished is saved"))


def _poll() -> None:
    """Take an event of this machine as a notice, once it is announced.

    One that this run was started under is none: it stays announced until it happens, and a run that it ended would
    start and end in circles. It is left to the signal that comes with it.
    """
    known = {event for event in EVENTS if _announced(event)}
    while True:
        time.sleep(POLL)
        announced = {event for event in EVENTS if _announced(event)}
        if announced - known:
            break
        known &= announced
    if hosts.count() == 1:
        _Notice.came = True  # no signal: the machine's own, seconds later, would be the second one
    else:
        os.kill(os.getpid(), signal.SIGTERM)


def _announced(event: str) -> bool:
    said = hosts.metadata(event)
    return said is not None and said not in EVENTS[event]
