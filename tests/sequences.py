"""Rows of tests in other forms: the gap tree written out, and rows with other numbers where nothing may read them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pit_jax.batch import SftBatch
from pit_jax.data.features import Example, right_padded
from tests.world import EOS, PAD, SUFFIX


def four_sequences(examples: Sequence[Example]) -> dict[str, np.ndarray]:
    """The sequences [prefix + reference + suffix + candidate EOS] of the gap tree, written out one by one.

    `tokens_ab_BL` and `end_ab_B` for candidate a given reference b (w = chosen, l = rejected).
    """
    arrays: dict[str, np.ndarray] = {}
    for name in ("wl", "ww", "ll", "lw"):
        rows = []
        for example in examples:
            candidate, reference = (example.chosen if letter == "w" else example.rejected for letter in name)
            rows.append([*example.prefix, *reference, *SUFFIX, *candidate, EOS])
        arrays[f"tokens_{name}_BL"], _ = right_padded(rows, max(map(len, rows)), PAD)
        arrays[f"end_{name}_B"] = np.array([len(row) - 1 for row in rows], np.int32)
    return arrays


def with_junk(batch: SftBatch) -> SftBatch:
    """The same rows with other tokens, targets and positions wherever nothing may read them."""
    padding = batch.segments_BL == 0
    assert padding.any()
    changes: dict[str, Any] = {
        "tokens_BL": np.where(padding, 33, batch.tokens_BL),
        "targets_BL": np.where(batch.mask_BL, batch.targets_BL, 17),
        "positions_BL": np.where(padding, 9, batch.positions_BL),
    }
    return replace(batch, **changes)
