"""Which programs a plan walks, how they are used, and what lies in memory beside them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pit_jax.config import Config
from pit_jax.errors import UserError
from pit_jax.files import write_json
from pit_jax.parallel.mesh import mesh_of
from pit_jax.parallel.topologies import topology_of
from pit_jax.recipes.catalogue import RL_IMPROVER, catalogue
from pit_jax.recipes.plan.walk import cache_bytes, demand_of, layout_of, stages_of, vocabulary, with_model
from pit_jax.run.compiled import device_bytes
from pit_jax.run.loads import Load
from pit_jax.run.plan import Compiled
from pit_jax.run.programs import Shapes
from pit_jax.run.provenance import StageId

TRAINED = [id for id, stage in catalogue().items() if stage.leaves]


def asked(config: Config, *names: str) -> list[str]:
    return [str(stage.id) for stage in stages_of(replace(config, plan=replace(config.plan, stages=names)))]


def shapes_of(config: Config, mesh: Any, tmp_path: Path) -> Shapes:
    return Shapes(config, layout_of(config, tmp_path), vocabulary(config), mesh)


def test_stages_by_name_or_one_of_them(micro: Config) -> None:
    assert asked(micro, "sft", "rl-improver") == ["sft-policy", "sft-improver", "rl-improver"]
    assert asked(micro, "rm", "dpo") == ["rm-policy", "rm-improver", "dpo-policy"]
    with pytest.raises(UserError, match="no stage that trains; did you mean sft"):
        asked(micro, "stf")


def test_the_longest_rows_that_the_config_lets_in(micro: Config, tmp_path: Path) -> None:
    """P = 32, answers of 63 and EOS, a suffix of 16: a tree holds the prompt, three of each answer and two suffixes."""
    layout = layout_of(micro, tmp_path)
    assert (layout.prompt_slot, layout.response_slot, len(layout.suffix)) == (32, 64, 16)
    assert layout.row_lengths == {"sft-policy": 96, "sft-improver": 176, "reward": 96, "gap": 32 + 6 * 63 + 32 + 6}
    known = {**vars(layout), "prompt_slot": 8}
    write_json(tmp_path / "report.json", {"layout": known})
    assert layout_of(micro, tmp_path).prompt_slot == 8, "what was prepared counts"


def test_a_published_model_keeps_the_knobs_of_the_run(micro: Config) -> None:
    config = replace(
        micro, plan=replace(micro.plan, model="gemma-2b"), transformer=replace(micro.transformer, remat="full")
    )
    found = with_model(config)
    assert (found.transformer.layers, found.transformer.remat, vocabulary(found)) == (18, "full", 256_000)
    assert vocabulary(replace(found, plan=replace(found.plan, vocab_size=99))) == 99


@pytest.mark.parametrize("id", TRAINED, ids=str)
def test_every_program_has_a_load(micro: Config, id: StageId, tmp_path: Path) -> None:
    """By its name, and what it holds are residents of its stage."""
    config = replace(micro, rm=replace(micro.rm, second_gap_steps=3))
    shapes, stage = shapes_of(config, mesh_of(1, 1, 1), tmp_path), catalogue()[id]
    loads, residents = stage.loads(shapes), stage.residents(shapes)
    assert set(loads) == {program.name for program in stage.programs(shapes)}
    assert {name for load in loads.values() for name in load.holds} <= set(residents) | {
        "value",
        "second-gap",
        "moving",
    }
    assert all(load.calls + load.checks > 0 or load.work.flops == 0 or load.decoded for load in loads.values())


def test_what_lies_beside_a_draw_of_the_improver(micro: Config, tmp_path: Path) -> None:
    """Four language models are there (policy, anchor, sampler, the moving anchor), two scalar ones, two moments.

    Over adapters all of them share one backbone, which is an argument of the draw.
    """
    mesh = mesh_of(1, 8, 1)
    shapes = shapes_of(micro, mesh, tmp_path)
    stage = catalogue()[RL_IMPROVER]
    sizes = {name: device_bytes(tree) for name, tree in stage.residents(shapes).items()}
    language, score = (device_bytes(shapes.params(net)) for net in (shapes.language_model, shapes.scalar_model))
    assert sizes["policy"] == sizes["anchor"] == sizes["sampler"] == sizes["moving"] == language
    assert sizes["value"] == sizes["scorer"] == score and "second-gap" not in sizes
    assert sizes["optimizer"] == pytest.approx(2 * (language + score), abs=64)
    draw = stage.loads(shapes)["draw"]
    assert draw.holds == ("decode",) and draw.decoded == 64 and draw.cached == 32 + 64 + 16 + 64
    waiting = shapes_of(replace(micro, rl=replace(micro.rl, offload="both")), mesh, tmp_path)
    loads = stage.loads(waiting)
    assert loads["draw"].away == ("optimizer",) and "improver prompts of 16" in loads
    assert loads["update"].away == ("decode", "anchor", "scorer", "second-gap", "sampler")
    adapted = shapes_of(replace(micro, adapter=replace(micro.adapter, rank=2)), mesh, tmp_path)
    residents = stage.residents(adapted)
    alone = sum(device_bytes(tree) for tree in residents.values())
    shared = device_bytes(adapted.backbone)
    assert device_bytes(residents) == alone - 4 * shared, "policy, anchor, sampler, critic and scorer have one"
    assert device_bytes(residents, but=[residents["policy"]]) < device_bytes(residents) - shared + 1


def test_the_demand_of_a_decode_by_hand(micro: Config, tmp_path: Path) -> None:
    """Arguments of 100 bytes and the cache are read for each of 3 tokens: 2 layers, 2 rows a device of 10 slots, one
    head of 8 numbers of 4 bytes, keys and values."""
    shapes = shapes_of(micro, mesh_of(1, 8, 1), tmp_path)
    load = Load(1, 80.0 * catalogue()[RL_IMPROVER].loads(shapes)["draw"].work, decoded=3, rows=16, cached=10)
    assert cache_bytes(load, shapes) == 2 * 2 * 2 * 10 * 1 * 8 * 4
    demand = demand_of(Compiled("tpu", 100, 10, 20, (), 1.0), load, shapes, topology_of("v5e-8"))
    assert demand.hbm == 100 + 10 + 2 * 20 + 3 * (100 + cache_bytes(load, shapes))
    assert demand.flops == load.work.flops / 8
    prepared = replace(load, calls=4, before=12.0 * load.work)
    shared = demand_of(Compiled("tpu", 100, 10, 20, (), 1.0), prepared, shapes, topology_of("v5e-8"))
    assert shared.flops == (1 + 12 / 4) * load.work.flops / 8
