"""A rollout, recomputed plainly in NumPy, and what PPO may count on at its first minibatch."""

import dataclasses
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pit_jax.batch import Experience, RolloutPrompts
from pit_jax.config import GuardsConfig, RlConfig
from pit_jax.inference.repetition import repeated_ngrams
from pit_jax.model.attention import causal_visible, segment_positions
from pit_jax.stages.rm import sequence_scores
from pit_jax.stages.rollout import (
    NGRAM,
    Score,
    centered_gap,
    make_ppo_loss,
    make_rollout,
    plain_score,
    score_difference,
)

CONFIG = RlConfig(temperature=0.7, kl_kind="k3", gamma=0.97, gae_lambda=0.9, missing_eos_penalty=1.5)
KEY, KL_COEF, ROWS = jax.random.key(3), jnp.float32(0.2), 12


@pytest.fixture(scope="module")
def params(world: Any) -> Any:
    """The model that samples has moved away from its anchor; the value model from the scorer."""
    return {"policy": world.draw(world.language, 0), "value": world.draw(world.scalar, 1)}


@pytest.fixture(scope="module")
def frozen(world: Any, params: Any) -> Any:
    shift = jax.tree.map(lambda x, y: x + 0.1 * y, params["policy"], world.draw(world.language, 2))
    return {"anchor": shift, "scorer": world.draw(world.scalar, 3)}


@pytest.fixture(scope="module")
def prompts(world: Any) -> RolloutPrompts:
    return jax.tree.map(jnp.asarray, world.rollout_prompts(ROWS))


def program(world: Any, *, score: Score, config: RlConfig = CONFIG) -> Any:
    return jax.jit(
        make_rollout(
            world.language,
            world.scalar,
            config,
            slot=world.slot,
            eos_id=world.eos_id,
            pad_id=world.pad_id,
            score=score,
        )
    )


@pytest.fixture(scope="module")
def rollout(world: Any) -> Any:
    return program(world, score=centered_gap)


@pytest.fixture(scope="module")
def rolled(rollout: Any, params: Any, frozen: Any, prompts: RolloutPrompts) -> Any:
    """(experience, metrics) of the rollout that most tests look at, on the host."""
    return jax.device_get(rollout(params, frozen, prompts, KEY, KL_COEF))


@pytest.fixture(scope="module")
def gradient(world: Any) -> Any:
    loss = make_ppo_loss(world.language, world.scalar, CONFIG, slot=world.slot)
    return jax.jit(jax.value_and_grad(lambda params, batch: loss(params, batch, KEY), has_aux=True))


def plain_logprobs(world: Any, params: Any, experience: Experience) -> np.ndarray:
    """[B, T] at the sampling temperature, from logits of the whole row, softmax in float64."""

    @jax.jit
    def logits(params: Any, tokens_BL: jax.Array, segments_BL: jax.Array) -> jax.Array:
        place = (segment_positions(segments_BL), causal_visible(segments_BL))
        return world.language.logits(params, world.language.hidden(params, tokens_BL, *place))

    scaled_BLV = np.asarray(logits(params, experience.tokens_BL, experience.segments_BL), np.float64)
    scaled_BLV /= CONFIG.temperature
    logprobs_BLV = scaled_BLV - np.log(np.exp(scaled_BLV).sum(-1, keepdims=True))
    before_BTV = logprobs_BLV[:, -world.slot - 1 : -1]
    return np.take_along_axis(before_BTV, experience.tokens_BL[:, -world.slot :, None], -1)[..., 0]


def plain_values(world: Any, params: Any, experience: Experience) -> np.ndarray:
    """[B, T]: the scalar at the token before each response token."""

    @jax.jit
    def scalars(params: Any, tokens_BL: jax.Array, segments_BL: jax.Array) -> jax.Array:
        return world.scalar.scalars(params, tokens_BL, segment_positions(segments_BL), causal_visible(segments_BL))

    return np.asarray(scalars(params, experience.tokens_BL, experience.segments_BL))[:, -world.slot - 1 : -1]


def plain_scores(world: Any, params: Any, prompts: RolloutPrompts, tokens_BT: Any, mask_BT: Any) -> np.ndarray:
    tokens_BL = jnp.concatenate([prompts.prompt_BP, jnp.asarray(tokens_BT)], axis=1)
    segments_BL = jnp.concatenate([prompts.prompt_mask_BP, jnp.asarray(mask_BT)], axis=1).astype(jnp.int32)
    return np.asarray(jax.jit(partial(sequence_scores, world.scalar))(params, tokens_BL, segments_BL), np.float64)


