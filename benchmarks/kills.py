"""Runs killed with SIGKILL at random moments and started again: do they end with the parameters of one left alone?

    python -m benchmarks.kills --scratch=runs/kills [--config=micro] [--one=60] [--two=20] [--pairs=0]
                               [--trainings spa-policy ..]

Every training of the run is made once without a kill, by one process and by two. Then, in turn, each is started, killed
after a random part of its time (of two processes one of them, or both), started again, and so on. `--one` and `--two`
are the kills of runs of one and of two processes. What ends between kills is compared and begun anew: parameters, the
gap model's figures, and the files that are left. `--pairs` are trainings that two commands run at once, without a kill:
both must end well, no row be there twice.
"""

import itertools
import json
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from benchmarks.command import BEFORE_IMPROVER_RL, finish, start
from benchmarks.results import keep, parser_of
from pit_jax.files import read_json, read_jsonl
from pit_jax.paths import METRICS

TRAININGS = (*BEFORE_IMPROVER_RL, ("rl", "improver"), ("spa", "policy"))
LONGEST = 900.0  # seconds in which a start, or the end of the peers of a killed process, must come


@dataclass
class Tally:
    kills: int = 0
    resumed: int = 0
    ended: int = 0
    identical: int = 0


@dataclass(frozen=True)
class Training:
    """One training of a config by a number of processes, of one device each."""

    config: str
    stage: str
    model: str
    processes: int

    @property
    def folder(self) -> str:
        return f"{self.stage}-{self.model}"

    def start(self, workdir: Path) -> list[subprocess.Popen[bytes]]:
        flags = [f"--config={self.config}", f"--stage={self.stage}", f"--model={self.model}", f"--workdir={workdir}"]
        return start([*flags, f"--mesh.fsdp={self.processes}"], processes=self.processes, devices=self.processes)

    def finish(self, workdir: Path) -> float:
        """Run to the end; its seconds."""
        began = time.monotonic()
        finish(self.start(workdir), timeout=LONGEST)
        return time.monotonic() - began


def kill(running: Sequence[subprocess.Popen[bytes]], after: float, rng: random.Random) -> bool:
    """SIGKILL one or all of the processes in so many seconds; False where they have ended before."""
    deadline = time.monotonic() + after
    while time.monotonic() < deadline:
        if all(process.poll() is not None for process in running):
            return False
        time.sleep(0.01)
    victims = rng.choice([list(running), [rng.choice(list(running))]])
    for process in victims:
        process.send_signal(signal.SIGKILL)
    for process in running:
        if process.stderr is not None:
            process.communicate(timeout=LONGEST)
        process.wait(timeout=LONGEST)
    return True


def state_of(workdir: Path, folder: str) -> dict[str, object]:
    """The end of a training: its digest, those of every leaf of the last checkpoint of each of its phases, a gap
    model's figures, a phase's manifest, and the names of what lies in its folder and beside it."""
    checkpoints = sorted((workdir / folder).rglob("checkpoints"))
    read = sorted(
        path for name in ("gaps", "quality", "done", "manifest") for path in (workdir / folder).rglob(f"{name}.json")
    )
    figures = {str(path.relative_to(workdir)): read_json(path) for path in read if "checkpoints" not in path.parts}
    patterns = (
        ".*",
        *(f"{part}{name}" for part in (f"{folder}/", f"{folder}/*/") for name in ("*", ".*", "checkpoints/*")),
    )
    left = sorted(str(path.relative_to(workdir)) for pattern in patterns for path in workdir.glob(pattern))
    return {**figures, "leaves": [leaves_of(path) for path in checkpoints], "left": left}


