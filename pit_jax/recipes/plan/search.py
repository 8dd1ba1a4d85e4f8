"""Other meshes and knobs for the same work on the same machine: the plans that fit, cheapest first."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pit_jax.config import Config
from pit_jax.errors import UserError
from pit_jax.parallel.topologies import Topology
from pit_jax.run.plan import Plan, ProgramPlan

Make = Callable[[Config, tuple[str, ...]], Plan]
"""make(config, flags that differ) -> a plan, which may end with the first program that does not fit."""


@dataclass(frozen=True)
class Knob:
    """A field of the config that trades time for memory, with the values that a search tries, fastest first."""

    field: str
    stages: tuple[str, ...]
    program: Callable[[str], bool]
    """Whether it makes the program of a name smaller; the first knob of the table that has values left is turned."""
    values: Callable[[Config], Sequence[Any]]
    """Of a config whose mesh is set. A value that is none of them is not turned."""


def powers(least: int, most: int) -> list[int]:
    """1, 2, 4, .. between two numbers."""
    return [2**n for n in range(most.bit_length()) if least <= 2**n <= most]


def parts(rows: int, config: Config) -> list[int]:
    """1, 2, 4, .. parts of so many rows, as long as the mesh divides each of them; 1 where it divides none."""
    shards = config.mesh.data * config.mesh.fsdp
    return [part for part in powers(1, rows) if rows % (part * shards) == 0] or [1]


def halves(rows: int, config: Config) -> list[int]:
    """0 = all rows at once, then a half of them, a quarter, .., as long as the mesh divides them."""
    return [0, *(rows // part for part in parts(rows, config)[1:])]


def per_update(config: Config) -> int:
    return config.rl.batch_size // config.rl.minibatches


def updates(program: str) -> bool:
    return program == "update"


def scores(program: str) -> bool:
    return program == "score"


def rolls_out(program: str) -> bool:
    """Whether the optimizer's state can wait on the host while a program of RL runs."""
    return program not in ("to_decode", "update")


REMATS = ("none", "dots", "full")  # offload waits for the host, which a roofline of chips does not see
KNOBS = (
    Knob("transformer.remat", ("sft", "rm", "rl", "dpo", "spa"), updates, lambda config: REMATS),
    Knob("sft.accumulate", ("sft",), updates, lambda config: parts(config.sft.batch_size, config)),
    Knob("rm.accumulate", ("rm",), updates, lambda config: parts(config.rm.batch_size, config)),
    Knob("rl.accumulate", ("rl",), updates, lambda config: parts(per_update(config), config)),
    Knob("dpo.accumulate", ("dpo",), updates, lambda config: parts(config.dpo.batch_size, config)),
    Knob("spa.accumulate", ("spa",), updates, lambda config: parts(config.spa.batch_size, config)),
    Knob("rl.score_rows", ("rl",), scores, lambda config: halves(config.rl.batch_size, config)),
    Knob("rl.offload", ("rl",), rolls_out, lambda config: ("none", "optimizer")),
    Knob("rl.offload", ("rl",), updates, lambda config: ("none", "both")),
    Knob("rl.offload", ("rl",), updates, lambda config: ("optimizer", "both")),
)
"""What is traded. A search begins with the first value of the first knob of a field."""


