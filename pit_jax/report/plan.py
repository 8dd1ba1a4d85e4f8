"""A plan for a person to look at: a table in the terminal, and workdir/plan/index.html with bars of memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from pit_jax.report.render import GIB, number, render, scaled
from pit_jax.run.plan import Plan, ProgramPlan, StagePlan
from pit_jax.terminal import plain_text

ANSWERS = {True: "fits", False: "does not fit", None: "not known"}
TONES = {True: "good", False: "bad", None: "even"}


@dataclass(frozen=True)
class Bar:
    """One program's memory on one chip, as shares of the chip's."""

    program: ProgramPlan

    @property
    def pieces(self) -> list[tuple[str, int, float]]:
        """(what, bytes, percent of the bar); of a program that does not fit, what it needs beyond what is known."""
        compiled = self.program.compiled
        known = [
            ("models beside it", self.program.beside),
            ("arguments", compiled.arguments),
            ("outputs", compiled.outputs),
            ("temporaries", compiled.temporaries or 0),
        ]
        rest = self.program.memory - sum(size for _, size in known)
        named = [*known, ("needed, not laid out", max(rest, 0))]
        return [(name, size, round(100 * size / self.scale, 2)) for name, size in named if size]

    @property
    def scale(self) -> float:
        """The chip's memory, or what is needed where that is more."""
        return max(self.program.limit, self.program.memory)

    @property
    def limit(self) -> float:
        """Where the chip's memory ends, in percent of the bar."""
        return round(100 * self.program.limit / self.scale, 2)

    @property
    def tone(self) -> str:
        return TONES[self.program.fits]


def build(plan: Plan, tried: Sequence[Plan], target: Path, *, compiler: bool, note: str, remark: str = "") -> Path:
    """Write the page of a plan, and of those that a search tried; `remark` stands by the hours."""
    return render(
        "plan.html.j2",
        target,
        plan=plan,
        stages=[(stage, [Bar(program) for program in stage.programs]) for stage in plan.stages],
        tried=[(one, ANSWERS[one.fits], TONES[one.fits]) for one in tried],
        answer=ANSWERS[plan.fits],
        tone=TONES[plan.fits],
        note="" if compiler else note,
        remark=remark,
        gib=lambda size: number(size / GIB, 2),
        answers=ANSWERS,
        tones=TONES,
    )


def table(plan: Plan) -> Table:
    """One row a program, its stage in front of the first; red where it does not fit. 80 characters hold it."""
    mesh, limit = "x".join(map(str, plan.mesh)), number(plan.stages[0].programs[0].limit / GIB)
    title = f"{plan.topology}, {plan.chips} chips of {limit} GiB, mesh data x fsdp x tensor = {mesh}"
    shown = Table(title=plain_text(title), title_justify="left", box=None, padding=(0, 1, 0, 0))
    shown.add_column("program", min_width=14)
    for column in ("GiB\n/chip", "beside", "TFLOP", "sent\nGB", "token\nloop", "least\ns", "bound", "tok/s", "calls"):
        shown.add_column(column, justify="right", no_wrap=True)
    for stage in plan.stages:
        shown.add_row(plain_text(f"{stage.id}:"))
        for program in stage.programs:
            last = program is stage.programs[-1]
            shown.add_row(plain_text(program.name), *cells(program), style=_style(program.fits), end_section=last)
    return shown


def cells(program: ProgramPlan) -> Iterator[str]:
    least = program.least
    yield number(program.memory / GIB)
    yield number(program.beside / GIB)
    yield number(program.flops / 1e12)
    yield number(program.sent() / 1e9)
    yield number(program.sent("token") / 1e9)
    yield number(least.seconds if least else None)
    yield least.bound if least else "–"
    yield scaled(program.tokens_per_second)
    yield number(program.calls, 0)


def verdict(stage: StagePlan, plan: Plan) -> str:
    """fits, at least 3.10 h, 793.60 at 1.0 a chip-hour."""
    price = f", {number(stage.hours * plan.chips * plan.price)} at {plan.price:g} a chip-hour" if plan.price else ""
    return f"{ANSWERS[stage.fits]}, at least {number(stage.hours)} h{price}"


def _style(fits: bool | None) -> str:
    return "red" if fits is False else ""
