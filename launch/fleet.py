"""The machines of one queued resource: asked for, waited for, talked to, found lost."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from launch import gcloud
from launch.gcloud import REMOTE, Answer, Command
from launch.machines import Machine, Target
from pit_jax.errors import UserError
from pit_jax.terminal import tell

GONE = ""  # no such queued resource
UNKNOWN = "UNKNOWN"  # Google did not answer this time
# googleapis tpu/v2: QueuedResourceState and Node.State. A slice in another state comes back by itself.
LOST_NODE = ("not there", "DELETING", "PREEMPTED", "STOPPED", "STOPPING", "TERMINATED", "UNKNOWN")
STATE_LINE = re.compile(r"^pit-state (\S+) (.+)$", re.MULTILINE)
# Before the first copy there is no tpu_worker.sh: then the start-up script's own state.
STATE = (
    f"mkdir -p -m 700 {REMOTE}; bash {REMOTE}/tpu_worker.sh state 2>/dev/null || "
    'echo "pit-state ${PIT_HOST:-$(hostname)} $(cat ${PIT_HOME:-/opt/pit}/state 2>/dev/null || echo installing)"'
)


class Lost(Exception):
    """A slice was taken away, or the whole queued resource."""


def say(text: str) -> None:
    """One line for whoever watches, with the time."""
    tell(f"[{time.strftime('%H:%M:%S')}] {text}")


@dataclass(frozen=True)
class Standing:
    """Where a queued resource stands, and why."""

    state: str
    reason: str = ""


def standing(target: Target) -> Standing:
    """UserError where Google refuses to say."""
    answer = gcloud.run(gcloud.describe(target))
    if answer.code:
        if "NOT_FOUND" in answer.err:
            return Standing(GONE)
        if gcloud.PASSING.search(answer.err):
            return Standing(UNKNOWN, answer.reason)
        raise gcloud.refused(f"describe {target.name}", answer.reason)
    state = gcloud.parsed(answer)["state"]
    error = state.get("failedData", {}).get("error", {})
    return Standing(state["state"], error.get("message", ""))


def insist(asked: str, command: Command, *, unless: str, poll: float) -> None:
    """Run a command, again while it fails for a reason that passes; an error that says `unless` is as good as done.

    Raises:
        UserError: Google refuses what was asked.
    """
    seen = ""
    while (answer := gcloud.run(command)).code and unless not in answer.err:
        if not gcloud.PASSING.search(answer.err):
            raise gcloud.refused(asked, answer.reason)
        if answer.reason != seen:
            say(f"{asked}: tried again until Google answers ({answer.reason})")
        seen = answer.reason
        time.sleep(poll)


def submit(machine: Machine, *, poll: float) -> None:
    """Put the request into the queue. UserError where it is refused: quota, permission, no such machines there."""
    chips = machine.chips * machine.node_count
    say(f"asking for {machine.node_count} x {machine.kind} in {machine.zone}: {chips} chips")
    insist(f"create {machine.name}", gcloud.create(machine), unless="ALREADY_EXISTS", poll=poll)


def remove(target: Target, *, poll: float) -> None:
    """Delete the queued resource with its slices; nothing where there is none. UserError where Google refuses."""
    insist(f"delete {target.name}", gcloud.delete(target), unless="NOT_FOUND", poll=poll)


def acquire(machine: Machine, *, poll: float, attempts: int) -> None:
    """Wait until the machines are there; ask for them where nobody has, and again where a request ended by itself.

    Args:
        poll: seconds between two looks.
        attempts: how many requests may fail for want of capacity, or be suspended, before it is an error.
    """
    seen = None
    while (now := standing(machine)).state != "ACTIVE":
        if now != seen:
            say(f"{machine.name}: {now.state or 'not there'}{now.reason and f' ({now.reason})'}")
        seen = now
        if now.state == GONE:
            submit(machine, poll=poll)
            continue
        if now.state in ("FAILED", "SUSPENDED"):
            if now.state == "FAILED" and not gcloud.STOCK_OUT.search(now.reason):
                raise gcloud.refused(f"{machine.name} FAILED", f"{now.reason}; delete it to ask again")
            if not attempts:
                raise gcloud.refused(f"{machine.name} {now.state}", now.reason or "its slices were taken away")
            attempts -= 1
            remove(machine, poll=poll)
        time.sleep(poll)
    say(f"{machine.name}: ACTIVE, {machine.all_workers} workers")


def missing(machine: Machine) -> str:
    """Which slices are lost, "" where none is known to be. UserError where Google refuses to say."""
    now = standing(machine)
    if now.state not in ("ACTIVE", UNKNOWN):
        return f"{machine.name} is {now.state or 'not there'}"
    answer = gcloud.run(gcloud.nodes(machine))
    if answer.code:
        if gcloud.PASSING.search(answer.err):
            return ""
        raise gcloud.refused(f"list the slices of {machine.name}", answer.reason)
    states = {node["name"].rpartition("/")[2]: node.get("state", "") for node in gcloud.parsed(answer) or ()}
    lost = {name: states.get(name, "not there") for name in machine.nodes}
    return ", ".join(f"{name} is {state}" for name, state in lost.items() if state in LOST_NODE)


def ask(machine: Target, command: str) -> tuple[dict[str, str], Answer]:
    """Run a command on every worker. Returns what each said of itself, by host, and gcloud's answer.

    gcloud ends with 0 where it could not even prepare some of the slices: only who answered is known to be reached.
    """
    answer = gcloud.run(gcloud.on_workers(machine, command))
    return dict(STATE_LINE.findall(answer.out)), answer


def everyone(
    machine: Machine, command: str, *, poll: float, patience: int, settled: Callable[[str], bool]
) -> dict[str, str]:
    """Ask until every worker has answered, and `settled` holds for each answer.

    Raises:
        Lost: a slice is not there any more.
        UserError: gcloud cannot work here, or some workers are silent for `patience` looks though their slices stand.
    """
    silent, seen = 0, ""
    while True:
        answers, answer = ask(machine, command)
        if len(answers) == machine.all_workers and all(settled(word) for word in answers.values()):
            return answers
        summary = f"{len(answers)} of {machine.all_workers} workers answer" + "".join(
            f", {list(answers.values()).count(word)} {word}" for word in sorted(set(answers.values()))
        )
        if summary != seen:
            say(summary)
        seen = summary
        if len(answers) < machine.all_workers:
            silent += 1
            if reason := missing(machine):
                raise Lost(reason)
            if silent >= patience or "SSH agent" in answer.err or "IAP tunneling" in answer.err:
                raise gcloud.refused(
                    f"reached {len(answers)} of {machine.all_workers} workers of {machine.name}", answer.reason
                )
        else:
            silent = 0
        time.sleep(poll)


def main_worker(machine: Target, command: str) -> Command:
    """A command on the worker whose log is shown: process 0, which alone prints."""
    return gcloud.on_workers(machine, command, node="0", worker="0")


def installed(word: str) -> bool:
    """Whether a worker can be given work. UserError for one whose start-up script failed."""
    if word == "failed":
        raise UserError(
            "the start-up script failed on a worker; `sudo journalctl -u google-startup-scripts` there says why "
            "(without an external address it needs Cloud NAT to install packages)"
        )
    return word != "installing"
