"""Products of activations with weights against einsum."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pit_jax.model.products import MOST_ROWS, product, turned_product


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


@pytest.mark.parametrize("rows", [3, MOST_ROWS + 1], ids=["few", "many"])
@pytest.mark.parametrize(
    ("sizes", "inner"), [((24, 16), 1), ((24, 8, 2), 1), ((8, 3, 16), 2)], ids=["a matrix", "into", "out of heads"]
)
def test_turned_over_it_is_the_same_product(sizes: tuple[int, ...], inner: int, rows: int) -> None:
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(rows, 1, *sizes[:inner])), jnp.float32)
    weights = jnp.asarray(rng.normal(size=sizes), jnp.float32)
    turned = turned_product(x, jnp.moveaxis(weights, range(inner), range(-inner, 0)), inner=inner)
    assert turned.shape == (rows, 1, *sizes[inner:])
    np.testing.assert_allclose(turned, product(x, weights, inner=inner), rtol=1e-5, atol=1e-5)


def test_few_rows_are_the_second_operand() -> None:
    """Of the compiled product, whatever XLA makes of transposes."""

    def between_others(x: jax.Array, weights_YX: jax.Array) -> jax.Array:
        return jnp.tanh(turned_product(jnp.tanh(x), weights_YX))

    program = jax.jit(between_others).lower(jnp.ones((4, 1, 32)), jnp.ones((48, 32))).compile().as_text() or ""
    assert re.search(r"f32\[48,4\]\S* dot\(", program) and not re.search(r"f32\[4,48\]\S* dot\(", program)


def test_bfloat16_may_be_summed_in_float32() -> None:
    """1 + 2^-9 is not a bfloat16: of eight of them the sum is 8 in bfloat16, and 8.015625 in float32."""
    x_BLX, weights_XY = jnp.ones((1, 1, 16), jnp.bfloat16), jnp.asarray([[1.0], [2.0**-9]] * 8, jnp.bfloat16)
    assert product(x_BLX, weights_XY).dtype == jnp.bfloat16
    assert float(product(x_BLX, weights_XY, dtype=jnp.float32)[0, 0, 0]) == 8.015625
