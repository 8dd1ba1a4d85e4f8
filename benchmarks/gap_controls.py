"""Controls of a run's gap model: it learns what its labels say, and its gates refuse what is no gap model.

    python -m benchmarks.gap_controls --workdir=runs/tiny --steps=600 [--controls NAME ..] [flags of the run's config]

Each control trains the run's gap model from the run's SFT weights for --steps updates on the run's own pairs, changed
in one way, in --scratch/<control>. Its gates are measured on held-out pairs as they are. `one batch` trains and
measures on the same few pairs: rows, network and loss fit together if it learns them by heart, noise in the labels and
all. A control that is finished is only read.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.results import keep, parser_of
from pit_jax.batch import NODE_REF_L, NODE_REF_W
from pit_jax.config import Config
from pit_jax.data.rows import StoredRows
from pit_jax.data.store import Prepared, open_data
from pit_jax.files import read_jsonl
from pit_jax.flags import parse
from pit_jax.objectives.gap import COMPARISONS
from pit_jax.parallel.host_memory import keep_freed_memory
from pit_jax.parallel.mesh import make_mesh
from pit_jax.recipes import gap
from pit_jax.recipes.catalogue import catalogue
from pit_jax.run.context import Context
from pit_jax.run.folders import Run
from pit_jax.run.params import Models
from pit_jax.run.screen import Screen, make_progress

Rows = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Control:
    """How the pairs of the gap model change, and the gate that must be the first to refuse it (none: all pass)."""

    change: Callable[[Rows], Rows]
    refused_by: str


def swapped(rows: Rows, where_N: np.ndarray | np.bool_) -> Rows:
    """Chosen and rejected trade places where asked: the same tree, with the four ends under each other's names."""
    ends = {f"end_{a}_B": f"end_{b}_B" for a, b in (("wl", "lw"), ("lw", "wl"), ("ww", "ll"), ("ll", "ww"))}
    return {**rows, **{name: np.where(where_N, rows[other], rows[name]) for name, other in ends.items()}}


def lots(rows: Rows) -> np.ndarray:
    """[N] bool, one in two."""
    return np.random.default_rng(0).random(len(rows["tokens_BL"])) < 0.5


def by_length(rows: Rows) -> Rows:
    """The longer answer is the chosen one; equally long ones draw lots."""
    tokens_N = (rows["nodes_BL"] == NODE_REF_W).sum(axis=1) - (rows["nodes_BL"] == NODE_REF_L).sum(axis=1)
    return swapped(rows, (tokens_N < 0) | ((tokens_N == 0) & lots(rows)))


def without_reference(rows: Rows) -> Rows:
    """References of random tokens, in place of theirs: there is nothing to learn from them."""
    tokens_BL = rows["tokens_BL"].copy()
    there_BL = np.isin(rows["nodes_BL"], (NODE_REF_W, NODE_REF_L))
    tokens_BL[there_BL] = np.random.default_rng(0).permutation(tokens_BL[there_BL])
    return {**rows, "tokens_BL": tokens_BL}


CONTROLS = {
    "as it is": Control(lambda rows: rows, ""),
    "labels swapped": Control(lambda rows: swapped(rows, np.True_), "direction"),
    "labels shuffled": Control(lambda rows: swapped(rows, lots(rows)), "accuracy"),
    "labels by length": Control(by_length, "length"),
    "no reference": Control(without_reference, "reference"),
}
ONE_BATCH = "one batch"
LEARNED = 0.05  # the five-term loss of pairs that are known by heart, against 3.5 at the start


@dataclass(frozen=True)
class ChangedRows(StoredRows):
    """Rows that are read from memory instead."""

    changed: Rows

    def batch(self, rows: np.ndarray) -> Rows:
        return {name: column[rows] for name, column in self.changed.items()}


