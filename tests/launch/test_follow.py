"""A second `run` where one is going on: followed if it is the same, refused otherwise."""

import shlex
from collections.abc import Iterator

import pytest

from launch import supervisor, tpu_vm
from launch.machines import Machine
from pit_jax.errors import UserError
from tests.launch.conftest import FLAGS, QUICK, SLICE, TWO, Cloud

MACHINE = Machine(name="pit", zone="us-west4-a", accelerator_type="v4-8", nfs="10.0.0.2:/share")
STOP = ("ssh", *SLICE[:2], "--node=all", "--worker=all", "--", "bash", "pit/tpu_worker.sh", "stop")


@pytest.fixture
def going_on(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    """Two workers run, and nobody watches."""
    for host in ("pit-w-0", "pit-w-1"):
        cloud.exits(host, "hang")
    with monkeypatch.context() as patch:
        patch.setattr("launch.supervisor._show", lambda job, shown: (_ for _ in ()).throw(KeyboardInterrupt))
        assert cloud.start(TWO) == 130
    cloud.under_way("pit-w-0", "pit-w-1")
    yield cloud
    tpu_vm.main(STOP)


def test_other_flags_are_not_taken_for_the_run_that_is_there(
    going_on: Cloud, capsys: pytest.CaptureFixture[str]
) -> None:
    other = ["run", *SLICE, *QUICK, TWO, *FLAGS, "--rl.kl-coef=0.2"]
    assert tpu_vm.main(other) == 2
    error = capsys.readouterr().err
    assert "found one of other flags going on there" in error and len(error.splitlines()) == 1
    assert len(going_on.ran("pit-w-0")) == 1 and going_on.verbs("scp", "delete") == ["scp"]
    advised = shlex.split(error.partition("python launch/tpu_vm.py ")[2])
    assert tuple(advised) == STOP and tpu_vm.main(advised) == 0
    assert tpu_vm.main(other) == 0
    assert going_on.ran("pit-w-0")[1].endswith("--rl.kl-coef=0.2")


def test_nor_is_another_commit(
    going_on: Cloud, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commit = going_on.ran("pit-w-0")[0].split()[0]
    monkeypatch.setattr("launch.shipping.head", lambda: "b" * 40)
    assert going_on.start(TWO) == 2
    assert (
        f"asked for a run of commit {'b' * 12}, found one of commit {commit[:12]} going on" in capsys.readouterr().err
    )
    assert going_on.verbs("scp") == ["scp"]


def test_a_run_that_says_nothing_of_itself_is_followed() -> None:
    job = supervisor.Job(MACHINE, FLAGS[1:], secrets=(), poll=1.0, patience=1, restarts=1)
    supervisor.check_same(job, "running ")
    supervisor.check_same(job, " ".join(["running", *supervisor.given(job)]))
    with pytest.raises(UserError, match="found one of other flags"):
        supervisor.check_same(job, f"running {supervisor.given(job)[0]} 0")
