"""launch/slurm.sh against stand-ins of srun and scontrol."""

import os
import subprocess
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("code", "restarts", "ended", "requeued"),
    [(0, 0, 0, []), (75, 0, 0, ["requeue 17"]), (75, 100, 75, []), (1, 0, 1, []), (2, 3, 2, [])],
)
def test_a_notice_queues_the_job_again_and_nothing_else_does(
    repository: Path, tmp_path: Path, code: int, restarts: int, ended: int, requeued: list[str]
) -> None:
    for name, text in {
        "srun": f'echo "$@" >{tmp_path}/run; exit {code}',
        "scontrol": f'echo "$@" >>{tmp_path}/asked',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "SLURM_JOB_ID": "17",
        "SLURM_RESTART_COUNT": str(restarts),
    }
    command = ["bash", str(repository / "launch" / "slurm.sh"), "--stage=rl", "--workdir=/shared/a b"]
    assert subprocess.run(command, env=environment, capture_output=True).returncode == ended
    assert (tmp_path / "run").read_text() == (
        "--wait=300 .venv/bin/python launch/tpu_run.py --stage=rl --workdir=/shared/a b\n"
    )
    asked = tmp_path / "asked"
    assert (asked.read_text().splitlines() if asked.exists() else []) == requeued


@pytest.mark.parametrize(
    ("known", "told"),
    [
        ({"SLURM_GPUS_ON_NODE": "4"}, "0,1,2,3"),
        ({"SLURM_GPUS_ON_NODE": "1", "SLURM_NTASKS_PER_NODE": "1"}, "0"),
        ({"SLURM_GPUS_ON_NODE": "4", "JAX_LOCAL_DEVICE_IDS": "2,3"}, "2,3"),
        ({"SLURM_GPUS_ON_NODE": "4", "SLURM_NTASKS_PER_NODE": "4"}, ""),
        ({"SLURM_GPUS_ON_NODE": "0"}, ""),
        ({}, ""),
    ],
)
def test_the_one_process_of_a_node_is_told_of_all_its_gpus(
    repository: Path, tmp_path: Path, known: dict[str, str], told: str
) -> None:
    (tmp_path / "srun").write_text(f'#!/bin/bash\necho "${{JAX_LOCAL_DEVICE_IDS:-}}" >{tmp_path}/told\n')
    (tmp_path / "srun").chmod(0o755)
    environment = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", **known}
    command = ["bash", str(repository / "launch" / "slurm.sh"), "--stage=rl"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "told").read_text() == f"{told}\n"


def test_what_sbatch_reads_comes_before_the_first_command(repository: Path) -> None:
    """sbatch stops reading its flags there."""
    lines = (repository / "launch" / "slurm.sh").read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    flags = {line.removeprefix("#SBATCH ") for line in lines[:first] if line.startswith("#SBATCH ")}
    assert {"--requeue", "--open-mode=append", "--signal=TERM@300", "--ntasks-per-node=1"} <= flags
    assert not any(line.startswith("#SBATCH") for line in lines[first:])


@pytest.mark.parametrize("name", ["slurm.sh", "tpu_startup.sh", "tpu_worker.sh"])
def test_the_shell_reads_it(repository: Path, name: str) -> None:
    path = repository / "launch" / name
    assert subprocess.run(["bash", "-n", str(path)]).returncode == 0 and os.access(path, os.X_OK)
