"""The range of every knob: declared beside it, shown by --help, checked in one place."""

import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, get_type_hints

import msgspec
from msgspec import Meta
from tyro.conf import arg

from pit_jax.errors import UserError


class Endless:
    """Marks a number that may be infinite: a limit that nothing reaches."""


Count = Annotated[int, Meta(ge=1), arg(metavar="INT>=1")]
CountOrNone = Annotated[int, Meta(ge=0), arg(metavar="INT>=0")]
CountOfPair = Annotated[int, Meta(ge=2), arg(metavar="INT>=2")]
CountOrRest = Annotated[int, Meta(ge=-1), arg(metavar="INT>=-1")]
Seed = Annotated[int, Meta(ge=0, lt=2**32), arg(metavar="0<=INT<2**32")]  # as many as jax.random.key tells apart
Share = Annotated[float, Meta(ge=0, le=1), arg(metavar="0<=FLOAT<=1")]
ShareBelowOne = Annotated[float, Meta(ge=0, lt=1), arg(metavar="0<=FLOAT<1")]
ShareAboveNone = Annotated[float, Meta(gt=0, le=1), arg(metavar="0<FLOAT<=1")]
ShareBetween = Annotated[float, Meta(gt=0, lt=1), arg(metavar="0<FLOAT<1")]
ShareBelowHalf = Annotated[float, Meta(ge=0, lt=0.5), arg(metavar="0<=FLOAT<0.5")]
ShareDifference = Annotated[float, Meta(ge=-1, le=1), arg(metavar="-1<=FLOAT<=1")]
Positive = Annotated[float, Meta(gt=0), arg(metavar="FLOAT>0")]
NotNegative = Annotated[float, Meta(ge=0), arg(metavar="FLOAT>=0")]
Limit = Annotated[float, Meta(gt=0), Endless, arg(metavar="FLOAT>0|inf")]
LimitOfMultiple = Annotated[float, Meta(ge=1), Endless, arg(metavar="FLOAT>=1|inf")]
Finite = Annotated[float, arg(metavar="FLOAT")]
Threshold = Annotated[float, Endless, arg(metavar="FLOAT|inf|-inf")]
Name = Annotated[str, Meta(min_length=1), arg(metavar="STR")]
Names = Annotated[tuple[Name, ...], Meta(min_length=1), arg(metavar="STR ..")]
Counts = Annotated[tuple[CountOrNone, ...], Meta(min_length=1), arg(metavar="INT>=0 ..")]
Seeds = Annotated[tuple[Seed, ...], arg(metavar="[0<=INT<2**32 ..]")]
NotNegatives = Annotated[tuple[NotNegative, ...], Meta(min_length=1), arg(metavar="FLOAT>=0 ..")]
Rates = Annotated[tuple[Positive, ...], Meta(min_length=1), arg(metavar="FLOAT>0 ..")]
Divisors = Annotated[tuple[Positive, ...], arg(metavar="[FLOAT>0 ..]")]


def check_ranges(config: Any) -> None:
    """UserError for a knob of another type than its own, out of its range, empty where it may not be, or NaN."""
    if wrong := [f"{_shown(name, found)}: asked for {asked}" for name, found, asked in out_of_range(config)]:
        raise UserError(f"{'; '.join(wrong)}; see --help for every flag")


def out_of_range(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """(name, value, what is asked for) of every knob that is not as declared: ("rl.batch_size", 0, "INT>=1")."""
    kinds = get_type_hints(type(config), include_extras=True)
    for field in fields(config):
        value, kind, name = getattr(config, field.name), kinds[field.name], prefix + field.name
        if is_dataclass(value):
            yield from out_of_range(value, f"{name}.")
        elif asked := _asked(value, kind):
            yield name, value, asked


def flag_of(name: str) -> str:
    """The flag of a knob: rl.batch_size -> --rl.batch-size."""
    return f"--{name.replace('_', '-')}"


def _shown(name: str, value: Any) -> str:
    """The flag as it is written: --rl.batch-size=0, --evaluate.temperatures 0.4 -1.0."""
    flag = flag_of(name)
    if isinstance(value, tuple):
        return " ".join([flag, *(str(element) or "''" for element in value)])
    return f"{flag}={value!s}"


def _asked(value: Any, kind: Any) -> str | None:
    """What the declaration of a knob asks for in place of the value; None where it fits."""
    notes = getattr(kind, "__metadata__", ())
    declared = next((note.metavar for note in notes if hasattr(note, "metavar")), None)
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        return declared or str(error)
    numbers = [number for number in (value if isinstance(value, tuple) else (value,)) if isinstance(number, float)]
    if any(math.isnan(number) for number in numbers):
        return declared or "a number"
    return declared if declared and Endless not in notes and any(math.isinf(number) for number in numbers) else None
