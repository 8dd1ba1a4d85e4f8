"""Products of activations with weights against einsum."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pit_jax.model.products import product


@pytest.mark.parametrize(
    ("x", "weights", "inner", "sum_of"),
    [
        ((2, 3, 4), (4, 5), 1, "BLX,XY->BLY"),
        ((2, 3, 4), (4, 5, 6), 1, "BLX,XNH->BLNH"),
        ((2, 3, 5, 6), (5, 6, 4), 2, "BLNH,NHD->BLD"),
    ],
    ids=["a matrix", "into heads", "out of heads"],
)
def test_a_product_is_that_of_every_slot(x: tuple[int, ...], weights: tuple[int, ...], inner: int, sum_of: str) -> None:
    """Values and both gradients."""
    rng = np.random.default_rng(0)
    given = jnp.asarray(rng.normal(size=x), jnp.float32), jnp.asarray(rng.normal(size=weights), jnp.float32)

    def found(*given: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(product(*given, inner=inner)))

    def expected(*given: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(jnp.einsum(sum_of, *given)))

    assert product(*given, inner=inner).shape == jnp.einsum(sum_of, *given).shape
    for one, other in zip(
        jax.tree.leaves(jax.value_and_grad(found, argnums=(0, 1))(*given)),
        jax.tree.leaves(jax.value_and_grad(expected, argnums=(0, 1))(*given)),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sizes", [(512, 512), (512, 8, 64), (8, 64, 512)], ids=["a matrix", "into", "out of heads"])
def test_a_step_with_a_large_matrix_is_the_same_product(sizes: tuple[int, ...]) -> None:
    """Values and both gradients, to the rounding of sums over 512 numbers."""
    inner, rng = len(sizes) // 2, np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(3, 1, *sizes[:inner])), jnp.float32)
    weights = jnp.asarray(rng.normal(size=sizes), jnp.float32)

    def found(x: jax.Array, weights: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(product(x, weights, inner=inner)))

    def expected(x: jax.Array, weights: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(jnp.tensordot(x, weights, axes=inner)))

    assert "optimization_barrier" in str(jax.make_jaxpr(found)(x, weights))
    assert product(x, weights, inner=inner).shape == (3, 1, *sizes[inner:])
    for one, other in zip(
        jax.tree.leaves(jax.value_and_grad(found, argnums=(0, 1))(x, weights)),
        jax.tree.leaves(jax.value_and_grad(expected, argnums=(0, 1))(x, weights)),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-3)


def test_a_loop_of_steps_turns_its_matrix_over_before_it_begins() -> None:
    """No instruction of its body makes an array of the matrix's shape, either way round: it only takes one."""

    def steps(x: jax.Array, weights: jax.Array) -> jax.Array:
        return jax.lax.while_loop(lambda x: jnp.sum(x) < 9.0, lambda x: x + jnp.tanh(product(x, weights))[..., :512], x)

    program = jax.jit(steps).lower(jnp.ones((4, 1, 512)), jnp.ones((512, 640))).compile().as_text() or ""
    body = re.findall(r" while\(.*body=%([\w.]+)", program)[-1]
    lines = program.split(f"\n%{body} (")[1].split("\n}")[0].splitlines()[1:]
    made = [line for line in lines if re.search(r"= f32\[(512,640|640,512)\]", line)]
    assert len(made) == 1 and "f32[640,512]" in made[0] and "get-tuple-element" in made[0]


def test_bfloat16_may_be_summed_in_float32() -> None:
    """1 + 2^-9 is not a bfloat16: of eight of them the sum is 8 in bfloat16, and 8.015625 in float32."""
    x_BLX, weights_XY = jnp.ones((1, 1, 16), jnp.bfloat16), jnp.asarray([[1.0], [2.0**-9]] * 8, jnp.bfloat16)
    assert product(x_BLX, weights_XY).dtype == jnp.bfloat16
    assert float(product(x_BLX, weights_XY, dtype=jnp.float32)[0, 0, 0]) == 8.015625
