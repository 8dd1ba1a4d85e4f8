"""What a plan says: of every program its memory, traffic and least time; of every stage whether it fits, and its price.

Bytes, operations and traffic are those of one chip and one call, unless said otherwise.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from pit_jax.run.roofline import Roofline


@dataclass(frozen=True)
class Traffic:
    """Collectives of one kind at one place of a program."""

    kind: str
    place: Literal["once", "loop", "token"]
    """Outside of loops, inside one of known length (layers, parts of a batch), or inside the loop over tokens."""
    count: int
    """How often they run in one call."""
    sent: float
    """Bytes that a chip sends in one call."""
    largest: int
    """Bytes of the largest array that one of them moves."""
    slices: bool = False
    """Whether it goes between slices, over the data centre network."""


@dataclass(frozen=True)
class Compiled:
    """What a compiler said about a program."""

    compiler: Literal["tpu", "cpu"]
    arguments: int
    outputs: int
    """Those that reuse no argument's memory."""
    temporaries: int | None
    """None where no TPU's compiler laid them out."""
    traffic: tuple[Traffic, ...]
    seconds: float
    """To lower and to compile it."""
    needed: int | None = None
    """Of a program that does not fit: all that it needs, as far as the compiler tells."""
    error: str = ""
    """Why there is no program, other than its memory."""

    def sent(self, *places: str, slices: bool = False) -> float:
        """Bytes that a chip sends in one call, inside its slice or to others, at these places or at all."""
        moved = [one for one in self.traffic if one.slices == slices]
        return sum(one.sent for one in moved if not places or one.place in places)


@dataclass(frozen=True)
class ProgramPlan:
    name: str
    compiled: Compiled
    beside: int
    """Models that lie in memory while it runs and are none of its arguments."""
    limit: float
    flops: float
    hbm: float
    tokens: float
    """Of one call on all chips: drawn, or passed through the network."""
    calls: float
    """In the whole stage, those of evaluations included."""
    least: Roofline | None
    """None where nobody says how the stage uses the program."""

    @property
    def memory(self) -> int:
        """All that is in use at once, at least."""
        compiled = self.compiled
        if compiled.needed is not None:
            return compiled.needed + self.beside
        return compiled.arguments + compiled.outputs + (compiled.temporaries or 0) + self.beside

    @property
    def fits(self) -> bool | None:
        """None where it would but for temporaries that are not known."""
        if self.compiled.error or self.memory > self.limit or self.compiled.needed is not None:
            return False
        return None if self.compiled.temporaries is None else True

    @property
    def seconds(self) -> float:
        """In the whole stage."""
        return 0.0 if self.least is None or not self.calls else self.calls * self.least.seconds

    @property
    def tokens_per_second(self) -> float | None:
        """A chip cannot be faster; of all chips."""
        return self.tokens / self.least.seconds if self.least and self.least.seconds and self.tokens else None

    def sent(self, *places: str) -> float:
        """Bytes that a chip sends in one call, inside its slice, at these places or at all."""
        return self.compiled.sent(*places)


@dataclass(frozen=True)
class StagePlan:
    id: str
    programs: tuple[ProgramPlan, ...]

    @property
    def fits(self) -> bool | None:
        answers = [program.fits for program in self.programs]
        return False if False in answers else None if None in answers else True

    @property
    def hours(self) -> float:
        """At least; compiling, saving and reading are not counted."""
        return sum(program.seconds for program in self.programs) / 3600

    @property
    def largest(self) -> ProgramPlan:
        """The program that needs most memory."""
        return max(self.programs, key=lambda program: program.memory)


@dataclass(frozen=True)
class Plan:
    topology: str
    chips: int
    hosts: int
    accelerator_type: str
    mesh: tuple[int, int, int]
    model: str
    parameters: int
    price: float
    """Of a chip-hour; 0 = not told."""
    stages: tuple[StagePlan, ...]
    flags: tuple[str, ...] = field(default=())
    """What the plan sets beyond the command's config, to be pasted."""

    @property
    def fits(self) -> bool | None:
        answers = [stage.fits for stage in self.stages]
        return False if False in answers else None if None in answers else True

    @property
    def hours(self) -> float:
        return sum(stage.hours for stage in self.stages)

    @property
    def cost(self) -> float:
        """At self.price."""
        return self.hours * self.chips * self.price


def cheapest_first(plans: Sequence[Plan]) -> list[int]:
    """Places of the plans that fit, those with the fewest chip-hours first."""
    fitting = [place for place, plan in enumerate(plans) if plan.fits]
    return sorted(fitting, key=lambda place: plans[place].hours * plans[place].chips)