@dataclass
class Search:
    """The plans that were made, and the meshes that no batch goes on."""

    make: Make
    tries: int
    say: Callable[[str], None]
    plans: list[Plan] = field(default_factory=list)
    configs: list[Config] = field(default_factory=list)
    """Of those plans."""
    refused: list[str] = field(default_factory=list)

    @property
    def closest(self) -> int:
        """Which plan comes nearest to fitting: got through most stages and programs, then lacks least memory."""

        def lack(plan: Plan) -> tuple[int, float]:
            programs = [program for stage in plan.stages for program in stage.programs]
            return -len(programs), max(program.memory / program.limit for program in programs)

        return min(range(len(self.plans)), key=lambda place: lack(self.plans[place]))

    def run(self, config: Config, topology: Topology) -> None:
        """Make the plans. On every mesh the fastest settings are tried first, and each program that does not fit has
        its knob turned until it does, or until there is nothing to turn."""
        for shape in meshes(config, topology):
            if len(self.plans) >= self.tries:
                break
            self._on_mesh(config, dict(zip(("mesh.data", "mesh.fsdp", "mesh.tensor"), shape, strict=True)))

    def _on_mesh(self, config: Config, changed: dict[str, Any]) -> None:
        config = with_fields(config, changed)
        changed = changed | {knob.field: knob.values(config)[0] for knob in reversed(KNOBS)}
        while len(self.plans) < self.tries:
            candidate = with_fields(config, changed)
            try:
                plan = self.make(candidate, flags_of(changed))
            except UserError as error:
                self.refused.append(f"{' '.join(flags_of(changed))}: {error}")
                return
            self.plans.append(plan)
            self.configs.append(candidate)
            self.say(f"search {len(self.plans)}: {' '.join(plan.flags)}: {outcome(plan)}")
            turned = None if plan.fits else relieved(config, changed, plan)
            if turned is None:
                return
            changed = turned


def relieved(config: Config, changed: dict[str, Any], plan: Plan) -> dict[str, Any] | None:
    """The settings with one knob turned for the first program that does not fit; None where none is left."""
    for stage in plan.stages:
        for program in stage.programs:
            if program.fits is False:
                return _turned(config, changed, stage.id.partition("-")[0], program)
    return None


def _turned(config: Config, changed: dict[str, Any], stage: str, program: ProgramPlan) -> dict[str, Any] | None:
    for knob in KNOBS:
        values, now = list(knob.values(config)), changed[knob.field]
        if stage in knob.stages and knob.program(program.name) and now in values[:-1]:
            over = program.memory / program.limit
            steps = max(1, int(math.log2(over)))  # a step halves what it is about, at most
            return {**changed, knob.field: values[min(values.index(now) + steps, len(values) - 1)]}
    return None


def outcome(plan: Plan) -> str:
    """Fits, with its hours, or what does not."""
    if plan.fits:
        return f"fits, {plan.hours:.2f} h at least"
    bad = [f"{stage.id} {program.name}" for stage in plan.stages for program in stage.programs if not program.fits]
    return f"does not fit: {', '.join(bad)}" if plan.fits is False else "not known to fit without the TPU's compiler"


def meshes(config: Config, topology: Topology) -> list[tuple[int, int, int]]:
    """Shapes (data, fsdp, tensor) of powers of 2 that the machine has; no more tensor than query heads.

    Weights over all of a slice first, then over fewer chips, then with split matrices.
    """
    within = topology.chips // topology.slices
    shapes = [
        (topology.chips // (fsdp * tensor), fsdp, tensor)
        for tensor in powers(1, min(config.transformer.query_heads, 16))
        for fsdp in powers(1, within)
        if fsdp * tensor <= within and within % (fsdp * tensor) == 0
    ]
    return sorted(shapes, key=lambda shape: (shape[2], -shape[1]))


def with_fields(config: Config, changed: dict[str, Any]) -> Config:
    """The config with fields by their dotted names."""
    for name, value in changed.items():
        *sections, last = name.split(".")
        nested: Any = value
        for depth in range(len(sections), -1, -1):
            owner: Any = config
            for section in sections[:depth]:
                owner = getattr(owner, section)
            nested = replace(owner, **{[*sections, last][depth]: nested})
        config = nested
    return config


def flags_of(changed: dict[str, Any]) -> tuple[str, ...]:
    """As a command line has them."""

    def word(value: Any) -> str:
        return str(value).lower() if isinstance(value, bool) else str(value)

    return tuple(f"--{name.replace('_', '-')}={word(value)}" for name, value in changed.items())
