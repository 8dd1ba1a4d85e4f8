"""No large array is whole on every chip: the shipped configs with an 8B model on a slice of 256 chips, from shapes."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from pit_jax.config import Config
from pit_jax.errors import UserError
from pit_jax.parallel.mesh import AXES
from pit_jax.parallel.sharding import replicated
from pit_jax.recipes.catalogue import catalogue
from pit_jax.recipes.choices import open_knobs, with_knob
from pit_jax.recipes.plan.walk import check_stages, layout_of, vocabulary, with_model
from pit_jax.run.programs import Program, Shapes
from pit_jax.run.stage import Stage
from pit_jax.shipped import load_config, names

LARGE = 64 * 2**20  # bytes
LARGEST = "hh_rlhf"  # the longest rows and the largest batches; all configs run the same functions
STAGES = [stage for stage in catalogue().values() if stage.leaves]


@dataclass(eq=False)
class Chip:
    """What JAX asks of a device where nothing is compiled."""

    id: int
    platform: str = "tpu"
    device_kind: str = "TPU v5 lite"
    num_cores: int = 1
    process_index: int = 0


def slice_of(fsdp: int, tensor: int) -> Mesh:
    chips = np.array([Chip(id) for id in range(fsdp * tensor)], dtype=object)
    return Mesh(chips.reshape(1, fsdp, tensor), AXES, axis_types=(AxisType.Auto,) * 3)


def mesh_for(config: Config) -> Mesh:
    """Of 256 chips, or as many fewer as the batches of a config can be shared by."""
    for fsdp in (32, 16, 8, 4):
        try:
            check_stages(STAGES, config, slice_of(fsdp, 8))
        except UserError:
            continue
        return slice_of(fsdp, 8)
    raise AssertionError("a shipped config that fits no mesh")


def whole(tree: Any) -> Iterator[str]:
    """The large arrays of a tree of placed shapes that every chip holds whole."""
    for path, leaf in jax.tree.leaves_with_path(tree):
        if not hasattr(leaf, "dtype") or jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            continue
        placed = leaf.sharding is not None and leaf.sharding.shard_shape(leaf.shape) != leaf.shape
        if leaf.size * leaf.dtype.itemsize > LARGE and not placed:
            yield f"{jax.tree_util.keystr(path)} {leaf.dtype}{list(leaf.shape)}"


def programs(shapes: Shapes, stage: Stage) -> Iterator[tuple[str, Program]]:
    with jax.sharding.use_abstract_mesh(shapes.mesh.abstract_mesh):
        yield from ((f"{stage.id}: {program.name}", program) for program in stage.programs(shapes))


def results(shapes: Shapes, program: Program) -> Any:
    """Shapes of what a program gives, placed where it says so."""
    with jax.sharding.use_abstract_mesh(shapes.mesh.abstract_mesh):
        return program.function.trace(*program.args).out_info


def shapes_of(name: str) -> Shapes:
    config = load_config(name)
    for knob in open_knobs(config):  # what pairs would decide: any lengths, rates and updates will do
        config = with_knob(config, knob, 32)
    config = with_model(replace(config, plan=replace(config.plan, model="llama-3-8b")))
    rows = vocabulary(config) + 3  # with the tokens that PIT adds, which divide by nothing
    return Shapes(config, layout_of(config, Path("nowhere")), rows, mesh_for(config))


@pytest.mark.parametrize(
    "name", [LARGEST, *(pytest.param(name, marks=pytest.mark.slow) for name in names() if name != LARGEST)]
)
def test_no_large_array_is_whole_on_every_chip(name: str) -> None:
    """Arguments of all programs, and what they give but for updates, whose traces take longest."""
    shapes = shapes_of(name)
    assert name != LARGEST or shapes.mesh.size == 256
    for stage in STAGES:
        for title, program in programs(shapes, stage):
            given = [] if program.name == "update" else results(shapes, program)
            assert list(whole([program.args, given])) == [], title


@pytest.mark.slow
def test_no_large_array_that_an_update_gives_is_whole() -> None:
    shapes = shapes_of(LARGEST)
    found = [pair for stage in STAGES for pair in programs(shapes, stage) if pair[1].name == "update"]
    assert len(found) == len(STAGES)
    for title, program in found:
        assert list(whole(results(shapes, program))) == [], title


def test_what_is_whole_is_found() -> None:
    mesh = slice_of(2, 2)
    large, small = (jax.ShapeDtypeStruct((rows, 2**12), jnp.float32, sharding=replicated(mesh)) for rows in (2**13, 8))
    program = Program("double", jax.jit(lambda tree: jax.tree.map(lambda x: x + x, tree)), ((large, small),))
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        told = [*whole(program.args), *whole(program.function.trace(*program.args).out_info)]
    assert told == ["[0][0] float32[8192, 4096]", "[0] float32[8192, 4096]"]
