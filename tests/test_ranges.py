"""Ranges of knobs: every number has one, its ends are where --help says, and what is beyond is named."""

from collections.abc import Iterator
from dataclasses import dataclass, field, is_dataclass, replace
from math import inf, nan
from typing import Any, Literal, get_type_hints

import pytest

from pit_jax import flags, ranges, shipped
from pit_jax.config import Config, OptimizerConfig, RlConfig
from pit_jax.errors import UserError

FITS: dict[str, tuple[list[Any], list[Any]]] = {  # what is in a range, and what is not
    "Count": ([1, 10**9], [0, -1, 1.0, True, "1"]),
    "CountOrNone": ([0, 1], [-1, nan]),
    "CountOfPair": ([2, 3], [1, 0, 2.0]),
    "CountOrRest": ([-1, 0, 8], [-2]),
    "Seed": ([0, 2**32 - 1], [-1, 2**32]),
    "Share": ([0.0, 1.0, 1], [-1e-9, 1.001, nan, inf]),
    "ShareBelowOne": ([0.0, 0.999], [1.0, -0.1, nan]),
    "ShareAboveNone": ([0.001, 1.0], [0.0, 1.1, nan]),
    "ShareBetween": ([0.001, 0.999], [0.0, 1.0, nan]),
    "ShareBelowHalf": ([0.0, 0.499], [0.5, -0.1, nan]),
    "ShareDifference": ([-1.0, 0.0, 1.0], [-1.001, 1.001, nan, inf]),
    "Positive": ([1e-30, 1e30, 3], [0.0, -1.0, nan, inf]),
    "NotNegative": ([0.0, 5.0], [-1e-9, nan, inf, -inf]),
    "Limit": ([1e-9, inf], [0.0, -1.0, nan, -inf]),
    "LimitOfMultiple": ([1.0, inf], [0.999, nan]),
    "Finite": ([-1.0, 0.0, 1.0], [nan, inf, -inf]),
    "Threshold": ([-inf, -1.0, 0.0, inf], [nan, "x"]),
    "Name": (["x"], ["", 1]),
    "Names": ([("x",), ("x", "y")], [(), ("x", "")]),
    "Counts": ([(0,), (2, 1)], [(), (1, -1)]),
    "Seeds": ([(), (0, 1)], [(0, -1), (2**32,)]),
    "NotNegatives": ([(0.0, 1.0)], [(), (0.4, -1.0), (nan,), (0.4, inf)]),
    "Rates": ([(1.0, 0.1)], [(), (0.0,), (inf,)]),
    "Divisors": ([(), (1.0,)], [(0.0,), (nan,)]),
}


def declared(kind: Any) -> Iterator[tuple[str, Any]]:
    for name, annotation in get_type_hints(kind, include_extras=True).items():
        yield from declared(annotation) if is_dataclass(annotation) else [(name, annotation)]


def test_every_number_and_every_list_of_numbers_has_a_range() -> None:
    bare = [name for name, kind in declared(Config) if kind in (int, float, tuple[int, ...], tuple[float, ...])]
    assert bare == []


@pytest.mark.parametrize("name", FITS)
def test_the_ends_of_a_range(name: str) -> None:
    @dataclass(frozen=True)
    class One:
        knob: Any = None

    One.__annotations__["knob"] = getattr(ranges, name)
    inside, outside = FITS[name]
    assert [list(ranges.out_of_range(One(value))) for value in inside] == [[]] * len(inside)
    metavar = getattr(ranges, name).__metadata__[-1].metavar
    for value in outside:
        assert [asked for _, _, asked in ranges.out_of_range(One(value))] == [metavar]


def test_no_range_is_without_a_test() -> None:
    assert {name for name, value in vars(ranges).items() if hasattr(value, "__metadata__")} == set(FITS)


@dataclass(frozen=True)
class Section:
    most: float = inf
    kind: Literal["a", "b"] = "a"
    names: tuple[str, ...] = ()
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)


def test_knobs_without_a_range_have_their_type_and_are_numbers() -> None:
    """As those of a fork: infinity may be meant, NaN never is."""
    assert list(ranges.out_of_range(Section())) == []
    knobs: dict[str, Any] = {"most": nan, "kind": "c", "names": (1,), "optimizer": OptimizerConfig(eps=0.0)}
    found = {name: asked for name, _, asked in ranges.out_of_range(Section(**knobs))}
    assert list(found) == ["most", "kind", "names", "optimizer.eps"]
    assert "'c'" in found["kind"] and "Expected `str`" in found["names"] and found["optimizer.eps"] == "FLOAT>0"


def test_all_that_is_out_of_range_is_said_at_once_as_it_is_written() -> None:
    rl = replace(RlConfig(), batch_size=0, clip_eps=nan)
    config = replace(Config(), rl=rl, evaluate=replace(Config().evaluate, temperatures=(0.4, -1.0)))
    with pytest.raises(UserError) as error:
        ranges.check_ranges(config)
    assert str(error.value) == (
        "--rl.batch-size=0: asked for INT>=1; --rl.clip-eps=nan: asked for FLOAT>0; "
        "--evaluate.temperatures 0.4 -1.0: asked for FLOAT>=0 ..; see --help for every flag"
    )


@pytest.mark.parametrize("name", shipped.names())
def test_shipped_configs_are_in_range(name: str) -> None:
    ranges.check_ranges(shipped.shipped(name))


@pytest.mark.parametrize(
    "flag",
    ["--improve.limit=-3", "--checkpoint.every=-1", "--rl.heldout-prompts=0", "--seed=-1", "--seed=4294967296"]
    + ["--mesh.simulate=-1", "--adapter.rank=-1", "--rl.kl-coef=nan", "--workdir=", "--hosts.count=-2"]
    + ["--dpo.beta=inf", "--dpo.label-smoothing=0.5", "--plan.price=nan", "--sft.policy-steps=-1"],
)
def test_a_flag_out_of_range_is_named_with_its_range(flag: str) -> None:
    with pytest.raises(UserError, match=f"{flag}.*: asked for "):
        flags.parse([flag])


@pytest.mark.parametrize(
    "flag", ["--data.rates 0.0", "--data.sources", "--evaluate.temperatures", "--rl.curriculum.rounds"]
)
def test_a_list_that_may_not_be_empty_and_one_with_a_wrong_number(flag: str) -> None:
    with pytest.raises(UserError, match=f"{flag}: asked for "):
        flags.parse(flag.split())


def test_help_shows_every_range(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        flags.parse(["--help"])
    text = capsys.readouterr().out
    for line in ("--rl.batch-size INT>=1", "--dpo.label-smoothing 0<=FLOAT<0.5", "--data.sources STR .."):
        assert line in text
