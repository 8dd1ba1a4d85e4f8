"""Pairs that stand there in both orders."""

import numpy as np

from pit_jax.batch import Triple
from pit_jax.data.text.contradictions import contradicted, pair_keys


def test_both_orders_of_a_pair_contradict() -> None:
    """However often, whatever space is around them; the same order twice, another prompt and other answers do not."""
    texts = ["xab", "xba", "xab", "yab", "yab", "zba", "xac", "xbc", ("v", "a\n", "b"), (" v", " b", "a")]
    keys = pair_keys(Triple(x, chosen, rejected) for x, chosen, rejected in texts)
    assert contradicted(keys).tolist() == [True] * 3 + [False] * 5 + [True] * 2
    assert contradicted(keys[:1]).tolist() == [False] and not len(contradicted(np.zeros(0, np.uint64)))
