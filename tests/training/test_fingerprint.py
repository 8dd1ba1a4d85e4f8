"""training/fingerprint.py: checksums that notice one bit and do not notice sharding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from pit_jax.training.fingerprint import inspect, leaf_specs, leaf_sums

TREE = {
    "f32": jnp.linspace(-1.0, 1.0, 24).reshape(4, 6),
    "bf16": jnp.arange(8, dtype=jnp.bfloat16),
    "int": jnp.arange(5, dtype=jnp.int32),
    "bool": jnp.array([True, False, True]),
    "scalar": jnp.float32(3),
    "key": jax.random.key(4),
    "empty": jnp.zeros((0, 3)),
}


def test_by_hand() -> None:
    """Integers 5, 7, 9 with weights 1, 3, 5: 5 + 21 + 45."""
    assert leaf_sums({"a": jnp.array([5, 7, 9], jnp.int32)}) == {"a": 71}
    assert leaf_sums({"a": jnp.array([[5], [7], [9]], jnp.int32)}) == {"a": 71}


@pytest.mark.parametrize("name", ["f32", "bf16", "int", "bool", "scalar"])
def test_any_changed_element_shows(name: str) -> None:
    before = leaf_sums(TREE)
    leaf = np.array(TREE[name])
    flat = leaf.reshape(-1).view(np.uint8).copy()
    flat[-1] ^= 1
    after = leaf_sums({**TREE, name: jnp.asarray(flat.view(leaf.dtype).reshape(leaf.shape))})
    assert {other for other in TREE if before[other] != after[other]} == {name}


def test_exchanged_elements_show() -> None:
    a = jnp.arange(6, dtype=jnp.float32).reshape(2, 3)
    assert leaf_sums({"a": a}) != leaf_sums({"a": a[::-1]}) != leaf_sums({"a": a[:, ::-1]})


def test_the_same_on_eight_devices() -> None:
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    spread = jax.device_put(TREE["f32"], NamedSharding(mesh, PartitionSpec("a", "b")))
    assert leaf_sums({"x": spread}) == leaf_sums({"x": TREE["f32"]})


def test_specs_and_finiteness() -> None:
    leaves, finite = inspect({"params": {"w": jnp.array([1.0, jnp.nan])}, "step": jnp.int32(3)})
    assert leaves["params/w"]["shape"] == [2] and leaves["params/w"]["dtype"] == "float32"
    assert leaves["params/w"]["bytes"] == 8
    assert finite == {"params/w": False, "step": True}
    assert leaf_specs({"a": jax.ShapeDtypeStruct((3, 4), jnp.bfloat16)}) == {
        "a": {"shape": [3, 4], "dtype": "bfloat16", "bytes": 24}
    }
