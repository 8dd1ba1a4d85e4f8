"""Shape and dtype checks for the first lines of an objective: the suffix of a name is its shape (key in batch.py)."""

import jax
import jax.numpy as jnp


def check(**arrays: jax.Array) -> None:
    """ValueError unless every array has one axis per suffix letter and equal letters mean equal sizes.

    `check(logits_BTV=logits_BTV, mask_BT=mask_BT)` checks ranks 3 and 2 and that B and T agree. Everything but
    `targets_*` (integers) and `mask_*` (True or non-zero = counts) must be floating point.
    """
    sizes: dict[str, tuple[int, str]] = {}
    for name, x in arrays.items():
        letters = name.rpartition("_")[2]
        if x.ndim != len(letters):
            raise ValueError(f"{name} needs {len(letters)} axes {list(letters)}, found shape {x.shape}")
        for letter, size in zip(letters, x.shape, strict=True):
            known, owner = sizes.setdefault(letter, (size, name))
            if known != size:
                raise ValueError(f"axis {letter} is {known} in {owner} but {size} in {name}; shapes must agree")
        if name.startswith("targets"):
            if not jnp.issubdtype(x.dtype, jnp.integer):
                raise ValueError(f"{name} holds token ids and needs an integer dtype, found {x.dtype}")
        elif not name.startswith("mask") and not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(f"{name} needs a floating dtype, found {x.dtype}; convert it before the loss")
