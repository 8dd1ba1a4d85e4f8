"""evaluation/costs.py: by hand, against the matrix products of the programs that stages run, and against XLA."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core

from pit_jax.batch import Experience, GapBatch, RewardBatch, RolloutPrompts, SftBatch
from pit_jax.config import Config, CurriculumConfig, TransformerConfig
from pit_jax.evaluation.flops import (
    NOTHING,
    Draws,
    Network,
    Work,
    answer_cost,
    improver_slot,
    training_costs,
)
from pit_jax.inference.engine import generate
from pit_jax.inference.sampling import Sampling
from pit_jax.model.attention import causal_visible, segment_positions
from pit_jax.model.networks import LanguageModel, ScalarModel
from pit_jax.stages.rm import make_gap_loss, make_reward_loss
from pit_jax.stages.rollout import Score, centered_gap, make_ppo_loss, make_rollout, plain_score, score_difference
from pit_jax.stages.sft import make_loss

HAND = TransformerConfig(width=4, layers=2, query_heads=2, kv_heads=1, head_size=2, ffn=6)
SHAPE = TransformerConfig(width=16, layers=3, query_heads=4, kv_heads=2, head_size=6, ffn=20)
VOCAB, BATCH, PROMPT, PLAIN, SLOT = 30, 2, 5, 4, 3
LENGTH = PROMPT + SLOT
LAYOUT = {
    "row_lengths": {"sft-policy": 5, "sft-improver": 8, "reward": 6, "gap": 12},
    "prompt_slot": 3,
    "response_slot": 2,
    "suffix": [4],
}


def sub_programs(value: Any) -> Iterator[Any]:
    if isinstance(value, core.ClosedJaxpr):
        yield value.jaxpr
    elif isinstance(value, core.Jaxpr):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from sub_programs(part)


def products(program: Any) -> float:
    """Operations of the matrix products in a traced program; a scan counts all its steps, a while loop one."""
    total = 0.0
    for equation in program.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            inner = np.prod([shape[axis] for axis in contracted])
            total += 2.0 * float(np.prod(equation.outvars[0].aval.shape) * inner)
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        total += times * sum(products(inner) for inner in sub_programs(list(equation.params.values())))
    return total


def traced(program: Any, *arguments: Any) -> float:
    return products(jax.make_jaxpr(program)(*arguments).jaxpr)


def params_of(model: LanguageModel | ScalarModel) -> Any:
    return jax.eval_shape(model.init, jax.random.key(0))


def ints(*shape: int) -> jax.Array:
    return jnp.ones(shape, jnp.int32)


def floats(*shape: int) -> jax.Array:
    return jnp.ones(shape, jnp.float32)


KEY = jax.random.key(0)


def test_the_numbers_of_the_docstring() -> None:
    network = Network(HAND, 10)
    assert (network.trunk(0), network.trunk(5), network.logits()) == (480, 640, 80)
    assert network.read(5, logits=3) == Work(5, 3440)
    assert network.score(5) == Work(5, 3240)
    assert network.draw(3, 2, 1) == Work(4, 2720)
    assert Network(replace(HAND, pooled_head=True), 10).score(5) == Work(5, 5 * (640 + 16 + 10))


@pytest.mark.parametrize("pooled", [False, True])
def test_reading_and_scoring_are_the_products_of_the_networks(pooled: bool) -> None:
    shape = replace(SHAPE, pooled_head=pooled)
    network, segments_BL = Network(shape, VOCAB), ints(BATCH, LENGTH)
    language, scalar = LanguageModel(shape, VOCAB), ScalarModel(shape, VOCAB)
    where = segment_positions(segments_BL), causal_visible(segments_BL)

    def read(params: Any) -> jax.Array:
        return language.logits(params, language.hidden(params, segments_BL, *where)[:, :4])

    def score(params: Any) -> jax.Array:
        return scalar.scalars(params, segments_BL, *where)

    assert traced(read, params_of(language)) == BATCH * network.read(LENGTH, logits=4).flops
    assert traced(score, params_of(scalar)) == BATCH * network.score(LENGTH).flops


def test_training_is_three_forward_passes() -> None:
    """The gradient of a loss over all logits; its trace holds the forward products too."""
    model = LanguageModel(SHAPE, VOCAB)
    rows = SftBatch(
        *[ints(BATCH, LENGTH)] * 2, ints(BATCH, LENGTH) > 0, jnp.cumsum(ints(BATCH, LENGTH), 1), ints(BATCH, LENGTH)
    )
    loss = make_loss(model, slots=SLOT)
    work = BATCH * Network(SHAPE, VOCAB).read(LENGTH, logits=SLOT)
    assert traced(lambda params: loss(params, rows, KEY)[0], params_of(model)) == work.flops
    backward = jax.value_and_grad(lambda params: loss(params, rows, KEY)[0])
    assert traced(backward, params_of(model)) == work.trained().flops


def test_the_reward_models_score_two_rows_or_one_tree_a_pair() -> None:
    model, network = ScalarModel(SHAPE, VOCAB), Network(SHAPE, VOCAB)
    pairs = RewardBatch(*[ints(BATCH, LENGTH)] * 4, jnp.zeros(BATCH))
    reward = make_reward_loss(model)
    found = traced(lambda params: reward(params, pairs, KEY)[0], params_of(model))
    assert found == BATCH * 2 * network.score(LENGTH).flops
    tree, gap = GapBatch(*[ints(BATCH, LENGTH)] * 3, *[ints(BATCH)] * 4), make_gap_loss(model)
    assert traced(lambda params: gap(params, tree, KEY)[0], params_of(model)) == BATCH * network.score(LENGTH).flops


def test_drawing_is_the_prefill_and_one_pass_a_token() -> None:
    """The trace holds the loop's body once: one token."""
    model, network = LanguageModel(SHAPE, VOCAB), Network(SHAPE, VOCAB)
    prompt_BP = ints(BATCH, PROMPT)

    def draw(params: Any) -> Any:
        return generate(
            model, params, prompt_BP, prompt_BP > 0, KEY, sampling=Sampling(), response_slot=SLOT, eos_id=1, pad_id=0
        )

    assert traced(draw, params_of(model)) == BATCH * network.draw(PROMPT, SLOT, 1).flops


