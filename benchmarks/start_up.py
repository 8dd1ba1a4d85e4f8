"""How long until work begins: the help, the first loss of the demo, compiling by depth, and a stage started again.

    python -m benchmarks.start_up [--times 5] [--depths 2 8 32] [--stages sft rm rl]

`first loss`: from the start of the demo's command (Makefile) in a fresh folder to the first row of metrics of its SFT,
data prepared on the way, with no program compiled before and with those of the time before. `depth`: an update of SFT
of the default model with more layers, lowered and compiled. `again`: each stage of the policy, of the demo's model, run
once and then, its folder gone and its compiled programs there, once more: programs compiled anew, of all, and the
seconds that the compiler took, with those of reading what is there. All is of fresh processes.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from benchmarks.command import ENTRY, execute
from benchmarks.peers import ROOT
from benchmarks.results import keep, parser_of
from benchmarks.training_steps import sft_work
from pit_jax.architecture import TransformerConfig
from pit_jax.cli import main as command
from pit_jax.config import OptimizerConfig
from pit_jax.paths import METRICS
from pit_jax.training.clock import compile_seconds
from pit_jax.training.optimizer import make_optimizer
from pit_jax.training.state import create_state
from pit_jax.training.step import make_train_step

DEMO = f"--config={ROOT / 'configs' / 'tiny.py'}"
BRIEF = ("--data.world-pairs=4000", "--sft.policy-steps=2", "--rm.policy-steps=2", "--rl.policy-rounds=1")
ASKED, FOUND = (f"/jax/compilation_cache/{name}" for name in ("compile_requests_use_cache", "cache_hits"))


def alone(function: str, *given: object) -> dict[str, Any]:
    """What a function of this file prints last in a process of its own."""
    code = f"import sys; from benchmarks.start_up import {function}; {function}(*sys.argv[1:])"
    line = [sys.executable, "-c", code, *map(str, given)]
    done = subprocess.run(line, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def first_loss(workdir: Path, compiled: Path) -> float:
    """Seconds from the start of the demo, which keeps its programs in a folder, to the first row of metrics."""
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(compiled)}
    flags, metrics = ["--stage=all", DEMO, f"--workdir={workdir}"], workdir / "sft-policy" / METRICS
    start = time.perf_counter()
    with subprocess.Popen([sys.executable, ENTRY, *flags], env=environment, stdout=subprocess.DEVNULL) as demo:
        while not (metrics.exists() and metrics.stat().st_size):
            if demo.poll() is not None:
                raise SystemExit(f"the demo ended with {demo.returncode} and no loss")
            time.sleep(0.01)
        took = time.perf_counter() - start
        demo.kill()
    shutil.rmtree(workdir)
    return took


def compiling(layers: str) -> None:
    """Print the seconds of lowering an update of SFT with so many layers and of compiling it."""
    params, loss, batch, _ = sft_work(TransformerConfig(layers=int(layers)), 8, 256)
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1e-4), 1)
    update = jax.jit(make_train_step(loss, optimizer, accumulate=1), donate_argnums=0)
    state = create_state(params, optimizer, seed=0, extras={})
    start = time.perf_counter()
    lowered = update.lower(state, batch)
    between = time.perf_counter()
    lowered.compile()
    print(json.dumps({"lower": between - start, "compile": time.perf_counter() - between}))


def counted(*flags: str) -> None:
    """Run the command; print programs asked for and compiled anew, and the seconds of the compiler."""
    events: list[str] = []
    jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
    compile_seconds()
    assert command(flags) == 0
    asked, found = map(events.count, (ASKED, FOUND))
    print(json.dumps({"programs": asked, "anew": asked - found, "seconds": round(compile_seconds(), 2)}))


def started_again(stages: Sequence[str], workdir: Path) -> dict[str, dict[str, Any]]:
    figures = {}
    for stage in stages:
        flags = f"--stage={stage}", "--model=policy", DEMO, f"--workdir={workdir}", *BRIEF
        first = alone("counted", *flags)
        shutil.rmtree(workdir / f"{stage}-policy")
        figures[stage] = {"first": first, "again": alone("counted", *flags)}
    return figures


def spread(seconds: Sequence[float]) -> dict[str, Any]:
    return {"s": round(statistics.median(seconds), 2), "of": [round(min(seconds), 2), round(max(seconds), 2)]}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--times", type=int, default=5, help="processes of each kind; half as many demos")
    parser.add_argument("--depths", type=int, nargs="+", default=[2, 8, 32], help="layers")
    parser.add_argument(
        "--stages", nargs="+", default=["sft", "rm", "rl"], choices=["sft", "rm", "rl"], help="in order"
    )
    given = parser.parse_args()
    turns = range(given.times)
    figures = {"help": spread([execute(["--help"], stdout=subprocess.DEVNULL).seconds for _ in turns])}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        demos = [[first_loss(folder / "demo", folder / f"compiled-{turn}") for _ in range(2)] for turn in turns[::2]]
        for name, seconds in zip(("no programs", "programs"), zip(*demos, strict=True), strict=True):
            figures[f"first loss, {name} compiled before"] = spread(seconds)
        depths = [{depth: alone("compiling", depth) for depth in given.depths} for _ in turns]
        for depth in given.depths:
            for part in ("lower", "compile"):
                figures[f"{part}, {depth} layers"] = spread([turn[depth][part] for turn in depths])
        again = started_again(given.stages, folder / "again")
    table = Table(title=f"seconds until work begins, n = {given.times}")
    for column in ("what", "seconds", "least to most"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for name, found in figures.items():
        table.add_row(name, f"{found['s']:.2f}", "{} to {}".format(*found["of"]))
    for stage, runs in again.items():
        for run, found in runs.items():
            anew = f"{stage}, {run}: {found['anew']} of {found['programs']} programs compiled anew"
            table.add_row(anew, f"{found['seconds']:.2f}", "")
    Console().print(table)
    keep(given.results, "start_up", {"times": given.times, **figures, **again})


if __name__ == "__main__":
    main()
