"""PIT with the settings of configs/own.py on every embedded world: what it gives where nobody tuned it.

    python -m benchmarks.transfer --scratch=runs/transfer [--worlds notes plans orders] [--seeds 0] [flags]

Each world and seed is a run of its own, from the pairs to the comparison. `matches` is for the end: it is not among the
worlds that are run unless it is named. By the truth, at T 1.0: the policy's score, PIT x1 and more against the policy,
flaws that x1 mends and makes, on how many rewrites the gap is right, what keeping those with a gap above 0 gives; by
the gap: x1 against the policy, and the control that says a sentence twice. At every temperature: for how many of x1,
x2 and x3 the gap and the truth agree on who wins; and the gates that the gap model missed. Of several seeds, the mean
of x1 and its lowest interval too. What is finished is only read.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.command import execute
from benchmarks.results import keep, parser_of
from pit_jax.data.worlds.builtin import WORLDS
from pit_jax.data.worlds.matches import MATCHES
from pit_jax.errors import UserError
from pit_jax.evaluation.results import ComparisonRow, Results, read_results
from pit_jax.evaluation.stats.comparison import Comparison
from pit_jax.evaluation.stats.seeds import spread
from pit_jax.evaluation.systems import POLICY, SystemId, pit
from pit_jax.files import read_json

TEMPERATURE = 1.0
WIDTH = 280  # of the table, which a terminal may fold
COLUMNS = (
    "world",
    "seed",
    "gap right, pairs",
    "words right, pairs",
    "policy",
    "x1, truth",
    "x1, gap",
    "x2",
    "x3",
    "mended/made/of",
    "signs",
    "gates missed",
)
MORE = ("gap right, rewrites", "x1 where gap > 0", "longest, gap")


def figures_of(workdir: Path) -> dict[str, Any]:
    """What a finished run says. UserError for a run without a truth."""
    results = read_results(workdir / "evaluate" / "results.json", Results)
    quality = read_json(workdir / "rm-improver" / "quality.json")
    words = read_json(workdir / "rm-word-model" / "done.json")
    if results is None or quality is None or "rubric" not in results.judges:
        raise UserError(f"{workdir}: asked for a finished run on a world, found no comparison by its truth")

    def row(judge: str, left: SystemId, temperature: float = TEMPERATURE) -> ComparisonRow:
        return next(
            row
            for row in (*results.rows, *(control.row for control in results.controls))
            if (row.judge, row.left, row.right, row.temperature) == (judge, left, POLICY, temperature)
        )

    (first,) = [row for row in results.rewrites if (row.system, row.temperature) == (pit(1), TEMPERATURE)]
    (policy,) = [row for row in results.systems if (row.system, row.temperature) == (POLICY, TEMPERATURE)]
    assert first.flaws is not None and first.gap is not None, "a world names its flaws"
    asked = [(pit(k), row.temperature) for k in (1, 2, 3) for row in results.systems if row.system == POLICY]
    agree = [row("gap", *one).delta * row("rubric", *one).delta > 0 for one in asked]
    return {
        "gap right, pairs": float(np.mean(list(quality["quality"]["accuracies"].values()))),
        "words right, pairs": words and words["right"],
        "policy": policy.score_mean,
        "x1, truth": _interval(row("rubric", pit(1))),
        "x1, gap": _interval(row("gap", pit(1))),
        "x2": _interval(row("rubric", pit(2))),
        "x3": _interval(row("rubric", pit(3))),
        "mended/made/of": f"{first.flaws.mended}/{first.flaws.made}/{first.flaws.of}",
        "signs": f"{sum(agree)} of {len(agree)}",
        "gates missed": " ".join(gate["name"] for gate in quality["gates"] if not gate["passed"]) or "none",
        "gap right, rewrites": first.gap.accuracy,
        "x1 where gap > 0": _interval(first.gap.above_zero),
        "longest, gap": _interval(row("gap", SystemId("control", source="longest"))),
        "n": row("rubric", pit(1)).n,
    }


def _interval(row: Comparison) -> list[float]:
    return [row.delta, row.low, row.high]


def _told(figure: Any) -> str:
    match figure:
        case [delta, low, high]:
            return f"{delta:+.1f} [{low:+.1f}, {high:+.1f}]"
        case float():
            return f"{figure:.3f}"
        case _:
            return str(figure)


def main(argv: Sequence[str]) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--scratch", type=Path, default=Path("runs/transfer"))
    tuned = [name for name in WORLDS.names() if name != MATCHES.name]
    parser.add_argument("--worlds", nargs="+", default=tuned, choices=WORLDS.names())
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    given, flags = parser.parse_known_args(argv)
    table, rows = Table(title="PIT with configs/own.py, T 1.0", title_justify="left"), []
    for column in (*COLUMNS, *MORE):
        table.add_column(column, justify="left" if column == "world" else "right")
    for world in given.worlds:
        for seed in given.seeds:
            workdir = given.scratch / f"{world}-{seed}"
            if not (workdir / "evaluate" / "done.json").exists():
                source = ("--data.sources", f"world:{world}")
                execute(["--stage=all", "--config=own", f"--workdir={workdir}", f"--seed={seed}", *source, *flags])
            rows.append({"world": world, "seed": seed, **figures_of(workdir)})
            table.add_row(*(_told(rows[-1][name]) for name in (*COLUMNS, *MORE)))
            Console().print(rows[-1])
    Console(width=WIDTH).print(table)
    for world in given.worlds if len(given.seeds) > 1 else ():
        deltas, lows, _ = zip(*(row["x1, truth"] for row in rows if row["world"] == world), strict=True)
        told = f"{spread(deltas).mean:+.1f} over {len(deltas)} seeds, lowest interval from {min(lows):+.1f}"
        Console().print(f"{world}: x1 by the truth {told}")
    keep(given.results, "transfer", {"flags": list(flags), "rows": rows})


if __name__ == "__main__":
    main(sys.argv[1:])