@dataclass(frozen=True)
class ChangedPairs(Prepared):
    """Prepared data whose pairs, as the gap model reads them, are changed: those of training and held-out ones."""

    change: Callable[[Rows], Rows]

    def rows(self, fold: str, kind: str) -> StoredRows:
        rows = super().rows(fold, kind)
        if kind != "gap":
            return rows
        changed = self.change(rows.whole())
        return ChangedRows(**vars(rows.first(len(changed["tokens_BL"]))), changed=changed)


def train(context: Context, change: Callable[[Rows], Rows]) -> None:
    """The gap model of changed pairs; its best checkpoint is chosen by held-out pairs that are changed alike."""
    if not context.folder.done():
        before = {field.name: getattr(context.data, field.name) for field in fields(context.data)}
        gap.run(replace(context, prepared=ChangedPairs(**before, change=change)))


def by_heart(context: Context) -> list[str]:
    """One batch, trained and measured on: the loss after the last update, and the five accuracies."""
    rows = context.data.rows("rm", "gap").first(context.config.rm.batch_size).whole()
    train(context, lambda _: rows)
    last = [row for row in read_jsonl(context.folder.path / "metrics.jsonl") if row["phase"] == "eval"][-1]
    accuracies = (f"{last[f'gap/acc_{a}_{b}']:.3f}" for a, b in COMPARISONS)
    return [f"loss {last['loss']:.3f}", *accuracies, "learned" if last["loss"] < LEARNED else "NOT learned"]


def refused(context: Context, control: Control) -> list[str]:
    """The gates that refuse the model of a control, and its five accuracies on held-out pairs as they are."""
    train(context, control.change)
    done = context.folder.done()
    assert done is not None
    failed = [gate.name for gate in gap.measure_gates(context, Models(context).own(done["round"])) if not gate.passed]
    right = failed[:1] == [control.refused_by] if control.refused_by else not failed
    quality = gap.read_quality(context)
    assert quality is not None, "it was written just now"
    accuracies = (f"{value:.3f}" for value in quality["accuracies"].values())
    return [", ".join(failed) or "passes", *accuracies, "as expected" if right else f"NOT {control.refused_by}"]


def context_of(config: Config, scratch: Path, name: str, screen: Screen) -> Context:
    """A branch of the run, in which the gap model is one of its own: the name of its control is in its hash."""
    branch = replace(config, parent_run=config.workdir, workdir=str(scratch / name.replace(" ", "-")))
    stages = dict(catalogue())
    stages[gap.GAP] = replace(stages[gap.GAP], contents=lambda config: {"control": name})
    run = Run(branch, stages)
    return Context(branch, run, stages[gap.GAP], open_data(run.data_folder), make_mesh(config.mesh), screen)


def main(argv: Sequence[str]) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--scratch", type=Path, default=Path("runs/controls"))
    parser.add_argument("--controls", nargs="+", choices=[ONE_BATCH, *CONTROLS], default=[ONE_BATCH, *CONTROLS])
    arguments, flags = parser.parse_known_args(argv)
    config = parse(flags)
    config = replace(config, rm=replace(config.rm, improver_steps=arguments.steps))
    keep_freed_memory()
    table = Table(title=f"the gap model after {arguments.steps} updates", title_justify="left")
    columns = ("refused by", *(f"{a}>{b}" for a, b in COMPARISONS), "")
    for column in ("pairs", *columns):
        table.add_column(column)
    figures = {}
    with jax.set_mesh(make_mesh(config.mesh)), make_progress(Console()) as progress:
        for name in arguments.controls:
            context = context_of(config, arguments.scratch, name, Screen(Console(quiet=True), progress))
            cells = by_heart(context) if name == ONE_BATCH else refused(context, CONTROLS[name])
            table.add_row(name, *cells)
            figures[name] = dict(zip(columns, cells, strict=True))
    Console().print(table)
    keep(arguments.results, "gap_controls", {"steps": arguments.steps, "controls": figures})


if __name__ == "__main__":
    main(sys.argv[1:])
