"""The two networks as functions of a parameter tree."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pit_jax.config import TransformerConfig
from pit_jax.model.networks import LanguageModel, ScalarModel, trunk_of
from pit_jax.model.rows import Sequences
from tests.trees import structure

VOCAB = 40
CONFIG = TransformerConfig(width=16, layers=2, query_heads=4, kv_heads=2, head_size=4, ffn=24)
MODEL, SCALAR = LanguageModel(CONFIG, VOCAB), ScalarModel(CONFIG, VOCAB)


@pytest.fixture(scope="module")
def trunk() -> Any:
    """Weights of any size; NumPy, since `init` compiles for long."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0))
    return jax.tree.map(lambda s: jnp.asarray(rng.normal(0.5, 0.25, s.shape), jnp.float32), shapes)


def equal(a: Any, b: Any) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_fresh_parameters_are_plain_dicts_that_depend_on_the_key_alone() -> None:
    init = jax.jit(MODEL.init)
    params = init(jax.random.key(0))
    assert type(params) is dict and type(params["blocks"]["attention"]) is dict
    assert equal(params, init(jax.random.key(0)))
    assert not equal(params, init(jax.random.key(1)))
    query_UDNH = params["blocks"]["attention"]["query"]
    assert query_UDNH.shape == (2, 16, 4, 4)
    assert not np.array_equal(query_UDNH[0], query_UDNH[1]), "every layer draws its own weights"
    tokens_BL = jnp.asarray(np.random.default_rng(5).integers(0, VOCAB, (4, 8)), jnp.int32)
    logits_BLV = np.asarray(jax.jit(logits)(params, tokens_BL))
    assert 0.5 < logits_BLV.std() < 2.0, "neither saturated nor flat: the first loss is near log V"


def logits(params: Any, tokens_BL: jax.Array) -> jax.Array:
    hidden_BLD = MODEL.hidden(params, tokens_BL, Sequences.alone(jnp.ones_like(tokens_BL)))
    return MODEL.logits(params, hidden_BLD)


def test_a_scalar_model_is_a_language_model_under_a_head() -> None:
    shapes = jax.eval_shape(SCALAR.init, jax.random.key(0))
    assert set(shapes) == {"trunk", "head"}
    assert structure(shapes["trunk"]) == structure(jax.eval_shape(MODEL.init, jax.random.key(0)))
    init = jax.jit(SCALAR.init_head)
    head, other = init(jax.random.key(1)), init(jax.random.key(2))
    assert structure(head["head"]) == structure(shapes["head"])
    assert not equal(head, other)


@pytest.mark.parametrize("tied", [True, False])
def test_a_scalar_model_has_no_unembedding(tied: bool) -> None:
    language, scalar = (kind(replace(CONFIG, tied=tied), VOCAB) for kind in (LanguageModel, ScalarModel))
    below, whole = (jax.eval_shape(network.init, jax.random.key(0)) for network in (language, scalar))
    assert ("unembedding" in below) is not tied and "unembedding" not in whole["trunk"]
    assert structure(trunk_of(below)["trunk"]) == structure(whole["trunk"])


def test_a_scalar_is_the_head_over_the_trunks_hidden_state(trunk: Any) -> None:
    params = {"trunk": trunk, "head": {"kernel": jnp.arange(16, dtype=jnp.float32) - 7.0}}
    tokens_BL = jnp.asarray([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]], jnp.int32)
    rows = Sequences.alone(jnp.ones_like(tokens_BL))
    hidden_BLD = jax.jit(MODEL.hidden)(trunk, tokens_BL, rows)
    scalars_BL = jax.jit(SCALAR.scalars)(params, tokens_BL, rows)
    assert scalars_BL.shape == (2, 5) and scalars_BL.dtype == jnp.float32
    np.testing.assert_allclose(scalars_BL, np.asarray(hidden_BLD) @ np.asarray(params["head"]["kernel"]), atol=1e-5)


def test_models_are_hashable_by_value() -> None:
    assert LanguageModel(TransformerConfig(**vars(CONFIG)), VOCAB) == MODEL
    assert hash(MODEL) == hash(LanguageModel(TransformerConfig(**vars(CONFIG)), VOCAB))
    assert LanguageModel(CONFIG, VOCAB + 1) != MODEL
