"""From completions to experience: score them in place, turn scores and KL into rewards, advantages and returns."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from pit_jax.batch import Completions, Experience, RolloutPrompts
from pit_jax.config import RlConfig
from pit_jax.inference.repetition import repeated_ngrams
from pit_jax.masked import Mean
from pit_jax.model.networks import LanguageModel, Params, ScalarModel
from pit_jax.model.scoring import behind, response_logprobs, response_values
from pit_jax.objectives.returns import kl_estimate, shaped_rewards
from pit_jax.rl.algorithms import Algorithm
from pit_jax.rl.rewards import ModelReward
from pit_jax.training.step import Loss, split, together

Metrics = dict[str, Mean]
Score = Callable[..., tuple[Experience, Metrics]]
NGRAM = 3  # tokens; of a repetition


def make_score(
    policy: LanguageModel,
    scalar: ScalarModel,
    config: RlConfig,
    algorithm: Algorithm,
    *,
    samples: int,
    reward: ModelReward,
) -> Score:
    """score(params, frozen, prompts, drawn, text_B, kl_coef) -> (experience, metrics of the rollout).

    params = {"policy"} and, with a critic, "value"; frozen = {"anchor": the model of the KL, "scorer": reward or gap
    model} and "second-gap" where there is one; drawn are Completions of `prompts`, `samples` of each side by side;
    text_B is what text rewards add to the score. With config.monitors.worst_case the model's score is the lower of the
    scorer's and the second gap model's: worst-case optimisation of an ensemble of two (WCO, arXiv 2310.02743).
    """

    def read_rows(params: dict[str, Params], frozen: dict[str, Params], rows: tuple[Any, ...]) -> dict[str, jax.Array]:
        """What every model makes of these rows, by its role: [B, T] of anchor and value model, else [B]."""
        tokens_BL, segments_BL, prompts, responses = rows
        where = {"slot": responses.mask_BT.shape[1]}
        anchor = policy, frozen["anchor"], tokens_BL, segments_BL
        found = {"anchor": response_logprobs(*anchor, **where, temperature=config.temperature)}
        if algorithm.critic:
            found["value"] = response_values(scalar, params["value"], tokens_BL, segments_BL, **where)
        for name in frozen.keys() - {"anchor"}:
            found[name] = reward(scalar, frozen[name], prompts, responses)
        return found

    def score(
        params: dict[str, Params],
        frozen: dict[str, Params],
        prompts: RolloutPrompts,
        drawn: Completions,
        text_B: jax.Array,
        kl_coef: jax.Array,
    ) -> tuple[Experience, Metrics]:
        mask_BT = drawn.mask_BT
        tokens_BL, segments_BL = behind(prompts.prompt_BP, prompts.prompt_mask_BP, drawn.responses)
        rows = tokens_BL, segments_BL, prompts, drawn.responses
        read = by_rows(partial(read_rows, params, frozen), config.score_rows, rows)
        anchor_BT, values_BT, score_B = read["anchor"], read.get("value"), read["scorer"]
        real_B = jnp.any(mask_BT, axis=1)
        metrics: Metrics = {}
        if "second-gap" in frozen:
            second_B = read["second-gap"]
            metrics = second_gap_metrics(score_B, second_B, real_B)
            score_B = jnp.minimum(score_B, second_B) if config.monitors.worst_case else score_B
        total_B = score_B + text_B
        kl_BT = kl_estimate(drawn.logprobs_BT, anchor_BT, kind=config.kl_kind)
        shaping_kl = kl_coef if algorithm.kl == "reward" else jnp.zeros_like(kl_coef)
        rewards_BT = shaped_rewards(penalised(total_B, drawn, config), kl_BT, mask_BT, kl_coef=shaping_kl)
        advantages = algorithm.advantages(rewards_BT, values_BT, mask_BT, samples=samples, config=config)
        in_loss = algorithm.kl == "loss"
        experience = Experience(
            tokens_BL=tokens_BL,
            segments_BL=segments_BL,
            mask_BT=mask_BT,
            old_logprobs_BT=drawn.logprobs_BT,
            advantages_BT=advantages.advantages_BT,
            scores_B=score_B,
            old_values_BT=values_BT,
            returns_BT=advantages.returns_BT,
            anchor_logprobs_BT=anchor_BT if in_loss else None,
            kl_coef_B=jnp.broadcast_to(kl_coef, score_B.shape) if in_loss else None,
        )
        metrics |= {
            "objective/scores": Mean.of(total_B, real_B),
            "objective/success": Mean.of(score_B > 0.0, real_B),
            "objective/rlhf_reward": Mean.of(jnp.sum(rewards_BT, axis=1), real_B),
            "objective/kl": Mean.of(sequence_kl(drawn, anchor_BT, kind="k1"), real_B),
            "objective/kl_k3": Mean.of(sequence_kl(drawn, anchor_BT, kind="k3"), real_B),
            **text_metrics(drawn, prompts),
        }
        return experience, metrics

    return score


def by_rows(read: Callable[[Any], Any], size: int, rows: Any) -> Any:
    """read(rows), for `size` of them at a time; size 0: for all at once. Leaves [B, ..], whose B it must divide."""
    total = jax.tree.leaves(rows)[0].shape[0]
    if size in (0, total):
        return read(rows)
    return together(jax.lax.map(read, split(rows, total // size)))


def penalised(score_B: jax.Array, drawn: Completions, config: RlConfig) -> jax.Array:
    """score_B, of an answer that did not end at most 0 and less the penalty."""
    unfinished_B = jnp.minimum(score_B, 0.0) - config.missing_eos_penalty
    return jnp.where(drawn.ended_B, score_B, unfinished_B)


def sequence_kl(drawn: Completions, anchor_logprobs_BT: jax.Array, *, kind: str) -> jax.Array:
    """kl_B: the estimator summed over each response's real tokens, in nats."""
    kl_BT = kl_estimate(drawn.logprobs_BT, anchor_logprobs_BT, kind=kind)
    return jnp.sum(jnp.where(drawn.mask_BT, kl_BT, 0.0), axis=1)


