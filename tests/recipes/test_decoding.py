"""The token loop of every program that draws moves activations alone: no collective in it is as large as a weight."""

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

from pit_jax.config import Config, CurriculumConfig, MeshConfig
from pit_jax.inference.engine import Engine
from pit_jax.inference.sampling import Sampling
from pit_jax.parallel.hlo import KINDS, Collective, collectives
from pit_jax.parallel.sharding import named_leaves
from pit_jax.recipes.catalogue import RL_IMPROVER, STAGES
from pit_jax.run.programs import Program, Shapes
from tests.world import World

# (data, fsdp, tensor), devices that share a copy of the weights, key/value heads
PLACES = [((1, 8, 1), 8, 2), ((1, 8, 1), 2, 2), ((1, 4, 2), 4, 1)]
ROWS = 16
SMALLEST = 32 * 1024  # bytes of the smallest matrix of a layer, in bfloat16: a key's


def shapes_on(world: World, make_mesh: Any, mesh: tuple[int, int, int], share: int, kv_heads: int) -> Shapes:
    """Wide enough that a matrix is larger than what a token needs of a layer, and a vocabulary than its logits.

    The vocabulary divides by nothing, as that of a published model with the tokens that PIT adds.
    """
    sizes: dict[str, Any] = {
        "width": 128,
        "layers": 2,
        "query_heads": 4,
        "kv_heads": kv_heads,
        "head_size": 128 // kv_heads,
    }
    transformer = replace(world.config, **sizes, ffn=256, dtype="bfloat16", unroll=1)
    base = Config()
    curriculum = CurriculumConfig(references=("rejected+improver",), rounds=(1,))
    rl = replace(base.rl, batch_size=ROWS, minibatches=1, curriculum=curriculum)
    config = replace(base, transformer=transformer, mesh=MeshConfig(decode=share), rl=rl)
    return Shapes(config, world.layout(world.examples(8)), 509, make_mesh(*mesh))


def drawing(shapes: Shapes) -> Iterator[Program]:
    """Every program of RL that draws, and those behind improve and evaluate, which share an engine over texts."""
    listed = STAGES[str(RL_IMPROVER)].programs(shapes)
    yield from (program for program in listed if program.name == "draw" or program.name.startswith("references"))
    engine = Engine(shapes.language_model, shapes.decode_spec, shapes.mesh, shapes.config.mesh.decode)
    prompts = shapes.rollout_prompts(ROWS, shapes.layout.prompt_slot)
    sampling = Sampling(shapes.scalar(), top_k=5, top_p=0.9)
    args = engine.weights, prompts.prompt_BP, prompts.prompt_mask_BP, shapes.key(), sampling, 0
    yield Program("answer, truncated", engine.complete, args)


def compiled(shapes: Shapes, program: Program) -> Any:
    with jax.set_mesh(shapes.mesh):
        return program.function.trace(*program.args).lower().compile()


def per_token(shapes: Shapes, program: Program) -> list[Collective]:
    found = [c for c in collectives(compiled(shapes, program).as_text()) if c.inside_open_loop]
    assert any(c.kind == "all-reduce" for c in found), "rows agree on whether all have ended"
    return found


def check(shapes: Shapes, program: Program) -> None:
    large = [c for c in per_token(shapes, program) if c.largest >= SMALLEST]
    assert large == [], f"{program.name}: {[(c.kind, c.largest, c.source) for c in large]}"


def test_no_weight_moves_inside_the_token_loop_of_any_program(world: World, make_mesh: Any) -> None:
    shapes = shapes_on(world, make_mesh, (2, 2, 2), 2, 2)
    matrices = jax.tree.leaves(Engine(shapes.language_model, shapes.decode_spec, shapes.mesh).weights)
    assert min(leaf.size * 2 for leaf in matrices if leaf.ndim > 2) // 2 == SMALLEST
    programs = {program.name: program for program in drawing(shapes)}
    assert len(programs) == 5 and any("rewritten" in name for name in programs)
    for program in programs.values():
        check(shapes, program)


def test_rows_that_begin_again_keep_their_cache_on_their_device(world: World, make_mesh: Any) -> None:
    """In rows for half of the prompts, what moves between devices is no part of a cache, which has slots and heads."""
    shapes = shapes_on(world, make_mesh, (2, 2, 2), 2, 2)
    engine = Engine(shapes.language_model, replace(shapes.decode_spec, rows=ROWS // 2), shapes.mesh, share=2)
    prompts = shapes.rollout_prompts(ROWS, shapes.layout.prompt_slot)
    asked = prompts.prompt_BP, prompts.prompt_mask_BP, shapes.key(), Sampling(shapes.scalar()), 0
    text = compiled(shapes, Program("draw in turns", engine.complete, (engine.weights, *asked))).as_text()
    size = shapes.config.transformer.head_size
    slots = (shapes.layout.prompt_slot, shapes.layout.prompt_slot + shapes.layout.response_slot)
    of_cache = re.compile(rf"\[(\d+,)+({'|'.join(map(str, slots))}),{size}\]")
    moves = [line for line in text.splitlines() if re.search(rf" ({'|'.join(KINDS)})(-start)?\(", line)]
    assert of_cache.search(text) and not any(of_cache.search(line) for line in moves)


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_no_weight_moves_on_any_mesh(world: World, make_mesh: Any, place: Any) -> None:
    shapes = shapes_on(world, make_mesh, *place)
    check(shapes, next(drawing(shapes)))


def test_weights_as_training_holds_them_would_be_moved(world: World, make_mesh: Any) -> None:
    """What the bar is there to notice."""
    shapes = shapes_on(world, make_mesh, (1, 8, 1), 8, 2)
    engine = Engine(shapes.language_model, shapes.decode_spec)
    prompts = shapes.rollout_prompts(ROWS, shapes.layout.prompt_slot)
    args = shapes.params(shapes.language_model), prompts.prompt_BP, prompts.prompt_mask_BP, shapes.key()
    found = per_token(shapes, Program("draw", engine.complete, (*args, Sampling(shapes.scalar()), 0)))
    assert max(c.largest for c in found) >= SMALLEST


def test_a_copy_of_the_weights_is_shared_as_asked(world: World, make_mesh: Any) -> None:
    """Over tensor x decode devices, all of the others holding it too; the cache of few heads stays with its rows."""
    shapes = shapes_on(world, make_mesh, (1, 4, 2), 2, 2)
    engine = Engine(shapes.language_model, shapes.decode_spec, shapes.mesh, 2)
    for name, leaf in named_leaves(engine.weights).items():
        parts = int(np.prod(leaf.shape) // np.prod(leaf.sharding.shard_shape(leaf.shape)))
        assert parts == (1 if "scale" in name else 4), name
    (convert,) = [p for p in STAGES[str(RL_IMPROVER)].programs(shapes) if p.name == "to_decode"]
    given = jax.tree.map(lambda x: x.sharding, engine.weights)
    assert jax.tree.leaves(compiled(shapes, convert).output_shardings) == jax.tree.leaves(given)
