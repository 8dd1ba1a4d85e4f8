"""Pairs that stand there in both orders."""

import numpy as np

from pit_jax.batch import Triple
from pit_jax.data.text.contradictions import contradicted, pair_keys


def test_both_orders_of_a_pair_contradict() -> None:
    """However often; the same order twice, another prompt and other answers do not."""
    texts = ["xab", "xba", "xab", "yab", "yab", "zba", "xac", "xbc"]
    keys = pair_keys(Triple(*text) for text in texts)
    assert contradicted(keys).tolist() == [True] * 3 + [False] * 5
    assert contradicted(keys[:1]).tolist() == [False] and not len(contradicted(np.zeros(0, np.uint64)))