@pytest.mark.parametrize(
    ("score", "plain", "scorings"), [(plain_score, 0, 1), (centered_gap, 0, 2), (score_difference, 2, 0)]
)
def test_a_rollout_draws_and_reads_with_anchor_value_and_scorer(score: Score, plain: int, scorings: int) -> None:
    language, scalar, network = LanguageModel(SHAPE, VOCAB), ScalarModel(SHAPE, VOCAB), Network(SHAPE, VOCAB)
    tokens = ints(BATCH, PROMPT), ints(BATCH, PLAIN), ints(BATCH, SLOT)
    prompts = RolloutPrompts(*[part for each in tokens for part in (each, each > 0)])
    rollout = make_rollout(language, scalar, Config().rl, slot=SLOT, eos_id=1, pad_id=0, score=score)
    params = {"policy": params_of(language), "value": params_of(scalar)}
    frozen = {"anchor": params_of(language), "scorer": params_of(scalar)}
    found = traced(lambda *trees: rollout(*trees, prompts, KEY, jnp.float32(0.1)), params, frozen)
    reads = network.read(LENGTH, logits=SLOT) + (1 + scorings) * network.score(LENGTH)
    reads += plain * network.score(PLAIN + SLOT)
    assert found == BATCH * (network.draw(PROMPT, SLOT, 1) + reads).flops


def test_an_update_of_ppo_trains_policy_and_value() -> None:
    language, scalar, network = LanguageModel(SHAPE, VOCAB), ScalarModel(SHAPE, VOCAB), Network(SHAPE, VOCAB)
    experience = Experience(
        *[ints(BATCH, LENGTH)] * 2, ints(BATCH, SLOT) > 0, *[floats(BATCH, SLOT)] * 4, floats(BATCH)
    )
    loss = make_ppo_loss(language, scalar, Config().rl, slot=SLOT)
    params = {"policy": params_of(language), "value": params_of(scalar)}
    found = traced(jax.grad(lambda params: loss(params, experience, KEY)[0]), params)
    assert found == BATCH * (network.read(LENGTH, logits=SLOT) + network.score(LENGTH)).trained().flops


def test_the_compiler_counts_a_little_more() -> None:
    """XLA's own analysis adds an operation an element of norms, rotations, gates, softmax and masks: here 1.1% of the
    products. The smallest product (the scores: 4 N H S of 2 (4 D^2 + 3 D F) + 4 N H S + 2 D V / U, halved) is 3.1%: one
    that is forgotten gives 1.04, one too many less than 1."""
    shape = TransformerConfig(width=128, layers=2, query_heads=4, kv_heads=4, head_size=32, ffn=384, unroll=2)
    model, tokens_BL = LanguageModel(shape, 512), ints(4, 64)

    def read(params: Any) -> jax.Array:
        where = segment_positions(tokens_BL), causal_visible(tokens_BL)
        return model.logits(params, model.hidden(params, tokens_BL, *where))

    analysis = jax.jit(read).lower(params_of(model)).compile().cost_analysis()
    assert 1.0 <= analysis["flops"] / (4 * Network(shape, 512).read(64, logits=64).flops) <= 1.03


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


