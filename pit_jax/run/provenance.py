"""What the results of a stage depend on: its knobs, the stages it is made from, forks' code and files it reads."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from pit_jax.config import Config, flatten
from pit_jax.digests import remembered_digest
from pit_jax.files import digest_of
from pit_jax.paths import local, to_path


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


BASE = "contents of base"


def no_stages(config: Config) -> tuple[StageId, ...]:
    """The parents of a stage that starts from nothing."""
    return ()


def one_phase(config: Config) -> tuple[str, ...]:
    """Of a stage that trains once, in its own folder."""
    return ("",)


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
    kept: bool = False
    """Whether branches of a run take over what it left, though it is no network."""
    part: str = ""
    """Where that network stands in its checkpoint's parameters; "" = they are it."""
    phases: Callable[[Config], tuple[str, ...]] = one_phase
    """Trainings that follow each other, by the names of their folders in the stage's own; the last leaves its model."""
    replaces: StageId | None = None
    """The stage that it stands in for, in every run that knows it."""

    @property
    def id(self) -> StageId:
        return StageId(self.name, self.role)

    def depends_on(self, config: Config) -> dict[str, Any]:
        """{knob: value} of all that decides what the stage computes, digests of code and files included."""
        flat = flatten(config)
        named = {name: value for name, value in flat.items() if _is_of(name, self.knobs)}
        base = {BASE: _base_digest(config)} if config.base else {}
        return {**named, **base, **self.contents(config)}


def _base_digest(config: Config) -> str:
    """Names the weights of the base by their content, wherever its folder lies. UserError where there are none."""
    from pit_jax.data.text.tokenizers import UNREAD  # these load transformers and jax
    from pit_jax.model.pretrained.weights import tensors_in

    tensors = tensors_in(local(to_path(config.base), but=UNREAD)).values()
    return digest_of(*(remembered_digest(file) for file in sorted({tensor.file for tensor in tensors})))


def section(name: str, *, without: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The knobs of a section of the config but for those that begin with one of `without`."""
    fields = (knob for knob in flatten(Config()) if knob.startswith(f"{name}."))
    return tuple(knob for knob in fields if not knob.startswith(tuple(f"{name}.{left_out}" for left_out in without)))


# What every stage depends on, but for knobs that change how a network is computed and not what it computes, and paths:
# the fingerprint of the data names what was read from them.
SHARED = (
    "seed",
    *section("data", without=("sources",)),
    *section("tokenizer", without=("path",)),
    *section("transformer", without=("remat", "unroll", "logits_bytes")),
    "adapter",
)


def is_shared(name: str) -> bool:
    """Whether what a stage depends on by this name is what all stages of a run depend on."""
    return _is_of(name, (*SHARED, BASE))


def _is_of(name: str, knobs: tuple[str, ...]) -> bool:
    return any(name == knob or name.startswith(f"{knob}.") for knob in knobs)
