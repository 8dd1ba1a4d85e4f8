"""A run from the first request to its end: started detached on every worker, followed, started again where it must."""

import hashlib
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass

from launch import fleet, gcloud, shipping
from launch.fleet import Lost, say
from launch.gcloud import REMOTE, Command
from launch.machines import Machine
from pit_jax.errors import UserError
from pit_jax.paths import STORE
from pit_jax.terminal import tell

AGAIN = 75  # os.EX_TEMPFAIL: saved after a notice of pre-emption, to be run again by the same command
MOUNT = "/mnt/pit"  # of --nfs, on every worker
SHARED = f"--workdir=gs://BUCKET/NAME, or --nfs=HOST:/SHARE and --workdir={MOUNT}/NAME"
TAIL_BYTES = 4000  # of a log that is followed from the middle
TAIL_LINES = 25  # of a log that ended in an error
WORKER = f"bash {REMOTE}/tpu_worker.sh"


@dataclass(frozen=True)
class Job:
    """What runs where."""

    machine: Machine
    flags: tuple[str, ...]  # of launch/tpu_run.py
    secrets: tuple[str, ...]  # names of environment variables
    poll: float  # seconds between two looks
    patience: int  # looks at workers that do not answer
    restarts: int  # of a run that lost machines, or ended with AGAIN


def value(flags: Sequence[str], name: str) -> str:
    """The value of a flag, "" where it is not there."""
    values = [word.partition("=")[2] for word in flags if word.startswith(f"{name}=")]
    values += [after for word, after in zip(flags, flags[1:], strict=False) if word == name]
    return values[-1] if values else ""


def workdir(flags: Sequence[str]) -> str:
    """The value of --workdir, "" where there is none."""
    return value(flags, "--workdir")


def outlives(job: Job) -> bool:
    """Whether the workdir is still there when the machines are not."""
    folder = workdir(job.flags)
    return folder.startswith(STORE) or (bool(job.machine.nfs) and folder.startswith(f"{MOUNT}/"))


def check(job: Job) -> None:
    """UserError for flags that the machines would refuse once they are paid for.

    A workdir that the workers cannot use together, or that each copy of the code would wipe out; other slices.
    """
    slices = value(job.flags, "--mesh.slices") or "1"
    if slices != str(job.machine.node_count):
        raise UserError(
            f"--node-count={job.machine.node_count}: asked for as many slices behind --, found --mesh.slices={slices}; "
            f"pass --mesh.slices={job.machine.node_count} there, or --node-count={slices}"
        )
    folder = workdir(job.flags)
    if not folder.startswith(("/", STORE)):
        raise UserError(
            f"--workdir={folder or '(none)'}: asked for an absolute path on the workers' disks, or one in a bucket; "
            f"pass {SHARED}"
        )
    if job.machine.all_workers > 1 and not outlives(job):
        raise UserError(
            f"--workdir={folder}: {job.machine.all_workers} workers write one run together, found a folder that each "
            f"has on its own disk; pass {SHARED}"
        )


def given(job: Job) -> list[str]:
    """What a worker that runs this job says behind `running`: the commit and the digest of the flags."""
    words = "".join(f"{flag}\0" for flag in job.flags)
    return [shipping.head()[:12], hashlib.sha256(words.encode()).hexdigest()[:12]]


def check_same(job: Job, word: str) -> None:
    """UserError where a worker runs something else than this job."""
    found, asked = word.split()[1:], given(job)
    if found and found != asked:
        differs = f"commit {found[0]}" if found[0] != asked[0] else "other flags"
        raise UserError(
            f"asked for a run of commit {asked[0]}, found one of {differs} going on there; give its own command, from "
            f"its own commit, to follow it, or end it: python launch/tpu_vm.py ssh {job.machine.name} "
            f"--zone={job.machine.zone} --node=all --worker=all -- {WORKER} stop"
        )


def runs(word: str) -> bool:
    """Whether a worker's state is that of a run that has not ended."""
    return word.split()[0] == "running"


def start_command(job: Job) -> str:
    return f"{WORKER} start {shlex.join(job.flags)}"


def journey(job: Job) -> list[Command]:
    """The commands of a run that meets no obstacle, in their order; those that look are repeated until it has ended."""
    machine = job.machine
    return [
        gcloud.describe(machine),
        gcloud.create(machine),
        gcloud.describe(machine),
        gcloud.on_workers(machine, fleet.STATE),
        *shipping.pack(machine, job.secrets),
        shipping.send(machine, job.secrets),
        *((shipping.forget(machine),) if job.secrets else ()),
        gcloud.on_workers(machine, f"{WORKER} unpack"),
        gcloud.on_workers(machine, start_command(job)),
        gcloud.on_workers(machine, fleet.STATE),
        fleet.main_worker(machine, f"{WORKER} log -{TAIL_BYTES}"),
    ]


