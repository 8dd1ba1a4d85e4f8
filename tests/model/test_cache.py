"""Keys and values of layers stacked and apart."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pit_jax.config import TransformerConfig
from pit_jax.model.cache import Apart, Stacked

CONFIG = TransformerConfig(layers=3, query_heads=4, kv_heads=2, head_size=6, dtype="bfloat16")


@pytest.mark.parametrize("kind", [Stacked, Apart])
def test_a_cache_holds_key_value_heads_in_the_compute_dtype(kind: Any) -> None:
    cache = kind.empty(CONFIG, 5, 7)
    for layer in range(3):
        for held in cache.of(layer):
            assert held.shape == (5, 2, 7, 6) and held.dtype == jnp.bfloat16 and not held.any()


@pytest.mark.parametrize("kind", [Stacked, Apart])
def test_what_is_written_is_there_and_nothing_else_changes(kind: Any) -> None:
    """Two slots of the second layer from slot 4 on; of seven slots the other five, and both other layers, stay 0."""
    rng = np.random.default_rng(0)
    key, value = (jnp.asarray(rng.normal(size=(5, 2, 2, 6)), jnp.bfloat16) for _ in range(2))
    cache = kind.empty(CONFIG, 5, 7).written(key, value, 1, jnp.int32(4))
    for held, new in zip(cache.of(1), (key, value), strict=True):
        np.testing.assert_array_equal(held[:, :, 4:6], new)
        assert not held[:, :, :4].any() and not held[:, :, 6:].any()
    assert not any(held.any() for layer in (0, 2) for held in cache.of(layer))


def test_layers_apart_are_named_by_numbers() -> None:
    with pytest.raises(AssertionError, match="layers apart are not scanned"):
        Apart.empty(CONFIG, 1, 1).of(jnp.int32(0))


@pytest.mark.parametrize("kind", [Stacked, Apart])
def test_a_cache_goes_through_a_loop_and_is_written_in_place(kind: Any) -> None:
    """The compiled loop that fills it has no room for a second one."""
    cache = kind.empty(CONFIG, 64, 256)
    one = jnp.ones((64, 2, 1, 6), jnp.bfloat16)

    def fill(cache: Any) -> Any:
        return jax.lax.fori_loop(0, 256, lambda slot, cache: cache.written(one, one, 1, slot), cache)

    program = jax.jit(fill, donate_argnums=0).lower(cache).compile()
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(cache))
    memory = program.memory_analysis()
    assert memory is not None and memory.temp_size_in_bytes < held / 3
    assert bool(jnp.all(program(cache).of(1)[0] == 1))
