"""A run on Cloud TPU VMs from this machine, over the gcloud command line: docs/howto/pod.md.

python launch/tpu_vm.py run pit --zone=us-west4-a --accelerator-type=v5litepod-16 --spot --nfs=10.0.0.2:/share \\
    -- --stage=all --config=configs/hh_rlhf.py --workdir=/mnt/pit/hh
"""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

if __name__ == "__main__":
    # Works from a checkout whether or not the package is installed.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import tyro

from launch import fleet, gcloud, shipping, supervisor
from launch.fleet import say
from launch.gcloud import Command
from launch.machines import Machine, Target
from pit_jax.errors import UserError
from pit_jax.terminal import tell, visible

LOG_LINES = 1_000_000  # of a whole log


@dataclass(frozen=True, kw_only=True)
class Create(Machine):
    """Ask for machines and wait until they are there."""

    poll: float = 30.0
    """Seconds between two looks."""
    max_restarts: int = 100
    """Requests that may end for want of capacity before it is an error."""


@dataclass(frozen=True, kw_only=True)
class Run(Machine):
    """Run launch/tpu_run.py with the flags behind -- on all workers until it has ended; ask for the machines first, and
    again whenever they are taken away. Given again, it goes on with the run that is there."""

    secrets: tuple[str, ...] = ()
    """Names of environment variables that the run needs, such as HF_TOKEN. Their values are copied in a file."""
    ship_head: bool = False
    """Run HEAD though the working tree differs from it."""
    poll: float = 30.0
    """Seconds between two looks."""
    patience: int = 20
    """Looks at workers that do not answer, or do not end with the others, before it is an error."""
    max_restarts: int = 100
    """Starts after the first: after lost machines, and after notices of pre-emption."""


@dataclass(frozen=True, kw_only=True)
class Status(Target):
    """Say how the request, its slices and the run on every worker stand."""


@dataclass(frozen=True, kw_only=True)
class Logs(Target):
    """Show the last lines that each worker has logged, or copy whole logs."""

    lines: int = 20
    """Of each worker."""
    output: Path | None = None
    """A folder that gets the whole log of every worker in a folder of its own: OUTPUT/HOST/log."""


@dataclass(frozen=True, kw_only=True)
class Ssh(Target):
    """Open a terminal on one worker, or run the command behind -- on several."""

    node: str = "0"
    """Slice: a number; or all, with a command."""
    worker: str = "0"
    """Of the slice: a number; or all, with a command."""


@dataclass(frozen=True, kw_only=True)
class Delete(Target):
    """Give the machines back, and the request. Disks of the workers go with them."""


def job_of(asked: Run, flags: Sequence[str]) -> supervisor.Job:
    """What `run` was asked to do."""
    machine = Machine(**{field.name: getattr(asked, field.name) for field in fields(Machine)})
    return supervisor.Job(machine, tuple(flags), asked.secrets, asked.poll, asked.patience, asked.max_restarts)


def create(asked: Create) -> int:
    fleet.acquire(asked, poll=asked.poll, attempts=asked.max_restarts)
    return 0


def run(asked: Run, flags: Sequence[str]) -> int:
    shipping.check_clean(allow_dirty=asked.ship_head)
    shipping.check_secrets(asked.secrets)
    return supervisor.run(job_of(asked, flags))


def status(asked: Status) -> int:
    now = fleet.standing(asked)
    tell(f"{asked.name}: {now.state or 'not there'}{now.reason and f' ({now.reason})'}")
    if now.state == "ACTIVE":
        for node in gcloud.parsed(gcloud.run(gcloud.nodes(asked))) or ():
            name = node["name"].rpartition("/")[2]
            if name == asked.name or name.rpartition("-")[0] == asked.name:
                tell(f"  {name}: {node.get('state')} {node.get('health', '')}".rstrip())
        states, answer = fleet.ask(asked, fleet.STATE)
        for host, word in sorted(states.items()):
            tell(f"  {host}: {word}")
        if answer.code:
            raise gcloud.refused("some workers do not answer", answer.reason)
    return 0


def log_command(asked: Logs) -> Command:
    """The last lines of every worker, or whole logs."""
    lines = LOG_LINES if asked.output else asked.lines
    return gcloud.on_workers(asked, f"{supervisor.WORKER} lines {lines}")