def run(job: Job) -> int:
    """Until the run has ended. Returns 0, or the code of the run that failed.

    Machines that are lost are asked for again, all of them, and the run goes on from its workdir.

    Raises:
        UserError: Google refuses, workers cannot be reached or run something else, or the workdir was lost with the
            machines.
    """
    left = job.restarts
    while True:
        fleet.acquire(job.machine, poll=job.poll, attempts=job.restarts)
        try:
            code = _on_machines(job)
        except Lost as loss:
            say(f"lost: {loss}")
            if not outlives(job):
                raise UserError(
                    f"{loss}, and the workdir {workdir(job.flags)} with it; pass {SHARED}, which outlive the machines"
                ) from loss
            fleet.remove(job.machine, poll=job.poll)
        else:
            if code != AGAIN:
                return code
            _stop(job)
        if not left:
            raise UserError(
                f"the run was started {job.restarts + 1} times, which --max-restarts allows, and has not ended"
            )
        left -= 1


def _on_machines(job: Job) -> int:
    """Start the run, unless it is running there already, and follow it. Raises Lost; UserError for another run."""
    machine = job.machine
    states = _everyone(job, fleet.STATE, installed=True)
    running = [word for word in states.values() if runs(word)]
    for word in running:
        check_same(job, word)
    if len(running) == len(states):
        say("the run is going on there: following it")
    else:
        if running:
            say("some workers run and some do not: all are stopped and started together")
            _stop(job)
        _ship(job)
        _everyone(job, start_command(job))
        say(f"started on {machine.all_workers} workers; this command may be stopped, and given again to follow the run")
    return _follow(job)


def _everyone(job: Job, command: str, *, installed: bool = False) -> dict[str, str]:
    settled = fleet.installed if installed else lambda word: True
    return fleet.everyone(job.machine, command, poll=job.poll, patience=job.patience, settled=settled)


def _ship(job: Job) -> None:
    """Code and secrets to every worker, and the environment that the code asks for."""
    say(f"shipping commit {shipping.head()[:12]}")
    try:
        for command in shipping.pack(job.machine, job.secrets):
            answer = gcloud.run(command)
            if answer.code:
                raise UserError(f"{command[0]} failed: {answer.reason}")
        _send(job)
    finally:
        if job.secrets:
            gcloud.run(shipping.forget(job.machine))
    _everyone(job, f"{WORKER} unpack")


def _send(job: Job) -> None:
    """Copy what is packed to every worker, again where that failed for a reason that passes. Raises Lost."""
    left = job.patience
    while (sent := gcloud.run(shipping.send(job.machine, job.secrets))).code:
        if reason := fleet.missing(job.machine):
            raise Lost(reason)
        left -= 1
        if left <= 0 or not gcloud.PASSING.search(sent.err):
            raise gcloud.refused("copy to the workers", sent.reason)
        time.sleep(job.poll)


def _stop(job: Job) -> None:
    """End what still runs, on every worker that can be reached."""
    fleet.ask(job.machine, f"{WORKER} stop")


def _follow(job: Job) -> int:
    """Show the log of process 0 until no worker runs. Returns the run's code, AGAIN where it must be started again."""
    shown, ending = -TAIL_BYTES, 0
    while True:
        states = _everyone(job, fleet.STATE)
        shown = _show(job, shown)
        running = [host for host, word in states.items() if runs(word)]
        if not running:
            return _verdict(job, states)
        if len(running) < len(states):
            ending += 1
            if ending >= job.patience:
                say(f"{len(running)} workers do not end though others have: stopping them")
                return _verdict(job, {host: word for host, word in states.items() if not runs(word)})
        time.sleep(job.poll)


def _show(job: Job, shown: int) -> int:
    """Print what process 0 has logged since. Returns how many bytes of its log are shown."""
    answer = gcloud.run(fleet.main_worker(job.machine, f"{WORKER} log {shown}"))
    head, _, text = answer.out.partition("\n")
    if answer.code or not head.startswith("pit-size "):
        return shown
    tell(text, end="")
    return int(head.removeprefix("pit-size "))


def _verdict(job: Job, states: dict[str, str]) -> int:
    """What the workers' ends mean together. Raises Lost."""
    ended = {host: word.split() for host, word in states.items()}
    if all(word[:2] == ["exit", "0"] for word in ended.values()):
        say("the run has ended")
        return 0
    if reason := fleet.missing(job.machine):
        raise Lost(reason)
    codes = {host: int(word[1]) if word[0] == "exit" else AGAIN for host, word in ended.items()}
    # Who is told first may end the others by its going: one notice is a notice for all.
    if AGAIN in codes.values():
        say("a worker ended after a notice, or its machine was started again: the same command again on all")
        return AGAIN
    failed = [host for host in codes if codes[host]]
    first = min(failed, key=lambda host: float(ended[host][2]))
    lines = gcloud.run(gcloud.on_workers(job.machine, f"{WORKER} lines {TAIL_LINES}")).out.splitlines()
    _stop(job)
    say(f"the run failed: {first} ended first, with code {codes[first]}; the last lines of its log:")
    for line in lines:
        host, _, text = line.partition("\t")
        if host == first:
            tell(text)
    return codes[first]
