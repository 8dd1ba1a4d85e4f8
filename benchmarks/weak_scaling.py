"""Bytes that a chip sends while the machine grows and the work a chip stays: flat means that the machine can grow.

    python -m benchmarks.weak_scaling --fsdp=16 --sizes 16 64 256 -- --config=configs/hh_rlhf.py
        --plan.model=llama-3-8b --plan.stages sft-improver rl-improver --adapter.rank=16 --transformer.remat=full

After `--` stand flags of the command. Its batches are those of the first size and grow with the machine; the mesh grows
along data (--axis=data), or along fsdp (--axis=fsdp), where parameters are split ever finer. Programs are compiled for
TPUs where libtpu is installed, with the least effort, else for simulated CPU devices, whose collectives are those of
another compiler: the table says which. A program that does not fit is not compiled, and has no figure.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.results import keep, parser_of
from pit_jax.config import Config, flatten
from pit_jax.flags import parse
from pit_jax.parallel.topologies import topology_of
from pit_jax.recipes.plan.search import with_fields
from pit_jax.recipes.plan.walk import machine_of, plan_of, with_model
from pit_jax.run.plan import Plan

ROWS = ("sft.batch_size", "rm.batch_size", "dpo.batch_size", "rl.batch_size", "rl.score_rows")


def scaled(config: Config, chips: int, first: int, *, axis: str, fsdp: int, tensor: int) -> Config:
    """The config for a machine of `chips`, with as many rows a chip as on the `first` machine."""
    times, before = chips // first, flatten(config)
    rows = {name: times * before[name] for name in ROWS}
    inner = fsdp * (times if axis == "fsdp" else 1)
    return with_fields(config, {**rows, "mesh.data": -1, "mesh.fsdp": inner, "mesh.tensor": tensor})


def sent(plan: Plan) -> dict[str, float]:
    """Bytes that a chip sends in one call, by stage and program; what sends nothing is left out."""
    figures = {f"{stage.id} {program.name}": program.sent() for stage in plan.stages for program in stage.programs}
    return {_without_rows(name): size for name, size in figures.items() if size}


def _without_rows(name: str) -> str:
    """A reference's program is named by its rows, which grow."""
    return " ".join(word for word in name.split() if not word.rstrip(",").isdigit())


def measure(
    config: Config, sizes: Sequence[int], make: Callable[[Config, int], Plan], *, axis: str, fsdp: int, tensor: int
) -> dict[str, list[float]]:
    """Bytes sent by each program, a column for each size."""
    plans = [make(scaled(config, size, sizes[0], axis=axis, fsdp=fsdp, tensor=tensor), size) for size in sizes]
    columns = [sent(plan) for plan in plans]
    return {name: [column.get(name, 0.0) for column in columns] for name in columns[0]}


def table(figures: dict[str, list[float]], sizes: Sequence[int], title: str) -> Table:
    """GB a chip and call, and the last size against the first."""
    shown = Table(title=title, title_justify="left")
    for column in ("program", *(f"{size} chips, GB" for size in sizes), "last / first"):
        shown.add_column(column, justify="left" if column == "program" else "right")
    for name, row in figures.items():
        shown.add_row(name, *(f"{size / 1e9:.3f}" for size in row), f"{row[-1] / row[0]:.3f}")
    return shown


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--chip", default="v5e")
    parser.add_argument("--sizes", type=int, nargs="+", default=[16, 64, 256], help="as in accelerator types")
    parser.add_argument("--axis", choices=("data", "fsdp"), default="data")
    parser.add_argument("--fsdp", type=int, default=16, help="at the first size")
    parser.add_argument("--tensor", type=int, default=1)
    parser.add_argument("--scratch", type=Path, default=Path("runs/weak_scaling"))
    parser.add_argument("run", nargs="+", metavar="-- FLAGS", help="of the command, about its config and plan")
    flags: argparse.Namespace = parser.parse_args()
    console, compilers = Console(), set[str]()
    config = with_model(parse(flags.run))

    def make(config: Config, size: int) -> Plan:
        machine = machine_of(topology_of(f"{flags.chip}-{size}"), "least")
        made = plan_of(config, machine, workdir=flags.scratch, data=flags.scratch / "data", say=console.print)
        compilers.update(program.compiled.compiler for stage in made.stages for program in stage.programs)
        return made

    figures = measure(config, flags.sizes, make, axis=flags.axis, fsdp=flags.fsdp, tensor=flags.tensor)
    title = f"{config.plan.model} on {flags.chip}, growing along {flags.axis}, compiled for {', '.join(compilers)}"
    console.print(table(figures, flags.sizes, title))
    asked = {name: value for name, value in vars(flags).items() if name not in ("scratch", "results")}
    keep(flags.results, "weak_scaling", {**asked, "compilers": sorted(compilers), "sent": figures})


if __name__ == "__main__":
    main()
