"""Do monitors speak before the truth falls? The improver's RL of a finished run again, at settings that over-optimise.

    python -m benchmarks.hot_settings --workdir=runs/tiny --seeds=5 --scratch=runs/hot [flags of the run's config]

Learning rates x5, KL coefficient / 6. Everything before the improver's RL is copied from --workdir into
--scratch/seed-<n>, never written. A seed that is finished there is only read.

A seed is caught when a monitor was over its limit and the checkpoint kept is no worse in truth than the start.
--every=1 evaluates after every round, and so tells when that was more finely than the run's rl.evaluate_every does.
"""

import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.results import keep, parser_of
from pit_jax.config import Config
from pit_jax.errors import UserError
from pit_jax.files import read_jsonl
from pit_jax.flags import parse
from pit_jax.parallel.host_memory import keep_freed_memory
from pit_jax.recipes import pipeline
from pit_jax.recipes.catalogue import catalogue
from pit_jax.run.folders import Run, StageFolder
from pit_jax.run.provenance import StageId

RL = StageId("rl", "improver")
FASTER, LOOSER = 5.0, 6.0


@dataclass(frozen=True)
class Outcome:
    """The first monitor over its limit; the truth at the start, there (or at the end), at its lowest, and kept."""

    monitor: dict[str, Any] | None
    start: float
    there: float
    lowest: float
    kept: float


def hot(config: Config, workdir: Path, seed: int, every: int) -> Config:
    """`config` for one hot run of the improver's RL, evaluated every so many rounds (0 = as it is)."""
    rl = replace(config.rl, evaluate_every=every or config.rl.evaluate_every)
    optimizer = replace(rl.optimizer, learning_rate=FASTER * rl.optimizer.learning_rate)
    rl = replace(rl, optimizer=optimizer, value_learning_rate=FASTER * rl.value_learning_rate)
    rl = replace(rl, kl_coef=rl.kl_coef / LOOSER)
    return replace(config, stage="rl", model="improver", workdir=str(workdir), seed=seed, rl=rl)


def copy_parents(config: Config, target: Path) -> None:
    """Data and ancestors of the improver's RL, where they are not there yet. UserError when `config` is not theirs."""
    run = Run(config, catalogue())
    run.folder(RL).check_parents(config)
    parents = run.folder(RL).parents(config)
    for parent in parents:
        parent.check_config(config)
    for path in (run.data_folder, *(run.workdir / name for name in run.folder(RL).ancestors(config))):
        if not (target / path.name).exists():
            shutil.copytree(path, target / path.name)


def outcome(folder: StageFolder) -> Outcome:
    """What a finished stage shows. UserError when its data have no known truth."""
    done = folder.done()
    assert done is not None
    rows = [row for row in read_jsonl(folder.path / "metrics.jsonl") if row["phase"] == "eval"]
    if "truth/score" not in rows[0]:
        raise UserError(f"{folder.path}: asked for truth/score, found none; pass a run on the embedded notes set")
    truth = {row["step"]: row["truth/score"] for row in rows}
    monitor, last = next(iter(done["monitors"]), None), max(truth)
    there = truth[monitor["round"] if monitor else last]
    return Outcome(monitor, truth[0], there, min(truth.values()), truth[done["round"]])


def table_of(outcomes: Sequence[Outcome]) -> Table:
    caught = sum(run.monitor is not None and run.kept >= run.start for run in outcomes)
    table = Table(
        title=f"learning rates x{FASTER:g}, KL / {LOOSER:g}: a monitor, and nothing worse than the start kept, in "
        f"{caught} of {len(outcomes)} seeds",
        title_justify="left",
    )
    for column in ("seed", "first monitor", "at round", "truth at the start", "there", "lowest", "kept"):
        table.add_column(column)
    for seed, run in enumerate(outcomes):
        monitor = (run.monitor["name"], str(run.monitor["round"])) if run.monitor else ("none", "")
        numbers = (f"{value:.2f}" for value in (run.start, run.there, run.lowest, run.kept))
        table.add_row(str(seed), *monitor, *numbers)
    return table


def main(argv: Sequence[str]) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--every", type=int, default=0)
    parser.add_argument("--scratch", type=Path, default=Path("runs/hot"))
    arguments, flags = parser.parse_known_args(argv)
    config = parse(flags)
    keep_freed_memory()
    outcomes = []
    for seed in range(arguments.seeds):
        target = arguments.scratch / f"seed-{seed}"
        copy_parents(config, target)
        branch = hot(config, target, seed, arguments.every)
        pipeline.run(branch)
        outcomes.append(outcome(Run(branch, catalogue()).folder(RL)))
    Console().print(table_of(outcomes))
    keep(arguments.results, "hot_settings", {"every": arguments.every, "seeds": [asdict(run) for run in outcomes]})


if __name__ == "__main__":
    main(sys.argv[1:])
