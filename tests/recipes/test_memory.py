"""What the programs of every stage hold in memory, read from their traces: nothing here is compiled."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import jax
import pytest
from jax.extend.core import jaxprs_in_params

from pit_jax.config import AdapterConfig, Config
from pit_jax.recipes.catalogue import STAGES, catalogue
from pit_jax.run.programs import Program, Shapes
from pit_jax.run.provenance import StageId
from tests.world import World

TRAINED = [id for id, stage in catalogue().items() if stage.leaves]
VOCABULARY = 94  # no other axis of the programs has this size, or half of it
MakeShapes = Callable[..., Shapes]


@pytest.fixture(scope="module")
def shapes_on(world: World, make_mesh: Any) -> MakeShapes:
    """shapes_on(mesh, config, **transformer)."""
    layout = replace(world, vocab=VOCABULARY).layout(world.examples(8))

    def make(mesh: tuple[int, int, int], config: Config | None = None, **transformer: Any) -> Shapes:
        config = replace(config or Config(), transformer=replace(world.config, **transformer))
        return Shapes(config, layout, VOCABULARY, make_mesh(*mesh))

    return make


def arrays(shapes: Shapes, program: Program) -> Iterator[Any]:
    """Of each array that a program makes its shape; under shard_map that of a device's part."""

    def walk(jaxpr: Any) -> Iterator[Any]:
        for equation in jaxpr.eqns:
            yield from (v.aval.shape for v in equation.outvars if hasattr(v.aval, "shape"))
            for inner in jaxprs_in_params(equation.params):
                yield from walk(inner)

    with jax.set_mesh(shapes.mesh):
        yield from walk(program.function.trace(*program.args).jaxpr.jaxpr)


def most_logits(shapes: Shapes, program: Program) -> int:
    """The most logits in one array of a program: elements of arrays [.., .., V], or a device's share of V."""
    columns = VOCABULARY, VOCABULARY // shapes.mesh.shape["tensor"]
    sizes = [a * b * c for a, b, c in (s for s in arrays(shapes, program) if len(s) == 3) if c in columns]
    return max(sizes, default=0)


@pytest.mark.parametrize(("id", "mesh"), [(TRAINED[0], (1, 1, 1)), *((id, (2, 2, 2)) for id in TRAINED)], ids=str)
def test_no_program_holds_the_logits_of_all_slots(
    shapes_on: MakeShapes, id: StageId, mesh: tuple[int, int, int]
) -> None:
    """Of training and scoring, forward and backward; one slot of every row is what they hold at a time."""
    for program in STAGES[str(id)].programs(shapes_on(mesh, logits_bytes=1)):
        arrays_of_rows = [leaf for leaf in jax.tree.leaves(program.args[1:]) if getattr(leaf, "ndim", 0) > 1]
        rows = max((leaf.shape[0] for leaf in arrays_of_rows), default=0)  # of weights alone, none
        rows *= 2 if any(hasattr(arg, "chosen_BL") for arg in program.args) else 1  # both answers of a pair
        assert most_logits(shapes_on(mesh), program) <= rows * VOCABULARY, program.name


def arguments(program: Program) -> list[tuple[tuple[int, ...], str]]:
    """(shape, dtype) of the arguments of a program as it is lowered."""
    with jax.set_mesh(program.args[0].step.sharding.mesh) if hasattr(program.args[0], "step") else nullcontext():
        invars = program.function.trace(*program.args).jaxpr.jaxpr.invars
    return [(v.aval.shape, str(v.aval.dtype)) for v in invars]


@pytest.mark.parametrize("name", ["score", "update"])
def test_a_backbone_is_one_argument(world: World, shapes_on: MakeShapes, name: str) -> None:
    """Anchor, policy, value, gap and second gap model over one embedding in bfloat16; in full, each has its own, and
    what is trained is float32."""
    config, table = replace(Config(), rm=replace(Config().rm, second_gap_steps=5)), (VOCABULARY, world.config.width)

    def tables(rank: int) -> list[str]:
        asked = replace(config, adapter=AdapterConfig(rank=rank))
        shapes = shapes_on((2, 2, 2), asked, frozen_dtype="bfloat16")
        (program,) = (p for p in STAGES["rl-improver"].programs(shapes) if p.name == name)
        return sorted(dtype for shape, dtype in arguments(program) if shape == table)

    assert tables(rank=2) == ["bfloat16"]
    trained = ["float32"] * (2 if name == "score" else 6)  # an update's have two moments each
    assert tables(rank=0) == (["bfloat16"] * 3 if name == "score" else []) + trained


def test_the_logits_are_found_where_they_are(shapes_on: MakeShapes) -> None:
    """With a limit that nothing reaches, SFT has them all at once."""
    shapes = shapes_on((1, 1, 1))
    (update,) = STAGES["sft-policy"].programs(shapes)
    assert most_logits(shapes, update) == shapes.config.sft.batch_size * shapes.layout.response_slot * VOCABULARY
