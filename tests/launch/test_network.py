"""The network between us and Google: gcloud that never ends, and gcloud that reaches nobody."""

import os
import time

import pytest

from launch import fleet, gcloud, tpu_vm
from launch.machines import Machine
from pit_jax.errors import UserError
from tests.launch.conftest import SLICE, Cloud

MACHINE = Machine(name="pit", zone="us-west4-a", accelerator_type="v4-8")


def gone(process: int) -> bool:
    """Whether it has ended, or is about to be buried by whoever adopted it."""
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_command_that_never_ends_is_ended_with_all_below_it(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gcloud, "SHORT", 1.0)
    file = cloud.folder / "below"
    began = time.monotonic()
    answer = gcloud.run(("bash", "-c", f"sleep 60 & echo $! >{file}; wait"))
    assert time.monotonic() - began < 30
    assert (answer.code, answer.out) == (124, "") and "bash timed out after 1 s" in answer.reason
    assert gcloud.PASSING.search(answer.err)
    for _ in range(100):
        if gone(int(file.read_text())):
            break
        time.sleep(0.05)
    else:
        os.kill(int(file.read_text()), 9)
        raise AssertionError("what it had started runs on")


@pytest.mark.parametrize(
    ("command", "seconds"),
    [
        (gcloud.describe(MACHINE), gcloud.SHORT),
        (gcloud.on_workers(MACHINE, fleet.STATE), gcloud.SHORT),
        (gcloud.on_workers(MACHINE, "bash pit/tpu_worker.sh unpack"), gcloud.LONG),
        (gcloud.to_workers(MACHINE, ("code.tar.gz",), "pit"), gcloud.LONG),
        (gcloud.create(MACHINE), gcloud.LONG),
        (gcloud.delete(MACHINE), gcloud.LONG),
    ],
)
def test_what_copies_and_installs_may_take_longer(command: gcloud.Command, seconds: float) -> None:
    assert gcloud.limit(command) == seconds


@pytest.mark.parametrize(
    ("words", "passes"),
    [
        ("ERROR: (gcloud.compute.tpus.queued-resources.describe) UNAVAILABLE: The service is away.", True),
        ("ERROR: (gcloud.compute.tpus.queued-resources.describe) HTTPError 503: Bad gateway", True),
        ("ERROR: gcloud crashed (TransportError): HTTPSConnectionPool(host='oauth2.googleapis.com', port=443)", True),
        ("ERROR: gcloud crashed (OSError): [Errno 101] Network is unreachable", True),
        ("ERROR: (gcloud.create) RESOURCE_EXHAUSTED: Quota 'X' exhausted. Limit 500 in zone us-west4-a", False),
        ("ERROR: (gcloud.create) PERMISSION_DENIED: Permission denied on 'locations/us-west4-a'", False),
    ],
)
def test_what_passes_by_itself_is_told_from_what_does_not(words: str, passes: bool) -> None:
    assert bool(gcloud.PASSING.search(words)) == passes


def test_a_run_waits_for_the_network(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever it was about to do: look, ask for machines, give them back."""
    stock_out = {"states": ["FAILED"], "failed": "There is no more capacity in the zone"}
    cloud.set(plan=[stock_out], **{"cut off": ["describe", "create", "create", "delete"]})
    assert cloud.start() == 0
    assert cloud.verbs("create", "delete") == ["create", "create", "create", "delete", "delete", "create"]
    output = capsys.readouterr().out
    assert "pit: UNKNOWN" in output and "Failed to resolve" in output
    assert output.count("create pit: tried again until Google answers") == 1


@pytest.mark.parametrize(("times", "code"), [(2, 0), (3, 2)])
def test_a_copy_that_meets_no_network_is_made_again_with_patience(
    cloud: Cloud, capsys: pytest.CaptureFixture[str], times: int, code: int
) -> None:
    cloud.set(**{"cut off": ["scp"] * times})
    assert cloud.start() == code
    assert cloud.verbs("create", "scp", "delete") == ["create", *["scp"] * 3]
    assert ("copy to the workers: ERROR" in capsys.readouterr().err) == bool(code)


def test_machines_are_given_back_once_there_is_a_network(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cloud.start() == 0
    monkeypatch.setattr(tpu_vm.Create, "poll", 0.01)
    cloud.set(**{"cut off": ["delete"]})
    assert tpu_vm.main(["delete", *SLICE[:2]]) == 0
    assert cloud.world["resource"] is None and cloud.verbs("delete") == ["delete"] * 2


def test_a_refusal_is_not_repeated(cloud: Cloud) -> None:
    cloud.set(plan=[{"refuse": "RESOURCE_EXHAUSTED: Quota 'X' exhausted. Limit 500 in zone us-west4-a"}])
    with pytest.raises(UserError, match="create pit: ERROR"):
        fleet.submit(MACHINE, poll=0.01)
    assert cloud.verbs("create") == ["create"]