def leaves_of(checkpoints: Path) -> dict[str, object]:
    """The number of the last checkpoint, and the digest of each of its leaves."""
    last = max(int(path.name) for path in checkpoints.iterdir() if path.name.isdigit())
    (meta,) = (checkpoints / str(last) / "meta").glob("metadata")
    return {"round": last, **{name: leaf["digest"] for name, leaf in json.loads(meta.read_text())["leaves"].items()}}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--scratch", type=Path, required=True, help="new folder for the runs")
    parser.add_argument("--config", default="micro")
    parser.add_argument("--one", type=int, default=60, help="kills of runs of one process")
    parser.add_argument("--two", type=int, default=20, help="kills of runs of two processes")
    parser.add_argument("--pairs", type=int, default=0, help="trainings that two commands run at once")
    known = [f"{stage}-{model}" for stage, model in TRAININGS]
    parser.add_argument("--trainings", nargs="+", default=known, choices=known, help="which are killed")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args, console = parser.parse_args(), Console()
    rng, figures = random.Random(args.seed), {}
    for processes, asked in ((1, args.one), (2, args.two)):
        whole, tally = args.scratch / f"whole-{processes}", Tally()
        trainings = [Training(args.config, stage, model, processes) for stage, model in TRAININGS]
        killed = [training for training in trainings if training.folder in args.trainings]
        for training in trainings if asked or (args.pairs and processes == 1) else ():
            if training in killed or (training.stage, training.model) in BEFORE_IMPROVER_RL:
                training.finish(whole)  # compiles
        trainings = killed
        for number, training in enumerate(itertools.cycle(trainings)):
            share = -(-asked // len(trainings))
            if tally.kills >= asked:
                break
            workdir = copied(whole, args.scratch / f"killed-{processes}-{number}", training)
            one_training(training, whole, workdir, min(share, asked - tally.kills), tally, rng)
            console.print(f"{training.folder} by {processes}: {tally}")
            shutil.rmtree(workdir)
        figures[f"{processes} process(es)"] = vars(tally)
        if processes == 1:
            figures["pairs"] = args.pairs
            for number in range(args.pairs):
                training = trainings[number % len(trainings)]
                workdir = copied(whole, args.scratch / f"pair-{number}", training)
                pair(training, whole, workdir)
                console.print(f"{training.folder} by two commands at once: every row once, the same parameters")
                shutil.rmtree(workdir)
    keep(args.results, "kills", {"config": args.config, **figures})


def copied(whole: Path, workdir: Path, training: Training) -> Path:
    """A workdir with all that the whole run has but one training."""
    for path in whole.iterdir():
        if path.is_dir() and path.name != training.folder:
            shutil.copytree(path, workdir / path.name)
    return workdir


def pair(training: Training, whole: Path, workdir: Path) -> None:
    """The same command twice at once."""
    both = [training.start(workdir) for _ in range(2)]
    for running in both:
        finish(running, timeout=LONGEST)
    rows = [(row["step"], row["phase"]) for row in read_jsonl(workdir / training.folder / METRICS)]
    kept = [row for row in rows if row[1] != "performance"]
    if len(kept) != len(set(kept)) or state_of(whole, training.folder) != state_of(workdir, training.folder):
        raise SystemExit(f"{training.folder} by two commands at once: double rows or other parameters in {workdir}")


def one_training(training: Training, whole: Path, workdir: Path, kills: int, tally: Tally, rng: random.Random) -> None:
    """So many kills of a training that is started again after each, and its end compared."""
    timed = shutil.copytree(workdir, workdir.with_name(f"{workdir.name}-timed"))
    left, seconds = kills, training.finish(timed)
    shutil.rmtree(timed)
    while left:
        if kill(training.start(workdir), rng.uniform(0, seconds), rng):
            left, tally.kills = left - 1, tally.kills + 1
        else:
            compare(training, whole, workdir, tally)
            shutil.rmtree(workdir / training.folder)
    training.finish(workdir)
    tally.resumed += kills
    compare(training, whole, workdir, tally)


def compare(training: Training, whole: Path, workdir: Path, tally: Tally) -> None:
    tally.ended += 1
    same = state_of(whole, training.folder) == state_of(workdir, training.folder)
    tally.identical += same
    if not same:
        raise SystemExit(f"{training.folder} by {training.processes} ended with other parameters in {workdir}")


if __name__ == "__main__":
    main()
