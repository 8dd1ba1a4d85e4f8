"""A rollout, recomputed plainly in NumPy, and what PPO may count on at its first minibatch."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pit_jax.batch import Responses, RolloutPrompts
from pit_jax.config import MonitorsConfig
from pit_jax.inference.engine import with_reference
from pit_jax.inference.repetition import repeated_ngrams
from pit_jax.rl import rewards
from pit_jax.rl.algorithms import ALGORITHMS
from pit_jax.rl.rollout import NGRAM, by_rows, make_loss, provider_metrics
from pit_jax.training.state import create_state
from pit_jax.training.step import make_train_step
from tests.rl import plain_rollout as plain
from tests.rl.rolling import CONFIG, KL_COEF, ROWS, Rolled, Rolling, ended, rolling, score_program
from tests.world import World

KEY = jax.random.key(3)
PLAIN = {
    rewards.centered_gap: plain.centered_gap,
    rewards.plain_score: plain.plain_score,
    rewards.score_difference: plain.score_difference,
    partial(rewards.gap_of_both_orders, spec=World().spec): plain.gap_of_both_orders,
}


@pytest.fixture(scope="module")
def roll(world: World) -> Rolling:
    return rolling(world)


@pytest.fixture(scope="module")
def rolled(roll: Rolling) -> Rolled:
    """The rollout that most tests look at."""
    return roll()


@pytest.fixture(scope="module")
def gradient(world: World) -> Any:
    loss = make_loss(world.language, world.scalar, CONFIG, ALGORITHMS["ppo"], slot=world.slot)
    return jax.jit(jax.value_and_grad(lambda params, batch: loss(params, batch, KEY), has_aux=True))


def test_rows_scored_in_pieces_are_those_scored_at_once(world: World, roll: Rolling, rolled: Rolled) -> None:
    pieces = replace(roll, score=score_program(world, config=replace(CONFIG, score_rows=ROWS // 3)))()
    for found, expected in zip(*(jax.tree.leaves(vars(each)) for each in (pieces, rolled)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_pieces_are_read_in_the_order_of_the_rows() -> None:
    rows = {"a": jnp.arange(6), "b": jnp.arange(12).reshape(6, 2)}
    sizes: list[int] = []

    def read(rows: Any) -> Any:
        sizes.append(len(rows["a"]))
        return {"sum": rows["a"] + rows["b"].sum(axis=1), "b": rows["b"]}

    whole = by_rows(read, 0, rows)
    for size in (2, 3, 6):
        for x, y in zip(jax.tree.leaves(by_rows(read, size, rows)), jax.tree.leaves(whole), strict=True):
            np.testing.assert_array_equal(x, y)
    assert set(sizes) == {2, 3, 6}


def test_updates_in_parts_are_those_of_the_whole_minibatch(world: World, roll: Rolling, rolled: Rolled) -> None:
    """Rows of very different lengths; actor and critic."""
    loss = make_loss(world.language, world.scalar, CONFIG, ALGORITHMS["ppo"], slot=world.slot)
    optimizer = optax.sgd(0.1)
    state = create_state(roll.params, optimizer, seed=0, extras={})
    ends = [
        jax.jit(make_train_step(loss, optimizer, accumulate=accumulate))(state, rolled.experience)
        for accumulate in (1, 3)
    ]
    assert len(set(np.asarray(rolled.experience.mask_BT).sum(axis=1).tolist())) > 2
    (one, one_metrics), (parts, parts_metrics) = ends
    for found, expected in zip(jax.tree.leaves(parts.params), jax.tree.leaves(one.params), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    for name, mean in one_metrics.items():
        np.testing.assert_allclose(parts_metrics[name].value, mean.value, rtol=1e-4, atol=1e-6, err_msg=name)


def test_the_rows_hold_what_was_drawn(world: World, roll: Rolling, rolled: Rolled) -> None:
    experience, metrics, drawn, prompts = rolled.experience, rolled.metrics, rolled.drawn, roll.prompts
    np.testing.assert_array_equal(experience.tokens_BL[:, : world.prompt_slot], prompts.prompt_BP)
    np.testing.assert_array_equal(experience.segments_BL[:, : world.prompt_slot], prompts.prompt_mask_BP)
    np.testing.assert_array_equal(experience.tokens_BL[:, world.prompt_slot :], drawn.tokens_BT)
    np.testing.assert_array_equal(experience.segments_BL[:, world.prompt_slot :], experience.mask_BT)
    np.testing.assert_array_equal(experience.old_logprobs_BT, drawn.logprobs_BT)
    ended_B, lengths_B = ended(rolled), experience.mask_BT.sum(axis=1)
    last_B = drawn.tokens_BT[np.arange(ROWS), lengths_B - 1]
    np.testing.assert_array_equal(ended_B, last_B == world.eos_id)
    assert 0 < ended_B.sum() < ROWS, "some answers end and some fill their slot"
    assert (lengths_B[~ended_B] == world.slot).all()
    np.testing.assert_allclose(metrics["val/eos_rate"].value, ended_B.mean(), rtol=1e-6)
    np.testing.assert_allclose(metrics["val/response_length"].value, lengths_B.mean(), rtol=1e-6)
    entropy = -experience.old_logprobs_BT[experience.mask_BT].mean()
    np.testing.assert_allclose(metrics["objective/entropy"].value, entropy, rtol=1e-5)
    repeated_B = repeated_ngrams(drawn.tokens_BT, experience.mask_BT, n=NGRAM)
    np.testing.assert_allclose(metrics["val/repetition"].value, repeated_B.mean(), rtol=1e-6)


@pytest.mark.parametrize("reward", PLAIN, ids=lambda reward: getattr(reward, "func", reward).__name__)
def test_advantages_and_returns_equal_a_plain_recomputation(world: World, roll: Rolling, reward: Any) -> None:
    run = roll if reward is rewards.centered_gap else replace(roll, score=score_program(world, reward=reward))
    found = run()
    experience, metrics, drawn, prompts = found.experience, found.metrics, found.drawn, roll.prompts
    mask_BT = experience.mask_BT
    logprobs, anchors = (
        plain.logprobs(world, params, prompts, drawn, CONFIG.temperature)
        for params in (roll.params["policy"], roll.frozen["anchor"])
    )
    d = [a - b for a, b in zip(logprobs, anchors, strict=True)]
    values = plain.values(world, roll.params["value"], prompts, drawn)
    score_B = PLAIN[reward](world, roll.frozen["scorer"], prompts, drawn)
    earned_B = plain.earned(score_B, drawn, CONFIG)
    token_rewards = plain.token_rewards(d, earned_B, kind="k3", kl_coef=KL_COEF)
    advantages = [plain.advantages(r, v, CONFIG) for r, v in zip(token_rewards, values, strict=True)]
    returns = np.concatenate([a + v for a, v in zip(advantages, values, strict=True)])
    assert experience.returns_BT is not None and experience.old_values_BT is not None
    np.testing.assert_allclose(experience.returns_BT[mask_BT], returns, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(experience.advantages_BT[mask_BT], plain.whitened(advantages), atol=1e-4)
    np.testing.assert_allclose(experience.old_logprobs_BT[mask_BT], np.concatenate(logprobs), atol=1e-5)
    np.testing.assert_allclose(experience.old_values_BT[mask_BT], np.concatenate(values), atol=1e-5)
    np.testing.assert_allclose(experience.scores_B, score_B, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(metrics["objective/scores"].value, score_B.mean(), rtol=1e-4, atol=1e-5)
    assert metrics["objective/success"].value == (experience.scores_B > 0).mean()
    for name, kind in (("objective/kl", "k1"), ("objective/kl_k3", "k3")):
        expected = np.mean([plain.kl(d_T, kind).sum() for d_T in d])
        np.testing.assert_allclose(metrics[name].value, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(score_B).max() > 0.1 and np.abs(np.concatenate(d)).max() > 0.1
    assert experience.anchor_logprobs_BT is None and experience.kl_coef_B is None, "the KL is in the rewards"


def test_what_texts_earn_is_added_to_the_model_s_score(roll: Rolling, rolled: Rolled) -> None:
    """It counts in what is reported and what is learned; the gap, and who beat the reference, stay as they are."""
    text_B = np.linspace(-3, 3, ROWS).astype(np.float32)
    found, before = roll(text_B=text_B, kl_coef=0.0), rolled.metrics
    np.testing.assert_array_equal(found.experience.scores_B, rolled.experience.scores_B)
    total_B = found.experience.scores_B + text_B
    np.testing.assert_allclose(found.metrics["objective/scores"].value, total_B.mean(), rtol=1e-5)
    assert found.metrics["objective/success"].value == before["objective/success"].value
    expected = plain.earned(total_B, found.drawn, CONFIG).sum()
    np.testing.assert_allclose(found.metrics["objective/rlhf_reward"].sum, expected, rtol=1e-5)
    returns_BT, before_BT = found.experience.returns_BT, rolled.experience.returns_BT
    assert returns_BT is not None and before_BT is not None
    assert not np.allclose(returns_BT, before_BT)


def test_an_exact_copy_of_the_reference_has_centred_gap_zero(roll: Rolling, rolled: Rolled) -> None:
    """Same prompts and key, and the reference is now what will be drawn."""
    assert rolled.metrics["val/copy_rate"].value == 0.0 and abs(rolled.metrics["objective/scores"].value) > 1e-2
    answers = {"reference_BT": rolled.drawn.tokens_BT, "reference_mask_BT": rolled.drawn.mask_BT}
    copied = replace(roll.prompts, **jax.tree.map(jnp.asarray, answers))
    again = roll(copied).metrics
    assert again["val/copy_rate"].value == 1.0 and float(again["objective/scores"].sum) == 0.0
    half_B1 = (np.arange(ROWS) < ROWS // 2)[:, None]
    mixed = jax.tree.map(lambda a, b: jnp.where(half_B1, a, b), copied, roll.prompts)
    assert roll(mixed).metrics["val/copy_rate"].value == 0.5


def second_of(world: World, roll: Rolling, rolled: Rolled) -> tuple[Any, np.ndarray]:
    """(a second gap model, its centred gaps of the rollout)."""
    second = world.draw(world.scalar, 4)
    return second, plain.centered_gap(world, second, roll.prompts, rolled.drawn)


def test_a_second_gap_is_measured_and_changes_nothing(world: World, roll: Rolling, rolled: Rolled) -> None:
    second, second_B = second_of(world, roll, rolled)
    found = roll.beside(**{"second-gap": second})()
    for now, before in zip(jax.tree.leaves(found.experience), jax.tree.leaves(rolled.experience), strict=True):
        np.testing.assert_allclose(now, before, rtol=1e-6, atol=1e-6)
    apart_B = np.abs(second_B - found.experience.scores_B)
    metrics = dict(found.metrics)
    np.testing.assert_allclose(metrics.pop("second-gap/scores").value, second_B.mean(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(metrics.pop("second-gap/disagreement").value, apart_B.mean(), rtol=1e-4)
    assert metrics.keys() == rolled.metrics.keys() and apart_B.mean() > 0.1


def test_the_worst_case_of_the_two_gaps_is_the_score(world: World, roll: Rolling, rolled: Rolled) -> None:
    """Row by row the lower one; it is what returns are made of, and the scorer's own where both models are one."""
    config = replace(CONFIG, monitors=MonitorsConfig(worst_case=True))
    worst = replace(roll, score=score_program(world, config=config))
    second, second_B = second_of(world, roll, rolled)
    found = worst.beside(**{"second-gap": second})(kl_coef=0.0)
    gap_B = rolled.experience.scores_B
    assert 0 < (second_B < gap_B).sum() < ROWS
    lower_B = np.minimum(gap_B, second_B)
    np.testing.assert_allclose(found.experience.scores_B, lower_B, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.metrics["objective/scores"].value, lower_B.mean(), rtol=1e-4)
    earned_B = plain.earned(found.experience.scores_B, found.drawn, CONFIG)
    np.testing.assert_allclose(found.metrics["objective/rlhf_reward"].sum, earned_B.sum(), rtol=1e-5)
    alike = worst.beside(**{"second-gap": roll.frozen["scorer"]})(kl_coef=0.0)
    np.testing.assert_allclose(alike.experience.scores_B, gap_B, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sign", [1, -1])
def test_an_unfinished_answer_earns_nothing_and_pays_the_penalty(roll: Rolling, sign: int) -> None:
    """Without a KL penalty rewards add up to the scores; where no EOS came, to min(score, 0) less the penalty."""
    scorer = roll.frozen["scorer"]
    turned = roll.beside(scorer={**scorer, "head": jax.tree.map(lambda x: sign * x, scorer["head"])})
    found = turned(kl_coef=0.0)
    score_B, unfinished_B = found.experience.scores_B, ~ended(found)
    assert (sign * score_B[unfinished_B] > 0).any() and not unfinished_B.all()
    expected = plain.earned(score_B, found.drawn, CONFIG).sum()
    np.testing.assert_allclose(found.metrics["objective/rlhf_reward"].sum, expected, rtol=1e-5)


def test_a_policy_that_is_its_anchor_has_no_kl(roll: Rolling) -> None:
    found = roll.beside(anchor=roll.params["policy"])()
    assert abs(found.metrics["objective/kl"].value) < 1e-5 and abs(found.metrics["objective/kl_k3"].value) < 1e-5
    expected = plain.earned(found.experience.scores_B, found.drawn, CONFIG).sum()
    np.testing.assert_allclose(found.metrics["objective/rlhf_reward"].sum, expected, atol=1e-4)


def test_rows_without_a_prompt_count_nowhere(roll: Rolling, rolled: Rolled) -> None:
    empty_B1 = (np.arange(ROWS) >= ROWS - 2)[:, None]
    holes = replace(roll.prompts, prompt_mask_BP=roll.prompts.prompt_mask_BP & ~empty_B1)
    found = roll(holes)
    experience, before = found.experience, rolled.experience
    assert not experience.mask_BT[-2:].any()
    assert float(found.metrics["objective/scores"].count) == float(found.metrics["val/eos_rate"].count) == ROWS - 2
    np.testing.assert_array_equal(experience.tokens_BL[:-2], before.tokens_BL[:-2])
    assert experience.returns_BT is not None and before.returns_BT is not None
    np.testing.assert_allclose(experience.returns_BT[:-2], before.returns_BT[:-2], atol=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(experience))


def test_providers_are_measured_apart() -> None:
    metrics = provider_metrics(jnp.asarray([1.0, -1.0, 2.0, 3.0]), ("rejected", "chosen"))
    found = {name: mean.value for name, mean in metrics.items()}
    assert found == {
        "curriculum/rejected/scores": 0.0,
        "curriculum/rejected/success": 0.5,
        "curriculum/chosen/scores": 2.5,
        "curriculum/chosen/success": 1.0,
    }


def test_the_first_minibatch_has_ratio_one(roll: Rolling, rolled: Rolled, gradient: Any) -> None:
    experience = rolled.experience
    (_, metrics), _ = gradient(roll.params, experience)
    assert abs(metrics["val/ratio"].value - 1.0) < 1e-5
    assert metrics["policy/approxkl_avg"].value < 1e-9 and metrics["policy/clipfrac_avg"].value == 0.0
    assert float(metrics["val/ratio"].count) == experience.mask_BT.sum()
    assert experience.old_values_BT is not None and experience.returns_BT is not None
    error_BT = (experience.old_values_BT - experience.returns_BT)[experience.mask_BT]
    np.testing.assert_allclose(metrics["loss/value_avg"].value, 0.5 * np.square(error_BT).mean(), rtol=1e-4)


def test_the_loss_is_the_policy_loss_plus_the_weighted_value_loss(roll: Rolling, rolled: Rolled, gradient: Any) -> None:
    (loss, metrics), _ = gradient(roll.params, rolled.experience)
    total = metrics["loss/policy_avg"].value + CONFIG.vf_coef * metrics["loss/value_avg"].value
    np.testing.assert_allclose(loss, total, rtol=1e-6)
    np.testing.assert_allclose(metrics["loss"].value, total, rtol=1e-6)


def test_another_temperature_would_break_the_ratio(world: World, roll: Rolling, rolled: Rolled) -> None:
    """What the first-minibatch check is there to notice. The mean ratio of draws is 1 in any case; squares tell."""
    config = replace(CONFIG, temperature=1.0)
    wrong = make_loss(world.language, world.scalar, config, ALGORITHMS["ppo"], slot=world.slot)
    _, metrics = jax.jit(wrong)(roll.params, rolled.experience, KEY)
    assert metrics["policy/approxkl_avg"].value > 1e-3


def test_junk_in_padded_slots_changes_neither_loss_nor_gradient(
    world: World, roll: Rolling, rolled: Rolled, gradient: Any
) -> None:
    experience: Any = rolled.experience
    padding_BT, padding_BL = ~experience.mask_BT, experience.segments_BL == 0
    assert padding_BT.any() and padding_BL[:, : world.prompt_slot].any()
    junk = replace(
        experience,
        tokens_BL=np.where(padding_BL, world.vocab - 1, experience.tokens_BL),
        old_logprobs_BT=np.where(padding_BT, np.float32(np.nan), experience.old_logprobs_BT),
        old_values_BT=np.where(padding_BT, np.float32(np.inf), experience.old_values_BT),
        advantages_BT=np.where(padding_BT, np.float32(-np.inf), experience.advantages_BT),
        returns_BT=np.where(padding_BT, np.float32(np.nan), experience.returns_BT),
    )
    clean, dirty = gradient(roll.params, experience), gradient(roll.params, junk)
    for found, expected in zip(jax.tree.leaves(dirty), jax.tree.leaves(clean), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


def test_a_copy_gains_nothing_in_both_orders(world: World, roll: Rolling, rolled: Rolled) -> None:
    """And of two texts that change places, the gap changes its sign."""
    reward = partial(rewards.gap_of_both_orders, spec=world.spec)
    prompts, scorer = roll.prompts, roll.frozen["scorer"]
    reference, drawn = Responses(prompts.reference_BT, prompts.reference_mask_BT), rolled.drawn.responses
    turned = replace(prompts, reference_BT=drawn.tokens_BT, reference_mask_BT=drawn.mask_BT)
    turned = replace(turned, **dict(zip(("prompt_BP", "prompt_mask_BP"), assembled(world, turned), strict=True)))
    whole = replace(prompts, **dict(zip(("prompt_BP", "prompt_mask_BP"), assembled(world, prompts), strict=True)))
    np.testing.assert_array_equal(gap_of(world, reward, scorer, whole, reference), 0.0)
    there, back = gap_of(world, reward, scorer, whole, drawn), gap_of(world, reward, scorer, turned, reference)
    np.testing.assert_allclose(there, -back, atol=1e-6)
    assert np.abs(there).max() > 0.01


def assembled(world: World, prompts: RolloutPrompts) -> Any:
    reference = Responses(prompts.reference_BT, prompts.reference_mask_BT)
    return with_reference(prompts.prefix_BP, prompts.prefix_mask_BP, reference, spec=world.spec)


def gap_of(world: World, reward: Any, params: Any, prompts: RolloutPrompts, responses: Responses) -> np.ndarray:
    return np.asarray(jax.jit(partial(reward, world.scalar))(params, prompts, responses))
