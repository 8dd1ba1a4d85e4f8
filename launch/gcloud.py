"""Every command that is given to gcloud, as a value; and the one place that runs or prints them.

The flags are those of Google Cloud CLI 528.0.0 (`gcloud compute tpus queued-resources --help`).
"""

import json
import os
import re
import shlex
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.machines import GA_TYPES, Machine, Target
from pit_jax.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
STAGING = ".launch"  # in the checkout, ignored by git: what is on its way to the workers
REMOTE = "pit"  # in the home of the ssh user on a worker
# The start-up script makes a package of the two files that decide what is installed, and installs what it needs.
SENT = ("startup-script=launch/tpu_startup.sh", "pit-setup=setup.py")
LOCKS = ("constraints-py311.txt", "constraints-py312.txt")
# A connection that is dead without a word ends by itself, within a minute.
ALIVE = ("-oConnectTimeout=20", "-oServerAliveInterval=15")
SHORT, LONG = 300.0, 1800.0  # seconds that a command may take: to look; to copy, install, make or delete
TIMED_OUT = 124  # the code of timeout(1)

Command = tuple[str, ...]


def _group(target: Target, verb: str, *, alpha: bool = False) -> Command:
    where = (f"--zone={target.zone}", *((f"--project={target.project}",) if target.project else ()))
    return ("gcloud", *(("alpha",) if alpha else ()), "compute", "tpus", "queued-resources", verb, target.name, *where)


def _route(target: Target) -> Command:
    if target.tunnel_through_iap:
        return ("--tunnel-through-iap",)
    return ("--internal-ip",) if target.internal_ip else ()


def create(machine: Machine) -> Command:
    """Put the request into the queue."""
    shape = (
        (f"--accelerator-type={machine.accelerator_type}",)
        if machine.accelerator_type
        else (f"--type={machine.type}", f"--topology={machine.topology}")
    )
    many = machine.node_count > 1
    nodes = (
        (f"--node-count={machine.node_count}", f"--node-prefix={machine.name}")
        if many
        else (f"--node-id={machine.name}",)
    )
    files = ",".join([*SENT, *(f"pit-{lock.removesuffix('.txt')}={lock}" for lock in LOCKS)])
    alpha = bool(machine.type) and machine.type not in GA_TYPES
    optional = {
        "spot": machine.spot,
        "reserved": machine.reserved,
        "internal-ips": machine.internal_ips,
    }
    valued = {
        # Without it the alpha command asks for standard machines beside --spot.
        "provisioning-model": "spot" if alpha and machine.spot else "",
        "network": machine.network,
        "subnetwork": machine.subnetwork,
        "service-account": machine.service_account,
        "valid-until-duration": machine.valid_until_duration,
        "labels": ",".join(f"{key}={value}" for key, value in machine.labels.items()),
        "metadata": machine.nfs and f"pit-nfs={machine.nfs}",
    }
    return (
        *_group(machine, "create", alpha=alpha),
        *shape,
        f"--runtime-version={machine.image}",
        *nodes,
        *(f"--{name}" for name, asked in optional.items() if asked),
        *(f"--{name}={value}" for name, value in valued.items() if value),
        f"--metadata-from-file={files}",
    )


def describe(target: Target) -> Command:
    return (*_group(target, "describe"), "--format=json")


def nodes(target: Target) -> Command:
    """The slices of the zone, which are there or not, each with its state."""
    project = (f"--project={target.project}",) if target.project else ()
    return ("gcloud", "compute", "tpus", "tpu-vm", "list", f"--zone={target.zone}", *project, "--format=json")


def delete(target: Target) -> Command:
    """With its nodes, without a question."""
    return (*_group(target, "delete"), "--force", "--quiet")


def on_workers(target: Target, command: str, *, node: str = "all", worker: str = "all") -> Command:
    """A shell command on workers, at once. What they print arrives mixed: every line must say whose it is."""
    chosen = (f"--node={node}", f"--worker={worker}", f"--command={command}")
    return (*_group(target, "ssh"), *_route(target), *(f"--ssh-flag={flag}" for flag in ALIVE), *chosen)


