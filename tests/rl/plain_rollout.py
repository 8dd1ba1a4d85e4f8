"""A rollout's score, recomputed plainly: NumPy, float64, one response at a time, from the definitions."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pit_jax.batch import Completions, RolloutPrompts
from pit_jax.config import RlConfig
from tests.model import plain_forward as plain
from tests.world import World


def real(tokens_BL: Any, mask_BL: Any) -> list[list[int]]:
    """The real tokens of every row."""
    return [row[mask].tolist() for row, mask in zip(np.asarray(tokens_BL), np.asarray(mask_BL), strict=True)]


def responses(drawn: Completions) -> list[list[int]]:
    return real(drawn.tokens_BT, drawn.mask_BT)


def logprobs(
    world: World, params: Any, prompts: RolloutPrompts, drawn: Completions, temperature: float
) -> list[np.ndarray]:
    """Of the tokens of each response, at the sampling temperature."""
    rows = zip(real(prompts.prompt_BP, prompts.prompt_mask_BP), responses(drawn), strict=True)
    return [plain.answer_logprobs(params, world.config, *row, temperature=temperature) for row in rows]


def values(world: World, params: Any, prompts: RolloutPrompts, drawn: Completions) -> list[np.ndarray]:
    """The scalar at the token before each response token."""
    rows = zip(real(prompts.prompt_BP, prompts.prompt_mask_BP), responses(drawn), strict=True)
    return [plain.scalars(params, world.config, x + y)[len(x) - 1 : -1] for x, y in rows]


def scores(world: World, params: Any, prompts: list[list[int]], answers: list[list[int]]) -> np.ndarray:
    """The scalar at the last token of each answer."""
    return np.array([plain.scalars(params, world.config, x + y)[-1] for x, y in zip(prompts, answers, strict=True)])


def plain_score(world: World, params: Any, prompts: RolloutPrompts, drawn: Completions) -> np.ndarray:
    return scores(world, params, real(prompts.prompt_BP, prompts.prompt_mask_BP), responses(drawn))


def centered_gap(world: World, params: Any, prompts: RolloutPrompts, drawn: Completions) -> np.ndarray:
    references = real(prompts.reference_BT, prompts.reference_mask_BT)
    before = scores(world, params, real(prompts.prompt_BP, prompts.prompt_mask_BP), references)
    return plain_score(world, params, prompts, drawn) - before


def gap_of_both_orders(world: World, params: Any, prompts: RolloutPrompts, drawn: Completions) -> np.ndarray:
    """The rows that are read the other way round, written out: prefix, response without its EOS, suffix, reference."""
    prefixes = real(prompts.prefix_BP, prompts.prefix_mask_BP)
    turned = [
        [*prefix, *(token for token in response if token != world.eos_id), *world.suffix]
        for prefix, response in zip(prefixes, responses(drawn), strict=True)
    ]
    references = real(prompts.reference_BT, prompts.reference_mask_BT)
    return (plain_score(world, params, prompts, drawn) - scores(world, params, turned, references)) / 2


def score_difference(world: World, params: Any, prompts: RolloutPrompts, drawn: Completions) -> np.ndarray:
    alone, references = (
        real(prompts.plain_BP, prompts.plain_mask_BP),
        real(prompts.reference_BT, prompts.reference_mask_BT),
    )
    return scores(world, params, alone, responses(drawn)) - scores(world, params, alone, references)


def kl(d_T: np.ndarray, kind: str) -> np.ndarray:
    """Of each token, from its log-ratio to the anchor."""
    return {"k1": d_T, "k2": 0.5 * d_T**2, "k3": np.exp(-d_T) - 1 + d_T}[kind]


def earned(score_B: Any, drawn: Completions, config: RlConfig) -> np.ndarray:
    """The score with the rule for answers that did not end."""
    return np.where(drawn.ended_B, score_B, np.minimum(score_B, 0.0) - config.missing_eos_penalty)


def token_rewards(d: Sequence[np.ndarray], earned_B: np.ndarray, *, kind: str, kl_coef: float) -> list[np.ndarray]:
    """-kl_coef * KL of every token, and the score on the last one."""
    found = [-kl_coef * kl(d_T, kind) for d_T in d]
    for rewards_T, score in zip(found, earned_B, strict=True):
        rewards_T[-1] += score
    return found


def advantages(rewards_T: np.ndarray, values_T: np.ndarray, config: RlConfig) -> np.ndarray:
    """Generalised advantage estimates of one response, straight from the sum that defines them."""
    deltas_T = rewards_T + config.gamma * np.append(values_T[1:], 0.0) - values_T
    decay = config.gamma * config.gae_lambda
    return np.array([sum(decay**k * d for k, d in enumerate(deltas_T[t:])) for t in range(len(deltas_T))])


def whitened(rows: Sequence[np.ndarray]) -> np.ndarray:
    """All real tokens of all rows in one, with mean 0 and unbiased variance 1."""
    everything = np.concatenate(rows)
    return (everything - everything.mean()) / np.sqrt(everything.var(ddof=1) + 1e-8)
