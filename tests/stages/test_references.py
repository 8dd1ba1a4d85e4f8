"""The references of a round: the dataset's answers, a sampler's, the improver's own; each a function of the round."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pit_jax.batch import PromptBatch, RolloutPrompts
from pit_jax.config import Config, CurriculumConfig, RlConfig
from pit_jax.data.features import Example
from pit_jax.inference.engine import generate
from pit_jax.inference.sampling import Sampling
from pit_jax.stages.context import Context
from pit_jax.stages.references import Supply, prompt_arrays, with_end

BATCH, ROUNDS = 8, 3
EASY, HARD, OWN, MIXED = range(4)
REFERENCES = ("rejected+chosen", "policy-rl", "improver", "chosen+policy-sft")
append_end = jax.jit(with_end)


def supply_of(context: Any, make_mesh: Any, **samplers: Any) -> Supply:
    """At temperature 0, so that answers can be had again by decoding greedily, unless the test says otherwise."""
    curriculum = CurriculumConfig(references=REFERENCES, rounds=(ROUNDS,) * len(REFERENCES))
    rl = RlConfig(batch_size=BATCH, temperature=samplers.pop("temperature", 0.0), curriculum=curriculum)
    frozen = {name.replace("_", "-"): params for name, params in samplers.items()}
    return Supply(context(Config(rl=rl), make_mesh(1, 1, 1)), frozen)


@pytest.fixture(scope="module")
def sampler(world: Any) -> Any:
    return world.draw(world.language, 0)


def real(tokens_BL: Any, mask_BL: Any) -> list[list[int]]:
    return [row[mask].tolist() for row, mask in zip(np.asarray(tokens_BL), np.asarray(mask_BL), strict=True)]


def fold(context: Context) -> list[Example]:
    return context.data.folds["rl"]


def owners(context: Context, prompts: RolloutPrompts) -> list[Example]:
    """The example behind each row, told by the second token of its improver prompt."""
    examples = {e.prefix[1]: e for e in fold(context)}
    return [examples[row[1]] for row in real(prompts.prompt_BP, prompts.prompt_mask_BP)]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(st.integers(6, 30), max_size=5), min_size=3, max_size=3))
def test_a_reference_gets_its_eos_right_after_its_last_token(rows: list[list[int]]) -> None:
    tokens_BR = np.array([row + [99] * (6 - len(row)) for row in rows], np.int32)
    mask_BR = np.array([[True] * len(row) + [False] * (6 - len(row)) for row in rows])
    ended = append_end(tokens_BR, mask_BR, 1)
    assert real(ended.tokens_BT, ended.mask_BT) == [[*row, 1] for row in rows]


def test_prompt_rows_have_reference_slots_as_wide_as_the_response(context: Any, make_mesh: Any, world: Any) -> None:
    supply = supply_of(context, make_mesh)
    narrow = {name: x[:, :5] for name, x in supply.context.data.arrays("rl", "prompts").items()}
    supply.context.data.__dict__["arrays"] = lambda fold, kind: narrow
    arrays = prompt_arrays(supply.context, "rl")
    for name in ("chosen_BR", "rejected_BR", "chosen_mask_BR", "rejected_mask_BR"):
        assert arrays[name].shape == (24, world.slot)
        np.testing.assert_array_equal(arrays[name][:, :5], narrow[name])
        assert not arrays[name][:, 5:].any()
    assert arrays["prompt_BP"].shape == (24, 5)


def test_an_easy_round_holds_rejected_then_chosen_references_of_each_prompt(
    context: Any, make_mesh: Any, world: Any
) -> None:
    supply = supply_of(context, make_mesh)
    rounds = [supply.prompts(r, EASY, None) for r in range(ROUNDS)]
    for prompts in rounds:
        examples = owners(supply.context, prompts)
        assert examples[: BATCH // 2] == examples[BATCH // 2 :], "each prompt once with each reference"
        references = [e.rejected for e in examples[: BATCH // 2]] + [e.chosen for e in examples[BATCH // 2 :]]
        assert real(prompts.prompt_BP, prompts.prompt_mask_BP) == [
            [*e.prefix, *reference, *world.suffix] for e, reference in zip(examples, references, strict=True)
        ]
        assert real(prompts.reference_BT, prompts.reference_mask_BT) == [[*r, world.eos_id] for r in references]
        assert bool(prompts.prompt_mask_BP[:, -1].all()), "left-padded"
        assert prompts.reference_BT.shape == (BATCH, world.slot)
    seen = [id(e) for prompts in rounds for e in owners(supply.context, prompts)[: BATCH // 2]]
    assert len(set(seen)) == ROUNDS * BATCH // 2, "a new prompt every time, until the fold is through"


def greedy(world: Any, params: Any, prompt_BP: Any, mask_BP: Any) -> list[list[int]]:
    """Answers at temperature 0, their EOS included."""
    slots = {"response_slot": world.slot, "eos_id": world.eos_id, "pad_id": world.pad_id}
    drawn = jax.jit(
        lambda params, prompt, mask: generate(
            world.language, params, prompt, mask, jax.random.key(5), sampling=Sampling(0.0), **slots
        )
    )(params, prompt_BP, mask_BP)
    return real(drawn.tokens_BT, drawn.mask_BT)


def expected_prompts(world: Any, examples: list[Example], references: list[list[int]]) -> list[list[int]]:
    return [
        [*e.prefix, *(t for t in reference if t != world.eos_id), *world.suffix]
        for e, reference in zip(examples, references, strict=True)
    ]


def test_a_hard_round_holds_the_samplers_own_answers(context: Any, make_mesh: Any, world: Any, sampler: Any) -> None:
    supply = supply_of(context, make_mesh, policy_rl=sampler)
    prompts = supply.prompts(ROUNDS, HARD, None)
    examples = owners(supply.context, prompts)
    rows = PromptBatch(**world.arrays("prompts", examples))
    answers = greedy(world, sampler, rows.prompt_BP, rows.prompt_mask_BP)
    assert real(prompts.reference_BT, prompts.reference_mask_BT) == answers
    assert real(prompts.prompt_BP, prompts.prompt_mask_BP) == expected_prompts(world, examples, answers)


def test_a_round_of_the_improvers_own_output_improves_the_policys_answers(
    context: Any, make_mesh: Any, world: Any, sampler: Any
) -> None:
    improver = world.draw(world.language, 1)
    supply = supply_of(context, make_mesh, policy_rl=sampler)
    before = supply.prompts(ROUNDS, HARD, None)
    prompts = supply.prompts(ROUNDS, OWN, improver)
    examples = owners(supply.context, prompts)
    assert examples == owners(supply.context, before)
    answers = greedy(world, improver, before.prompt_BP, before.prompt_mask_BP)
    assert real(prompts.reference_BT, prompts.reference_mask_BT) == answers
    assert real(prompts.prompt_BP, prompts.prompt_mask_BP) == expected_prompts(world, examples, answers)


def test_providers_share_a_round_in_their_order(context: Any, make_mesh: Any, world: Any, sampler: Any) -> None:
    supply = supply_of(context, make_mesh, policy_sft=sampler)
    prompts = supply.prompts(0, MIXED, None)
    examples = owners(supply.context, prompts)
    assert examples[: BATCH // 2] == examples[BATCH // 2 :]
    rows = PromptBatch(**world.arrays("prompts", examples[: BATCH // 2]))
    sampled = greedy(world, sampler, rows.prompt_BP, rows.prompt_mask_BP)
    chosen = [[*e.chosen, world.eos_id] for e in examples[: BATCH // 2]]
    assert real(prompts.reference_BT, prompts.reference_mask_BT) == chosen + sampled


def test_a_hard_round_is_a_function_of_the_round_and_the_sampler(
    context: Any, make_mesh: Any, world: Any, sampler: Any
) -> None:
    """Nothing has to be remembered to come back to a round; new weights need no new program."""
    supply = supply_of(context, make_mesh, policy_rl=sampler, temperature=1.0)
    first, second = (supply.prompts(r, HARD, None) for r in (ROUNDS, ROUNDS + 1))
    again = supply_of(context, make_mesh, policy_rl=sampler, temperature=1.0).prompts(ROUNDS + 1, HARD, None)
    for x, y in zip(jax.tree.leaves(second), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(x, y)
    assert owners(supply.context, first) != owners(supply.context, second)
    rows = PromptBatch(**{k: v[:BATCH] for k, v in prompt_arrays(supply.context, "rl").items()})
    answer = supply.programs["answer"]
    one, same, other = (answer(sampler, rows, jax.random.key(k)).tokens_BT for k in (1, 1, 2))
    assert np.array_equal(one, same) and not np.array_equal(one, other)
    scaled = jax.tree.map(lambda x: x * 1.5, sampler)
    compiled = answer._cache_size()
    assert not np.array_equal(one, answer(scaled, rows, jax.random.key(1)).tokens_BT)
    assert answer._cache_size() == compiled


def test_every_hard_round_draws_anew(context: Any, make_mesh: Any, world: Any, sampler: Any) -> None:
    """Rounds over one and the same prompt still meet different references."""
    supply = supply_of(context, make_mesh, policy_rl=sampler, temperature=1.0)
    supply.context.data.folds["rl"] = supply.context.data.folds["rl"][:1] * BATCH
    first, second = (supply.prompts(r, HARD, None) for r in (ROUNDS, ROUNDS + 1))
    assert not np.array_equal(first.reference_BT, second.reference_BT)


def test_the_policys_own_rounds_have_prompts_and_no_references(context: Any, make_mesh: Any, world: Any) -> None:
    supply = supply_of(context, make_mesh)
    plain = [list(e.prompt) for e in fold(supply.context)]
    seen: list[list[int]] = []
    for round in range(3):
        prompts = supply.own(round)
        assert prompts.reference_BT.shape == (BATCH, world.slot)
        assert not bool(jnp.any(prompts.reference_mask_BT))
        seen += real(prompts.prompt_BP, prompts.prompt_mask_BP)
    assert sorted(seen) == sorted(plain), "three rounds of 8 meet the 24 prompts once each"
