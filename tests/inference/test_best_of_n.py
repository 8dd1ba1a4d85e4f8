"""Best-of-n against a plain choice among the same draws, and the n of a token budget."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pit_jax.batch import Answer, PromptBatch
from pit_jax.inference.best_of_n import Best, best_of_n, n_for_budget
from pit_jax.inference.improve import Trail, extend
from pit_jax.inference.sampling import Sampling
from pit_jax.inference.texts import Chunk, TextEngine

N, KEY, WARM = 5, jax.random.key(2), Sampling(jnp.float32(1.0))


def run(
    bench: Any, texts: TextEngine, n: int, sampling: Sampling = WARM, *, index: int = 0, reward: Any = None
) -> tuple[Chunk, list[str], list[Best]]:
    chunk = texts.chunks(bench.prompts, least=8)[index]
    prompts = bench.prompts[chunk.first : chunk.first + chunk.real]
    reward = bench.reward() if reward is None else reward
    return (
        chunk,
        prompts,
        best_of_n(texts, bench.policy(), partial(texts.scores, reward), chunk, prompts, KEY, sampling, n=n),
    )


def draws(bench: Any, texts: TextEngine, chunk: Chunk, n: int) -> list[list[Answer]]:
    """The rows written out n times and answered: n answers a prompt."""
    columns: dict[str, Any] = {name: np.repeat(x, n, axis=0) for name, x in vars(chunk.rows).items()}
    rows = PromptBatch(**columns)
    drawn = texts.read(texts.engine.answer(bench.policy(), rows, KEY, WARM, first=n * chunk.first), n * chunk.real)
    return [drawn[i : i + n] for i in range(0, len(drawn), n)]


@pytest.mark.parametrize("index", [0, 2])
def test_the_best_of_the_same_draws(bench: Any, texts: TextEngine, index: int) -> None:
    """Per prompt, the first of the largest scores in a plain loop, of a whole chunk and of one of five prompts."""
    chunk, prompts, found = run(bench, texts, N, index=index)
    assert len(found) == chunk.real == len(prompts)
    for prompt, best, mine in zip(prompts, found, draws(bench, texts, chunk, N), strict=True):
        scores = texts.scores(bench.reward(), [prompt] * N, mine).tolist()
        pick = max(range(N), key=lambda i: scores[i])
        assert best.answer == mine[pick]
        assert best.score == pytest.approx(scores[pick], abs=1e-5)
        assert best.score >= np.mean(scores), "no worse than the mean"
        assert best.tokens == sum(len(answer.ids) for answer in mine), "all n are paid for"
        assert len(set(mine)) > 1, "a prompt's draws differ"


def test_the_first_of_equally_good_answers_is_the_best(bench: Any, texts: TextEngine) -> None:
    """A reward model without a head likes all alike."""
    reward = bench.reward()
    indifferent = {**reward, "head": jax.tree.map(jnp.zeros_like, reward["head"])}
    chunk, _, found = run(bench, texts, N, reward=indifferent)
    assert [best.answer for best in found] == [mine[0] for mine in draws(bench, texts, chunk, N)]
    assert {best.score for best in found} == {0.0}


def test_the_best_of_one_is_the_answer(bench: Any, texts: TextEngine) -> None:
    chunk, prompts, found = run(bench, texts, 1)
    alone = texts.answer(bench.policy(), chunk, KEY, WARM)
    assert [best.answer for best in found] == alone
    assert [best.tokens for best in found] == [len(answer.ids) for answer in alone]
    np.testing.assert_allclose([best.score for best in found], texts.scores(bench.reward(), prompts, alone), atol=1e-5)


def test_greedy_draws_are_one_answer_n_times(bench: Any, texts: TextEngine) -> None:
    _, _, found = run(bench, texts, N, Sampling(jnp.float32(0.0)))
    assert all(best.tokens == N * len(best.answer.ids) for best in found)


def test_best_of_n_spends_about_what_improving_spends(bench: Any, texts: TextEngine) -> None:
    """n comes from the tokens of a trail: what the n answers then take misses the budget by rounding n, and by luck."""
    first = budget = 0
    for chunk in texts.chunks(bench.prompts, least=8):
        originals = texts.answer(bench.policy(), chunk, KEY, WARM)
        prompts = bench.prompts[chunk.first : chunk.first + chunk.real]
        trails = [Trail(prompt, original) for prompt, original in zip(prompts, originals, strict=True)]
        extend(texts, bench.policy(1), chunk, trails, KEY, WARM, rounds=3)
        first += sum(len(trail.original.ids) for trail in trails)
        budget += sum(len(answer.ids) for trail in trails for answer in trail.answers)
    n = n_for_budget(budget, first)
    assert 2 <= n <= 6
    spent = sum(best.tokens for index in range(3) for best in run(bench, texts, n, index=index)[2])
    assert abs(spent - budget) <= 0.25 * budget


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
