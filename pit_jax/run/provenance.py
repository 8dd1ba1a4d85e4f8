"""What the results of a stage depend on: its knobs, the stages it is made from, forks' code and files it reads."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from pit_jax.config import Config, flatten


class StageId(NamedTuple):
    """A stage by what it does and for which model: ("rm", "improver"). A stage of no model has the role ""."""

    name: str
    role: str = ""

    def __str__(self) -> str:
        """The name of its folder: rm-improver, evaluate."""
        return f"{self.name}-{self.role}" if self.role else self.name

    @property
    def flags(self) -> str:
        """How it is asked for on the command line."""
        return f"--stage={self.name}" + (f" --model={self.role}" if self.role else "")


def no_stages(config: Config) -> tuple[StageId, ...]:
    """The parents of a stage that starts from nothing."""
    return ()


def nothing_else(config: Config) -> Mapping[str, str]:
    """Of a stage that depends on no file but the data."""
    return {}


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """The part of a stage (run/stage.py) that says what it made its results from."""

    name: str
    role: str = ""
    parents: Callable[[Config], tuple[StageId, ...]] = no_stages
    """The stages that must be finished before; `load` of any other is an error."""
    init_from: StageId | None = None
    """Whose weights it starts from, and under its adapters; None = those that the run starts from."""
    knobs: tuple[str, ...] = ()
    """Names, or beginnings of names up to a dot, of the config fields that decide what it computes."""
    contents: Callable[[Config], Mapping[str, str]] = nothing_else
    """What else it depends on, by content: {"code of judge mine": digest}."""
    leaves: Literal["", "language", "scalar"] = ""
    """The network whose parameters it leaves; "" for a stage that trains nothing."""
    part: str = ""
    """Where that network stands in its checkpoint's parameters; "" = they are it."""
    replaces: StageId | None = None
    """The stage that it stands in for, in every run that knows it."""

    @property
    def id(self) -> StageId:
        return StageId(self.name, self.role)

    def depends_on(self, config: Config) -> dict[str, Any]:
        """{knob: value} of all that decides what the stage computes, digests of code and files included."""
        flat = flatten(config)
        named = {k: v for k, v in flat.items() if any(k == knob or k.startswith(f"{knob}.") for knob in self.knobs)}
        return {**named, **self.contents(config)}


def section(name: str, *, without: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The knobs of a section of the config but for those that begin with one of `without`."""
    fields = (knob for knob in flatten(Config()) if knob.startswith(f"{name}."))
    return tuple(knob for knob in fields if not knob.startswith(tuple(f"{name}.{left_out}" for left_out in without)))


# What every stage depends on, but for knobs that change how a network is computed and not what it computes.
SHARED = (
    "seed",
    "data",
    "tokenizer",
    *section("transformer", without=("remat", "unroll", "logits_bytes")),
    "adapter",
)
