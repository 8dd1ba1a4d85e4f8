"""The code on its way to the workers: an archive of one commit, and secrets in a file that nobody else reads."""

import os
import re
import subprocess
from collections.abc import Sequence

from launch import gcloud
from launch.gcloud import REMOTE, Command
from launch.machines import Machine
from pit_jax.errors import UserError

# The values go from the environment into the file, by the shell's own printf: no argument list ever holds one.
WRITE_SECRETS = (
    "set -eu; umask 077; file=$1; shift; "
    'for name in "$@"; do printf "export %s=%q\\n" "$name" "${!name}"; done > "$file"'
)


def check_clean(*, allow_dirty: bool) -> None:
    """UserError where the working tree differs from HEAD, unless HEAD is what is meant."""
    answer = gcloud.run(("git", "status", "--porcelain"))
    if answer.code:
        raise UserError(f"asked for a git checkout to ship, found none in {gcloud.ROOT}: {answer.reason}")
    changed = [line[3:] for line in answer.out.splitlines()]
    if changed and not allow_dirty:
        raise UserError(
            f"changes that no commit holds are not shipped: {', '.join(changed[:5])}"
            f"{' and more' if len(changed) > 5 else ''}; commit them, or pass --ship-head to run HEAD without them"
        )


def check_secrets(names: Sequence[str]) -> None:
    """UserError for a name that is none, or that the environment does not hold."""
    for name in names:
        if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name):
            raise UserError(
                "--secrets: asked for names of environment variables, such as HF_TOKEN, found something else "
                "(not shown: it may be a secret)"
            )
        if not os.environ.get(name):
            raise UserError(f"--secrets: asked for {name}, which the environment does not hold; export it first")


def head() -> str:
    """The commit that is shipped."""
    return subprocess.run(
        ("git", "rev-parse", "HEAD"), cwd=gcloud.ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


def pack(machine: Machine, secrets: Sequence[str]) -> list[Command]:
    """Everything that is copied, into a folder of this machine."""
    folder = f"{gcloud.STAGING}/{machine.name}"
    commands: list[Command] = [
        ("mkdir", "-p", "-m", "700", gcloud.STAGING, folder),
        # pit_jax/run/commit.txt of the archive holds the commit (.gitattributes), and every stage's lineage then does.
        ("git", "archive", "--format=tar.gz", f"--output={folder}/code.tar.gz", "HEAD"),
    ]
    if secrets:
        commands.append(("bash", "-c", WRITE_SECRETS, "secrets", f"{folder}/env", *secrets))
    return commands


def send(machine: Machine, secrets: Sequence[str]) -> Command:
    """To ~/pit of every worker, which is there and the ssh user's alone."""
    folder = f"{gcloud.STAGING}/{machine.name}"
    files = (f"{folder}/code.tar.gz", "launch/tpu_worker.sh", *((f"{folder}/env",) if secrets else ()))
    return gcloud.to_workers(machine, files, REMOTE)


def forget(machine: Machine) -> Command:
    """Take the secrets off this machine's disk."""
    return ("rm", "-f", f"{gcloud.STAGING}/{machine.name}/env")
