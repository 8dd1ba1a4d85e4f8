"""Choosing a token: hand-worked truncations, limits of the temperature, frequencies."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pit_jax.errors import UserError
from pit_jax.inference import sampling
from pit_jax.inference.sampling import Sampling, check_sampling, sample, truncate

cut = jax.jit(truncate, static_argnames=("top_k", "top_p"))


@jax.jit
def draw(key: jax.Array, logits_BV: jax.Array, how: Sampling) -> jax.Array:
    return sample(jax.random.uniform(key, logits_BV.shape[:1]), logits_BV, how)


def kept(logits: list[float], *, top_k: int = 0, top_p: float = 1.0) -> list[int]:
    """Tokens that survive, the others being at -inf and these unchanged."""
    found_V = np.asarray(cut(jnp.asarray([logits], jnp.float32), top_k=top_k, top_p=top_p))[0]
    survivors = np.flatnonzero(np.isfinite(found_V))
    np.testing.assert_array_equal(found_V[survivors], np.asarray(logits, np.float32)[survivors])
    assert (np.delete(found_V, survivors) == -np.inf).all()
    return survivors.tolist()


def logs(*probs: float) -> list[float]:
    return [math.log(p) for p in probs]


@pytest.mark.parametrize(
    ("logits", "top_k", "expected"),
    [
        ([1.0, 4.0, 2.0, 3.0], 1, [1]),
        ([1.0, 4.0, 2.0, 3.0], 2, [1, 3]),
        ([1.0, 4.0, 2.0, 3.0], 4, [0, 1, 2, 3]),
        ([1.0, 4.0, 2.0, 3.0], 9, [0, 1, 2, 3]),  # more than there are
        ([1.0, 4.0, 2.0, 3.0], 0, [0, 1, 2, 3]),  # off
        ([2.0, 3.0, 2.0, 1.0], 2, [0, 1, 2]),  # tied with the second: kept with it
        ([2.0, 2.0, 2.0, 1.0], 1, [0, 1, 2]),
    ],
)
def test_top_k_keeps_the_k_likeliest_and_ties(logits: list[float], top_k: int, expected: list[int]) -> None:
    assert kept(logits, top_k=top_k) == expected


@pytest.mark.parametrize(
    ("probs", "top_p", "expected"),
    [
        ((0.1, 0.5, 0.15, 0.25), 0.45, [1]),
        ((0.1, 0.5, 0.15, 0.25), 0.55, [1, 3]),  # 0.5 is not enough
        ((0.1, 0.5, 0.15, 0.25), 0.8, [1, 2, 3]),
        ((0.1, 0.5, 0.15, 0.25), 0.95, [0, 1, 2, 3]),
        ((0.1, 0.5, 0.15, 0.25), 1.0, [0, 1, 2, 3]),  # off
        ((0.1, 0.5, 0.15, 0.25), 1e-6, [1]),  # never empty
        ((0.3, 0.3, 0.3, 0.1), 0.5, [0, 1, 2]),  # tied with the last one in: kept with it
    ],
)
def test_top_p_keeps_the_smallest_nucleus_and_ties(probs: tuple[float, ...], top_p: float, expected: list[int]) -> None:
    assert kept(logs(*probs), top_p=top_p) == expected


def test_top_p_is_taken_of_what_top_k_left() -> None:
    """0.4, 0.3 renormalise to 0.57, 0.43: a nucleus of 0.5 is one token, where it would be two of all four."""
    probs = logs(0.4, 0.3, 0.2, 0.1)
    assert kept(probs, top_p=0.5) == [0, 1]
    assert kept(probs, top_k=2, top_p=0.5) == [0]


@pytest.mark.parametrize("knobs", [{}, {"top_k": 3}, {"top_p": 0.7}])
def test_temperature_zero_is_argmax(knobs: dict[str, Any]) -> None:
    logits_BV = jnp.asarray(np.random.default_rng(0).normal(size=(16, 7)), jnp.float32)
    tokens_B = draw(jax.random.key(0), logits_BV, Sampling(jnp.float32(0.0), **knobs))
    assert tokens_B.dtype == jnp.int32
    np.testing.assert_array_equal(tokens_B, np.argmax(logits_BV, axis=-1))


def test_a_cold_temperature_is_nearly_greedy_and_a_hot_one_uniform() -> None:
    logits_BV = jnp.broadcast_to(jnp.asarray([0.0, 1.0, 3.0, 2.0])[None], (4096, 4))
    cold_B = draw(jax.random.key(1), logits_BV, Sampling(jnp.float32(0.01)))
    assert set(np.asarray(cold_B).tolist()) == {2}
    hot_B = draw(jax.random.key(1), logits_BV, Sampling(jnp.float32(1e4)))
    counts_V = np.bincount(np.asarray(hot_B), minlength=4)
    assert chi_square(counts_V, np.full(4, 0.25)) < 16.3


def chi_square(counts_V: np.ndarray, probs_V: np.ndarray) -> float:
    """Pearson's statistic; with three degrees of freedom it exceeds 16.3 once in a thousand keys."""
    expected_V = counts_V.sum() * probs_V
    return float(np.sum((counts_V - expected_V) ** 2 / expected_V))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_follow_the_tempered_softmax(temperature: float) -> None:
    logits_V = np.array([0.0, 1.0, -0.5, 0.7])
    logits_BV = jnp.broadcast_to(jnp.asarray(logits_V, jnp.float32)[None], (4096, 4))
    probs_V = np.exp(logits_V / temperature) / np.exp(logits_V / temperature).sum()
    counts_V = np.bincount(
        np.asarray(draw(jax.random.key(2), logits_BV, Sampling(jnp.float32(temperature)))), minlength=4
    )
    assert chi_square(counts_V, probs_V) < 16.3
    other_V = np.exp(logits_V / (1.3 * temperature)) / np.exp(logits_V / (1.3 * temperature)).sum()
    assert chi_square(counts_V, other_V) > 16.3, "the draws can tell temperatures apart"