def test_the_trainings_by_hand() -> None:
    """V = 10, trunk(S) = 480 + 32 S, logits 80, head 8; P = 3, T = 2, one suffix token, so the improver's prompt is 6.

    Policy SFT: 3 * 2 rows of 5: 5 * 640 + 2 * 80 = 3,360, times 3. Improver: 5 * 2 of 8: 8 * 736 + 160 = 6,048.
    Reward: 7 * 2 rows of 6: 6 * (672 + 8) = 4,080. Gap: 11 trees of 12: 12 * (864 + 8) = 10,464.
    A policy round, a row of 5: draw 5 * 640 + 3 * 80 = 3,440, anchor 3,360, value and scorer 2 * 3,240, two epochs of
    3 * (3,360 + 3,240): 52,880 and 5 + 5 + 10 + 20 = 40 tokens. Four rows a round.
    An improver round, a row of 8: 8 * 736 + 240 = 6,128, anchor 6,048, value and two scorings 3 * 8 * 744 = 17,856, two
    epochs of 3 * (6,048 + 5,952) = 72,000: 102,032 and 8 + 8 + 24 + 32 = 72 tokens. With policy-rl, 3,440 and 5 more.
    """
    config = small(references=("rejected+chosen", "policy-rl"), rounds=(2, 3))
    found = training_costs(config, LAYOUT, 10)
    assert list(found) == ["sft-policy", "rm-policy", "rl-policy", "sft-improver", "rm-improver", "rl-improver"]
    assert found["sft-policy"] == Work(6 * 5, 6 * 3 * 3360)
    assert found["sft-improver"] == Work(10 * 8, 10 * 3 * 6048)
    assert found["rm-policy"] == Work(14 * 6, 14 * 3 * 4080)
    assert found["rm-improver"] == Work(11 * 12, 11 * 3 * 10_464)
    assert found["rl-policy"] == Work(13 * 4 * 40, 13 * 4 * 52_880)
    assert found["rl-improver"] == Work(5 * 4 * 72 + 3 * 4 * 5, 5 * 4 * 102_032 + 3 * 4 * 3440)


def test_what_references_cost() -> None:
    """Against references of the data alone: an answer on every row, on half of them, or an answer and its rewrite."""
    network, answer, rewrite = Network(HAND, 10), 3440, 6128

    def per_round(references: str) -> float:
        config = small(references=(references,), rounds=(1,))
        return training_costs(config, LAYOUT, 10)["rl-improver"].flops - 4 * 102_032

    assert per_round("chosen") == per_round("rejected+chosen") == 0
    assert per_round("policy-sft") == 4 * answer == 4 * network.draw(3, 2, 2).flops
    assert per_round("chosen+policy-rl") == 2 * answer
    assert per_round("improver") == 4 * (answer + rewrite)


def test_a_gap_that_is_not_centred_is_read_once() -> None:
    config = small(references=("chosen",), rounds=(1,))
    literal = replace(config, rl=replace(config.rl, center_gap=False))
    saved = [training_costs(found, LAYOUT, 10)["rl-improver"].flops for found in (config, literal)]
    assert saved[0] - saved[1] == 4 * Network(HAND, 10).score(8).flops


def test_another_reward_and_a_guard() -> None:
    """Two readings of prompt(x) and an answer, 3 + 2, for two of prompt(x, y_ref) and one; a guard reads as often."""
    network, config = Network(HAND, 10), small(references=("chosen",), rounds=(1,))
    base = training_costs(config, LAYOUT, 10)
    difference = training_costs(replace(config, rl=replace(config.rl, reward="difference")), LAYOUT, 10)
    saved = base["rl-improver"].flops - difference["rl-improver"].flops
    assert saved == 4 * 2 * (network.score(8).flops - network.score(5).flops)
    guarded = training_costs(replace(config, rm=replace(config.rm, guard_steps=9)), LAYOUT, 10)
    assert guarded.keys() - base.keys() == {"rm-guard"} and guarded["rm-guard"] == Work(9 * 12, 9 * 3 * 10_464)
    assert guarded["rl-improver"].flops - base["rl-improver"].flops == 4 * 2 * network.score(8).flops


def test_answers_by_hand() -> None:
    """An answer of 2 tokens from P = 3: 5 * 640 + 3 * 80 = 3,440. PIT adds a rewrite from 6: 8 * 736 + 240 = 6,128."""
    network, slot = Network(HAND, 10), LAYOUT["response_slot"]
    assert improver_slot(LAYOUT) == 6
    assert answer_cost(network, [Draws(1, 2, 3)], slot=slot) == Work(2, 3440)
    assert answer_cost(network, [Draws(1, 2, 3), Draws(1, 2, 6)], slot=slot) == Work(4, 3440 + 6128)
    best = answer_cost(network, [Draws(2, 3, 3)], slot=slot, scored=2 * network.score(5))
    assert best == Work(3, 2 * (3 * 640 + 80) + 3 * (640 + 80) + 2 * 3240)
    assert answer_cost(network, [Draws(1.5, 2.5, 3)], slot=slot).flops == pytest.approx(1.5 * 2000 + 2.5 * 720)


def test_work_adds_up() -> None:
    assert NOTHING + 3 * Work(2, 5) + Work(1, 1).trained() == Work(7, 18)
