"""model/flops.py: by hand, against the matrix products of traced programs, and against XLA's own count."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core

from pit_jax.batch import DecodeSpec, GapBatch, Responses, RewardBatch, SftBatch, TreeSlots
from pit_jax.config import TransformerConfig
from pit_jax.inference.decoding import complete
from pit_jax.inference.sampling import Sampling
from pit_jax.model import scoring
from pit_jax.model.flops import Draws, Passes, Work, answer_cost, slots_that_pay
from pit_jax.model.networks import LanguageModel, ScalarModel
from pit_jax.model.rows import Sequences
from pit_jax.objectives.sft import token_loss

HAND = TransformerConfig(width=4, layers=2, query_heads=2, kv_heads=1, head_size=2, ffn=6)
SHAPE = TransformerConfig(width=16, layers=3, query_heads=4, kv_heads=2, head_size=6, ffn=20)
VOCAB, BATCH, PROMPT, SLOT = 30, 2, 5, 3
LENGTH = PROMPT + SLOT
LANGUAGE, SCALAR, PASSES = LanguageModel(SHAPE, VOCAB), ScalarModel(SHAPE, VOCAB), Passes(SHAPE, VOCAB)


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


def test_the_numbers_of_the_docstring() -> None:
    passes = Passes(HAND, 10)
    assert (passes.trunk(0), passes.trunk(5), passes.logits()) == (480, 640, 80)
    assert passes.read(5, logits=3) == Work(5, 3440)
    assert passes.score(5) == Work(5, 3240)
    assert passes.draw(3, 2, 1) == Work(4, 2528)
    assert Passes(replace(HAND, pooled_head=True), 10).score(5) == Work(5, 5 * (640 + 16 + 10))


def test_a_feed_forward_without_a_gate_has_two_matrices() -> None:
    """By hand, block(0) = 2 (2 * 16 + 2 * 8 + 2 * 24) = 192, twice."""
    assert Passes(replace(HAND, activation="gelu"), 10).trunk(0) == 2 * 192


def test_a_token_passes_through_its_experts_and_their_router() -> None:
    """By hand, block(0) = 2 (2 * 16 + 2 * 8 + 2 * 3 * 24 + 4 * 5) = 424, twice."""
    assert Passes(replace(HAND, experts=5, experts_per_token=2), 10).trunk(0) == 2 * 424


@pytest.mark.parametrize("changes", [{}, {"pooled_head": True}, {"activation": "gelu"}], ids=["last", "pooled", "neox"])
def test_reading_and_scoring_are_the_products_of_the_networks(changes: dict[str, Any]) -> None:
    shape = replace(SHAPE, **changes)
    passes, segments_BL = Passes(shape, VOCAB), ints(BATCH, LENGTH)
    language, scalar, rows = LanguageModel(shape, VOCAB), ScalarModel(shape, VOCAB), Sequences.alone(segments_BL)

    def read(params: Any) -> jax.Array:
        return language.logits(params, language.hidden(params, segments_BL, rows)[:, :4])

    def score(params: Any) -> jax.Array:
        return scalar.scalars(params, segments_BL, rows)

    assert traced(read, params_of(language)) == BATCH * passes.read(LENGTH, logits=4).flops
    assert traced(score, params_of(scalar)) == BATCH * passes.score(LENGTH).flops


def test_training_is_three_forward_passes() -> None:
    """The gradient of a loss over all logits; its trace holds the forward products too."""
    ones_BL = ints(BATCH, LENGTH)
    rows = SftBatch(ones_BL, ones_BL, ones_BL > 0, jnp.cumsum(ones_BL, 1), ones_BL)

    def loss(params: Any) -> jax.Array:
        return token_loss(*scoring.counted_logprobs(LANGUAGE, params, rows, slots=SLOT))[0]

    work = BATCH * PASSES.read(LENGTH, logits=SLOT)
    assert traced(loss, params_of(LANGUAGE)) == work.flops
    assert traced(jax.value_and_grad(loss), params_of(LANGUAGE)) == work.trained().flops


def test_reading_a_response_makes_logits_at_its_slots() -> None:
    read = partial(scoring.response_logprobs, LANGUAGE, slot=SLOT, temperature=1.0)
    found = traced(read, params_of(LANGUAGE), ints(BATCH, LENGTH), ints(BATCH, LENGTH))
    assert found == BATCH * PASSES.read(LENGTH, logits=SLOT).flops


def test_the_reward_models_score_two_rows_or_one_tree_a_pair() -> None:
    ones_BL = ints(BATCH, LENGTH)
    pairs = RewardBatch(ones_BL, ones_BL, ones_BL, ones_BL, jnp.zeros(BATCH))
    found = traced(partial(scoring.pair_scores, SCALAR), params_of(SCALAR), pairs)
    assert found == BATCH * 2 * PASSES.score(LENGTH).flops
    tree = GapBatch(*[ints(BATCH, LENGTH)] * 3, *[ints(BATCH)] * 4)
    assert traced(partial(scoring.tree_gaps, SCALAR), params_of(SCALAR), tree) == BATCH * PASSES.score(LENGTH).flops
    slots = TreeSlots(1, 1, 1)
    assert slots_that_pay(SCALAR.config, slots, LENGTH) == slots
    by_slots = partial(scoring.tree_gaps, SCALAR, slots=slots)
    assert traced(by_slots, params_of(SCALAR), tree) == BATCH * PASSES.tree(slots, LENGTH).flops


def test_values_and_scores_in_place_are_one_reading_of_the_row() -> None:
    rows, prompt, answer = (ints(BATCH, size) for size in (LENGTH, PROMPT, SLOT))
    expected = BATCH * PASSES.score(LENGTH).flops
    assert traced(partial(scoring.response_values, SCALAR, slot=SLOT), params_of(SCALAR), rows, rows) == expected
    in_place = partial(scoring.response_scores, SCALAR)
    assert traced(in_place, params_of(SCALAR), prompt, prompt > 0, Responses(answer, answer > 0)) == expected


def test_drawing_is_the_prefill_and_one_pass_a_token() -> None:
    """The trace holds the loop's body once: one token."""
    prompt_BP, spec = ints(BATCH, PROMPT), DecodeSpec(SLOT, eos_id=1, pad_id=0, suffix=())

    def draw(params: Any) -> Any:
        return complete(LANGUAGE, params, prompt_BP, prompt_BP > 0, jax.random.key(0), Sampling(), spec=spec)

    assert traced(draw, params_of(LANGUAGE)) == BATCH * PASSES.draw(PROMPT, SLOT, 1).flops


