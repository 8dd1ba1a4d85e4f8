"""Metrics of every training by 1, 2 and 4 processes over each axis of the mesh, against one process with one device.

    python -m benchmarks.hosts --scratch=runs/hosts [--config=micro] [--updates=20] [--processes 2] [--axes fsdp]

Four devices in all; `--processes` and `--axes` choose a part of the table, and what the one device has trained in
--scratch is used again. Each training starts from what the one device has left, so that differences do not add up over
the stages. The figure of a training is the largest difference of a metric, relative to it where it is above SMALL, in
any row; `above` names that metric of every row where it goes beyond LIMIT. Where rounding moves a sampled token, a
round of RL has other rollouts, and all rows behind it differ.
"""

import itertools
import shutil
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.command import BEFORE_IMPROVER_RL, finish, start
from benchmarks.results import keep, parser_of
from pit_jax.files import read_jsonl

TRAININGS = (*BEFORE_IMPROVER_RL, ("rl", "improver"))
MESHES = {"data": ["--mesh.data=4"], "fsdp": ["--mesh.fsdp=4"], "tensor": ["--mesh.tensor=4"]}
HEADS = ("--transformer.query-heads=4", "--transformer.head-size=4")  # a tensor axis of four shares four heads
PROCESSES, DEVICES = (1, 2, 4), 4
LIMIT = 1e-5
SMALL = 0.1  # below it, a metric is compared by its absolute difference, to SMALL x LIMIT
LONGEST = 1800.0  # seconds for one training


def lengths(updates: int) -> list[str]:
    """The flags for so many updates, or rounds, of every training."""
    trained = [f"--{stage}.{role}-steps={updates}" for stage in ("sft", "rm") for role in ("policy", "improver")]
    curriculum = ["--rl.curriculum.rounds", str(updates // 2), str(updates - updates // 2)]
    return [*trained, f"--rl.policy-rounds={updates}", *curriculum, "--checkpoint.every=4"]


def difference(mine: Path, theirs: Path) -> dict[str, Any]:
    """How far two folders' rows of metrics are apart."""
    ours, others = (
        [row for row in read_jsonl(folder / "metrics.jsonl") if row["phase"] != "performance"]
        for folder in (mine, theirs)
    )
    assert [row["step"] for row in ours] == [row["step"] for row in others], (mine, theirs)
    largest = [
        max(
            (abs(row[name] - other[name]) / max(abs(other[name]), SMALL), name)
            for name in row.keys() & other.keys() - {"time", "phase"}
        )
        for row, other in zip(ours, others, strict=True)
    ]
    size, name = max(largest)
    differ = sorted({name for size, name in largest if size > LIMIT})
    return {"rows": len(largest), "largest": size, "of": name, "above": differ}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--scratch", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--config", default="micro")
    parser.add_argument("--updates", type=int, default=20, help="of every training; rounds of RL")
    parser.add_argument("--processes", type=int, nargs="+", default=PROCESSES, choices=PROCESSES)
    parser.add_argument("--axes", nargs="+", default=list(MESHES), choices=list(MESHES))
    args, console = parser.parse_args(), Console()
    shared = [f"--config={args.config}", *HEADS, *lengths(args.updates)]
    one, figures = args.scratch / "one", dict[str, dict[str, Any]]()
    for stage, model in TRAININGS:
        flags = [*shared, f"--stage={stage}", f"--model={model}"]
        finish(start([*flags, f"--workdir={one}"], processes=1, devices=1), timeout=LONGEST)
    for processes, axis in itertools.product(args.processes, args.axes):
        workdir, row = args.scratch / f"{processes}-{axis}", figures.setdefault(f"{processes} {axis}", {})
        shutil.rmtree(workdir, ignore_errors=True)
        shutil.copytree(one / "data", workdir / "data")
        for stage, model in TRAININGS:
            name, flags = f"{stage}-{model}", [*shared, *MESHES[axis], f"--stage={stage}", f"--model={model}"]
            finish(start([*flags, f"--workdir={workdir}"], processes=processes, devices=DEVICES), timeout=LONGEST)
            row[name] = difference(workdir / name, one / name)
            console.print(f"{processes} process(es), {axis}: {name}: {row[name]}")
            shutil.rmtree(workdir / name)
            shutil.copytree(one / name, workdir / name)
    keep(args.results, "hosts", {"config": args.config, "updates": args.updates, **figures})


if __name__ == "__main__":
    main()
