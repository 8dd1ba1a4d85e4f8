"""The search over meshes and knobs, on plans that are made up."""

from dataclasses import replace

import pytest

from pit_jax.config import Config, flatten
from pit_jax.errors import UserError
from pit_jax.parallel.topologies import topology_of
from pit_jax.recipes.plan.search import KNOBS, Search, flags_of, meshes, with_fields
from pit_jax.run.plan import Plan, cheapest_first
from tests.recipes.plan.conftest import MakeProgram, plan_with


def test_fields_by_their_names_and_as_flags() -> None:
    changed = {"mesh.fsdp": 4, "rl.curriculum.patience": 7, "transformer.remat": "full", "seed": 3}
    config = with_fields(Config(), changed)
    assert {name: flatten(config)[name] for name in changed} == changed
    assert replace(config, mesh=Config().mesh, rl=Config().rl, transformer=Config().transformer, seed=0) == Config()
    assert flags_of({"sft.batch_size": 4, "transformer.remat": "full"}) == (
        "--sft.batch-size=4",
        "--transformer.remat=full",
    )


def test_every_mesh_has_all_chips_and_splits_rows_first() -> None:
    config = replace(Config(), transformer=replace(Config().transformer, query_heads=4))
    shapes = meshes(config, topology_of("v5e-8"))
    assert shapes[0] == (1, 8, 1) and len(shapes) == len(set(shapes)) == 4 + 3 + 2
    assert all(data * fsdp * tensor == 8 and tensor <= 4 for data, fsdp, tensor in shapes)
    assert all(data % 2 == 0 for data, _, _ in meshes(config, topology_of("v5e-8", 2))), "slices share no parameters"


def test_a_program_that_does_not_fit_has_its_knob_turned(program: MakeProgram) -> None:
    """An update that needs 40 GiB over the parts it is cut into: recomputing does not help, four parts fit."""

    def make(config: Config, flags: tuple[str, ...]) -> Plan:
        parts = config.sft.accumulate
        update = program(memory=2 + 40 / parts, seconds=1.0 + parts)
        return plan_with(("sft-policy", [update]), flags=flags)

    config = replace(Config(), mesh=replace(Config().mesh, fsdp=1))
    search = Search(make, tries=9, say=lambda text: None)
    search.run(config, topology_of("v5e-1"))
    assert [plan.fits for plan in search.plans] == 4 * [False] + [True]
    assert {"--sft.accumulate=4", "--transformer.remat=full", "--mesh.data=1"} <= set(search.plans[-1].flags)


def test_the_cheapest_of_those_that_fit(program: MakeProgram) -> None:
    slow, fast = (plan_with(("sft-policy", [program(seconds=seconds)])) for seconds in (3.0, 2.0))
    large = plan_with(("sft-policy", [program(memory=20.0, seconds=1.0)]))
    assert cheapest_first([slow, large, fast]) == [2, 0] and cheapest_first([large]) == []
    assert fast.hours == pytest.approx(2.0) and fast.cost == pytest.approx(2.0 * 8 * 2.0)


def test_nothing_to_turn_and_nothing_to_place(program: MakeProgram) -> None:
    """Improver prompts have no knob: other meshes are tried. A mesh that a batch does not divide over is no try."""
    asked: list[int] = []

    def make(config: Config, flags: tuple[str, ...]) -> Plan:
        asked.append(config.mesh.fsdp)
        if config.mesh.fsdp == 8:
            raise UserError("batch")
        return plan_with(("rl-policy", [program("improver prompts of 8", memory=99.0)]), flags=flags)

    search = Search(make, tries=2, say=lambda text: None)
    search.run(Config(), topology_of("v5e-8"))
    assert asked == [8, 4, 2] and search.configs[search.closest].mesh.fsdp == 4
    assert len(search.plans) == 2 and "batch" in search.refused[0]


def test_the_table_of_knobs_is_about_programs_that_there_are() -> None:
    for knob in KNOBS:
        values = list(knob.values(Config()))
        assert len(values) == len(set(values)) > 1 and type(flatten(Config())[knob.field]) is type(values[0])
    assert {knob.program for knob in KNOBS} == {"update", "score", "draw"}
