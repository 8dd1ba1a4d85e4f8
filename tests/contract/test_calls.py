"""The contract's calls: the built-in values keep it, and each way to break it is told."""

import itertools
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from pit_jax.batch import Triple
from pit_jax.contract.calls import Check, check_algorithm, check_judge, check_layout, check_text_reward
from pit_jax.data.layouts import LAYOUTS, Layout
from pit_jax.evaluation.judges.builtin import JUDGES, RUBRIC
from pit_jax.evaluation.judges.judge import Judge
from pit_jax.masked import Mean
from pit_jax.rl.algorithms import ALGORITHMS, Advantages, Algorithm
from pit_jax.rl.rewards import TextReward

PAIR = {"prompt": "Name a colour.", "chosen": "blue", "rejected": "stone"}
PPO, RLOO = ALGORITHMS["ppo"], ALGORITHMS["rloo"]


def broken(checks: Iterable[Check]) -> list[str]:
    """What of a value does not hold, by what is promised, without the value's name."""
    found = []
    for name, check in checks:
        try:
            check()
        except Exception as error:
            found.append(f"{name.partition(': ')[2]}: {error}")
    return found


@pytest.mark.parametrize("algorithm", list(ALGORITHMS), ids=ALGORITHMS.names())
def test_the_built_in_algorithms_keep_the_contract(algorithm: Algorithm) -> None:
    assert broken(check_algorithm(algorithm)) == []


def test_the_other_built_in_values_keep_the_contract() -> None:
    assert broken(itertools.chain(*map(check_judge, JUDGES))) == []
    assert broken(check_layout(replace(LAYOUTS["pairs"], examples=(PAIR,)))) == []
    assert broken(check_text_reward(TextReward("length", lambda prompts, ys, rows: [len(y) for y in ys]))) == []


def unmasked(rewards_BT: jax.Array, values_BT: None, mask_BT: jax.Array, **_: Any) -> Advantages:
    return Advantages(rewards_BT - jnp.mean(rewards_BT))


def without_returns(*arrays: jax.Array, **options: Any) -> Advantages:
    return Advantages(PPO.advantages(*arrays, **options).advantages_BT)


def silent(*arrays: Any, **options: Any) -> tuple[jax.Array, dict[str, Mean]]:
    return RLOO.loss(*arrays, **options)[0], {}


def leaking(logprobs_BT: jax.Array, values_BT: None, batch: Any, **_: Any) -> tuple[jax.Array, dict[str, Mean]]:
    losses_BT = -batch.advantages_BT * logprobs_BT
    metrics = dict.fromkeys(("loss", "policy/approxkl_avg", "val/ratio"), Mean.of(losses_BT))
    return jnp.mean(losses_BT), metrics


@pytest.mark.parametrize(
    ("algorithm", "told"),
    [
        (replace(RLOO, advantages=unmasked), "padding not 0"),
        (replace(RLOO, advantages=unmasked), "advantages change with what padded slots hold"),
        (replace(PPO, advantages=without_returns), "it has a critic and gives it no returns"),
        (replace(RLOO, loss=silent), "its loss does not report loss, policy/approxkl_avg, val/ratio"),
        (replace(RLOO, loss=leaking), "the loss or its gradient is not finite"),
    ],
)
def test_a_broken_algorithm_is_told(algorithm: Algorithm, told: str) -> None:
    assert any(told in text for text in broken(check_algorithm(algorithm)))


numbers = itertools.count()


@pytest.mark.parametrize(
    ("score", "told"),
    [
        (lambda prompts, ys, rows: [float("nan")] * len(ys), "found nan for the response"),
        (lambda prompts, ys, rows: [1.0], "asked for one number for each of 4 responses"),
        (lambda prompts, ys, rows: [len(y) / len(y.split()) for y in ys], "also of one text, and of an empty one"),
        (lambda prompts, ys, rows: [next(numbers) for _ in ys], "two calls with the same texts differ"),
    ],
)
def test_a_broken_text_reward_is_told(score: Any, told: str) -> None:
    assert any(told in text for text in broken(check_text_reward(TextReward("mine", score))))


@pytest.mark.parametrize(
    ("judge", "told"),
    [
        (replace(RUBRIC, score=lambda prompts, answers: [next(numbers) for _ in answers]), "equal answers get"),
        (replace(RUBRIC, score=lambda prompts, answers: []), "asked for a number for each of 4 prompts"),
        (Judge("mine", lambda prompts, firsts, seconds: [0.5] * len(prompts), kind="verdict"), "asked for 1, -1 or 0"),
    ],
)
def test_a_broken_judge_is_told(judge: Judge, told: str) -> None:
    assert any(told in text for text in broken(check_judge(judge)))


@pytest.mark.parametrize(
    ("layout", "told"),
    [
        (Layout("mine", lambda row: row["text"], examples=(PAIR,)), "raises KeyError"),
        (LAYOUTS["pairs"], "it names no example rows"),
        (Layout("mine", lambda row: Triple(row.get("prompt") or "?", "a", "a"), ({},)), "which is no pair"),
    ],
)
def test_a_broken_layout_is_told(layout: Layout, told: str) -> None:
    assert any(told in text for text in broken(check_layout(layout)))
