"""The part of the contract that trains: runs on configs/micro.py, killed, resumed, lowered, each in new processes."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pit_jax.config import Config, MeshConfig
from pit_jax.data.features import Layout
from pit_jax.data.store import open_data
from pit_jax.errors import UserError
from pit_jax.files import read_json
from pit_jax.flags import parse
from pit_jax.parallel.mesh import mesh_of
from pit_jax.paths import DONE, METRICS
from pit_jax.recipes.catalogue import catalogue, selected
from pit_jax.run.folders import Run
from pit_jax.run.programs import Shapes
from pit_jax.run.provenance import StageId
from pit_jax.run.stage import no_programs

CHECKPOINTS = "checkpoints"
CACHE = "JAX_COMPILATION_CACHE_DIR"
DEVICES = "--xla_force_host_platform_device_count"
EVERYTHING_SAVED = ("--checkpoint.every=1", "--checkpoint.keep=20")
"""So that a kill anywhere meets a checkpoint."""
ATTEMPTS = 3  # of killing a run before it ends by itself


@dataclass(frozen=True)
class Trials:
    """A folder for runs that branch off a parent run: a finished one, or one whose stages are made when needed."""

    folder: Path
    finished: Path | None = None

    @property
    def parent(self) -> Path:
        """The workdir of the parent run."""
        return self.finished or self.folder / "parent"

    def commands(self, fork: Path, workdir: Path, *asked: Sequence[str]) -> list[str]:
        """A process that runs commands on configs/micro.py, in the parent run or in a branch of it, until one fails."""
        branch = [] if workdir == self.parent else [f"--parent-run={self.parent}"]
        shared = [f"--fork={fork}", "--config=micro", f"--workdir={workdir}", *branch]
        lines = [[*shared, *flags] for flags in asked]
        code = f"import sys\nfrom pit_jax.cli import main\nsys.exit(any(main(line) for line in {lines!r}))"
        return [sys.executable, "-c", code]

    def run(self, fork: Path, workdir: Path, *asked: Sequence[str]) -> None:
        """Commands to their end. UserError with the end of what was printed, where one fails."""
        self.execute(self.commands(fork, workdir, *asked))

    def execute(self, process: Sequence[str], **variables: str) -> None:
        """A process to its end. UserError with the end of what it printed, where it fails."""
        environment = {**self.environment(), **variables}
        done = subprocess.run(process, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise UserError(done.stderr[-1500:].strip() or done.stdout[-1500:].strip())

    def killed(self, fork: Path, workdir: Path, stage: Path, *flags: str) -> None:
        """A command that is killed once its stage has a checkpoint. UserError where it always ends before."""
        for _ in range(ATTEMPTS):
            process = subprocess.Popen(
                self.commands(fork, workdir, flags),
                env=self.environment(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            while process.poll() is None:
                if any(path.name.isdigit() for path in stage.glob(f"{CHECKPOINTS}/*")):
                    process.send_signal(signal.SIGKILL)
                    process.wait()
                time.sleep(0.01)
            if process.returncode == -signal.SIGKILL and not (stage / DONE).exists():
                return
            shutil.rmtree(stage, ignore_errors=True)
        raise UserError(f"{stage.name} ended before it could be killed; give it more updates to be checked with")

    def has(self, id: StageId) -> bool:
        """Whether the parent run has finished a stage."""
        return (self.parent / str(id) / DONE).exists()

    def environment(self) -> dict[str, str]:
        """One CPU device; every program is compiled once for all processes."""
        cache = {CACHE: os.environ.get(CACHE, str(self.folder / "compiled"))}
        cache |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PLATFORMS": "cpu"}
        cache["XLA_FLAGS"] = " ".join(flag for flag in os.environ.get("XLA_FLAGS", "").split() if DEVICES not in flag)
        path = os.pathsep.join([str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")])
        return {**os.environ, **cache, "PYTHONPATH": path.rstrip(os.pathsep)}


def prepare(trials: Trials, file: Path, id: StageId, asked: tuple[str, ...]) -> None:
    """Finish, in the parent run, the stages above a stage."""
    missing = [above for above in ancestors(Run(config_of(asked), catalogue()), id) if not trials.has(above)]
    if missing and trials.finished:
        names = ", ".join(map(str, missing))
        raise UserError(
            f"--parent-run={trials.finished} has not finished {names}; pass a run of --config=micro that has"
        )
    if missing:
        trials.run(file, trials.parent, *(above.flags.split() for above in missing))


def ancestors(run: Run, id: StageId) -> list[StageId]:
    """The stages above one, parents first, and those that stand in for others in their place."""
    above: list[StageId] = []
    for parent in run.stage(id).parents(run.config):
        parent_id = run.stage(parent).id
        above += [stage for stage in (*ancestors(run, parent_id), parent_id) if stage not in above]
    return above


def config_of(asked: tuple[str, ...]) -> Config:
    """The config of a command on configs/micro.py."""
    return parse(["--config=micro", *asked])


def trains(trials: Trials, file: Path, id: StageId, asked: tuple[str, ...], workdir: Path) -> None:
    """UserError unless a training ends and every metric that it logs is finite (what is not, stops it)."""
    prepare(trials, file, id, asked)
    trials.run(file, workdir, (*asked, *EVERYTHING_SAVED))
    if not (workdir / str(id) / METRICS).is_file():
        raise UserError(f"{id}/metrics.jsonl is not there; train through Session, or pit_jax.fork.fit")


def own_folder(id: StageId, workdir: Path) -> None:
    """UserError where a stage left something beside its folder."""
    left = sorted(path.name for path in workdir.iterdir() if path.name not in (str(id), "run.json"))
    if left:
        raise UserError(f"it also wrote {', '.join(left)}")


def resumes(trials: Trials, file: Path, id: StageId, asked: tuple[str, ...], whole: Path, cut: Path) -> None:
    """UserError unless a training that was killed ends, in another process, with the parameters of one that was not."""
    stage = cut / str(id)
    trials.killed(file, cut, stage, *asked, *EVERYTHING_SAVED)
    trials.run(file, cut, (*asked, *EVERYTHING_SAVED))
    digests = [(read_json(workdir / str(id) / DONE) or {}).get("digest") for workdir in (whole, cut)]
    if digests[0] != digests[1]:
        raise UserError(
            f"uninterrupted it ends with {digests[0]}, killed and resumed with {digests[1]}: something that it uses is "
            "neither in the checkpoint nor derived from (seed, stage, step)"
        )


def lower(trials: Trials, file: Path, id: StageId, asked: tuple[str, ...]) -> None:
    """Lower the stage's programs from shapes; where it names none, run it on eight simulated devices instead."""
    prepare(trials, file, id, asked)
    if catalogue()[id].programs is not no_programs:
        code = f"from pit_jax.contract.trials import lower_programs; lower_programs({str(trials.parent)!r}, {asked!r})"
        process = [sys.executable, "-c", f"from pit_jax.forks import load_forks; load_forks([{str(file)!r}]); {code}"]
        trials.execute(process, XLA_FLAGS=f"{DEVICES}=8")
        return
    mesh = ("--mesh.simulate=8", "--mesh.data=2", "--mesh.fsdp=2", "--mesh.tensor=2")
    trials.run(file, trials.folder / f"{file.stem}-{id}-mesh", (*asked, *mesh))


def lower_programs(parent: str, asked: tuple[str, ...]) -> None:
    """Lower every program of the stage that a command asks for, on meshes of 1 and 2x2x2 of this process's devices."""
    config = replace(config_of(asked), mesh=MeshConfig())
    data = open_data(Path(parent) / "data")
    layout = Layout(**data.report["layout"])
    (stage,) = selected(config)
    for shape in ((1, 1, 1), (2, 2, 2)):
        shapes = Shapes(config, layout, data.tokenizer.vocab_size, mesh_of(*shape))
        for program in stage.programs(shapes):
            program.lower(shapes.mesh)
