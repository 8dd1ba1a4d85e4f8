"""Runs on machines that come late, are taken away, do not answer: against the stand-in of tests/launch/stand_in."""

import contextlib
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch import supervisor, tpu_vm
from launch.machines import Machine
from pit_jax.errors import UserError
from tests.launch.conftest import FLAGS, QUICK, SLICE, TWO, Cloud

HOSTS = tuple(f"pit-w-{worker}" for worker in range(2))
COMMAND = "--stage=all --config=configs/hh_rlhf.py --workdir=/mnt/pit/hh"
STOCK_OUT = (
    'There is no more capacity in the zone "us-west4-a"; you can try in another zone where Cloud TPU Nodes are offered'
)


def test_a_run_from_nothing_to_its_end(cloud: Cloud, capsys: pytest.CaptureFixture[str], checkout: Path) -> None:
    assert cloud.start(TWO) == 0
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=checkout, capture_output=True, text=True).stdout.strip()
    assert {host: cloud.ran(host) for host in HOSTS} == {
        host: [f"{commit} no secret launch/tpu_run.py {COMMAND}"] for host in HOSTS
    }
    output = capsys.readouterr().out
    assert "WAITING_FOR_RESOURCES" in output and "8 chips" in output and "the run has ended" in output
    assert "step 1 of pit-w-0" in output and "step 1 of pit-w-1" not in output, "the log of process 0 alone"