def test_truncated_tokens_are_never_drawn() -> None:
    logits_BV = jnp.broadcast_to(jnp.asarray([0.1, 0.2, 0.0, 0.15])[None], (4096, 4))
    tokens_B = draw(jax.random.key(3), logits_BV, Sampling(jnp.float32(1.0), top_k=2))
    assert set(np.asarray(tokens_B).tolist()) == {1, 3}


def test_the_nucleus_is_taken_of_the_tempered_distribution() -> None:
    """At temperature 0.5 the probabilities (0.6, 0.4) sharpen to (0.69, 0.31): a nucleus of 0.65 is one token."""
    logits_BV = jnp.broadcast_to(jnp.asarray(logs(0.6, 0.4), jnp.float32)[None], (512, 2))
    warm_B = draw(jax.random.key(4), logits_BV, Sampling(jnp.float32(1.0), top_p=0.65))
    cool_B = draw(jax.random.key(4), logits_BV, Sampling(jnp.float32(0.5), top_p=0.65))
    assert set(np.asarray(warm_B).tolist()) == {0, 1} and set(np.asarray(cool_B).tolist()) == {0}


def test_truncation_is_exact_among_many_tokens() -> None:
    """Against sorting: 3 rows of 1,000 logits, some of them alike, some -inf, and of either sign."""
    rng = np.random.default_rng(5)
    logits_BV = np.round(rng.normal(0, 3, (3, 1000)), 2).astype(np.float32)
    logits_BV[:, ::7] = -np.inf
    for top_k in (1, 10, 500, 999):
        kth_B1 = np.sort(logits_BV, axis=1)[:, -top_k][:, None]
        np.testing.assert_array_equal(
            np.isfinite(cut(logits_BV, top_k=top_k, top_p=1.0)), (logits_BV >= kth_B1) & np.isfinite(logits_BV)
        )
    probs_BV = np.exp(logits_BV.astype(np.float64))
    probs_BV /= probs_BV.sum(axis=1, keepdims=True)
    likelier_BV = np.stack([[row[row > p].sum() for p in row] for row in probs_BV])
    for top_p in (0.01, 0.5, 0.9):
        expected_BV = (likelier_BV < top_p) & np.isfinite(logits_BV)
        np.testing.assert_array_equal(np.isfinite(cut(logits_BV, top_k=0, top_p=top_p)), expected_BV)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999, 1.0 - 2.0**-24])
def test_a_share_of_the_vocabulary_is_found_by_adding_up(share: float) -> None:
    """Of 1,000 tokens, of which the first, the last and a third of the others cannot be drawn."""
    weights_V = np.random.default_rng(6).random(1000)
    weights_V[::3] = 0.0  # the first and the last among them
    ends_V = np.cumsum(weights_V) / weights_V.sum()
    expected = min(int(np.searchsorted(ends_V, share, side="right")), 998)
    with np.errstate(divide="ignore"):
        logits_1V = jnp.asarray(np.log(weights_V)[None], jnp.float32)
    assert int(sampling._at(jnp.full(1, share, jnp.float32), logits_1V)[0]) == expected


def test_frequencies_are_right_across_blocks_of_tokens() -> None:
    """Four tokens of equal weight in different blocks, the last one a block that is not full."""
    logits_V = np.full(300, -np.inf, np.float32)
    logits_V[[0, 127, 128, 299]] = 2.0
    tokens_B = np.asarray(draw(jax.random.key(7), jnp.broadcast_to(logits_V[None], (4096, 300)), Sampling()))
    counts_V = np.array([(tokens_B == token).sum() for token in (0, 127, 128, 299)])
    assert counts_V.sum() == 4096 and chi_square(counts_V, np.full(4, 0.25)) < 16.3


def test_one_program_serves_every_temperature() -> None:
    traces = []

    @jax.jit
    def program(logits_BV: jax.Array, how: Sampling) -> jax.Array:
        traces.append(1)
        return sample(jnp.zeros(len(logits_BV)), logits_BV, how)

    logits_BV = jnp.zeros((2, 4))
    for temperature in (0.0, 0.4, 1.0):
        program(logits_BV, Sampling(temperature))
    assert len(traces) == 1
    program(logits_BV, Sampling(1.0, top_k=2))
    assert len(traces) == 2


@pytest.mark.parametrize(
    "wrong", [{"temperature": -0.1}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.1}, {"temperature": float("nan")}]
)
def test_a_knob_out_of_range_is_refused(wrong: dict[str, Any]) -> None:
    (name, value) = next(iter(wrong.items()))
    with pytest.raises(
        UserError, match=rf"needs temperature >= 0, top_k >= 0 and 0 < top_p <= 1, found .*{name}={value}"
    ):
        check_sampling(Sampling(**wrong))


def test_knobs_in_range_pass_unchanged() -> None:
    for knobs in (Sampling(), Sampling(0.0, 5, 0.9), Sampling(2.5, 0, 1e-3)):
        assert check_sampling(knobs) is knobs
