"""Best-of-n: n answers of the policy, and the one that a pointwise reward likes best.

The baseline to improving that spends an equal budget of drawn tokens and needs no improver.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from pit_jax.batch import Answer
from pit_jax.inference.sampling import Sampling
from pit_jax.inference.texts import Chunk, TextEngine
from pit_jax.model.networks import Params

Reward = Callable[[Sequence[str], Sequence[Answer]], np.ndarray]
"""reward(prompts, answers) -> score_N of each answer by itself."""


@dataclass(frozen=True)
class Best:
    """The best of n answers to a prompt."""

    answer: Answer
    score: float
    tokens: int  # drawn for all n, EOS included


def best_of_n(
    texts: TextEngine,
    policy: Params,
    reward: Reward,
    chunk: Chunk,
    prompts: Sequence[str],
    key: jax.Array,
    sampling: Sampling,
    *,
    n: int,
) -> list[Best]:
    """n answers a prompt as one draw of n each, side by side; the first drawn of equally good ones."""
    drawn = texts.answer(policy, chunk, key, sampling, samples=n)
    scores_NC = reward(np.repeat(prompts, n).tolist(), drawn).reshape(len(prompts), n)
    best = []
    for row, pick in enumerate(np.argmax(scores_NC, axis=1).tolist()):
        mine = drawn[row * n : (row + 1) * n]
        best.append(Best(mine[pick], float(scores_NC[row, pick]), sum(len(answer.ids) for answer in mine)))
    return best


def n_for_budget(tokens: int, answer_tokens: int) -> int:
    """The n (at least 1) that takes the number of tokens closest to a budget; of two equally close, the smaller.

    `tokens` is what y_0 and its K improvements took over a set of prompts, `answer_tokens` what y_0 alone took there:
    the n answers are drawn as y_0 is.
    """
    assert answer_tokens > 0, "every answer has a token"
    below = max(1, tokens // answer_tokens)
    return below + (2 * (tokens - below * answer_tokens) > answer_tokens)