def shell(target: Target, node: str, worker: int) -> Command:
    """A terminal on one worker. The GA command knows no proxy."""
    project = (f"--project={target.project}",) if target.project else ()
    track = ("gcloud", "alpha") if target.tunnel_through_iap else ("gcloud",)
    where = (f"--zone={target.zone}", *project, *_route(target), f"--worker={worker}")
    return (*track, "compute", "tpus", "tpu-vm", "ssh", node, *where)


def to_workers(target: Target, files: tuple[str, ...], folder: str) -> Command:
    """Copy files into a folder of every worker."""
    route = (*_route(target), *(f"--scp-flag={flag}" for flag in ALIVE), "--node=all", "--worker=all")
    head = _group(target, "scp")
    return (*head[:5], *files, f"{target.name}:{folder}/", *head[6:], *route)


@dataclass(frozen=True)
class Answer:
    """What a command ended with."""

    code: int
    out: str
    err: str

    @property
    def reason(self) -> str:
        """The last lines that say something."""
        lines = [line for line in f"{self.err}\n{self.out}".splitlines() if line.strip()]
        first = next((i for i, line in enumerate(lines) if line.startswith("ERROR:")), max(len(lines) - 6, 0))
        return "\n".join(lines[first : first + 12]) or f"exit code {self.code}, without a word"


def limit(command: Command) -> float:
    """Seconds that it may take."""
    slow = {"create", "delete", "scp"} & set(command) or re.search(r" (unpack|lines \d+)$", command[-1])
    return LONG if slow else SHORT


def run(command: Command) -> Answer:
    """Run in the checkout's root. A command that takes too long is ended, and fails for a reason that passes.

    Raises:
        UserError: the program is not there.
    """
    try:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise UserError(
            f"asked for the program {command[0]}, found none on PATH; install the Google Cloud CLI, run `gcloud init`"
        ) from error
    with process:
        try:
            out, err = process.communicate(timeout=limit(command))
        except BaseException as stop:
            # With the ssh processes below it, which hold the pipes open.
            os.killpg(process.pid, signal.SIGKILL)
            if not isinstance(stop, subprocess.TimeoutExpired):
                raise
            return Answer(TIMED_OUT, "", f"ERROR: {command[0]} timed out after {limit(command):.0f} s")
    return Answer(process.returncode, out, err)


def show(command: Command) -> str:
    """For a shell: what is printed can be pasted."""
    return shlex.join(command)


# What to do about it, by what Google says. The texts are those of the API and of Google Cloud CLI 528.0.0.
ADVICE = {
    "[Qq]uota": "your project has no quota left for it in this zone: ask for more at "
    "console.cloud.google.com/iam-admin/quotas (spot and on-demand count apart), or pick another zone",
    "no more capacity|[Ss]tockout": "the zone has none to give: wait, or pick another zone or a smaller slice",
    "could not be found in the zonal accelerator": "the zone has no such machines: "
    "`gcloud compute tpus accelerator-types list --zone=ZONE` lists what it has",
    "runtime version|software version|RuntimeVersion": "the runtime version does not fit the generation: leave out "
    "--runtime-version",
    "PERMISSION_DENIED|or it may not exist|active account": "look at `gcloud auth list`, `gcloud config list` and the "
    "name of the zone",
    "SSH Key is not present in the SSH agent": "run: eval $(ssh-agent); ssh-add ~/.ssh/google_compute_engine",
    "IAP tunneling": "the firewall must let 35.235.240.0/20 in at port 22: "
    "cloud.google.com/iap/docs/using-tcp-forwarding",
}
STOCK_OUT = re.compile(r"no more capacity|[Ss]tockout")
# A bare 500 may be the limit of a quota.
PASSING = re.compile(
    r"UNAVAILABLE|DEADLINE_EXCEEDED|INTERNAL|([Ee]rror|code|status)\W{1,4}50[0234]\b|[Tt]imed? ?out"
    r"|[Cc]onnection (reset|refused)|Max retries exceeded|NameResolution|Failed to resolve|ConnectionError"
    r"|TransportError|[Nn]etwork is unreachable"
)


def refused(asked: str, reason: str) -> UserError:
    """The error for a command that Google refused: its words, and what to change."""
    advice = next((text for pattern, text in ADVICE.items() if re.search(pattern, reason)), "")
    return UserError(f"{asked}: {reason}" + (f"\n{advice}" if advice else ""))


def parsed(answer: Answer) -> Any:
    """JSON that gcloud printed."""
    return json.loads(answer.out or "null")
