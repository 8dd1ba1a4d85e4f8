"""Best-of-n against a plain choice among the same draws, and the n of a token budget."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pit_jax.batch import PromptBatch
from pit_jax.inference.best_of_n import Best, best_of_n, n_for_budget
from pit_jax.inference.improve import Answers, answer
from pit_jax.inference.sampling import Sampling

N, KEY, WARM = 5, jax.random.key(2), Sampling(jnp.float32(1.0))


def short(rows: PromptBatch, answers: Answers) -> jax.Array:
    """The shorter the better, and a prompt's own offset: ties are common."""
    return jnp.sum(rows.prompt_BP, axis=1).astype(jnp.float32) - jnp.sum(answers.mask_BT, axis=1, dtype=jnp.float32)


def run(tiny: Any, rows: PromptBatch, n: int, sampling: Sampling = WARM) -> Best:
    program = jax.jit(partial(best_of_n, tiny.model, score=short, n=n, slots=tiny.slots))
    return jax.device_get(program(tiny.draw(0), rows, KEY, sampling))


@pytest.fixture(scope="module")
def found(tiny: Any, rows: PromptBatch) -> Best:
    return run(tiny, rows, N)


def test_the_best_of_the_same_draws(tiny: Any, rows: PromptBatch, found: Best) -> None:
    """Rows written out n times and answered; per prompt, the first of the largest scores in a plain loop."""
    repeated = PromptBatch(**{name: np.repeat(x, N, axis=0) for name, x in vars(rows).items()})
    drawn = jax.device_get(jax.jit(partial(answer, tiny.model, slots=tiny.slots))(tiny.draw(0), repeated, KEY, WARM))
    scores = np.asarray(short(repeated, drawn))
    for b in range(tiny.count):
        own = range(b * N, (b + 1) * N)
        best = max(own, key=lambda i: scores[i])
        np.testing.assert_array_equal(found.answers.tokens_BT[b], drawn.tokens_BT[best])
        np.testing.assert_array_equal(found.answers.mask_BT[b], drawn.mask_BT[best])
        assert found.score_B[b] == scores[best]
        np.testing.assert_allclose(found.mean_score_B[b], scores[own].mean(), rtol=1e-6)
        assert found.tokens_B[b] == drawn.mask_BT[own].sum(), "all n are paid for"
    assert len({tuple(row) for row in drawn.tokens_BT[:N].tolist()}) > 1, "a prompt's draws differ"


def test_the_best_is_no_worse_than_the_mean(found: Best) -> None:
    assert (found.score_B >= found.mean_score_B).all() and (found.score_B > found.mean_score_B).any()


def test_the_best_of_one_is_the_answer(tiny: Any, rows: PromptBatch) -> None:
    one = run(tiny, rows, 1)
    alone = jax.device_get(jax.jit(partial(answer, tiny.model, slots=tiny.slots))(tiny.draw(0), rows, KEY, WARM))
    np.testing.assert_array_equal(one.answers.tokens_BT, alone.tokens_BT)
    np.testing.assert_array_equal(one.tokens_B, alone.mask_BT.sum(axis=1))
    np.testing.assert_array_equal(one.score_B, one.mean_score_B)


def test_greedy_draws_are_one_answer_n_times(tiny: Any, rows: PromptBatch) -> None:
    greedy = run(tiny, rows, N, Sampling(jnp.float32(0.0)))
    np.testing.assert_array_equal(greedy.tokens_B, N * greedy.answers.mask_BT.sum(axis=1))
    np.testing.assert_allclose(greedy.score_B, greedy.mean_score_B, rtol=1e-6)


@pytest.mark.parametrize(
    ("tokens", "answer_tokens", "n"),
    [(400, 100, 4), (449, 100, 4), (450, 100, 4), (451, 100, 5), (30, 100, 1), (150, 100, 1), (151, 100, 2)],
)
def test_budgets_by_hand(tokens: int, answer_tokens: int, n: int) -> None:
    """450 tokens are as far from 4 as from 5 answers of 100: the smaller n."""
    assert n_for_budget(tokens, answer_tokens) == n


@given(st.integers(0, 500), st.integers(1, 60))
def test_no_other_n_is_closer_to_the_budget(tokens: int, answer_tokens: int) -> None:
    n = n_for_budget(tokens, answer_tokens)
    distances = {m: abs(m * answer_tokens - tokens) for m in range(1, 502)}
    assert n == min(distances, key=lambda m: (distances[m], m))