def test_a_dry_run_prints_what_a_run_does(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    """The same commands but for repeated looks, in a form that a shell reads back; and none is run."""
    assert cloud.start("--dry-run") == 0
    printed = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    assert cloud.calls == []
    assert cloud.start() == 0
    asked = [words[1:] for words in printed if words[0] == "gcloud"]
    done = [call for call in cloud.calls if call in asked]
    first = [call for i, call in enumerate(done) if call not in done[:i]]
    assert first == [call for i, call in enumerate(asked) if call not in asked[:i]]
    assert [call for call in cloud.calls if call not in asked and "log" not in call[-1]] == []


@pytest.mark.parametrize("verb", ["create", "status", "logs", "ssh", "delete"])
def test_every_command_has_a_dry_run(cloud: Cloud, capsys: pytest.CaptureFixture[str], verb: str) -> None:
    words = SLICE if verb == "create" else SLICE[:2]
    assert tpu_vm.main([verb, *words, "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith("gcloud compute tpus ") and cloud.calls == []


@pytest.mark.parametrize(
    ("refused", "advice"),
    [
        (
            "RESOURCE_EXHAUSTED: Quota 'TPUV5sLitepodPerProjectPerZoneForTPUAPI' exhausted. Limit 4 in zone us-west4-a",
            "ask for more at console.cloud.google.com/iam-admin/quotas",
        ),
        (
            "INVALID_ARGUMENT: Cloud TPU received a bad request. The requested configuration for accelerator "
            'type, "v5litepod-16", could not be found in the zonal accelerator configurations for "us-west4-a"',
            "gcloud compute tpus accelerator-types list",
        ),
        ("PERMISSION_DENIED: Permission denied on 'locations/us-west4-a' (or it may not exist).", "gcloud auth list"),
    ],
)
def test_a_refusal_is_told_with_what_to_change(
    cloud: Cloud, capsys: pytest.CaptureFixture[str], refused: str, advice: str
) -> None:
    cloud.set(plan=[{"refuse": refused}])
    assert cloud.start() == 2
    error = capsys.readouterr().err
    assert refused in error and advice in error
    assert cloud.verbs("create", "ssh") == ["create"]


def test_a_stock_out_is_asked_for_again(cloud: Cloud) -> None:
    cloud.set(plan=[{"states": ["PROVISIONING", "FAILED"], "failed": STOCK_OUT}])
    assert cloud.start() == 0
    assert cloud.verbs("create", "delete") == ["create", "delete", "create"]


def test_a_stock_out_without_end_is_an_error(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    cloud.set(plan=[{"states": ["FAILED"], "failed": STOCK_OUT}] * 3)
    assert tpu_vm.main(["create", *SLICE, "--poll=0.01", "--max-restarts=2"]) == 2
    assert "pick another zone" in capsys.readouterr().err and len(cloud.verbs("create")) == 3


def test_a_request_that_failed_otherwise_is_not_repeated(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    cloud.set(plan=[{"states": ["FAILED"], "failed": "Quota limit 'X' has been exceeded"}])
    assert cloud.start() == 2
    assert "delete it to ask again" in capsys.readouterr().err and cloud.verbs("create", "delete") == ["create"]


def test_a_suspended_request_is_made_again(cloud: Cloud) -> None:
    cloud.set(plan=[{"states": ["ACTIVE", "SUSPENDING", "SUSPENDED"]}])
    tpu_vm.main(["create", *SLICE, "--poll=0.01"])
    assert cloud.start() == 0
    assert cloud.verbs("create", "delete") == ["create", "delete", "create"]


def test_machines_that_are_taken_away_are_replaced_and_the_run_goes_on(
    cloud: Cloud, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the middle of the run: state, unpack, start, then the slice is pre-empted."""
    for host in HOSTS[:1]:
        cloud.exits(host, "hang")
    cloud.set(events=["ok", "ok", "ok", "ok", "preempted"])
    assert cloud.start("--spot") == 0
    assert cloud.verbs("create", "delete", "scp") == ["create", "scp", "delete", "create", "scp"]
    assert {len(cloud.ran(host)) for host in HOSTS[:1]} == {2}, "the same command, which resumes"
    assert "lost: pit is SUSPEND" in capsys.readouterr().out


def test_one_lost_slice_restarts_all(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    """The queued resource stays ACTIVE, and gcloud ends with 0."""
    hosts = [f"pit-{node}-w-{worker}" for node in range(2) for worker in range(1)]
    for host in hosts:
        cloud.exits(host, "hang")
    cloud.set(events=["ok", "ok", "ok", "ok", "slice lost"])
    assert cloud.start("--node-count=2") == 0
    assert "lost: pit-1 is PREEMPTED" in capsys.readouterr().out
    assert {len(cloud.ran(host)) for host in hosts} == {2}


@pytest.mark.parametrize("nfs", ["", "10.0.0.2:/share"])
def test_a_workdir_in_a_bucket_outlives_the_machines_of_several_workers(nfs: str) -> None:
    machine = Machine(name="pit", zone="us-west4-a", accelerator_type="v4-16", nfs=nfs)
    for folder, shared in (("gs://bucket/hh", True), ("/mnt/pit/hh", bool(nfs)), ("/home/me/hh", False)):
        job = supervisor.Job(machine, (f"--workdir={folder}",), secrets=(), poll=1.0, patience=1, restarts=1)
        assert supervisor.outlives(job) == shared
        with contextlib.nullcontext() if shared else pytest.raises(UserError, match="2 workers write one run together"):
            supervisor.check(job)


def test_a_workdir_that_was_lost_is_not_begun_anew(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    cloud.set(workers=1, events=["ok", "ok", "ok", "preempted"])
    cloud.exits("pit-w-0", "hang")
    single = ["pit", "--zone=us-west4-a", "--accelerator-type=v5litepod-8", *QUICK, "--", "--workdir=/home/me/run"]
    assert tpu_vm.main(["run", *single]) == 2
    assert "the workdir /home/me/run with it; pass --workdir=gs://BUCKET/NAME, or --nfs" in capsys.readouterr().err
    assert cloud.verbs("create") == ["create"]


def test_half_of_the_workers_reached_is_not_enough(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    """They are asked again; the run is not started by halves, and no machines are given back."""
    cloud.set(events=["half", "ok", "half", "half", "ok"])
    assert cloud.start(TWO) == 0
    assert "1 of 2 workers answer" in capsys.readouterr().out
    assert {len(cloud.ran(host)) for host in HOSTS} == {1} and cloud.verbs("delete") == []


def test_ssh_that_times_out_is_tried_again_and_then_told(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    cloud.set(events=["timeout", "timeout", "ok"])
    assert cloud.start() == 0
    cloud.set(events=["timeout"] * 4)
    assert cloud.start() == 2
    error = capsys.readouterr().err
    assert "reached 0 of 1 workers of pit" in error and "exited with return code [255]" in error


def test_a_key_that_no_agent_holds_is_told_at_once(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    cloud.set(events=["agent"])
    assert cloud.start() == 2
    assert "ssh-add ~/.ssh/google_compute_engine" in capsys.readouterr().err


def test_a_notice_restarts_the_same_command(cloud: Cloud) -> None:
    """Code 75, on the workers themselves: nobody needs to watch."""
    for host in HOSTS:
        cloud.exits(host, 75, 75, 0)
    assert cloud.start(TWO) == 0
    assert {len(cloud.ran(host)) for host in HOSTS} == {3}
    assert cloud.verbs("create", "scp") == ["create", "scp"]


def test_a_failure_ends_all_and_shows_its_last_lines(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    """One worker fails, the others wait for it without end: they are stopped, and the code is that of the first."""
    for host in HOSTS:
        cloud.exits(host, "hang" if host != "pit-w-1" else 1)
    assert cloud.start(TWO) == 1
    output = capsys.readouterr().out
    assert "pit-w-1 ended first, with code 1" in output
    assert "error: the loss of pit-w-1 is not finite" in output
    assert cloud.verbs("create", "delete", "scp") == ["create", "scp"]
    assert tpu_vm.main(["status", *SLICE[:2]]) == 0
    assert capsys.readouterr().out.count(": ready") == 2, "nobody runs any more"
    assert tpu_vm.main(["logs", *SLICE[:2], f"--output={cloud.folder / 'logs'}"]) == 0
    assert (cloud.folder / "logs" / "pit-w-1" / "log").read_text().splitlines()[-1].startswith("error: the loss")
    assert sorted(path.name for path in (cloud.folder / "logs").iterdir()) == list(HOSTS)


def test_whoever_comes_back_follows_the_run_that_is_there(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """A laptop that slept: the run was started detached, and the same command starts no second one."""
    for host in HOSTS[:1]:
        cloud.exits(host, "hang")
    with monkeypatch.context() as patch:
        patch.setattr("launch.supervisor._show", lambda job, shown: (_ for _ in ()).throw(KeyboardInterrupt))
        assert cloud.start() == 130
    pids = [int((cloud.folder / "workers" / host / "pit" / "run" / "pid").read_text()) for host in HOSTS[:1]]
    assert all(os.getsid(pid) == pid for pid in pids), "in sessions of their own, which no closed terminal ends"
    for pid in pids:
        sleeping: list[str] = []
        for _ in range(500):
            found = subprocess.run(["pgrep", "-g", str(pid), "-x", "sleep"], capture_output=True, text=True)
            if sleeping := found.stdout.split():
                break
            time.sleep(0.02)
        os.kill(int(sleeping[0]), 15)
    for host in HOSTS[:1]:
        cloud.exits(host, 0)
    assert cloud.start() == 143, "the run that was there was followed, and ended by a signal"
    assert {len(cloud.ran(host)) for host in HOSTS[:1]} == {1} and len(cloud.verbs("scp")) == 1


def test_secrets_are_in_no_command_and_no_log(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hush 'hush'")
    assert cloud.start("--secrets", "SECRET_TOKEN", "--dry-run") == 0
    assert cloud.start("--secrets", "SECRET_TOKEN") == 0
    assert "hush 'hush'" in cloud.ran("pit-w-0")[0], "the run has it"
    output = capsys.readouterr()
    logs = [path.read_text() for path in cloud.folder.glob("workers/*/pit/run/log")]
    assert len(logs) == 1 and "hush" not in "".join([output.out, output.err, str(cloud.calls), *logs])
    on_worker = cloud.folder / "workers" / "pit-w-0" / "pit" / "env"
    assert (on_worker.stat().st_mode & 0o777, on_worker.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert not (cloud.folder / "staging" / "pit" / "env").exists()


def test_a_secret_that_is_not_there_is_named(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    assert cloud.start("--secrets", "NO_SUCH_TOKEN") == 2
    assert cloud.start("--secrets", "NO_SUCH_TOKEN=abc") == 2
    error = capsys.readouterr().err
    assert "--secrets: asked for NO_SUCH_TOKEN, which the environment does not hold" in error and "abc" not in error
    assert cloud.calls == []


def test_another_environment_is_installed_before_the_run(cloud: Cloud) -> None:
    """The code asks for other versions than the machine was made with."""
    cloud.set(environment="older")
    assert cloud.start() == 0
    assert (cloud.folder / "sudo").read_text().splitlines() == ["-n bash code/launch/tpu_startup.sh code"]


def test_ssh_and_delete(cloud: Cloud, capfd: pytest.CaptureFixture[str]) -> None:
    assert cloud.start("--node-count=2") == 0
    assert tpu_vm.main(["ssh", *SLICE[:2], "--node=1"]) == 0
    assert "a terminal on pit-1 0" in capfd.readouterr().out
    assert tpu_vm.main(["ssh", *SLICE[:2], "--node=all", "--worker=all", "--", "echo", "$PIT_HOST"]) == 0
    assert sorted(re.findall(r"pit-\d-w-\d", capfd.readouterr().out)) == [
        f"pit-{n}-w-{w}" for n in (0, 1) for w in range(1)
    ]
    assert tpu_vm.main(["ssh", *SLICE[:2], "--worker=all"]) == 2
    assert tpu_vm.main(["delete", *SLICE[:2]]) == 0
    assert tpu_vm.main(["status", *SLICE[:2]]) == 0
    assert "pit: not there" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("workdir", "message"),
    [
        ("runs/hh", "asked for an absolute path"),
        ("gs:/bucket/hh", "asked for an absolute path"),
        ("/home/me/hh", "2 workers write one run together"),
    ],
)
def test_a_workdir_that_cannot_work_is_refused(
    cloud: Cloud, capsys: pytest.CaptureFixture[str], workdir: str, message: str
) -> None:
    assert tpu_vm.main(["run", *SLICE, *QUICK, TWO, "--", "--stage=all", f"--workdir={workdir}"]) == 2
    assert message in capsys.readouterr().err and cloud.calls == []


@pytest.mark.parametrize(
    ("nodes", "flags", "change"),
    [
        (2, (), "found --mesh.slices=1; pass --mesh.slices=2 there, or --node-count=1"),
        (1, ("--mesh.slices", "2"), "found --mesh.slices=2; pass --mesh.slices=1 there, or --node-count=2"),
        (2, ("--mesh.slices=3",), "found --mesh.slices=3; pass --mesh.slices=2 there, or --node-count=3"),
    ],
)
def test_a_mesh_of_other_slices_is_refused_before_they_are_paid_for(
    cloud: Cloud, capsys: pytest.CaptureFixture[str], nodes: int, flags: tuple[str, ...], change: str
) -> None:
    assert tpu_vm.main(["run", *SLICE, *QUICK, f"--node-count={nodes}", *FLAGS, *flags]) == 2
    assert change in capsys.readouterr().err and cloud.calls == []
    job = supervisor.Job(
        Machine(name="pit", zone="us-west4-a", accelerator_type="v4-8", nfs="10.0.0.2:/share", node_count=2),
        (*FLAGS[1:], "--mesh.slices=2"),
        secrets=(),
        poll=1.0,
        patience=1,
        restarts=1,
    )
    supervisor.check(job)


def test_uncommitted_changes_are_not_shipped_unnoticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "new.py").write_text("x = 1\n")
    monkeypatch.setattr("launch.gcloud.ROOT", tmp_path)
    assert tpu_vm.main(["run", *SLICE, *FLAGS]) == 2
    assert "not shipped: new.py; commit them, or pass --ship-head" in capsys.readouterr().err


LIGHT = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as stop:
    print("HEAVY", sorted({"tensorflow", "transformers", "jax", "seqio"} & set(sys.modules)), stop.code)
"""


def test_the_command_starts_without_jax(repository: Path, tmp_path: Path) -> None:
    script = str(repository / "launch" / "tpu_vm.py")
    command = [sys.executable, "-c", LIGHT, script, "delete", "pit", "--zone=us-west4-a", "--dry-run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == [
        "gcloud compute tpus queued-resources delete pit --zone=us-west4-a --force --quiet",
        "HEAVY [] 0",
    ], done.stderr
