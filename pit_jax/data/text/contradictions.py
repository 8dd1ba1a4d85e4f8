"""Pairs that contradict each other: the same prompt and the same two answers, once in either order."""

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np

from pit_jax.batch import Triple

CONTRADICTION = "the same pair with its answers swapped stands there too"


def pair_keys(rows: Iterable[Triple]) -> np.ndarray:
    """[rows] uint64: a hash of the prompt and the two answers in any order, and in the last bit which is the better.

    Space around a text does not count: it makes no pair of two equal answers either.
    """
    keys = []
    for row in rows:
        chosen, rejected = row.chosen.strip(), row.rejected.strip()
        answers = sorted((chosen, rejected))
        text = "\0".join((row.prompt.strip(), *answers)).encode()
        key = int.from_bytes(blake2b(text, digest_size=8).digest(), "big")
        keys.append(key >> 1 << 1 | (chosen == answers[0]))
    return np.array(keys, np.uint64)


def contradicted(keys: np.ndarray) -> np.ndarray:
    """Which of the `pair_keys` [rows] stand there in both orders [rows]; repeated ones all count."""
    pairs, number = np.unique(keys >> np.uint64(1), return_inverse=True)
    orders = np.unique(np.stack([number.astype(np.uint64), keys & np.uint64(1)]), axis=1)
    both: np.ndarray = np.bincount(orders[0].astype(np.int64), minlength=len(pairs)) == 2
    return both[number]
