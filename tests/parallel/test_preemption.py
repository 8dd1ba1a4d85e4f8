"""A notice that the machine is taken away: a signal, or an event of the metadata server."""

import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from pit_jax import signals
from pit_jax.errors import Preempted
from pit_jax.parallel import hosts, preemption
from tests.parallel.test_hosts import metadata

__all__ = ["metadata"]


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    handler = signal.getsignal(signal.SIGTERM)
    yield
    preemption._Notice.came = signals._State.interrupted = False
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def deferring() -> Iterator[None]:
    """As in a training, which saves at its next step."""
    signals.defer(True)
    yield
    signals.defer(False)


def test_sigterm_ends_at_once_what_saves_nothing() -> None:
    preemption.heed()
    with pytest.raises(Preempted, match="what is finished is saved, and the same command goes on"):
        os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_is_a_notice_and_a_second_one_the_end(deferring: None) -> None:
    preemption.heed()
    assert not preemption.noticed()
    preemption.check("nothing came")
    os.kill(os.getpid(), signal.SIGTERM)
    assert preemption.noticed()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    with pytest.raises(Preempted, match="round 3 is saved, and the same command goes on"):
        preemption.check("round 3 is saved")


@pytest.mark.parametrize("event", preemption.EVENTS)
def test_events_of_the_machine_are_notices(
    event: str, deferring: None, metadata: Callable[[dict[str, str]], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind it the machine's own SIGTERM, which comes within seconds, still ends nothing."""
    said = {"maintenance-event": "MIGRATE_ON_HOST_MAINTENANCE", "preempted": "FALSE"}
    monkeypatch.setenv("GCE_METADATA_IP", metadata(said))
    monkeypatch.setattr(preemption, "POLL", 0.05)
    preemption.heed()
    time.sleep(0.5)
    assert not preemption.noticed()
    said[event] = "TERMINATE_ON_HOST_MAINTENANCE" if event == "maintenance-event" else "TRUE"
    wait_for_notice()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.1)


def test_an_event_that_a_run_was_started_under_is_none_until_it_comes_anew(
    metadata: Callable[[dict[str, str]], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a run that it has ended would start, and end, until it happens."""
    said = {"maintenance-event": "TERMINATE_ON_HOST_MAINTENANCE"}
    monkeypatch.setenv("GCE_METADATA_IP", metadata(said))
    monkeypatch.setattr(preemption, "POLL", 0.05)
    preemption.heed()
    time.sleep(0.5)
    assert not preemption.noticed()
    said["maintenance-event"] = "NONE"
    time.sleep(0.5)
    said["maintenance-event"] = "TERMINATE_ON_HOST_MAINTENANCE"
    wait_for_notice()


def wait_for_notice() -> None:
    deadline = time.monotonic() + 10
    while not preemption.noticed():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_machine_of_no_cloud_has_no_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GCE_METADATA_IP", "127.0.0.1:9")  # nobody listens to the discard port
    assert not preemption._announced("preempted")
    assert not hosts.has_tpu()
