"""docs/plans.md: what fits where and what it costs, from --stage=plan of every cell of a table.

    python -m benchmarks.plans                       # all cells: an hour or two of compiling on a CPU, resumable
    python -m benchmarks.plans --models llama-3-8b --machines v5e-256 --training full

Every cell is one command, which the page shows; what it compiled stays in --scratch, so that a run that was stopped,
or a cell that is made again, compiles what has changed alone. The page holds all cells whose plans are in --scratch.
libtpu must be installed (the extra `tpu`).
"""

import argparse
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.command import execute
from pit_jax.errors import UserError
from pit_jax.files import write_text
from pit_jax.model.pretrained.published import PUBLISHED
from pit_jax.parallel.topologies import CHIPS, GIB, has_tpu_compiler, topology_of
from pit_jax.recipes.plan.search import per_update
from pit_jax.run.plan import Plan, StagePlan
from pit_jax.shipped import load_config

PAGE = Path(__file__).resolve().parents[1] / "docs" / "plans.md"
MACHINES = ("v5e-8", "v5e-16", "v5e-256", "v5p-64", "v6e-64")
STAGES = ("sft-improver", "rm-improver", "rl-improver")
TRAINING = {"full": (), "LoRA": ("--adapter.rank=16",)}
FSDP = 64  # most chips that one copy of the weights is split over by rows; a larger machine splits matrices too
ROWS = 32  # of a piece of an update, at least, over fewer chips
WORDS = {True: "yes", False: "**no**", None: "not known"}

HEAD = """# What fits where, and what it costs

Made by `python -m benchmarks.plans` from `--stage=plan`, on a machine without a TPU: every program of a stage is
compiled ahead of time for the machine by its own compiler (libtpu), with the rows, rounds and steps of
`configs/hh_rlhf.py` (prompt, reference and response of 512 tokens, bfloat16). Nothing was run on a TPU.

- **fits**: every program of the stage, with the models that lie beside it, is within the memory that the compiler has
  on a chip. **GiB**: of the program that needs most, of the chip's.
- **sent**: bytes that a chip sends in one call of that stage's update; **in the token loop**: in one rollout.
- Every cell has the same settings: weights over all chips (fsdp, and tensor beyond 64 chips), everything recomputed
  (`--transformer.remat=full`), frozen weights in bfloat16, updates in pieces of 32 to 64 rows, rollouts scored by 64.
  `--plan.search` looks for faster ones; **no** means that these do not fit, not that none does.
- The compiler was given the least effort (`--plan.effort=least`). A run takes up to a third more memory for updates and
  scoring; three cells were compiled both ways (`docs/experiments.md`).
- **tokens/s a chip** and **hours** are a roofline, the longest of arithmetic, memory and links at their full speed: a
  run cannot be faster, and is slower. Every row counts at its widest width, which is too much with `data.buckets`;
  compiling, saving and evaluations of supervised stages are not counted.
- **price** is hours x chips x the price of a chip-hour, as the command was given it (not a price list): {prices}.

Chips: {chips}.

"""
COLUMNS = (
    "model",
    "training",
    "machine",
    "stage",
    "fits",
    "GiB",
    "sent, GB",
    "in the token loop, GB",
    "tokens/s a chip",
    "hours",
    "price",
)
TITLE = f"| {' | '.join(COLUMNS)} |"


@dataclass(frozen=True)
class Cell:
    """One command: a model, what of it is trained, and a machine."""

    model: str
    training: str
    machine: str

    def flags(self, price: float) -> list[str]:
        return [
            "--stage=plan",
            "--config=configs/hh_rlhf.py",
            f"--plan.model={self.model}",
            f"--plan.topology={self.machine}",
            "--plan.stages",
            *STAGES,
            *TRAINING[self.training],
            *settings(topology_of(self.machine).chips),
            f"--plan.price={price:g}",
        ]

    def workdir(self, scratch: Path) -> Path:
        return scratch / f"{self.model}-{self.training}-{self.machine}"


def settings(chips: int) -> list[str]:
    """The flags of a cell that decide about its memory, by the size of its machine."""
    shipped, fsdp = load_config("hh_rlhf"), min(chips, FSDP)
    rows = max(ROWS, fsdp)
    return [
        f"--mesh.fsdp={fsdp}",
        f"--mesh.tensor={chips // fsdp}",
        "--transformer.remat=full",
        "--transformer.frozen-dtype=bfloat16",
        f"--sft.accumulate={shipped.sft.batch_size // rows}",
        f"--rm.accumulate={shipped.rm.batch_size // rows}",
        f"--rl.accumulate={per_update(shipped) // rows}",
        f"--rl.score-rows={FSDP}",
        "--plan.effort=least",
    ]


