"""However a device holds the weights, it draws the same: layers stacked or apart, matrices turned over or not."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pit_jax.batch import Completions, DecodeSpec
from pit_jax.config import TransformerConfig
from pit_jax.inference import decoding
from pit_jax.inference.engine import Engine
from pit_jax.inference.sampling import Sampling
from pit_jax.model.networks import TURNED, LanguageModel
from pit_jax.parallel.mesh import mesh_of

VOCAB, PAD, NEVER = 40, 0, -1
CONFIG = TransformerConfig(width=16, layers=2, query_heads=4, kv_heads=2, head_size=4, ffn=24)
SPEC = DecodeSpec(10, NEVER, PAD, ())
MASK_BP = jnp.arange(8)[None] >= 8 - jnp.asarray([8, 5, 1])[:, None]
PROMPT_BP = jnp.asarray(np.random.default_rng(0).integers(1, VOCAB, MASK_BP.shape), jnp.int32)


def drawn(engine: Engine, held: Any) -> Completions:
    completions: Completions = engine.complete(
        held, PROMPT_BP, MASK_BP, jax.random.key(4), Sampling(jnp.float32(1.0)), 0
    )
    return completions


def assert_same(found: Completions, expected: Completions) -> None:
    np.testing.assert_array_equal(found.tokens_BT, expected.tokens_BT)
    np.testing.assert_allclose(found.logprobs_BT, expected.logprobs_BT, rtol=1e-5, atol=1e-5)


EXPERTS = {"experts": 4, "experts_per_token": 2}


@pytest.mark.parametrize(
    "knobs", [{}, {"tied": False}, {"activation": "gelu"}, EXPERTS], ids=["tied", "untied", "gelu", "experts"]
)
def test_stacked_apart_and_turned_over_draw_the_same(knobs: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """As on TPUs and meshes, as on a GPU, and as on a CPU whose matrices are large; there from what `to_decode` gives,
    and from parameters of a training."""
    model = LanguageModel(replace(CONFIG, **knobs), VOCAB)
    params = model.init(jax.random.key(7))
    apart = drawn(Engine(model, SPEC), params)
    with monkeypatch.context() as patched:
        patched.setattr(decoding, "on_one_device", lambda: False)
        unrolled = LanguageModel(replace(model.config, unroll=2), VOCAB)
        assert_same(drawn(Engine(unrolled, SPEC), params), apart)

    monkeypatch.setattr(decoding, "LEAST_TURNED", 0)
    engine = Engine(model, SPEC, mesh_of(1, 1, 1))
    weights = engine.to_decode(params)
    assert weights[TURNED][0]["attention"]["out"].shape == (CONFIG.width, CONFIG.query_heads, CONFIG.head_size)
    assert jax.tree.map(jnp.shape, engine.weights) == jax.tree.map(jnp.shape, weights)
    for held in (weights, params):
        assert_same(drawn(engine, held), apart)
