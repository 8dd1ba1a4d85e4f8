"""One jitted program: sample responses, score them in place, and turn scores and KL into advantages and returns."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from pit_jax.batch import Experience, RolloutPrompts
from pit_jax.config import RlConfig
from pit_jax.generation.decode import Generated, generate
from pit_jax.generation.repetition import repeated_ngrams
from pit_jax.generation.sampling import Sampling, token_logprobs
from pit_jax.improvement.pit import Answers
from pit_jax.masked import Mean, whiten
from pit_jax.model.attention import causal_visible, segment_positions
from pit_jax.model.networks import LanguageModel, ScalarModel
from pit_jax.objectives.ppo import policy_loss, value_loss
from pit_jax.objectives.returns import gae, kl_estimate, shaped_rewards
from pit_jax.stages.supervised import Loss
from pit_jax.stages.systems import answer_scores

Metrics = dict[str, Mean]
Score = Callable[[ScalarModel, Any, RolloutPrompts, Answers], jax.Array]
Rollout = Callable[..., tuple[Experience, Metrics]]
NGRAM = 3  # tokens; of a repetition


def response_logprobs(
    model: LanguageModel, params: Any, tokens_BL: jax.Array, segments_BL: jax.Array, *, slot: int, temperature: float
) -> jax.Array:
    """logprobs_BT of the last `slot` tokens of each row, teacher-forced; logits are made for those slots alone."""
    hidden_BLD = model.hidden(params, tokens_BL, segment_positions(segments_BL), causal_visible(segments_BL))
    logits_BTV = model.logits(params, hidden_BLD[:, -slot - 1 : -1])
    return token_logprobs(logits_BTV, tokens_BL[:, -slot:], temperature=temperature)


def response_values(
    model: ScalarModel, params: Any, tokens_BL: jax.Array, segments_BL: jax.Array, *, slot: int
) -> jax.Array:
    """values_BT: the value of the state before each response token."""
    scalars_BL = model.scalars(params, tokens_BL, segment_positions(segments_BL), causal_visible(segments_BL))
    return scalars_BL[:, -slot - 1 : -1]


def sequence_kl(drawn: Generated, ref_logprobs_BT: jax.Array, *, kind: str) -> jax.Array:
    """kl_B: the estimator summed over each response's real tokens, in nats."""
    kl_BT = kl_estimate(drawn.logprobs_BT, ref_logprobs_BT, kind=kind)
    return jnp.sum(jnp.where(drawn.mask_BT, kl_BT, 0.0), axis=1)


def plain_score(scalar: ScalarModel, scorer: Any, prompts: RolloutPrompts, drawn: Answers) -> jax.Array:
    """score_B: what the scorer says of a response behind its prompt. r(x, y) for the policy, r(x, y, y_ref) else."""
    return answer_scores(scalar, scorer, prompts.prompt_BP, prompts.prompt_mask_BP, drawn)


def centered_gap(scalar: ScalarModel, scorer: Any, prompts: RolloutPrompts, drawn: Answers) -> jax.Array:
    """score_B = r(x, y, y_ref) - r(x, y_ref, y_ref): copying the reference, its EOS included, earns 0."""
    reference = Answers(prompts.reference_BT, prompts.reference_mask_BT)
    return plain_score(scalar, scorer, prompts, drawn) - plain_score(scalar, scorer, prompts, reference)


def score_difference(scalar: ScalarModel, scorer: Any, prompts: RolloutPrompts, drawn: Answers) -> jax.Array:
    """score_B = r(x, y) - r(x, y_ref) of a reward model that reads one answer at a time (ablation of PIT Sec. 4.5)."""
    reference = Answers(prompts.reference_BT, prompts.reference_mask_BT)
    plain = prompts.plain_BP, prompts.plain_mask_BP
    return answer_scores(scalar, scorer, *plain, drawn) - answer_scores(scalar, scorer, *plain, reference)


