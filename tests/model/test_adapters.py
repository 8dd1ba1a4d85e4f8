"""Adapters change nothing at first, and what merged weights change afterwards."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pit_jax.config import AdapterConfig, TransformerConfig
from pit_jax.model.adapters import has_adapters, matrix_sizes, merge, split
from pit_jax.model.networks import LanguageModel, ScalarModel, trunk_of
from pit_jax.model.rows import Sequences
from pit_jax.training.state import joined
from tests.trees import structure

VOCAB = 40
LLAMA = TransformerConfig(width=16, layers=2, query_heads=4, kv_heads=2, head_size=6, ffn=24)
NEOX = replace(
    LLAMA, activation="gelu", norm="layer", parallel=True, kv_heads=4, qkv_bias=True, out_bias=True, ffn_bias=True
)
ALL, SOME = AdapterConfig(rank=3, alpha=6.0), AdapterConfig(rank=2, targets=("value", "down"))
CASES = [(LLAMA, ALL), (LLAMA, SOME), (NEOX, ALL)]
NAMES = ["all matrices", "two matrices", "gpt_neox"]


def drawn(make: Any, seed: int) -> Any:
    """Weights of the size of trained ones, B of the adapters among them; NumPy, since `init` compiles for long."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(make, jax.random.key(0))
    return jax.tree.map(lambda s: jnp.asarray(rng.normal(0.3, 0.25, s.shape), jnp.float32), shapes)


def rows() -> tuple[jax.Array, Sequences]:
    tokens_BL = jnp.asarray(np.random.default_rng(5).integers(0, VOCAB, (3, 9)), jnp.int32)
    segments_BL = jnp.asarray(np.arange(9)[None] < np.array([[9], [5], [7]]), jnp.int32)
    return tokens_BL, Sequences.alone(segments_BL)


@pytest.fixture(params=CASES, ids=NAMES)
def model(request: pytest.FixtureRequest) -> LanguageModel:
    config, adapter = request.param
    return LanguageModel(config, VOCAB, adapter)


def test_fresh_adapters_change_nothing_at_all(model: LanguageModel) -> None:
    params, hidden = drawn(model.init, 0), jax.jit(model.hidden)
    fresh = jax.jit(model.init_adapter)(jax.random.key(1))
    np.testing.assert_array_equal(hidden(joined(params, fresh), *rows()), hidden(params, *rows()))
    assert all(float(jnp.abs(x).max()) > 0 for n, x in fresh["blocks"]["adapter"].items() if n.endswith("_a"))


def test_a_matrix_has_the_shapes_of_its_place(model: LanguageModel) -> None:
    sizes, rank = matrix_sizes(model.config), model.adapter.rank if model.adapter else 0
    found = {n: x.shape for n, x in jax.eval_shape(model.init_adapter, jax.random.key(0))["blocks"]["adapter"].items()}
    targets = [name for name in sizes if model.adapter and name in model.adapter.targets]
    assert found == {f"{n}_a": (2, sizes[n][0], rank) for n in targets} | {
        f"{n}_b": (2, rank, sizes[n][1]) for n in targets
    }
    assert sizes["query"] == (16, 24) and ("gate" in sizes) == (model.config.activation != "gelu")


def test_merged_weights_compute_the_same(model: LanguageModel) -> None:
    assert model.adapter is not None
    params, hidden = joined(drawn(model.init, 0), drawn(model.init_adapter, 1)), jax.jit(model.hidden)
    merged = merge(params, model.adapter)
    assert structure(merged) == structure(jax.eval_shape(model.init, jax.random.key(0)))
    found = hidden(params, *rows())
    np.testing.assert_allclose(hidden(merged, *rows()), found, atol=1e-5)
    assert float(jnp.abs(found - hidden(drawn(model.init, 0), *rows())).max()) > 0.1, "the adapters do something"
    assert merge(merged, model.adapter) is merged


def test_an_update_by_hand() -> None:
    """One layer, rank 1, alpha 3: W + 3 a b."""
    adapter = AdapterConfig(rank=1, alpha=3.0, targets=("up",))
    blocks = {
        "attention": {},
        "ffn": {"up": jnp.ones((1, 2, 2))},
        "adapter": {"up_a": jnp.asarray([[[1.0], [2.0]]]), "up_b": jnp.asarray([[[10.0, 100.0]]])},
    }
    merged = merge({"blocks": blocks}, adapter)
    np.testing.assert_array_equal(merged["blocks"]["ffn"]["up"][0], [[31.0, 301.0], [61.0, 601.0]])


def scalar_params() -> Any:
    trunk = drawn(LanguageModel(LLAMA, VOCAB).init, 0)
    return joined(trunk_of(trunk), drawn(ScalarModel(LLAMA, VOCAB, ALL).init_adapter, 1))


def test_scalar_models_merge_their_trunk() -> None:
    model = ScalarModel(LLAMA, VOCAB, ALL)
    params, scalars = scalar_params(), jax.jit(model.scalars)
    merged = merge(params, ALL)
    assert has_adapters(params) and not has_adapters(merged)
    np.testing.assert_allclose(scalars(merged, *rows()), scalars(params, *rows()), atol=1e-5)


def test_split_parts_what_joined_puts_together() -> None:
    whole = scalar_params()
    frozen, trained = split(whole)
    assert structure(frozen) == structure(trunk_of(drawn(LanguageModel(LLAMA, VOCAB).init, 0)))
    assert set(trained) == {"trunk", "head"} and set(trained["trunk"]["blocks"]) == {"adapter"}
    again = joined(frozen, trained)
    assert structure(again) == structure(whole)
    assert all(a is b for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(whole), strict=True))
