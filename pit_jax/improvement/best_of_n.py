"""Best-of-n: n answers of the policy, and the one that the pointwise reward model likes best.

The baseline to improving that spends an equal budget of drawn tokens and needs no improver.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from pit_jax.batch import PromptBatch
from pit_jax.generation.sampling import Sampling
from pit_jax.improvement.pit import Answers, Slots, answer
from pit_jax.model.networks import LanguageModel

Score = Callable[[PromptBatch, Answers], jax.Array]  # score(rows, answers) -> score_B


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Best:
    """The best of n answers a row, with leading axes as needed."""

    answers: Answers
    score_B: jax.Array  # f32, of the best
    mean_score_B: jax.Array  # f32, over all n
    tokens_B: jax.Array  # int32, drawn for all n, EOS included


def best_of_n(
    model: LanguageModel,
    policy: Any,
    rows: PromptBatch,
    key: jax.Array,
    sampling: Sampling,
    score: Score,
    *,
    n: int,
    slots: Slots,
) -> Best:
    """n answers a row as one decode of n B rows, scored in place; the best by `score`, the first drawn on ties."""
    batch = len(rows.prompt_BP)
    many = jax.tree.map(lambda x: jnp.repeat(x, n, axis=0), rows)
    drawn = answer(model, policy, many, key, sampling, slots=slots)
    score_BC = score(many, drawn).reshape(batch, n)
    pick_B11 = jnp.argmax(score_BC, axis=1)[:, None, None]
    return Best(
        answers=jax.tree.map(lambda x: jnp.take_along_axis(x.reshape(batch, n, -1), pick_B11, axis=1)[:, 0], drawn),
        score_B=jnp.max(score_BC, axis=1),
        mean_score_B=jnp.mean(score_BC, axis=1),
        tokens_B=jnp.sum(drawn.mask_BT.reshape(batch, -1), axis=1, dtype=jnp.int32),
    )


def n_for_budget(tokens: int, answer_tokens: int) -> int:
    """The n (at least 1) that takes the number of tokens closest to a budget; of two equally close, the smaller.

    `tokens` is what y_0 and its K improvements took over a set of prompts, `answer_tokens` what y_0 alone took there:
    the n answers are drawn as y_0 is.
    """
    assert answer_tokens > 0, "every answer has a token"
    below = max(1, tokens // answer_tokens)
    return below + (2 * (tokens - below * answer_tokens) > answer_tokens)
