"""What rotary positions promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pit_jax.config import TransformerConfig
from pit_jax.errors import UserError
from pit_jax.model.networks import LanguageModel
from pit_jax.model.rope import rope, rotations_of
from pit_jax.model.rows import Sequences


@jax.jit
def turn(x_BLNH: jax.Array, positions_BL: jax.Array) -> jax.Array:
    return rope(x_BLNH, rotations_of(TransformerConfig(head_size=x_BLNH.shape[-1]), positions_BL)["all"])


@pytest.mark.parametrize("shift", [1, 5, 100])
def test_rotary_scores_depend_on_the_distance_alone(shift: int) -> None:
    query, key = np.random.default_rng(0).normal(size=(2, 1, 4, 1, 8)).astype(np.float32)
    positions_1L = np.asarray([[0, 3, 4, 9]], np.int32)

    def scores(positions_1L: np.ndarray) -> np.ndarray:
        return np.einsum("BLNH,BSNH->BNLS", turn(query, positions_1L), turn(key, positions_1L))

    np.testing.assert_allclose(scores(positions_1L + shift), scores(positions_1L), atol=2e-5)
    assert np.abs(scores(2 * positions_1L) - scores(positions_1L)).max() > 0.1


def test_rotary_positions_turn_and_do_not_stretch() -> None:
    x_BLNH = np.random.default_rng(1).normal(size=(2, 3, 2, 8)).astype(np.float32)
    turned = np.asarray(turn(x_BLNH, np.asarray([[0, 1, 2], [0, 50, 7]], np.int32)))
    np.testing.assert_allclose(np.linalg.norm(turned, axis=-1), np.linalg.norm(x_BLNH, axis=-1), rtol=1e-5)
    np.testing.assert_array_equal(turned[:, 0], x_BLNH[:, 0])
    radian = turn(np.asarray([1, 0], np.float32).reshape(1, 1, 1, 2), np.asarray([[1]], np.int32))
    np.testing.assert_allclose(radian.ravel(), [np.cos(1.0), np.sin(1.0)], rtol=1e-6)


def test_rotary_positions_keep_the_dtype() -> None:
    x_BLNH = jnp.ones((1, 2, 1, 4), jnp.bfloat16)
    assert turn(x_BLNH, np.asarray([[0, 1]], np.int32)).dtype == jnp.bfloat16


def test_longrope_takes_no_longer_rows_than_it_knows() -> None:
    config = TransformerConfig(rope_scaling="longrope", rope_divisors=(1.0,) * 8, rope_length=8)
    model = LanguageModel(config, 20)
    params = jax.eval_shape(model.init, jax.random.key(0))

    def read(length: int) -> object:
        tokens_BL = jnp.ones((1, length), jnp.int32)
        return jax.eval_shape(lambda params: model.hidden(params, tokens_BL, Sequences.alone(tokens_BL)), params)

    read(8)
    with pytest.raises(UserError, match="rows of 9 slots for a model with longrope, .* more than 8 otherwise"):
        read(9)
