"""objectives/shapes.py: what a caller is told when arrays do not fit."""

import jax.numpy as jnp
import pytest

from pit_jax.objectives.shapes import check


def test_arrays_that_fit_pass() -> None:
    check(logits_BTV=jnp.zeros((2, 3, 5)), targets_BT=jnp.zeros((2, 3), jnp.int32), mask_BT=jnp.zeros((2, 3), bool))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mask_BT": jnp.zeros(3)}, r"mask_BT needs 2 axes \['B', 'T'\], found shape \(3,\)"),
        ({"values_BT": jnp.zeros((2, 3)), "mask_BT": jnp.zeros((2, 4))}, "axis T is 3 in values_BT but 4 in mask_BT"),
        ({"targets_BT": jnp.zeros((2, 3))}, "targets_BT holds token ids and needs an integer dtype, found float32"),
        ({"rewards_BT": jnp.zeros((2, 3), jnp.int32)}, "rewards_BT needs a floating dtype, found int32"),
    ],
)
def test_what_does_not_fit_is_named(arrays: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(**arrays)
