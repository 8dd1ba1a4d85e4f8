"""Which programs a plan walks, how they are used, and what lies in memory beside them."""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import pytest

from pit_jax.config import Config
from pit_jax.errors import UserError
from pit_jax.files import write_json
from pit_jax.parallel.mesh import mesh_of
from pit_jax.parallel.topologies import topology_of
from pit_jax.recipes.catalogue import RL_IMPROVER, RL_POLICY, catalogue
from pit_jax.recipes.plan import walk
from pit_jax.recipes.plan.search import rolls_out
from pit_jax.recipes.plan.walk import (
    cache_bytes,
    demand_of,
    layout_of,
    machine_of,
    plan_of,
    program_plan,
    stages_of,
    vocabulary,
    with_model,
)
from pit_jax.run.compiled import device_bytes
from pit_jax.run.frozen import as_trained
from pit_jax.run.loads import Load
from pit_jax.run.plan import Compiled, ProgramPlan
from pit_jax.run.programs import Shapes
from pit_jax.run.provenance import StageId
from pit_jax.seal import seal

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
    seal(tmp_path, {})
    assert layout_of(micro, tmp_path).prompt_slot == 8, "what was prepared counts"
    (tmp_path / "report.json").write_text("[]")
    with pytest.raises(UserError, match=r"report\.json: asked for the file that was written when the"):
        layout_of(micro, tmp_path)


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
    }
    assert all(load.calls + load.checks > 0 or load.work.flops == 0 or load.decoded for load in loads.values())


@pytest.mark.parametrize("rank", [0, 2], ids=["all weights", "adapters"])
@pytest.mark.parametrize("id", [RL_POLICY, RL_IMPROVER], ids=str)
def test_a_program_reads_what_it_is_said_to_hold(micro: Config, id: StageId, rank: int, tmp_path: Path) -> None:
    """Arguments that are not read are left out of the lowered program: whoever is one of those lies beside it.

    And no network is an argument beyond those, but the one that references are drawn from.
    """
    config = replace(micro, rm=replace(micro.rm, second_gap_steps=3), adapter=replace(micro.adapter, rank=rank))
    shapes, stage = shapes_of(config, mesh_of(1, 1, 1), tmp_path), catalogue()[id]
    loads, residents = stage.loads(shapes), stage.residents(shapes)
    embedding = named([shapes.params(shapes.language_model)["embedding"]])
    for program in stage.programs(shapes):
        held = named(residents[name] for name in loads[program.name].holds if name in residents)
        main = program.lower(shapes.mesh, "cpu").as_text().partition("@main(")[2].partition(") ->")[0]
        read = Counter(re.findall(r"%arg\d+: tensor<([^>]*)>", main))
        assert held <= read, f"{program.name}: {held - read}"
        drawn = "references" in program.name and "rewritten" not in program.name
        assert (embedding <= read - held) == drawn, program.name


def named(trees: Iterable[Any]) -> Counter[str]:
    """The distinct arrays of trees, as a lowered program writes their types."""
    leaves = {id(leaf): leaf for leaf in jax.tree.leaves(list(trees))}.values()
    types = {"float32": "f32", "int32": "i32"}
    return Counter("x".join([*map(str, leaf.shape), types[leaf.dtype.name]]) for leaf in leaves)


@pytest.fixture
def planned(micro: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, ProgramPlan]]:
    """planned(stage, adapter rank): its programs by name, on eight chips, as if each compiled to nothing."""
    monkeypatch.setattr(walk, "compile_program", lambda *asked: Compiled("cpu", 0, 0, None, (), 0.0))

    def plan(id: StageId, rank: int) -> dict[str, ProgramPlan]:
        asked = replace(micro.plan, stages=(str(id),))
        config = replace(micro, plan=asked, adapter=replace(micro.adapter, rank=rank))
        machine = machine_of(topology_of("v5e-8"))
        found = plan_of(config, machine, workdir=tmp_path, data=tmp_path, say=lambda text: None)
        return {program.name: program for program in found.stages[0].programs}

    return plan


