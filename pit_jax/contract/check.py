"""python -m pit_jax.fork check FILE .. [--parent-run=DIR]: what a fork promises, tried before anybody trains with it.

Functions are called on small inputs; stages, and RL with what a fork adds to it, are run on configs/micro.py in a
temporary folder: to the end, killed and resumed in new processes, and lowered for a TPU on meshes of 1 and 2x2x2.
The stages that come before are those of a finished run of that config (--parent-run), or are trained for it.
"""

import argparse
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pit_jax.contract.calls import Check, check_algorithm, check_judge, check_layout, check_text_reward, check_world
from pit_jax.contract.trials import Trials, lower, own_folder, resumes, trains
from pit_jax.data.layouts import LAYOUTS
from pit_jax.data.worlds.builtin import WORLDS
from pit_jax.errors import UserError
from pit_jax.evaluation.judges.builtin import JUDGES
from pit_jax.forks import load_forks, unload_forks
from pit_jax.recipes.catalogue import STAGES
from pit_jax.rl.algorithms import ALGORITHMS
from pit_jax.rl.references import REFERENCES
from pit_jax.rl.rewards import TEXT_REWARDS
from pit_jax.run.provenance import StageId
from pit_jax.run.screen import Screen
from pit_jax.run.stage import Stage
from pit_jax.table import Table, source_of
from pit_jax.terminal import Terminal

RL_IMPROVER = StageId("rl", "improver")


def main(argv: Sequence[str]) -> int:
    """Check every file that is named; the exit code is 0 where all of them keep what they promise, else 1."""
    parser = argparse.ArgumentParser(prog="python -m pit_jax.fork", description="Try what a fork promises.")
    parser.add_argument("verb", choices=["check"])
    parser.add_argument("files", metavar="FILE", type=Path, nargs="+")
    parser.add_argument(
        "--parent-run", type=Path, help="a finished run of configs/micro.py to take the stages before from"
    )
    asked = parser.parse_args(argv)
    screen, broken = Screen(Terminal()), 0
    with tempfile.TemporaryDirectory(prefix="pit_jax-fork-") as folder:
        trials = Trials(Path(folder), asked.parent_run)
        for file in asked.files:
            screen.say(f"{file}", style="bold")
            for name, check in checks(trials, file):
                try:
                    check()
                except Exception as error:  # whatever a fork's code does is told, and the next check is made
                    broken += 1
                    text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
                    screen.warn(f"  fails  {name}: {text}")
                else:
                    screen.say(f"  holds  {name}")
            unload_forks()
    return 1 if broken else 0


def checks(trials: Trials, file: Path) -> Iterator[Check]:
    """(what is promised, its trial) of everything that a file declares; the file is loaded first."""
    yield "it loads", lambda: load_forks([str(file)])
    source = source_of(file) if file.is_file() else None
    tables: tuple[Table[Any], ...] = (STAGES, ALGORITHMS, REFERENCES, TEXT_REWARDS, JUDGES, LAYOUTS, WORLDS)
    mine = {table.kind: [value for value in table if table.source(table.key(value)) == source] for table in tables}
    if source is None or not any(mine.values()):
        if source is not None:
            yield "it declares something", lambda: _refuse("it calls pit_jax.fork.fork(...) with no value")
        return
    yield "its digest changes with one byte", lambda: digest_moves(file)
    for reward in mine["text reward"]:
        yield from check_text_reward(reward)
    for judge in mine["judge"]:
        yield from check_judge(judge)
    for layout in mine["layout"]:
        yield from check_layout(layout)
    for world in mine["world"]:
        yield from check_world(world)
    for algorithm in mine["RL algorithm"]:
        yield from check_algorithm(algorithm)
    for stage in mine["stage"]:
        yield from check_stage(trials, file, stage)
    used = rl_flags(mine)
    if used:
        yield from check_rl(trials, file, used)


def _refuse(text: str) -> None:
    raise UserError(text)


def digest_moves(file: Path) -> None:
    """UserError unless a byte more is another digest."""
    with tempfile.TemporaryDirectory() as name:
        copy = Path(shutil.copytree(file.resolve().parent, Path(name) / "fork")) / file.name
        before = source_of(copy).digest
        copy.write_bytes(copy.read_bytes() + b"#")
        if source_of(copy).digest == before:
            raise UserError("the digest of its code is the same")


def rl_flags(mine: dict[str, list[Any]]) -> list[str]:
    """The flags of an RL of the improver that uses all that a fork declares for it."""
    flags = [f"--rl.improver-algorithm={algorithm.name}" for algorithm in mine["RL algorithm"][:1]]
    if rewards := [reward.name for reward in mine["text reward"]]:
        flags += ["--rl.improver-rewards", *rewards]
    if references := [reference.name for reference in mine["reference"]]:
        rounds = ["2"] * len(references)
        flags += ["--rl.curriculum.references", *references, "--rl.curriculum.rounds", *rounds]
    return flags


def check_rl(trials: Trials, file: Path, flags: list[str]) -> Iterator[Check]:
    """RL of the improver with what a fork adds: lowered, run, killed, resumed."""
    asked = ("--stage=rl", *flags)
    yield "RL with it lowers for a TPU on meshes of 1 and 2x2x2", lambda: lower(trials, file, RL_IMPROVER, asked)
    yield from _trained(trials, file, RL_IMPROVER, asked)


def check_stage(trials: Trials, file: Path, stage: Stage) -> Iterator[Check]:
    """A fork's stage: its parents, its folder, its hash, lowered, run, killed, resumed."""
    role = (f"--model={stage.role}",) if stage.role in ("policy", "improver") else ()
    asked = (f"--stage={stage.name}", *role, *stage.trial)
    if stage.leaves:
        yield f"{stage.id}: it lowers for a TPU on meshes of 1 and 2x2x2", lambda: lower(trials, file, stage.id, asked)
        yield from _trained(trials, file, stage.id, asked)
    else:
        yield f"{stage.id}: it runs", lambda: trials.run(file, trials.folder / str(stage.id), asked)


def _trained(trials: Trials, file: Path, id: StageId, asked: tuple[str, ...]) -> Iterator[Check]:
    """What every training keeps: metrics, its own folder, bit-identical resuming."""
    whole, cut = (trials.folder / f"{file.stem}-{id}-{name}" for name in ("whole", "cut"))
    yield f"{id}: it trains, every metric finite", lambda: trains(trials, file, id, asked, whole)
    yield f"{id}: it writes into its own folder alone", lambda: own_folder(id, whole)
    yield f"{id}: killed and resumed it ends with the same bits", lambda: resumes(trials, file, id, asked, whole, cut)
