"""training/fingerprint.py: digests that notice one bit and do not notice sharding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from pit_jax.training.fingerprint import inspect, leaf_digests, leaf_specs

TREE = {
    "f32": jnp.linspace(-1.0, 1.0, 24).reshape(4, 6),
    "bf16": jnp.arange(8, dtype=jnp.bfloat16),
    "int": jnp.arange(5, dtype=jnp.int32),
    "bool": jnp.array([True, False, True]),
    "scalar": jnp.float32(3),
    "key": jax.random.key(4),
    "empty": jnp.zeros((0, 3)),
}


def mixed(word: int) -> int:
    """lowbias32, in Python's integers."""
    word = ((word ^ (word >> 16)) * 0x7FEB352D) % 2**32
    word = ((word ^ (word >> 15)) * 0x846CA68B) % 2**32
    return word ^ (word >> 16)


def test_by_hand() -> None:
    """Word 5 at place (0,), 7 at (1,), 9 at (2,), each mixed with its place and a key; then the sum."""
    keys = (0x9E3779B9, 0x3C6EF372)
    sums = [sum(mixed(word ^ mixed(key + place)) for place, word in enumerate((5, 7, 9))) % 2**32 for key in keys]
    assert leaf_digests({"a": jnp.array([5, 7, 9], jnp.int32)}) == {"a": "".join(f"{total:08x}" for total in sums)}


@pytest.mark.parametrize("name", ["f32", "bf16", "int", "bool", "scalar"])
def test_any_changed_element_shows(name: str) -> None:
    before = leaf_digests(TREE)
    leaf = np.array(TREE[name])
    flat = leaf.reshape(-1).view(np.uint8).copy()
    flat[-1] ^= 1
    after = leaf_digests({**TREE, name: jnp.asarray(flat.view(leaf.dtype).reshape(leaf.shape))})
    assert {other for other in TREE if before[other] != after[other]} == {name}


def test_changes_that_a_sum_does_not_see() -> None:
    """Signs (two flipped bits of one place), exchanged rows and columns, a number moved from one element to another."""
    a = jnp.arange(6, dtype=jnp.float32).reshape(2, 3)
    moved = jnp.arange(6, dtype=jnp.int32).reshape(2, 3) + jnp.array([[1, -1, 0], [0, 0, 0]])
    others = [
        a,
        -a,
        a.at[0, 1].multiply(-1).at[1, 1].multiply(-1),
        a[::-1],
        a[:, ::-1],
        a.T,
        moved,
        moved.astype(a.dtype),
    ]
    assert len({leaf_digests({"a": other})["a"] for other in others}) == len(others)


def test_the_same_on_eight_devices() -> None:
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    spread = jax.device_put(TREE["f32"], NamedSharding(mesh, PartitionSpec("a", "b")))
    assert leaf_digests({"x": spread}) == leaf_digests({"x": TREE["f32"]})


def test_specs_and_finiteness() -> None:
    leaves, finite = inspect({"params": {"w": jnp.array([1.0, jnp.nan])}, "step": jnp.int32(3)})
    assert leaves["params/w"]["shape"] == [2] and leaves["params/w"]["dtype"] == "float32"
    assert leaves["params/w"]["bytes"] == 8
    assert finite == {"params/w": False, "step": True}
    assert leaf_specs({"a": jax.ShapeDtypeStruct((3, 4), jnp.bfloat16)}) == {
        "a": {"shape": [3, 4], "dtype": "bfloat16", "bytes": 24}
    }