def test_the_compiler_counts_a_little_more() -> None:
    """XLA's own analysis adds an operation an element of norms, rotations, gates, softmax and masks: here 1.1% of the
    products. The smallest product (the scores: 4 N H S of 2 (4 D^2 + 3 D F) + 4 N H S + 2 D V / U, halved) is 3.1%: one
    that is forgotten gives 1.04, one too many less than 1."""
    shape = TransformerConfig(width=128, layers=2, query_heads=4, kv_heads=4, head_size=32, ffn=384, unroll=2)
    model, tokens_BL = LanguageModel(shape, 512), ints(4, 64)

    def read(params: Any) -> jax.Array:
        return model.logits(params, model.hidden(params, tokens_BL, Sequences.alone(tokens_BL)))

    analysis = jax.jit(read).lower(params_of(model)).compile().cost_analysis()
    assert analysis is not None
    assert 1.0 <= analysis["flops"] / (4 * Passes(shape, 512).read(64, logits=64).flops) <= 1.03


def test_answers_by_hand() -> None:
    """An answer of 2 tokens from P = 3: 3 * 576 + 2 * 640 + 3 * 80 = 3,248. PIT adds one from 6: 5,744."""
    passes, slot = Passes(HAND, 10), 2
    assert answer_cost(passes, [Draws(1, 2, 3)], slot=slot) == Work(2, 3248)
    assert answer_cost(passes, [Draws(1, 2, 3), Draws(1, 2, 6)], slot=slot) == Work(4, 3248 + 5744)
    best = answer_cost(passes, [Draws(2, 3, 3)], slot=slot, scored=2 * passes.score(5))
    assert best == Work(3, 2 * (3 * 576 + 80) + 3 * (640 + 80) + 2 * 3240)
    assert answer_cost(passes, [Draws(1.5, 2.5, 3)], slot=slot).flops == pytest.approx(1.5 * 1808 + 2.5 * 720)


def test_work_adds_up() -> None:
    assert Work() + 3 * Work(2, 5) + Work(1, 1).trained() == Work(7, 18)
