"""Experts by blocks: the sum over all experts of what each gives, its slopes, on one device and over a mesh."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pit_jax.architecture import TransformerConfig
from pit_jax.batch import DecodeSpec
from pit_jax.config import MeshConfig
from pit_jax.errors import UserError
from pit_jax.inference.engine import Engine
from pit_jax.inference.sampling import Sampling
from pit_jax.model.experts import mixed_by_experts
from pit_jax.model.networks import LanguageModel
from pit_jax.model.placement import experts_on_devices
from pit_jax.parallel.mesh import make_mesh

SPEC = DecodeSpec(8, eos_id=24, pad_id=0, suffix=())
EXPERTS, TAKEN, WIDTH, INNER, ROWS, LENGTH = 6, 2, 8, 12, 4, 5


@pytest.fixture(scope="module")
def inputs() -> tuple[jax.Array, ...]:
    """x, weights and the three matrices."""
    rng = np.random.default_rng(0)
    shapes = ((ROWS, LENGTH, WIDTH), (ROWS, LENGTH, TAKEN), *((EXPERTS, WIDTH, INNER),) * 2, (EXPERTS, INNER, WIDTH))
    return tuple(jnp.asarray(rng.normal(0, 0.5, shape), jnp.float32) for shape in shapes)


# No token takes expert 3, and most take expert 0: more than a block of them.
CHOSEN_BLX = jnp.asarray(
    np.where(np.random.default_rng(1).random((ROWS, LENGTH, 1)) < 0.7, [[[0, 2]]], [[[5, 1]]]), jnp.int32
)


def plain(x_BLD: jax.Array, weights_BLX: jax.Array, gate: jax.Array, up: jax.Array, down: jax.Array) -> jax.Array:
    """Every expert over every token."""
    each_BLEF = jax.nn.silu(jnp.einsum("BLD,EDF->BLEF", x_BLD, gate)) * jnp.einsum("BLD,EDF->BLEF", x_BLD, up)
    chosen_BLXE = jax.nn.one_hot(CHOSEN_BLX, EXPERTS)
    return jnp.einsum("BLEF,EFD,BLXE,BLX->BLD", each_BLEF, down, chosen_BLXE, weights_BLX)


def value_and_slopes(function: Any, inputs: tuple[jax.Array, ...]) -> Any:
    def loss(*inputs: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(function(*inputs)))

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3, 4)))(*inputs)


@pytest.mark.parametrize("axes", [None, {"data": 2, "fsdp": 2, "tensor": 2}, {"data": 1, "fsdp": 2, "tensor": 4}])
@pytest.mark.parametrize("step", [False, True])
def test_blocks_equal_all_experts_over_all_tokens(inputs: Any, axes: dict[str, int] | None, step: bool) -> None:
    """tensor=4 does not divide six experts: they are on all of it."""
    mix = partial(mixed_by_experts, jax.nn.silu, 8)

    def on_devices(x_BLD: jax.Array, weights_BLX: jax.Array, *matrices: jax.Array) -> jax.Array:
        return experts_on_devices(mix, x_BLD, CHOSEN_BLX, weights_BLX, *matrices, step=step)

    expected = value_and_slopes(plain, inputs)
    if axes is None:
        found = value_and_slopes(on_devices, inputs)
    else:
        with jax.set_mesh(make_mesh(MeshConfig(**axes))):
            found = value_and_slopes(on_devices, inputs)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    assert float(jnp.abs(found[1][2][3]).max()) == 0, "an expert that nobody takes has no slope"


def test_a_model_decodes_over_a_mesh_as_on_one_device() -> None:
    """With experts over tensor, and in steps over fsdp too."""
    config = TransformerConfig(width=16, query_heads=2, kv_heads=2, head_size=8, ffn=8, experts=8, experts_per_token=3)
    model, rng = LanguageModel(config, 24), np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.5, leaf.shape), jnp.float32), shapes)
    prompt = jnp.asarray(rng.integers(0, 24, (4, 6)), jnp.int32), jnp.ones((4, 6), bool)
    mesh, drawn = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)), []
    for engine in (Engine(model, SPEC), Engine(model, SPEC, mesh, share=2)):
        weights = engine.to_decode(params)
        found = engine.complete(weights, *prompt, jax.random.key(0), Sampling(temperature=0.0), 0)
        drawn.append(np.asarray(found.tokens_BT))
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert len(np.unique(drawn[0])) > 4
    assert engine.weights["blocks"]["ffn"]["expert_gate"].sharding.spec[1] == ("tensor", "fsdp")


def test_nothing_is_as_large_as_tokens_times_experts_times_width(inputs: Any) -> None:
    long = jnp.zeros((ROWS, 1000, WIDTH)), jnp.zeros((ROWS, 1000, TAKEN)), *inputs[2:]
    chosen = jnp.zeros((ROWS, 1000, TAKEN), jnp.int32)

    def loss(x_BLD: jax.Array, weights_BLX: jax.Array, *matrices: jax.Array) -> jax.Array:
        return jnp.sum(mixed_by_experts(jax.nn.silu, 8, x_BLD, chosen, weights_BLX, *matrices))

    memory: Any = jax.jit(jax.grad(loss)).lower(*long).compile().memory_analysis()
    assert memory.temp_size_in_bytes < ROWS * 1000 * EXPERTS * INNER * 4 / 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"experts_per_token": 7}, "experts_per_token=7 of experts=6"), ({"activation": "gelu"}, "experts have a gate")],
)
def test_what_experts_cannot_be(changes: dict[str, Any], message: str) -> None:
    config = TransformerConfig(**{"experts": 6, "experts_per_token": 2, **changes})
    with pytest.raises(UserError, match=message):
        jax.eval_shape(LanguageModel(config, 9).init, jax.random.key(0))