def make_rollout(
    policy: LanguageModel,
    scalar: ScalarModel,
    config: RlConfig,
    *,
    slot: int,
    eos_id: int,
    pad_id: int,
    score: Score,
) -> Rollout:
    """rollout(params, frozen, prompts: RolloutPrompts, key, kl_coef) -> (experience, metrics).

    params = {"policy", "value"}; frozen = {"anchor": the SFT model of the KL, "scorer": reward or gap model} and
    "guard", a second gap model, where there is one; `score` is plain_score, centered_gap or score_difference. With
    config.guards.worst_case the score is the lower of the scorer's and the guard's: worst-case optimisation of an
    ensemble of two (WCO, arXiv 2310.02743).
    """
    sampling = Sampling(temperature=config.temperature)

    def rollout(
        params: Any, frozen: Any, prompts: RolloutPrompts, key: jax.Array, kl_coef: jax.Array
    ) -> tuple[Experience, Metrics]:
        prompt_BP, prompt_mask_BP = prompts.prompt_BP, prompts.prompt_mask_BP
        drawn = generate(
            policy,
            params["policy"],
            prompt_BP,
            prompt_mask_BP,
            key,
            sampling=sampling,
            response_slot=slot,
            eos_id=eos_id,
            pad_id=pad_id,
        )
        mask_BT = drawn.mask_BT
        tokens_BL = jnp.concatenate([prompt_BP, drawn.tokens_BT], axis=1)
        segments_BL = jnp.concatenate([prompt_mask_BP, mask_BT], axis=1).astype(jnp.int32)
        ref_logprobs_BT = response_logprobs(
            policy, frozen["anchor"], tokens_BL, segments_BL, slot=slot, temperature=config.temperature
        )
        values_BT = response_values(scalar, params["value"], tokens_BL, segments_BL, slot=slot)
        answers = Answers(drawn.tokens_BT, mask_BT)
        score_B = score(scalar, frozen["scorer"], prompts, answers)
        real_B = jnp.any(mask_BT, axis=1)
        metrics: Metrics = {}
        if "guard" in frozen:
            guard_B = score(scalar, frozen["guard"], prompts, answers)
            metrics = guard_metrics(score_B, guard_B, real_B)
            score_B = jnp.minimum(score_B, guard_B) if config.guards.worst_case else score_B
        unfinished_B = jnp.minimum(score_B, 0.0) - config.missing_eos_penalty
        penalised_B = jnp.where(drawn.ended_B, score_B, unfinished_B)
        kl_BT = kl_estimate(drawn.logprobs_BT, ref_logprobs_BT, kind=config.kl_kind)
        rewards_BT = shaped_rewards(penalised_B, kl_BT, mask_BT, kl_coef=kl_coef)
        advantages_BT, returns_BT = gae(
            rewards_BT, values_BT, mask_BT, gamma=config.gamma, gae_lambda=config.gae_lambda
        )
        experience = Experience(
            tokens_BL=tokens_BL,
            segments_BL=segments_BL,
            mask_BT=mask_BT,
            old_logprobs_BT=drawn.logprobs_BT,
            old_values_BT=values_BT,
            advantages_BT=whiten(advantages_BT, mask_BT),
            returns_BT=returns_BT,
            scores_B=score_B,
        )
        metrics |= {
            "objective/scores": Mean.of(score_B, real_B),
            "objective/success": Mean.of(score_B > 0.0, real_B),
            "objective/rlhf_reward": Mean.of(jnp.sum(rewards_BT, axis=1), real_B),
            "objective/kl": Mean.of(sequence_kl(drawn, ref_logprobs_BT, kind="k1"), real_B),
            "objective/kl_k3": Mean.of(sequence_kl(drawn, ref_logprobs_BT, kind="k3"), real_B),
            **text_metrics(drawn, prompts),
        }
        return experience, metrics

    return rollout


def text_metrics(drawn: Generated, prompts: RolloutPrompts) -> Metrics:
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


def guard_metrics(gap_B: jax.Array, guard_B: jax.Array, real_B: jax.Array) -> Metrics:
    """The guard's mean score, and how far it is from the scorer's on the mean response."""
    return {
        "guard/scores": Mean.of(guard_B, real_B),
        "guard/disagreement": Mean.of(jnp.abs(gap_B - guard_B), real_B),
    }


def provider_metrics(scores_B: jax.Array, names: tuple[str, ...]) -> Metrics:
    """Mean score of the rollouts over each provider's references, and the share above 0; providers share B evenly."""
    metrics: Metrics = {}
    for name, part_B in zip(names, jnp.split(scores_B, len(names)), strict=True):
        metrics[f"curriculum/{name}/scores"] = Mean.of(part_B)
        metrics[f"curriculum/{name}/success"] = Mean.of(part_B > 0.0)
    return metrics


def make_ppo_loss(policy: LanguageModel, scalar: ScalarModel, config: RlConfig, *, slot: int) -> Loss:
    """Clipped policy loss + vf_coef * clipped value loss over {"policy", "value"}, both token means."""

    def loss(params: Any, batch: Experience, key: jax.Array) -> tuple[jax.Array, Metrics]:
        logprobs_BT = response_logprobs(
            policy, params["policy"], batch.tokens_BL, batch.segments_BL, slot=slot, temperature=config.temperature
        )
        values_BT = response_values(scalar, params["value"], batch.tokens_BL, batch.segments_BL, slot=slot)
        actor, metrics = policy_loss(
            logprobs_BT, batch.old_logprobs_BT, batch.advantages_BT, batch.mask_BT, clip_eps=config.clip_eps
        )
        critic, value_metrics = value_loss(
            values_BT, batch.old_values_BT, batch.returns_BT, batch.mask_BT, clip_eps=config.value_clip_eps
        )
        total = actor + config.vf_coef * critic
        count = metrics["loss"].count
        return total, {**metrics, **value_metrics, "loss": Mean(total * count, count)}

    return loss