def text_metrics(drawn: Completions, prompts: RolloutPrompts) -> Metrics:
    """Entropy, ends, lengths, repetition and copies of a rollout's responses; rows without a prompt count nowhere."""
    mask_BT, real_B = drawn.mask_BT, jnp.any(drawn.mask_BT, axis=1)
    copied_B = jnp.all((drawn.tokens_BT == prompts.reference_BT) | ~(mask_BT | prompts.reference_mask_BT), axis=1)
    return {
        "objective/entropy": Mean.of(-drawn.logprobs_BT, mask_BT),
        "val/eos_rate": Mean.of(drawn.ended_B.astype(jnp.float32), real_B),
        "val/response_length": Mean.of(jnp.sum(mask_BT, axis=1, dtype=jnp.float32), real_B),
        "val/repetition": Mean.of(repeated_ngrams(drawn.tokens_BT, mask_BT, n=NGRAM), real_B),
        "val/copy_rate": Mean.of(copied_B.astype(jnp.float32), real_B),
    }


def second_gap_metrics(gap_B: jax.Array, second_B: jax.Array, real_B: jax.Array) -> Metrics:
    """The second gap model's mean score, and how far it is from the scorer's on the mean response."""
    return {
        "second-gap/scores": Mean.of(second_B, real_B),
        "second-gap/disagreement": Mean.of(jnp.abs(gap_B - second_B), real_B),
    }


def provider_metrics(scores_B: jax.Array, names: tuple[str, ...]) -> Metrics:
    """Mean score of the rollouts over each provider's references, and the share above 0; providers share B evenly."""
    metrics: Metrics = {}
    for name, part_B in zip(names, jnp.split(scores_B, len(names)), strict=True):
        metrics[f"curriculum/{name}/scores"] = Mean.of(part_B)
        metrics[f"curriculum/{name}/success"] = Mean.of(part_B > 0.0)
    return metrics


def make_loss(policy: LanguageModel, scalar: ScalarModel, config: RlConfig, algorithm: Algorithm, *, slot: int) -> Loss:
    """The algorithm's loss over {"policy"} and, with a critic, "value"."""

    def loss(params: Any, batch: Experience, key: jax.Array) -> tuple[jax.Array, Metrics]:
        rows = batch.tokens_BL, batch.segments_BL
        logprobs_BT = response_logprobs(policy, params["policy"], *rows, slot=slot, temperature=config.temperature)
        values_BT = response_values(scalar, params["value"], *rows, slot=slot) if algorithm.critic else None
        return algorithm.loss(logprobs_BT, values_BT, batch, config=config)

    return loss