def plain_advantages(rewards: list[float], values: list[float]) -> list[float]:
    """Generalised advantage estimates of one response, straight from the sum that defines them."""
    after = [*values[1:], 0.0]
    deltas = [r + CONFIG.gamma * w - v for r, v, w in zip(rewards, values, after, strict=True)]
    decay = CONFIG.gamma * CONFIG.gae_lambda
    return [sum(decay**k * d for k, d in enumerate(deltas[t:])) for t in range(len(deltas))]


def ended(experience: Experience, world: Any) -> np.ndarray:
    return (np.where(experience.mask_BT, experience.tokens_BL[:, -world.slot :], -1) == world.eos_id).any(axis=1)


def test_the_rows_hold_what_was_drawn(world: Any, rolled: Any, prompts: RolloutPrompts) -> None:
    experience, metrics = rolled
    np.testing.assert_array_equal(experience.tokens_BL[:, : world.prompt_slot], prompts.prompt_BP)
    np.testing.assert_array_equal(experience.segments_BL[:, : world.prompt_slot], prompts.prompt_mask_BP)
    np.testing.assert_array_equal(experience.segments_BL[:, world.prompt_slot :], experience.mask_BT)
    ended_B, lengths_B = ended(experience, world), experience.mask_BT.sum(axis=1)
    assert 0 < ended_B.sum() < ROWS, "some answers end and some fill their slot"
    assert (lengths_B[~ended_B] == world.slot).all()
    np.testing.assert_allclose(metrics["val/eos_rate"].value, ended_B.mean(), rtol=1e-6)
    np.testing.assert_allclose(metrics["val/response_length"].value, lengths_B.mean(), rtol=1e-6)
    entropy = -experience.old_logprobs_BT[experience.mask_BT].mean()
    np.testing.assert_allclose(metrics["objective/entropy"].value, entropy, rtol=1e-5)
    repeated_B = repeated_ngrams(experience.tokens_BL[:, -world.slot :], experience.mask_BT, n=NGRAM)
    np.testing.assert_allclose(metrics["val/repetition"].value, repeated_B.mean(), rtol=1e-6)


