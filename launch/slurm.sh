#!/usr/bin/env bash
# A run on a SLURM cluster, one process a node: sbatch launch/slurm.sh --stage=all --config=configs/hh_rlhf.py --workdir=/shared/hh
# Every process finds the others through SLURM's variables (jax.distributed). The workdir is on a file system that all
# nodes share. Flags of sbatch before the script's name change what stands here: sbatch --nodes=8 launch/slurm.sh ...
#SBATCH --job-name=pit
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --output=pit-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
# The notice: five minutes before the job's time is up every process gets SIGTERM, saves and ends with 75.
#SBATCH --signal=TERM@300
set -uo pipefail

python=${PIT_PYTHON:-.venv/bin/python}
# JAX gives the only task of a node the GPU of that task's number, which is the first, unless it is told of all.
if [ "${SLURM_GPUS_ON_NODE:-0}" -gt 0 ] && [ "${SLURM_NTASKS_PER_NODE:-1}" -eq 1 ]; then
    export JAX_LOCAL_DEVICE_IDS=${JAX_LOCAL_DEVICE_IDS:-$(seq -s, 0 $((SLURM_GPUS_ON_NODE - 1)))}
fi
# The first process that ends must not take the others from their checkpoint: they get the same time as after a notice.
srun --wait=300 "$python" launch/tpu_run.py "$@"
code=$?

if [ "$code" -eq 75 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt "${PIT_RESTARTS:-100}" ]; then
    echo "pit: saved and ended after a notice; the same command is queued again"
    # SLURM ends this script by it; where it refuses, the code says what to do.
    scontrol requeue "$SLURM_JOB_ID" && exit 0
fi
exit "$code"
