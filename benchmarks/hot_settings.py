"""Do alarms go off before the truth falls? The improver's RL of a finished run again, at settings that over-optimise.

    python benchmarks/hot_settings.py --workdir=runs/tiny --seeds=5 --scratch=runs/hot [flags of the run's config]

Learning rates x5, KL coefficient / 6, alarms that only warn. Everything before the improver's RL is copied from
--workdir into --scratch/seed-<n>, never written. A seed that is finished there is only read.

An alarm is in time when it goes off no later than the evaluation at which the held-out truth is first below that of the
SFT improver by more than --margin: the stage would have ended there, with a checkpoint from before. --every=1 evaluates
after every round and tells the two apart more finely than the run's rl.evaluate_every; the truth then needs a margin,
since means over 256 answers wander by a tenth of a point.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pit_jax.config import Config
from pit_jax.files import read_jsonl
from pit_jax.parallel.host_memory import keep_freed_memory
from pit_jax.stages import pipeline
from pit_jax.stages.command import parse
from pit_jax.stages.workspace import StageFolder, data_folder

FASTER, LOOSER = 5.0, 6.0


@dataclass(frozen=True)
class Outcome:
    """The first alarm, and the truth before RL, at the alarm (without one: at the end), at its lowest, and kept."""

    alarm: dict[str, Any] | None
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
    """Data and parents of the improver's RL, where they are not there yet. ValueError when `config` is not theirs."""
    source = StageFolder(Path(config.workdir), "rl", "improver")
    source.check_parents(config)
    parents = source.parents(config)
    for parent in parents:
        parent.check_config(config)
    for path in (data_folder(config), *(parent.path for parent in parents)):
        if not (target / path.name).exists():
            shutil.copytree(path, target / path.name)


def outcome(folder: StageFolder) -> Outcome:
    """What a finished stage shows. ValueError when its data have no known truth."""
    done = json.loads((folder.path / "done.json").read_text(encoding="utf-8"))
    rows = [row for row in read_jsonl(folder.path / "metrics.jsonl") if row["phase"] == "eval"]
    if "truth/score" not in rows[0]:
        raise ValueError(f"{folder.path}: asked for truth/score, found none; pass a run on the embedded notes set")
    truth = {row["step"]: row["truth/score"] for row in rows}
    alarm, last = next(iter(done["alarms"]), None), max(truth)
    there = truth[alarm["round"] if alarm else last]
    return Outcome(alarm, truth[0], there, min(truth.values()), truth[done["round"]])


def table_of(found: Sequence[Outcome]) -> Table:
    caught = sum(run.alarm is not None and run.kept >= run.start for run in found)
    table = Table(
        title=f"learning rates x{FASTER:g}, KL / {LOOSER:g}: alarm, and nothing worse than the start kept, in {caught} "
        f"of {len(found)} seeds",
        title_justify="left",
    )
    for column in ("seed", "first alarm", "at round", "truth at the start", "at the alarm", "lowest", "kept"):
        table.add_column(column)
    for seed, run in enumerate(found):
        alarm = (run.alarm["name"], str(run.alarm["round"])) if run.alarm else ("none", "")
        numbers = (f"{value:.2f}" for value in (run.start, run.there, run.lowest, run.kept))
        table.add_row(str(seed), *alarm, *numbers)
    return table


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--every", type=int, default=0)
    parser.add_argument("--scratch", type=Path, default=Path("runs/hot"))
    arguments, flags = parser.parse_known_args(argv)
    config = parse(flags)
    keep_freed_memory()
    found = []
    for seed in range(arguments.seeds):
        target = arguments.scratch / f"seed-{seed}"
        copy_parents(config, target)
        pipeline.run(hot(config, target, seed, arguments.every))
        found.append(outcome(StageFolder(target, "rl", "improver")))
    Console().print(table_of(found))


if __name__ == "__main__":
    main(sys.argv[1:])
