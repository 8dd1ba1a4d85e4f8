"""Controls of a run's gap model: it learns what its labels say, and its gates refuse what is no gap model.

    PYTHONPATH=. python benchmarks/gap_controls.py --workdir=runs/tiny --steps=600 [flags of the run's config]

Each control trains the run's gap model from the run's SFT weights for --steps updates on the run's own pairs, changed
in one way, in --scratch/<control>. Its gates are measured on held-out pairs as they are. `one batch` trains and
measures on the same few pairs: rows, network and loss fit together if it learns them by heart, noise in the labels and
all. A control that is finished is only read.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from pit_jax.batch import NODE_REF_L, NODE_REF_W
from pit_jax.config import Config
from pit_jax.data.store import prepare
from pit_jax.evaluation.gap_quality import gates
from pit_jax.files import read_jsonl
from pit_jax.objectives.gap import COMPARISONS
from pit_jax.parallel.host_memory import keep_freed_memory
from pit_jax.parallel.mesh import make_mesh
from pit_jax.stages import gap_gates, rm
from pit_jax.stages.command import parse
from pit_jax.stages.context import Context
from pit_jax.stages.pipeline import make_progress
from pit_jax.stages.supervised import fit
from pit_jax.stages.workspace import StageFolder, data_folder

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


def train(context: Context, change: Callable[[Rows], Rows], progress: Progress) -> StageFolder:
    """The gap model of changed pairs; its best checkpoint is chosen by held-out pairs that are changed alike."""
    task = rm.make_task(context, "improver")
    folder = StageFolder(Path(context.config.workdir), "rm", "improver")
    task = replace(task, folder=folder, arrays=change(task.arrays), heldout=change(task.heldout))
    if not folder.done():
        fit(context, task, lambda: rm.begin(context, "improver"), progress)
    return folder


def by_heart(context: Context, progress: Progress) -> list[str]:
    """One batch, trained and measured on: the loss after the last update, and the five accuracies."""
    task = rm.make_task(context, "improver")
    rows = {name: column[: task.batch_size] for name, column in task.arrays.items()}
    folder = train(context, lambda _: rows, progress)
    last = [row for row in read_jsonl(folder.path / "metrics.jsonl") if row["phase"] == "eval"][-1]
    accuracies = (last[f"gap/acc_{a}_{b}"] for a, b in COMPARISONS)
    learned = last["loss"] < 0.05
    return [
        f"loss {last['loss']:.3f}",
        *(f"{value:.3f}" for value in accuracies),
        "learned" if learned else "NOT learned",
    ]


def refused(context: Context, control: Control, progress: Progress) -> list[str]:
    """The gates that refuse the model of a control, and its five accuracies on held-out pairs as they are."""
    train(context, control.change, progress)
    quality = gap_gates.measure_heldout(context)
    failed = [gate.name for gate in gates(quality, context.config.rm.gates) if not gate.passed]
    right = failed[:1] == [control.refused_by] if control.refused_by else not failed
    accuracies = (f"{value:.3f}" for value in quality.accuracies.values())
    return [", ".join(failed) or "passes", *accuracies, "as expected" if right else f"NOT {control.refused_by}"]


def at(config: Config, scratch: Path, name: str, steps: int) -> Config:
    """A branch of the run, with a gap model of its own."""
    changed = replace(config.rm, improver_steps=steps)
    return replace(config, rm=changed, trunk=config.workdir, workdir=str(scratch / name.replace(" ", "-")))


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--scratch", type=Path, default=Path("runs/controls"))
    arguments, flags = parser.parse_known_args(argv)
    config = parse(flags)
    keep_freed_memory()
    console, mesh = Console(), make_mesh(config.mesh)
    data = prepare(config.data, config.tokenizer, data_folder(config), say=console.print)
    table = Table(title=f"the gap model after {arguments.steps} updates", title_justify="left")
    for column in ("pairs", "refused by", *(f"{a}>{b}" for a, b in COMPARISONS), ""):
        table.add_column(column)
    with jax.set_mesh(mesh), make_progress(console) as progress:
        for name in (ONE_BATCH, *CONTROLS):
            context = Context(at(config, arguments.scratch, name, arguments.steps), mesh, data, console)
            cells = by_heart(context, progress) if name == ONE_BATCH else refused(context, CONTROLS[name], progress)
            table.add_row(name, *cells)
    console.print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
