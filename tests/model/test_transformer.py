"""The transformer against a plain NumPy one, and the properties that training and decoding lean on."""

from dataclasses import replace
from functools import partial
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pit_jax.config import TransformerConfig
from pit_jax.errors import UserError
from pit_jax.model.networks import LanguageModel
from pit_jax.model.rows import Sequences

VOCAB = 40
CONFIG = TransformerConfig(width=16, layers=2, query_heads=4, kv_heads=2, head_size=6, ffn=24)


@partial(jax.jit, static_argnums=0)
def run(model: LanguageModel, params: Any, tokens_BL: jax.Array, rows: Sequences) -> Any:
    return model.logits(params, model.hidden(params, tokens_BL, rows))


def logits(model: LanguageModel, params: Any, tokens_BL: Any, segments_BL: Any = None) -> np.ndarray:
    tokens_BL = jnp.asarray(tokens_BL, jnp.int32)
    segments_BL = jnp.ones_like(tokens_BL) if segments_BL is None else jnp.asarray(segments_BL, jnp.int32)
    return np.asarray(run(model, params, tokens_BL, Sequences.alone(segments_BL)))


def draw(model: LanguageModel, seed: int) -> Any:
    """Weights of the size of fresh ones, norm scales that are not all one; NumPy, since `init` compiles for long."""
    rng = np.random.default_rng(seed)

    def normal(path: Any, leaf: Any) -> jax.Array:
        mean = 1.0 if "scale" in jax.tree_util.keystr(path) else 0.0
        return jnp.asarray(rng.normal(mean, 0.25, leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(normal, jax.eval_shape(model.init, jax.random.key(0)))


@pytest.fixture(scope="module")
def params() -> Any:
    return draw(LanguageModel(CONFIG, VOCAB), 0)


@pytest.mark.parametrize(
    ("activation", "tied", "kv_heads"),
    [("swiglu", True, 2), ("swiglu", False, 4), ("geglu", True, 1), ("geglu", False, 2)],
)
def test_logits_equal_a_plain_forward_pass(plain: ModuleType, activation: Any, tied: bool, kv_heads: int) -> None:
    config = replace(CONFIG, activation=activation, tied=tied, kv_heads=kv_heads, rope_theta=100.0)
    model = LanguageModel(config, VOCAB)
    weights = draw(model, 1)
    assert ("unembedding" in weights) is not tied
    tokens_BL = np.random.default_rng(3).integers(0, VOCAB, (2, 11))
    expected_BLV = np.stack([plain.logits(weights, config, row.tolist()) for row in tokens_BL])
    found_BLV = logits(model, weights, tokens_BL)
    np.testing.assert_allclose(found_BLV, expected_BLV, rtol=1e-5, atol=1e-5 * np.abs(expected_BLV).max())


def test_a_token_depends_on_no_later_one(params: Any) -> None:
    """Causality by gradient: hidden state i has a derivative with respect to token j exactly when j <= i."""
    model, length = LanguageModel(CONFIG, VOCAB), 7
    tokens_1L = jnp.arange(length, dtype=jnp.int32)[None] + 5  # each its own row of the embedding
    rows = Sequences.alone(jnp.ones_like(tokens_1L))

    def per_position(embedding_VD: jax.Array) -> jax.Array:
        swapped = {**params, "embedding": embedding_VD}
        hidden_1LD = model.hidden(swapped, tokens_1L, rows)
        return jnp.sum(jnp.sin(hidden_1LD[0]), axis=-1)

    jacobian_LVD = jax.jit(jax.jacrev(per_position))(params["embedding"])
    depends_LL = np.abs(np.asarray(jacobian_LVD)).sum(-1)[:, 5 : 5 + length] > 0
    np.testing.assert_array_equal(depends_LL, np.tril(np.ones((length, length), bool)))


def test_packed_examples_do_not_see_each_other(params: Any) -> None:
    model, rng = LanguageModel(CONFIG, VOCAB), np.random.default_rng(0)
    examples = [rng.integers(0, VOCAB, size) for size in (5, 3, 6)]
    tokens_L, segments_L = np.zeros(16, np.int32), np.zeros(16, np.int32)
    positions_L, start = np.zeros(16, np.int32), 0
    for number, example in enumerate(examples, 1):
        here = slice(start, start + len(example))
        tokens_L[here], segments_L[here], positions_L[here] = example, number, np.arange(len(example))
        start += len(example)
    rows = Sequences(jnp.asarray(positions_L[None]), jnp.asarray(segments_L[None]))
    packed_LV = run(model, params, jnp.asarray(tokens_L[None]), rows)[0]
    start = 0
    for example in examples:
        alone_LV = logits(model, params, example[None])[0]
        np.testing.assert_allclose(packed_LV[start : start + len(example)], alone_LV, atol=1e-5)
        start += len(example)


@pytest.mark.parametrize("left", [0, 1, 7])
@pytest.mark.parametrize("right", [0, 4])
def test_padding_on_either_side_changes_nothing(params: Any, left: int, right: int) -> None:
    model = LanguageModel(CONFIG, VOCAB)
    tokens_BL = np.random.default_rng(1).integers(0, VOCAB, (2, 6))
    expected_BLV = logits(model, params, tokens_BL)
    padded_BL = np.pad(tokens_BL, ((0, 0), (left, right)), constant_values=VOCAB - 1)
    segments_BL = np.pad(np.ones_like(tokens_BL), ((0, 0), (left, right)))
    found_BLV = logits(model, params, padded_BL, segments_BL)
    np.testing.assert_allclose(found_BLV[:, left : left + 6], expected_BLV, atol=1e-5)
    assert np.isfinite(found_BLV).all()


@pytest.mark.parametrize("variant", [{"unroll": 2}, {"remat": "full"}, {"remat": "dots"}, {"remat": "offload"}])
def test_unrolling_and_remat_change_neither_loss_nor_gradient(params: Any, variant: dict[str, Any]) -> None:
    tokens_BL = jnp.asarray(np.random.default_rng(2).integers(0, VOCAB, (2, 9)), jnp.int32)
    rows = Sequences.alone(jnp.ones_like(tokens_BL))

    def gradient(config: TransformerConfig) -> Any:
        def loss(params: Any) -> jax.Array:
            return jnp.mean(jnp.square(run(LanguageModel(config, VOCAB), params, tokens_BL, rows)))

        return jax.jit(jax.value_and_grad(loss))(params)

    value, gradients = gradient(CONFIG)
    other_value, other_gradients = gradient(replace(CONFIG, **variant))
    np.testing.assert_allclose(other_value, value, rtol=1e-6)
    for found, expected in zip(jax.tree.leaves(other_gradients), jax.tree.leaves(gradients), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6 * float(jnp.max(jnp.abs(expected))))


def test_bfloat16_computes_in_bfloat16_and_answers_in_float32(params: Any) -> None:
    half = LanguageModel(replace(CONFIG, dtype="bfloat16"), VOCAB)
    tokens_BL = jnp.asarray(np.random.default_rng(4).integers(0, VOCAB, (2, 9)), jnp.int32)
    rows = Sequences.alone(jnp.ones_like(tokens_BL))
    hidden_BLD = jax.eval_shape(half.hidden, params, tokens_BL, rows)
    assert hidden_BLD.dtype == jnp.bfloat16
    found_BLV = run(half, params, tokens_BL, rows)
    assert found_BLV.dtype == jnp.float32 and bool(jnp.all(jnp.isfinite(found_BLV)))
    full_BLV = logits(LanguageModel(CONFIG, VOCAB), params, tokens_BL)
    error_BLV = np.abs(np.asarray(found_BLV) - full_BLV)
    assert 1e-5 < error_BLV.max() < 0.1 * full_BLV.std(), "bfloat16 keeps 8 bits: near the float32 logits, not equal"


def test_parameters_are_float32_whatever_the_compute_dtype() -> None:
    shapes = jax.eval_shape(LanguageModel(replace(CONFIG, dtype="bfloat16"), VOCAB).init, jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {np.dtype("float32")}


def test_query_heads_must_be_a_multiple_of_kv_heads() -> None:
    with pytest.raises(UserError, match=r"query_heads=4 is not a multiple of kv_heads=3; change one of them"):
        LanguageModel(replace(CONFIG, kv_heads=3), VOCAB).init(jax.random.key(0))