@pytest.mark.parametrize("score", [centered_gap, plain_score, score_difference])
def test_advantages_and_returns_equal_a_plain_recomputation(
    world: Any, rollout: Any, params: Any, frozen: Any, prompts: RolloutPrompts, score: Score
) -> None:
    run = rollout if score is centered_gap else program(world, score=score)
    experience, metrics = jax.device_get(run(params, frozen, prompts, KEY, KL_COEF))
    mask_BT = experience.mask_BT
    logprobs_BT = plain_logprobs(world, params["policy"], experience)
    d_BT = logprobs_BT - plain_logprobs(world, frozen["anchor"], experience)
    values_BT = plain_values(world, params["value"], experience)
    alone = replace(prompts, prompt_BP=prompts.plain_BP, prompt_mask_BP=prompts.plain_mask_BP)
    read = alone if score is score_difference else prompts
    score_B = plain_scores(world, frozen["scorer"], read, experience.tokens_BL[:, -world.slot :], mask_BT)
    if score is not plain_score:
        score_B -= plain_scores(world, frozen["scorer"], read, prompts.reference_BT, prompts.reference_mask_BT)
    ended_B = ended(experience, world)
    advantages: list[list[float]] = []
    for b in range(ROWS):
        length = int(mask_BT[b].sum())
        rewards = [-float(KL_COEF) * (np.exp(-d) - 1 + d) for d in d_BT[b, :length]]
        rewards[-1] += score_B[b] if ended_B[b] else min(score_B[b], 0.0) - CONFIG.missing_eos_penalty
        advantages.append(plain_advantages(rewards, values_BT[b, :length].tolist()))
        returns_T = np.array(advantages[b]) + values_BT[b, :length]
        np.testing.assert_allclose(experience.returns_BT[b, :length], returns_T, rtol=1e-4, atol=1e-4)
    everything = np.concatenate(advantages)
    white = (everything - everything.mean()) / np.sqrt(everything.var(ddof=1) + 1e-8)
    np.testing.assert_allclose(experience.advantages_BT[mask_BT], white, atol=1e-4)
    np.testing.assert_allclose(experience.old_logprobs_BT[mask_BT], logprobs_BT[mask_BT], atol=1e-5)
    np.testing.assert_allclose(experience.old_values_BT[mask_BT], values_BT[mask_BT], atol=1e-5)
    np.testing.assert_allclose(experience.scores_B, score_B, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(metrics["objective/scores"].value, score_B.mean(), rtol=1e-4, atol=1e-5)
    assert metrics["objective/success"].value == (experience.scores_B > 0).mean()
    sequence_kl = np.where(mask_BT, d_BT, 0).sum(axis=1).mean()
    np.testing.assert_allclose(metrics["objective/kl"].value, sequence_kl, rtol=1e-4, atol=1e-5)
    assert np.abs(score_B).max() > 0.1 and np.abs(d_BT[mask_BT]).max() > 0.1


def test_an_exact_copy_of_the_reference_has_centred_gap_zero(
    world: Any, rollout: Any, rolled: Any, params: Any, frozen: Any, prompts: RolloutPrompts
) -> None:
    """Same prompts and key, and the reference is now what will be drawn."""
    experience, metrics = rolled
    assert metrics["val/copy_rate"].value == 0.0 and abs(metrics["objective/scores"].value) > 1e-2
    tokens_BT = experience.tokens_BL[:, -world.slot :]
    copied = replace(prompts, reference_BT=jnp.asarray(tokens_BT), reference_mask_BT=jnp.asarray(experience.mask_BT))
    _, again = rollout(params, frozen, copied, KEY, KL_COEF)
    assert again["val/copy_rate"].value == 1.0 and float(again["objective/scores"].sum) == 0.0
    half_B1 = (np.arange(ROWS) < ROWS // 2)[:, None]
    mixed = jax.tree.map(lambda a, b: jnp.where(half_B1, a, b), copied, prompts)
    assert rollout(params, frozen, mixed, KEY, KL_COEF)[1]["val/copy_rate"].value == 0.5


def test_a_guard_is_measured_and_changes_nothing(
    world: Any, rollout: Any, rolled: Any, params: Any, frozen: Any, prompts: RolloutPrompts
) -> None:
    guard = world.draw(world.scalar, 4)
    experience, metrics = jax.device_get(rollout(params, {**frozen, "guard": guard}, prompts, KEY, KL_COEF))
    before, metrics_before = rolled
    for found, expected in zip(jax.tree.leaves(experience), jax.tree.leaves(before), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    drawn = experience.tokens_BL[:, -world.slot :], experience.mask_BT
    guard_B = plain_scores(world, guard, prompts, *drawn)
    guard_B -= plain_scores(world, guard, prompts, prompts.reference_BT, prompts.reference_mask_BT)
    apart_B = np.abs(guard_B - experience.scores_B)
    np.testing.assert_allclose(metrics.pop("guard/scores").value, guard_B.mean(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(metrics.pop("guard/disagreement").value, apart_B.mean(), rtol=1e-4)
    assert metrics.keys() == metrics_before.keys() and apart_B.mean() > 0.1


def test_the_worst_case_of_the_two_gaps_is_the_score(
    world: Any, rolled: Any, params: Any, frozen: Any, prompts: RolloutPrompts
) -> None:
    """Row by row the lower one; it is what returns are made of, and the scorer's own where both models are one."""
    worst = program(world, score=centered_gap, config=replace(CONFIG, guards=GuardsConfig(worst_case=True)))
    guard, kl_coef = world.draw(world.scalar, 4), jnp.float32(0.0)
    experience, metrics = jax.device_get(worst(params, {**frozen, "guard": guard}, prompts, KEY, kl_coef))
    drawn = experience.tokens_BL[:, -world.slot :], experience.mask_BT
    guard_B = plain_scores(world, guard, prompts, *drawn)
    guard_B -= plain_scores(world, guard, prompts, prompts.reference_BT, prompts.reference_mask_BT)
    gap_B = rolled[0].scores_B
    assert 0 < (guard_B < gap_B).sum() < ROWS
    np.testing.assert_allclose(experience.scores_B, np.minimum(gap_B, guard_B), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(metrics["objective/scores"].value, np.minimum(gap_B, guard_B).mean(), rtol=1e-4)
    np.testing.assert_allclose(metrics["objective/rlhf_reward"].sum, earned(experience, world), rtol=1e-5)
    alike, _ = jax.device_get(worst(params, {**frozen, "guard": frozen["scorer"]}, prompts, KEY, kl_coef))
    np.testing.assert_allclose(alike.scores_B, gap_B, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sign", [1, -1])
def test_an_unfinished_answer_earns_nothing_and_pays_the_penalty(
    world: Any, rollout: Any, params: Any, frozen: Any, prompts: RolloutPrompts, sign: int
) -> None:
    """Without a KL penalty rewards add up to the scores; where no EOS came, to min(score, 0) less the penalty."""
    scorer = {**frozen["scorer"], "head": jax.tree.map(lambda x: sign * x, frozen["scorer"]["head"])}
    experience, metrics = jax.device_get(rollout(params, {**frozen, "scorer": scorer}, prompts, KEY, jnp.float32(0.0)))
    unfinished_B = ~ended(experience, world)
    assert (sign * experience.scores_B[unfinished_B] > 0).any() and not unfinished_B.all()
    np.testing.assert_allclose(metrics["objective/rlhf_reward"].sum, earned(experience, world), rtol=1e-5)


def test_a_policy_that_is_its_anchor_has_no_kl(
    world: Any, rollout: Any, params: Any, frozen: Any, prompts: RolloutPrompts
) -> None:
    same = {**frozen, "anchor": params["policy"]}
    experience, metrics = jax.device_get(rollout(params, same, prompts, KEY, KL_COEF))
    assert abs(metrics["objective/kl"].value) < 1e-5 and abs(metrics["objective/kl_k3"].value) < 1e-5
    np.testing.assert_allclose(metrics["objective/rlhf_reward"].sum, earned(experience, world), atol=1e-4)


def earned(experience: Any, world: Any) -> float:
    """Sum over rows of the score with the rule for unfinished answers."""
    unfinished_B = np.minimum(experience.scores_B, 0.0) - CONFIG.missing_eos_penalty
    return float(np.where(ended(experience, world), experience.scores_B, unfinished_B).sum())


def test_rows_without_a_prompt_count_nowhere(
    rollout: Any, rolled: Any, params: Any, frozen: Any, prompts: RolloutPrompts
) -> None:
    empty_B1 = (np.arange(ROWS) >= ROWS - 2)[:, None]
    holes = replace(prompts, prompt_mask_BP=prompts.prompt_mask_BP & ~empty_B1)
    experience, metrics = jax.device_get(rollout(params, frozen, holes, KEY, KL_COEF))
    assert not experience.mask_BT[-2:].any()
    assert float(metrics["objective/scores"].count) == float(metrics["val/eos_rate"].count) == ROWS - 2
    before = rolled[0]
    np.testing.assert_array_equal(experience.tokens_BL[:-2], before.tokens_BL[:-2])
    np.testing.assert_allclose(experience.returns_BT[:-2], before.returns_BT[:-2], atol=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(experience))


def test_the_first_minibatch_has_ratio_one(rolled: Any, params: Any, gradient: Any) -> None:
    experience, _ = rolled
    (_, metrics), _ = gradient(params, experience)
    assert abs(metrics["val/ratio"].value - 1.0) < 1e-5
    assert metrics["policy/approxkl_avg"].value < 1e-9 and metrics["policy/clipfrac_avg"].value == 0.0
    assert float(metrics["val/ratio"].count) == experience.mask_BT.sum()
    error_BT = (experience.old_values_BT - experience.returns_BT)[experience.mask_BT]
    np.testing.assert_allclose(metrics["loss/value_avg"].value, 0.5 * np.square(error_BT).mean(), rtol=1e-4)


def test_the_loss_is_the_policy_loss_plus_the_weighted_value_loss(rolled: Any, params: Any, gradient: Any) -> None:
    (loss, metrics), _ = gradient(params, rolled[0])
    total = metrics["loss/policy_avg"].value + CONFIG.vf_coef * metrics["loss/value_avg"].value
    np.testing.assert_allclose(loss, total, rtol=1e-6)
    np.testing.assert_allclose(metrics["loss"].value, total, rtol=1e-6)


def test_another_temperature_would_break_the_ratio(world: Any, rolled: Any, params: Any) -> None:
    """What the first-minibatch check is there to notice."""
    wrong = make_ppo_loss(world.language, world.scalar, replace(CONFIG, temperature=1.0), slot=world.slot)
    _, metrics = jax.jit(wrong)(params, rolled[0], KEY)
    assert abs(metrics["val/ratio"].value - 1.0) > 1e-2


def test_junk_in_padded_slots_changes_neither_loss_nor_gradient(
    world: Any, rolled: Any, params: Any, gradient: Any
) -> None:
    experience, _ = rolled
    padding_BT, padding_BL = ~experience.mask_BT, experience.segments_BL == 0
    assert padding_BT.any() and padding_BL[:, : world.prompt_slot].any()
    junk = dataclasses.replace(
        experience,
        tokens_BL=np.where(padding_BL, world.vocab - 1, experience.tokens_BL),
        old_logprobs_BT=np.where(padding_BT, np.float32(np.nan), experience.old_logprobs_BT),
        old_values_BT=np.where(padding_BT, np.float32(np.inf), experience.old_values_BT),
        advantages_BT=np.where(padding_BT, np.float32(-np.inf), experience.advantages_BT),
        returns_BT=np.where(padding_BT, np.float32(np.nan), experience.returns_BT),
    )
    clean, dirty = gradient(params, experience), gradient(params, junk)
    for found, expected in zip(jax.tree.leaves(dirty), jax.tree.leaves(clean), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