def price_of(machine: str, prices: dict[str, float]) -> float:
    return prices.get(machine.partition("-")[0], 0.0)


def read(path: Path) -> Plan:
    plan: Plan = msgspec.convert(json.loads(path.read_text()), Plan)
    return plan


def row(cell: Cell, plan: Plan, stage: StagePlan) -> str:
    """One line of the table."""
    worst, known = stage.largest, {program.name: program for program in stage.programs if not program.compiled.needed}
    update, draw = known.get("update"), known.get("draw")
    speed = (draw or update or worst).tokens_per_second
    price = f"{stage.hours * plan.chips * plan.price:,.0f}" if plan.price and stage.fits else "–"
    values: list[Any] = [
        cell.model,
        cell.training,
        f"{cell.machine} ({plan.chips} chips)",
        stage.id,
        WORDS[stage.fits],
        f"{worst.memory / GIB:.1f} of {worst.limit / GIB:.1f} ({worst.name})",
        f"{update.sent() / 1e9:.1f}" if update else "–",
        f"{draw.sent('token') / 1e9:.1f}" if draw else "–",
        f"{speed / plan.chips:,.0f}" if speed and stage.fits else "–",
        f"{stage.hours:.2f}" if stage.fits else "–",
        price,
    ]
    return f"| {' | '.join(map(str, values))} |"


def page(plans: Sequence[tuple[Cell, Plan]], prices: dict[str, float]) -> str:
    """The whole of docs/plans.md."""
    told = ", ".join(f"{chip} {price:g}" for chip, price in prices.items()) or "not given"
    chips = "; ".join(
        f"{chip.name} {chip.flops / 1e12:.0f} TFLOP/s bf16, {chip.hbm / GIB:.2f} GiB at "
        f"{chip.hbm_speed / 1e9:.0f} GB/s, links {chip.ici / 1e9:.0f} GB/s ({chip.source})"
        for chip in CHIPS.values()
    )
    lines = [TITLE, "|" + " --- |" * (TITLE.count("|") - 1)]
    lines += [row(cell, plan, stage) for cell, plan in plans for stage in plan.stages]
    commands = ["", "## Commands", ""]
    for cell, _ in plans:
        asked = " ".join(cell.flags(price_of(cell.machine, prices)))
        commands += [f"- {cell.model}, {cell.training}, {cell.machine}: `python launch/tpu_run.py {asked}`"]
    return HEAD.format(prices=told, chips=chips) + "\n".join([*lines, *commands]) + "\n"


def made(scratch: Path) -> list[tuple[Cell, Plan]]:
    """The cells of the whole table whose plans there are."""
    plans = ((cell, cell.workdir(scratch) / "plan" / "plan.json") for cell in cells(PUBLISHED, TRAINING, MACHINES))
    return [(cell, read(path)) for cell, path in plans if path.exists()]


def cells(models: Iterable[str], training: Iterable[str], machines: Iterable[str]) -> Iterator[Cell]:
    """Every model with every training on every machine."""
    return (Cell(*names) for names in itertools.product(models, training, machines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(PUBLISHED), choices=list(PUBLISHED))
    parser.add_argument("--machines", nargs="+", default=list(MACHINES))
    parser.add_argument("--training", nargs="+", default=list(TRAINING), choices=list(TRAINING))
    parser.add_argument("--prices", nargs="*", default=[], help="of chip-hours: v5e=1.2 v5p=4.2")
    parser.add_argument("--scratch", type=Path, default=Path("runs/plans"))
    parser.add_argument("--page", type=Path, default=PAGE)
    flags = parser.parse_args()
    if not has_tpu_compiler():
        raise UserError("docs/plans.md says what a TPU's compiler says: install the extra `tpu`")
    prices = {chip: float(price) for chip, _, price in (word.partition("=") for word in flags.prices)}
    for cell in cells(flags.models, flags.training, flags.machines):
        execute([*cell.flags(price_of(cell.machine, prices)), f"--workdir={cell.workdir(flags.scratch)}"])
        write_text(flags.page, page(made(flags.scratch), prices))


if __name__ == "__main__":
    main()
