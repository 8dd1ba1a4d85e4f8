"""A notice that the machine is taken away: a signal, or an event of the metadata server."""

import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from pit_jax.errors import Preempted
from pit_jax.parallel import hosts, preemption
from tests.parallel.test_hosts import metadata

__all__ = ["metadata"]


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    handler = signal.getsignal(signal.SIGTERM)
    yield
    preemption._Notice.came = False
    signal.signal(signal.SIGTERM, handler)


def test_sigterm_is_a_notice_and_a_second_one_the_end() -> None:
    preemption.heed()
    assert not preemption.noticed()
    preemption.check("nothing came")
    os.kill(os.getpid(), signal.SIGTERM)
    assert preemption.noticed()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    with pytest.raises(Preempted, match="round 3 is saved, and the same command goes on"):
        preemption.check("round 3 is saved")


@pytest.mark.parametrize(
    "answers",
    [{"maintenance-event": "TERMINATE_ON_HOST_MAINTENANCE"}, {"maintenance-event": "NONE", "preempted": "TRUE"}],
)
def test_events_of_the_machine_are_notices(
    answers: dict[str, str], metadata: Callable[[dict[str, str]], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet = {"maintenance-event": "MIGRATE_ON_HOST_MAINTENANCE", "preempted": "FALSE"}
    monkeypatch.setenv("GCE_METADATA_IP", metadata(quiet))
    assert not any(map(preemption._announced, preemption.EVENTS))
    monkeypatch.setenv("GCE_METADATA_IP", metadata(answers))
    preemption.heed()
    deadline = time.monotonic() + 10
    while not preemption.noticed():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_machine_of_no_cloud_has_no_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GCE_METADATA_IP", "127.0.0.1:9")  # nobody listens to the discard port
    assert not preemption._announced("preempted")
    assert not hosts.has_tpu()
