"""The improver's RL by several algorithms at equal rollouts: PIT x1 against the policy, time and memory.

    python -m benchmarks.rl_algorithms --scratch=runs/algorithms --config=notes [--seeds 0 1 2] [flags of the config]

For each seed the policy, its RL, and the gap model are trained once, in --scratch/seed-<s>/parent. Every algorithm is a
branch of it that runs the improver's RL (timed, with its peak resident memory) and judges PIT x1 against the policy at
T 1.0 on 1,024 held-out prompts. NAME:K draws K responses a (prompt, reference). What is finished is only read.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.command import BEFORE_IMPROVER_RL, execute
from benchmarks.results import keep, parser_of
from pit_jax.evaluation.results import ComparisonRow, Results, read_results
from pit_jax.evaluation.stats.seeds import spread
from pit_jax.evaluation.systems import POLICY, pit
from pit_jax.files import read_json, write_json

JUDGED = (
    *("--stage=evaluate", "--evaluate.prompts=1024", "--evaluate.temperatures", "1.0"),
    *("--evaluate.judges", "rubric", "--improve.rounds=1"),
)
COST = "cost.json"


def judged(scratch: Path, seed: int, algorithm: str, flags: Sequence[str]) -> tuple[ComparisonRow, dict[str, float]]:
    """PIT x1 against the policy by one algorithm from one seed, and what its RL cost."""
    parent, branch = (scratch / f"seed-{seed}" / name for name in ("parent", algorithm.replace(":", "-")))
    for stage, model in BEFORE_IMPROVER_RL:
        if not (parent / f"{stage}-{model}" / "done.json").exists():
            execute([f"--stage={stage}", f"--model={model}", f"--seed={seed}", f"--workdir={parent}", *flags])
    name, _, samples = algorithm.partition(":")
    chosen = [f"--rl.improver-algorithm={name}", *([f"--rl.improver-samples={samples}"] if samples else [])]
    shared = [f"--seed={seed}", f"--workdir={branch}", f"--parent-run={parent}", *chosen, *flags]
    cost: dict[str, float] | None = read_json(branch / COST)
    if cost is None:
        took = execute(["--stage=rl", *shared])
        cost = {"seconds": round(took.seconds), "MiB": took.resident >> 20}
        write_json(branch / COST, cost)
    if not (branch / "evaluate" / "results.json").exists():
        execute([*JUDGED, *shared])
    results = read_results(branch / "evaluate" / "results.json", Results)
    assert results is not None
    (row,) = [row for row in results.rows if (row.left, row.right) == (pit(1), POLICY)]
    return row, cost


def main(argv: Sequence[str]) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--scratch", type=Path, default=Path("runs/algorithms"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--algorithms", nargs="+", default=["ppo", "grpo", "rloo", "dr_grpo"])
    given, flags = parser.parse_known_args(argv)
    if len(given.seeds) < 2:
        parser.error(f"--seeds needs at least two, for an interval over seeds; found {given.seeds}")
    table = Table(title=f"PIT x1 against the policy, T 1.0, seeds {given.seeds}", title_justify="left")
    for column in ("algorithm", "mean over seeds", "95% interval", "each seed", "RL, s", "MiB"):
        table.add_column(column, justify="left" if column == "algorithm" else "right")
    figures: dict[str, Any] = {}
    for algorithm in given.algorithms:
        rows, costs = zip(*(judged(given.scratch, seed, algorithm, flags) for seed in given.seeds), strict=True)
        over = spread([row.delta for row in rows])
        each = [f"{row.delta:+.1f} [{row.low:+.1f}, {row.high:+.1f}]" for row in rows]
        took, memory = (float(np.mean([cost[name] for cost in costs])) for name in ("seconds", "MiB"))
        interval = f"{over.low:+.1f} to {over.high:+.1f}"
        table.add_row(algorithm, f"{over.mean:+.1f}", interval, "\n".join(each), f"{took:.0f}", f"{memory:.0f}")
        figures[algorithm] = {"mean": round(over.mean, 1), "interval": interval, "seeds": each}
        figures[algorithm] |= {"seconds": round(took), "MiB": round(memory), "n": rows[0].n}
        Console().print(json.dumps({algorithm: figures[algorithm]}))
    Console().print(table)
    keep(given.results, "rl_algorithms", {"flags": list(flags), "seeds": given.seeds, **figures})


if __name__ == "__main__":
    main(sys.argv[1:])