def logs(asked: Logs) -> int:
    answer = gcloud.run(log_command(asked))
    by_host: dict[str, list[str]] = {}
    for line in answer.out.splitlines():
        host, tab, text = line.partition("\t")
        if tab:
            by_host.setdefault(host, []).append(visible(text))
    for host, texts in sorted(by_host.items()):
        if asked.output:
            # gcloud's --output-directory names files by worker alone, so that slices overwrite each other's.
            folder = asked.output / Path(host).name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "log").write_text("\n".join(texts) + "\n", encoding="utf-8")
            tell(f"{folder / 'log'}: {len(texts)} lines")
        else:
            tell("\n".join([f"== {host}", *texts]))
    if answer.code or not by_host:
        raise gcloud.refused("logs of some workers are missing", answer.reason)
    return 0


def ssh_command(asked: Ssh, words: Sequence[str]) -> Command:
    """A terminal without words, else a command. UserError for a terminal on several workers."""
    if words:
        return gcloud.on_workers(asked, " ".join(words), node=asked.node, worker=asked.worker)
    if not (asked.node.isdigit() and asked.worker.isdigit()):
        raise UserError("ssh: a terminal is on one worker; name it by numbers, or write the command behind --")
    now = gcloud.parsed(gcloud.run(gcloud.describe(asked))) if not asked.dry_run else None
    specs = (now or {}).get("tpu", {}).get("nodeSpec", [{}])
    several = "multisliceParams" in specs[0] or len(specs) > 1
    node = f"{asked.name}-{asked.node}" if several or asked.node != "0" else asked.name
    return gcloud.shell(asked, node, int(asked.worker))


def planned(asked: Target, rest: Sequence[str]) -> list[Command]:
    """The commands of --dry-run."""
    match asked:
        case Create():
            return [gcloud.create(asked), gcloud.describe(asked)]
        case Run():
            return supervisor.journey(job_of(asked, rest))
        case Status():
            return [gcloud.describe(asked), gcloud.nodes(asked), gcloud.on_workers(asked, fleet.STATE)]
        case Logs():
            return [log_command(asked)]
        case Ssh():
            return [ssh_command(asked, rest)]
        case _:
            return [gcloud.delete(asked)]


def obey(asked: Target, rest: Sequence[str]) -> int:
    """Do what was asked, or print it. Returns the exit code."""
    asked.check()
    if isinstance(asked, Run):
        supervisor.check(job_of(asked, rest))
    elif rest and not isinstance(asked, Ssh):
        raise UserError(f"did not expect {' '.join(rest)!r} behind --: only run and ssh take a command there")
    if asked.dry_run:
        tell("\n".join(gcloud.show(command) for command in planned(asked, rest)))
        return 0
    match asked:
        case Create():
            return create(asked)
        case Run():
            return run(asked, rest)
        case Status():
            return status(asked)
        case Logs():
            return logs(asked)
        case Ssh():
            return subprocess.run(ssh_command(asked, rest), cwd=gcloud.ROOT).returncode
        case _:
            fleet.remove(asked, poll=Create.poll)
            say(f"{asked.name}: deleted")
            return 0


def main(argv: Sequence[str]) -> int:
    """Parse, check, do. Returns the exit code: that of the run, 2 for what the user can cure, 130 if stopped."""
    words = list(argv)
    cut = words.index("--") if "--" in words else len(words)
    verbs = tyro.conf.OmitSubcommandPrefixes[
        Annotated[Create, tyro.conf.subcommand("create")]
        | Annotated[Run, tyro.conf.subcommand("run")]
        | Annotated[Status, tyro.conf.subcommand("status")]
        | Annotated[Logs, tyro.conf.subcommand("logs")]
        | Annotated[Ssh, tyro.conf.subcommand("ssh")]
        | Annotated[Delete, tyro.conf.subcommand("delete")]
    ]
    try:
        asked: Target = tyro.cli(verbs, prog="tpu_vm.py", description=__doc__, args=words[:cut])
        return obey(asked, words[cut + 1 :])
    except KeyboardInterrupt:
        tell("\nstopped; the run goes on on the workers, and the same command follows it", error=True)
        return 130
    except UserError as error:
        tell(f"error: {error}", error=True)
        return 2


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.exit(code)