def test_where_the_policy_of_a_score_and_a_moving_anchor_are(
    micro: Config, tmp_path: Path, planned: Callable[..., dict[str, ProgramPlan]]
) -> None:
    """A score has the policy beside it, an update the anchor that waits for the next phase."""
    sizes = catalogue()[RL_IMPROVER].residents(shapes_of(micro, mesh_of(8, 1, 1), tmp_path))
    programs = planned(RL_IMPROVER, rank=0)
    for name, beside in (
        ("score", ("policy", "optimizer", "moving", "decode", "sampler")),
        ("update", ("anchor", "scorer", "moving", "sampler")),
    ):
        assert programs[name].beside == sum(device_bytes(sizes[one]) for one in beside)


def test_an_update_of_adapters_takes_two_thirds_of_the_operations(
    planned: Callable[..., dict[str, ProgramPlan]],
) -> None:
    full, adapted = planned(RL_POLICY, rank=0), planned(RL_POLICY, rank=2)
    for name, program in full.items():
        share = 2 / 3 if name == "update" else 1.0
        assert adapted[name].flops == pytest.approx(share * program.flops) and adapted[name].tokens == program.tokens


def test_what_draws_has_no_optimizer_on_the_mesh_where_it_can_wait(micro: Config, tmp_path: Path) -> None:
    """As the search believes."""
    for id in (RL_POLICY, RL_IMPROVER):
        config = replace(micro, rl=replace(micro.rl, offload="optimizer"))
        loads = catalogue()[id].loads(shapes_of(config, mesh_of(1, 1, 1), tmp_path))
        assert {name for name, load in loads.items() if "optimizer" in load.away} == set(filter(rolls_out, loads))


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
    gathering = demand_of(Compiled("tpu", 100, 10, 20, (), 1.0), load, shapes, topology_of("v5e-8"), gathered=40)
    assert gathering.hbm == demand.hbm - 3 * 40
    prepared = replace(load, calls=4, before=12.0 * load.work)
    shared = demand_of(Compiled("tpu", 100, 10, 20, (), 1.0), prepared, shapes, topology_of("v5e-8"))
    assert shared.flops == (1 + 12 / 4) * load.work.flops / 8


def test_a_token_takes_rows_of_an_embedding_that_makes_no_logits(micro: Config, tmp_path: Path) -> None:
    """Of a draw on 2 chips, which splits the embedding. One that is tied is read whole."""
    bytes_of = {}
    for tied in (True, False):
        config = replace(micro, transformer=replace(micro.transformer, tied=tied))
        shapes = shapes_of(config, mesh_of(1, 2, 1), tmp_path)
        stage = catalogue()[RL_POLICY]
        (draw,) = (program for program in stage.programs(shapes) if program.name == "draw")
        load, compiled = stage.loads(shapes)["draw"], Compiled("tpu", 10**9, 0, 0, (), 1.0)
        bytes_of[tied] = program_plan(draw, compiled, load, 0, shapes, topology_of("v5e-4")).hbm
        embedding = device_bytes(draw.args[0]["embedding"])
    assert bytes_of[True] - bytes_of[False] == 64 * embedding > 0


@pytest.mark.parametrize("id", TRAINED, ids=str)
def test_the_share_of_an_update_that_a_stage_computes(micro: Config, id: StageId, tmp_path: Path) -> None:
    """All of it where the stage is one of adapter.full; whatever else it runs stays as it is."""
    micro = replace(micro, rm=replace(micro.rm, second_gap_steps=3))
    full = catalogue()[id].loads(shapes_of(micro, mesh_of(1, 1, 1), tmp_path))
    for trained, share in (((), 2 / 3), ((str(id),), 1.0)):
        config = replace(micro, adapter=replace(micro.adapter, rank=2, full=trained))
        loads = as_trained(full, config, str(id))
        assert loads["update"].work.flops == pytest.approx(share * full["update"].work.flops)
        assert loads["update"].work.tokens == full["update"].work.tokens
        assert {**loads, "update": None} == {**full, "update": None}
