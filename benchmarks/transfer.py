"""PIT with the settings of configs/own.py on every embedded world: what it gives where nobody tuned it.

    python -m benchmarks.transfer --scratch=runs/transfer [--worlds notes plans orders] [--seeds 0] [flags]

Each world and seed is a run of its own, from the pairs to the comparison. `matches` is for the end: it is not among the
worlds that are run unless it is named. By the truth, at T 1.0: the policy's score, PIT x1 and more against the policy,
flaws that x1 mends and makes, on how many rewrites the gap is right, what keeping those with a gap above 0 gives; by
the gap: x1 against the policy, and the control that says a sentence twice. What is finished is only read.
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
from pit_jax.evaluation.systems import POLICY, SystemId, pit
from pit_jax.files import read_json

TEMPERATURE = 1.0
WIDTH = 250  # of the table, which a terminal may fold
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
)
MORE = ("gap right, rewrites", "x1 where gap > 0", "longest, gap")


def figures_of(workdir: Path) -> dict[str, Any]:
    """What a finished run says. UserError for a run without a truth."""
    results = read_results(workdir / "evaluate" / "results.json", Results)
    quality = read_json(workdir / "rm-improver" / "quality.json")
    words = read_json(workdir / "rm-word-model" / "done.json")
    if results is None or quality is None or "rubric" not in results.judges:
        raise UserError(f"{workdir}: asked for a finished run on a world, found no comparison by its truth")

    def row(judge: str, left: SystemId) -> ComparisonRow:
        found = (results.rows, [control.row for control in results.controls])
        return next(
            row
            for row in (*found[0], *found[1])
            if (row.judge, row.left, row.right, row.temperature) == (judge, left, POLICY, TEMPERATURE)
        )

    (first,) = [row for row in results.rewrites if (row.system, row.temperature) == (pit(1), TEMPERATURE)]
    (policy,) = [row for row in results.systems if (row.system, row.temperature) == (POLICY, TEMPERATURE)]
    assert first.flaws is not None and first.gap is not None, "a world names its flaws"
    return {
        "gap right, pairs": float(np.mean(list(quality["quality"]["accuracies"].values()))),
        "words right, pairs": words and words["right"],
        "policy": policy.score_mean,
        "x1, truth": _told(row("rubric", pit(1))),
        "x1, gap": _told(row("gap", pit(1))),
        "x2": _told(row("rubric", pit(2))),
        "x3": _told(row("rubric", pit(3))),
        "mended/made/of": f"{first.flaws.mended}/{first.flaws.made}/{first.flaws.of}",
        "gap right, rewrites": first.gap.accuracy,
        "x1 where gap > 0": _told(first.gap.above_zero),
        "longest, gap": _told(row("gap", SystemId("control", source="longest"))),
        "n": row("rubric", pit(1)).n,
    }


def _told(row: Any) -> str:
    return f"{row.delta:+.1f} [{row.low:+.1f}, {row.high:+.1f}]"


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
            found = figures_of(workdir)
            rows.append({"world": world, "seed": seed, **found})
            shown = {
                name: f"{value:.3f}" if isinstance(value, float) else str(value) for name, value in rows[-1].items()
            }
            table.add_row(*(shown[name] for name in (*COLUMNS, *MORE)))
            Console().print(rows[-1])
    Console(width=WIDTH).print(table)
    keep(given.results, "transfer", {"flags": list(flags), "rows": rows})


if __name__ == "__main__":
    main(sys.argv[1:])
