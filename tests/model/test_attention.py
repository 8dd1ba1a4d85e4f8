"""The cache of keys and values, and that a continuation needs one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pit_jax.config import TransformerConfig
from pit_jax.model.attention import Cache
from pit_jax.model.networks import LanguageModel
from pit_jax.model.rows import Continuation, Sequences


def test_the_cache_holds_key_value_heads_in_the_compute_dtype() -> None:
    config = TransformerConfig(layers=3, query_heads=4, kv_heads=2, head_size=6, dtype="bfloat16")
    cache = Cache.empty(config, 5, 7)
    assert cache.keys_UBKSH.shape == cache.values_UBKSH.shape == (3, 5, 2, 7, 6)
    assert cache.keys_UBKSH.dtype == cache.values_UBKSH.dtype == jnp.bfloat16


CONFIG = TransformerConfig(width=16, layers=2, query_heads=4, kv_heads=2, head_size=4, ffn=24)
WINDOWED = TransformerConfig(**{**vars(CONFIG), "window": 3, "windowed": (True, False), "window_rope_theta": 50.0})


@pytest.mark.parametrize("config", [CONFIG, WINDOWED], ids=["full", "windowed"])
def test_pieces_read_one_after_another_are_the_whole_rows(config: TransformerConfig) -> None:
    """Left-padded rows of 8 slots as pieces of 4, 3 and 1: the hidden states of one pass, and a cache full of them."""
    model, rng = LanguageModel(config, 30), np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    params = jax.tree.map(lambda s: jnp.asarray(rng.normal(0.3, 0.25, s.shape), jnp.float32), shapes)
    tokens_BL = jnp.asarray(rng.integers(0, 30, (3, 8)), jnp.int32)
    segments_BL = jnp.asarray(np.arange(8)[None] >= np.array([[0], [2], [5]]), jnp.int32)
    whole, real_BS = Sequences.alone(segments_BL), segments_BL > 0
    expected_BLD = jax.jit(model.hidden)(params, tokens_BL, whole)
    decode, cache = jax.jit(model.decode), Cache.empty(config, 3, 8)
    for start, stop in ((0, 4), (4, 7), (7, 8)):
        rows = Continuation(whole.positions_BL[:, start:stop], real_BS, jnp.int32(start))
        found_BLD, cache = decode(params, tokens_BL[:, start:stop], rows, cache)
        own_BL = np.asarray(real_BS)[:, start:stop]
        np.testing.assert_allclose(found_BLD[own_BL], expected_BLD[:, start:stop][own_BL], rtol=1e-5, atol=1e-5)
    assert bool(jnp.all(jnp.any(cache.keys_UBKSH != 0, axis=-1))), "every slot was written"


def test_a_continuation_without_a_cache_is_refused() -> None:
    model = LanguageModel(CONFIG, 30)
    rows = Continuation(jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 4), bool), jnp.int32(0))
    with pytest.raises(AssertionError, match="a continuation needs the cache it continues"):
        jax.eval_shape(model.hidden, jax.eval_shape(model.init, jax.random.key(0)), jnp.zeros((1, 2), jnp.int32), rows)
