"""What trainings cost: each stage's formula by hand, and the parts of RL against the products of their programs."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from pit_jax.batch import Completions, Experience, RolloutPrompts
from pit_jax.config import Config, CurriculumConfig
from pit_jax.data.features import Layout
from pit_jax.model.flops import Passes, Work
from pit_jax.model.networks import LanguageModel, ScalarModel
from pit_jax.recipes.catalogue import catalogue
from pit_jax.rl.algorithms import ALGORITHMS
from pit_jax.rl.loads import loads, round_flops
from pit_jax.rl.rewards import ModelReward, centered_gap, plain_score, score_difference
from pit_jax.rl.rollout import make_loss, make_score
from pit_jax.run.programs import Shapes
from pit_jax.run.provenance import StageId
from tests.model.test_flops import HAND, SHAPE, VOCAB, ints, params_of, traced

BATCH, PROMPT, PLAIN, SLOT = 2, 5, 4, 3
LENGTH = PROMPT + SLOT
LAYOUT = Layout(
    pad_id=0,
    eos_id=1,
    suffix=(4,),
    row_lengths={"sft-policy": 5, "sft-improver": 8, "reward": 6, "gap": 12},
    prompt_slot=3,
    response_slot=2,
)
LANGUAGE, SCALAR, PASSES = LanguageModel(SHAPE, VOCAB), ScalarModel(SHAPE, VOCAB), Passes(SHAPE, VOCAB)


def floats(*shape: int) -> jax.Array:
    return jnp.ones(shape, jnp.float32)


@pytest.mark.parametrize(
    ("reward", "plain", "scorings"), [(plain_score, 0, 1), (centered_gap, 0, 2), (score_difference, 2, 0)]
)
@pytest.mark.parametrize("algorithm", ["ppo", "rloo"])
def test_a_rollout_is_read_by_anchor_scorer_and_critic(
    reward: ModelReward, plain: int, scorings: int, algorithm: str
) -> None:
    """Without a critic nobody reads values."""
    critic = ALGORITHMS[algorithm].critic
    tokens = ints(BATCH, PROMPT), ints(BATCH, PLAIN), ints(BATCH, SLOT)
    held, alone, reference = [(each, each > 0) for each in tokens]
    prompts = RolloutPrompts(*held, *alone, *alone, *reference)
    drawn = Completions(ints(BATCH, SLOT), ints(BATCH, SLOT) > 0, floats(BATCH, SLOT), ints(BATCH) > 0)
    score = make_score(LANGUAGE, SCALAR, Config().rl, ALGORITHMS[algorithm], samples=2, reward=reward)
    params = {"policy": params_of(LANGUAGE), "value": params_of(SCALAR)}
    frozen = {"anchor": params_of(LANGUAGE), "scorer": params_of(SCALAR)}
    found = traced(lambda *trees: score(*trees, prompts, drawn, floats(BATCH), jnp.float32(0.1)), params, frozen)
    reads = PASSES.read(LENGTH, logits=SLOT) + (critic + scorings) * PASSES.score(LENGTH)
    assert found == BATCH * (reads + plain * PASSES.score(PLAIN + SLOT)).flops


@pytest.mark.parametrize("algorithm", ["ppo", "rloo"])
def test_an_update_of_rl_trains_the_policy_and_a_critic(algorithm: str) -> None:
    critic = ALGORITHMS[algorithm].critic
    rows, slots = ints(BATCH, LENGTH), floats(BATCH, SLOT)
    experience = Experience(rows, rows, ints(BATCH, SLOT) > 0, slots, slots, floats(BATCH))
    if critic:
        experience = replace(experience, old_values_BT=floats(BATCH, SLOT), returns_BT=floats(BATCH, SLOT))
    loss = make_loss(LANGUAGE, SCALAR, Config().rl, ALGORITHMS[algorithm], slot=SLOT)
    params = {"policy": params_of(LANGUAGE), **({"value": params_of(SCALAR)} if critic else {})}
    found = traced(jax.grad(lambda params: loss(params, experience, jax.random.key(0))[0]), params)
    work = PASSES.read(LENGTH, logits=SLOT) + critic * PASSES.score(LENGTH)
    assert found == BATCH * work.trained().flops


def small(**curriculum: Any) -> Config:
    """SFT 3 and 5 steps of 2 rows; reward models 7 and 11 of 1; RL 13 rounds, then the curriculum, of 4 rows."""
    base = Config()
    return replace(
        base,
        transformer=HAND,
        sft=replace(base.sft, policy_steps=3, improver_steps=5, batch_size=2),
        rm=replace(base.rm, policy_steps=7, improver_steps=11, batch_size=1),
        rl=replace(
            base.rl, policy_rounds=13, curriculum=CurriculumConfig(**curriculum), batch_size=4, epochs=2, minibatches=2
        ),
    )


def costs(config: Config) -> dict[str, Work]:
    """By stage, of every one that trains."""
    shapes = Shapes(config, LAYOUT, 10)
    return {str(id): stage.cost(shapes) for id, stage in catalogue().items() if stage.cost}


def improver_flops(config: Config) -> float:
    return costs(config)["rl-improver"].flops


def test_the_trainings_by_hand() -> None:
    """V = 10, trunk(S) = 480 + 32 S, logits 80, head 8; P = 3, T = 2, one suffix token, so the improver's prompt is 6.

    Policy SFT: 3 * 2 rows of 5: 5 * 640 + 2 * 80 = 3,360, times 3. Improver: 5 * 2 of 8: 8 * 736 + 160 = 6,048.
    Reward: 7 * 2 rows of 6: 6 * (672 + 8) = 4,080. Gap: 11 trees, which take 12 * (864 + 8) = 10,464 in rows of 12 and
    less with slots for their nodes, 3, twice 2 and four times 2: 15 * (480 + 8) and 32 for each of 3 * 3 + 2 * 2 * 5 +
    4 * 2 * 7 = 85 scores, 10,040.
    A policy round, a row of 5: draw 3 * 576 + 2 * 640 + 3 * 80 = 3,248, anchor 3,360, value and scorer 2 * 3,240, two
    epochs of 3 * (3,360 + 3,240): 52,688 and 5 + 5 + 10 + 20 = 40 tokens. Four rows a round.
    An improver round, a row of 8: 6 * 672 + 2 * 736 + 240 = 5,744, anchor 6,048, value and two scorings
    3 * 8 * 744 = 17,856, two epochs of 3 * (6,048 + 5,952) = 72,000: 101,648 and 8 + 8 + 24 + 32 = 72 tokens.
    With policy-rl, 3,248 and 5 more.
    """
    found = costs(small(references=("rejected+chosen", "policy-rl"), rounds=(2, 3)))
    assert found["sft-policy"] == Work(6 * 5, 6 * 3 * 3360)
    assert found["sft-improver"] == Work(10 * 8, 10 * 3 * 6048)
    assert found["rm-policy"] == Work(14 * 6, 14 * 3 * 4080)
    assert found["rm-improver"] == Work(11 * 15, 11 * 3 * 10_040)
    assert found["rl-policy"] == Work(13 * 4 * 40, 13 * 4 * 52_688)
    assert found["rl-improver"] == Work(5 * 4 * 72 + 3 * 4 * 5, 5 * 4 * 101_648 + 3 * 4 * 3248)


def test_every_stage_that_trains_has_a_cost() -> None:
    trained = [str(id) for id, stage in catalogue().items() if stage.leaves]
    assert list(costs(small(references=("chosen",), rounds=(1,)))) == trained
    assert {"dpo-policy", "rm-second-gap"} < set(trained)


def test_what_references_cost() -> None:
    """Against references of the data alone: an answer on every row, on half of them, or an answer and its rewrite."""
    answer, rewrite = 3248, 5744

    def per_round(references: str) -> float:
        return improver_flops(small(references=(references,), rounds=(1,))) - 4 * 101_648

    assert per_round("chosen") == per_round("rejected+chosen") == 0
    assert per_round("policy-sft") == 4 * answer == 4 * Passes(HAND, 10).draw(3, 2, 2).flops
    assert per_round("chosen+policy-rl") == 2 * answer
    assert per_round("improver") == 4 * (answer + rewrite)


def test_the_operations_of_a_round_by_hand() -> None:
    """Those of `test_the_trainings_by_hand`, for a round of four rows of which one update of two rows was left out.

    Half of the slots are real. Over adapters an update is two thirds of one of all weights.
    """
    config = small(references=("chosen+policy-rl", "improver"), rounds=(2, 3))
    shapes, update = Shapes(config, LAYOUT, 10), 2 * 3 * (6048 + 5952)
    asked: dict[str, Any] = {"updates": 3, "share": 0.5}
    score = 4 * (6048 + 17_856)
    first, second = (round_flops(loads(shapes, "improver"), config, "improver", phase=i, **asked) for i in (0, 1))
    assert first == {
        "rollout": 0.5 * (4 * 5744 + 2 * 3248),
        "score": 0.5 * score,
        "update": 0.5 * 3 * update,
    }
    assert second["rollout"] == 0.5 * (4 * 5744 + 4 * (3248 + 5744))
    policy = round_flops(loads(shapes, "policy"), config, "policy", phase=0, **asked)
    assert policy["rollout"] == 0.5 * 4 * 3248 and policy["update"] == 0.5 * 3 * 2 * 3 * (3360 + 3240)
    adapted = replace(config, adapter=replace(config.adapter, rank=2))
    found = round_flops(loads(shapes, "improver"), adapted, "improver", phase=0, **asked)
    assert found["update"] == pytest.approx(2 / 3 * first["update"]) and found["score"] == first["score"]


def test_the_anchor_of_dpo_is_no_part_of_its_updates() -> None:
    """A pair of two rows of 6, with logits everywhere, trained three times over; and once more before."""
    config = small(references=("chosen",), rounds=(1,))
    dpo = catalogue()[StageId("dpo", "policy")]
    shapes = Shapes(config, LAYOUT, 10)
    load, pair = dpo.loads(shapes)["update"], 2 * (6 * 672 + 6 * 80)
    assert load.work.flops == config.dpo.batch_size * 3 * pair
    assert load.before.flops == config.dpo.steps * config.dpo.batch_size * pair
    assert costs(config)["dpo-policy"].flops == config.dpo.steps * config.dpo.batch_size * 4 * pair


def test_a_reference_is_drawn_once_for_a_group() -> None:
    """Four responses to each of one reference, and no critic: a value pass less, and as many updates of one less."""
    config = small(references=("policy-rl",), rounds=(1,))
    grouped = replace(config, rl=replace(config.rl, improver_algorithm="grpo", improver_samples=4))
    critic = 4 * (8 * 744 + 2 * 3 * 8 * 744)
    assert improver_flops(config) - improver_flops(grouped) == 3 * 3248 + critic


def test_a_plain_gap_is_read_once() -> None:
    config = small(references=("chosen",), rounds=(1,))
    literal = replace(config, rl=replace(config.rl, gap="plain"))
    assert improver_flops(config) - improver_flops(literal) == 4 * Passes(HAND, 10).score(8).flops


def test_another_reward_and_a_second_gap_model() -> None:
    """Two readings of prompt(x) and an answer, 3 + 2, for two of prompt(x, y_ref) and one. A second gap model reads as
    often as the first."""
    passes, config = Passes(HAND, 10), small(references=("chosen",), rounds=(1,))
    difference = replace(config, rl=replace(config.rl, reward="difference"))
    saved = improver_flops(config) - improver_flops(difference)
    assert saved == 4 * 2 * (passes.score(8).flops - passes.score(5).flops)
    watched = replace(config, rm=replace(config.rm, second_gap_steps=9))
    assert costs(config)["rm-second-gap"] == Work() and costs(watched)["rm-second-gap"] == Work(9 * 15, 9 * 3 * 10_040)
    assert improver_flops(watched) - improver_flops(config) == 4 * 2 * passes.score(8).flops
