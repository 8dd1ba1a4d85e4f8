"""The search over meshes and knobs, on plans that are made up."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from pit_jax.config import Config, flatten
from pit_jax.errors import UserError
from pit_jax.parallel.topologies import topology_of
from pit_jax.recipes.catalogue import catalogue
from pit_jax.recipes.plan.search import KNOBS, Search, flags_of, meshes, per_update, relieved, with_fields
from pit_jax.run.plan import Plan, ProgramPlan, cheapest_first
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
    assert {"--rl.offload=none", "--sft.accumulate=1", "--transformer.remat=none"} <= set(search.plans[0].flags)
    assert {"--sft.accumulate=4", "--transformer.remat=full", "--mesh.data=1"} <= set(search.plans[-1].flags)


def test_the_cheapest_of_those_that_fit(program: MakeProgram) -> None:
    slow, fast = (plan_with(("sft-policy", [program(seconds=seconds)])) for seconds in (3.0, 2.0))
    large = plan_with(("sft-policy", [program(memory=20.0, seconds=1.0)]))
    assert cheapest_first([slow, large, fast]) == [2, 0] and cheapest_first([large]) == []
    assert fast.hours == pytest.approx(2.0) and fast.cost == pytest.approx(2.0 * 8 * 2.0)


def test_nothing_to_turn_and_nothing_to_place(program: MakeProgram) -> None:
    """Weights for decoding have no knob: other meshes are tried. A mesh that a batch does not divide over is no try."""
    asked: list[int] = []

    def make(config: Config, flags: tuple[str, ...]) -> Plan:
        asked.append(config.mesh.fsdp)
        if config.mesh.fsdp == 8:
            raise UserError("batch")
        return plan_with(("rl-policy", [program("to_decode", memory=99.0)]), flags=flags)

    search = Search(make, tries=2, say=lambda text: None)
    search.run(Config(), topology_of("v5e-8"))
    assert asked == [8, 4, 2] and search.configs[search.closest].mesh.fsdp == 4
    assert len(search.plans) == 2 and "batch" in search.refused[0]


def test_the_table_of_knobs_is_about_programs_that_there_are() -> None:
    config = with_fields(Config(), {"mesh.data": 1})
    for knob in KNOBS:
        values = list(knob.values(config))
        assert len(values) == len(set(values)) > 1 and type(flatten(config)[knob.field]) is type(values[0])
        assert any(map(knob.program, ("update", "score", "draw"))) and not knob.program("to_decode")
    trained = {stage.name for stage in catalogue().values() if stage.leaves}
    assert trained == {stage for knob in KNOBS if knob.field == "transformer.remat" for stage in knob.stages}


def turned(config: Config, stage: str, program: ProgramPlan) -> list[dict[str, Any]]:
    """What a search changes, turn by turn, for a program that never fits."""
    found = [{knob.field: knob.values(config)[0] for knob in reversed(KNOBS)}]
    while (changed := relieved(config, found[-1], plan_with((stage, [program])))) is not None:
        found.append(changed)
    return [dict(new.items() - old.items()) for old, new in pairwise(found)]


@pytest.mark.parametrize("name", ["draw", "references of 512", "references of 64, rewritten", "improver prompts of 8"])
def test_what_draws_frees_the_optimizer(program: MakeProgram, name: str) -> None:
    config = with_fields(Config(), {"mesh.data": 1})
    assert turned(config, "rl-improver", program(name, memory=20.0)) == [{"rl.offload": "optimizer"}]


def test_what_a_score_an_update_and_dpo_turn_until_nothing_is_left(program: MakeProgram) -> None:
    """128 rows over a mesh of 16 are scored by 16 at least; 32 rows of an update are cut in two, 32 pairs of dpo too.

    A field whose rows the mesh does not divide would end the search on it.
    """
    config = with_fields(Config(), {"mesh.data": 2, "mesh.fsdp": 8})
    assert (config.rl.batch_size, per_update(config), config.dpo.batch_size) == (128, 32, 32)
    remats = [{"transformer.remat": "dots"}, {"transformer.remat": "full"}]
    score, update = program("score", memory=20.0), program("update", memory=20.0)
    scored = [{"rl.score_rows": rows} for rows in (64, 32, 16)]
    assert turned(config, "rl-policy", score) == [*scored, {"rl.offload": "optimizer"}]
    assert turned(config, "rl-policy", update) == [*remats, {"rl.accumulate": 2}, {"rl.offload": "both"}]
    assert turned(config, "dpo-policy", update) == [*remats, {"dpo.accumulate": 2}]


def test_an_update_offloads_the_frozen_models_beside_an_optimizer_that_waits(program: MakeProgram) -> None:
    config = with_fields(Config(), {"mesh.data": 1})
    last = {knob.field: knob.values(config)[-1] for knob in KNOBS} | {"rl.offload": "optimizer"}
    both = relieved(config, last, plan_with(("rl-policy", [program("update", memory=20.0)])))
    assert both == {**last, "rl.offload": "both"}
    assert relieved(config, both, plan_with(("rl-policy", [program("draw", memory=20.0)]))) is None
    assert relieved(config, both, plan_with(("rl-policy", [program("update", memory=20.0)]))) is None
