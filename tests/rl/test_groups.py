"""A rollout of an algorithm without a critic: groups of responses, recomputed plainly, and a loss without a value."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pit_jax.rl.algorithms import ALGORITHMS
from pit_jax.rl.references import in_groups
from pit_jax.rl.rollout import make_loss
from tests.rl import plain_rollout as plain
from tests.rl.rolling import CONFIG, KL_COEF, ROWS, Rolled, Rolling, rolling, score_program
from tests.world import World

SAMPLES = 4
GROUPED = ("grpo", "rloo", "dr_grpo")
KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def rollings(world: World) -> dict[str, Rolling]:
    """By algorithm; three prompts with a reference each, four responses to each, and no value model."""
    base = rolling(world)
    first = jax.tree.map(lambda x: x[: ROWS // SAMPLES], base.prompts)
    alone = replace(base, params={"policy": base.params["policy"]}, prompts=in_groups(first, SAMPLES))
    return {name: replace(alone, score=score_program(world, algorithm=name, samples=SAMPLES)) for name in GROUPED}


@pytest.fixture(scope="module")
def rolled(rollings: dict[str, Rolling]) -> dict[str, Rolled]:
    return {name: roll() for name, roll in rollings.items()}


def log_ratios(world: World, roll: Rolling, found: Rolled) -> list[np.ndarray]:
    logprobs, anchors = (
        plain.logprobs(world, params, roll.prompts, found.drawn, CONFIG.temperature)
        for params in (roll.params["policy"], roll.frozen["anchor"])
    )
    return [a - b for a, b in zip(logprobs, anchors, strict=True)]


def group_advantages(name: str, earned_B: np.ndarray) -> np.ndarray:
    """Each response against those of its own prompt and reference, from the definitions."""
    found = []
    for group in earned_B.reshape(-1, SAMPLES):
        for i, reward in enumerate(group):
            others = np.delete(group, i)
            found.append(
                {
                    "rloo": reward - others.mean(),
                    "dr_grpo": reward - group.mean(),
                    "grpo": (reward - group.mean()) / (group.std(ddof=1) + 1e-4),
                }[name]
            )
    return np.array(found)


@pytest.mark.parametrize("name", GROUPED)
def test_advantages_equal_a_plain_recomputation(
    world: World, rollings: dict[str, Rolling], rolled: dict[str, Rolled], name: str
) -> None:
    """Of RLOO the KL is part of what a response earns; of GRPO it is in the loss, and what is earned is the score."""
    roll, found = rollings[name], rolled[name]
    experience, mask_BT = found.experience, found.experience.mask_BT
    score_B = plain.centered_gap(world, roll.frozen["scorer"], roll.prompts, found.drawn)
    earned_B = plain.earned(score_B, found.drawn, CONFIG)
    if ALGORITHMS[name].kl == "reward":
        d = log_ratios(world, roll, found)
        earned_B = np.array([r.sum() for r in plain.token_rewards(d, earned_B, kind="k3", kl_coef=KL_COEF)])
    expected_B = group_advantages(name, earned_B)
    np.testing.assert_allclose(
        experience.advantages_BT, np.where(mask_BT, expected_B[:, None], 0.0), rtol=1e-4, atol=2e-4
    )
    np.testing.assert_allclose(found.metrics["objective/rlhf_reward"].sum, earned_B.sum(), rtol=1e-4)
    assert len({tuple(row) for row in found.drawn.tokens_BT.tolist()}) > ROWS // SAMPLES, "a group's responses differ"


@pytest.mark.parametrize("name", GROUPED)
def test_an_experience_holds_what_its_algorithm_learns_from(
    world: World, rollings: dict[str, Rolling], rolled: dict[str, Rolled], name: str
) -> None:
    """No values; the anchor's log-probs where the KL is in the loss."""
    experience = rolled[name].experience
    assert experience.old_values_BT is None and experience.returns_BT is None
    if ALGORITHMS[name].kl == "reward":
        assert experience.anchor_logprobs_BT is None and experience.kl_coef_B is None
        return
    assert experience.anchor_logprobs_BT is not None and experience.kl_coef_B is not None
    roll = rollings[name]
    anchors = plain.logprobs(world, roll.frozen["anchor"], roll.prompts, rolled[name].drawn, CONFIG.temperature)
    found = experience.anchor_logprobs_BT[experience.mask_BT]
    np.testing.assert_allclose(found, np.concatenate(anchors), atol=1e-5)
    np.testing.assert_allclose(experience.kl_coef_B, np.full(ROWS, KL_COEF), rtol=1e-6)


@pytest.mark.parametrize("name", GROUPED)
def test_another_group_moves_no_advantage(rollings: dict[str, Rolling], rolled: dict[str, Rolled], name: str) -> None:
    text_B = np.where(np.arange(ROWS) < SAMPLES, np.arange(ROWS), 0.0)
    before, after = rolled[name].experience, rollings[name](text_B=text_B).experience
    np.testing.assert_array_equal(after.advantages_BT[SAMPLES:], before.advantages_BT[SAMPLES:])
    assert np.abs(after.advantages_BT[:SAMPLES] - before.advantages_BT[:SAMPLES]).max() > 0.1


@pytest.mark.parametrize("name", GROUPED)
def test_the_loss_needs_no_value_model(world: World, rollings: dict[str, Rolling], rolled: Any, name: str) -> None:
    """At the first minibatch its ratio is one; every weight has a gradient, and junk in padding has none."""
    loss = make_loss(world.language, world.scalar, CONFIG, ALGORITHMS[name], slot=world.slot)
    gradient = jax.jit(jax.value_and_grad(lambda params, batch: loss(params, batch, KEY), has_aux=True))
    params, experience = rollings[name].params, rolled[name].experience
    (_, metrics), found = gradient(params, experience)
    assert abs(metrics["val/ratio"].value - 1.0) < 1e-5 and "loss/value_avg" not in metrics
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(found))
    padding_BT = ~experience.mask_BT
    optional = {"anchor_logprobs_BT": experience.anchor_logprobs_BT} if ALGORITHMS[name].kl == "loss" else {}
    named = {"old_logprobs_BT": experience.old_logprobs_BT, "advantages_BT": experience.advantages_BT, **optional}
    junk = replace(experience, **{key: np.where(padding_BT, np.float32(np.nan), x) for key, x in named.items()})
    for dirty, clean in zip(jax.tree.leaves(gradient(params, junk)[1]), jax.tree.leaves(found), strict=True):
        np.testing.assert_array_equal(dirty, clean)
    assert jnp.isfinite(metrics["loss"].sum)
