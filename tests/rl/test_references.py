"""The references of a round: the dataset's answers, a sampler's, the improver's own; each a function of the round."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pit_jax.batch import PromptBatch, RolloutPrompts
from pit_jax.data.features import Example
from pit_jax.errors import UserError
from pit_jax.inference.sampling import Sampling
from pit_jax.model.flops import Passes
from pit_jax.recipes.catalogue import RL_POLICY, SFT_POLICY
from pit_jax.rl.references import REFERENCES, models_needed, reference_cost, with_end
from pit_jax.rl.supply import Supply
from tests.world import StandInData, World

BATCH, ROUNDS = 8, 3
EASY, HARD, OWN, MIXED = ("rejected", "chosen"), ("policy-rl",), ("improver",), ("chosen", "policy-sft")


@pytest.fixture(scope="module")
def data(world: World) -> StandInData:
    return StandInData(world, {"rl": world.examples(24, seed=2)})


@pytest.fixture(scope="module")
def sampler(world: World) -> Any:
    return world.draw(world.language, 0)


@pytest.fixture(scope="module")
def improver(world: World) -> Any:
    return world.draw(world.language, 1)


@pytest.fixture(scope="module")
def engine(world: World) -> Any:
    return world.engine


@pytest.fixture(scope="module")
def supply_of(data: StandInData, engine: Any, sampler: Any, make_mesh: Any) -> Any:
    """supply_of(temperature, samples): at temperature 0, so that answers can be had again by decoding greedily."""

    def make(temperature: float = 0.0, samples: int = 1, rows: dict[str, np.ndarray] | None = None) -> Supply:
        return Supply(
            engine=engine,
            sampling=Sampling(jnp.float32(temperature)),
            rows=data.rows("rl", "prompts") if rows is None else rows,
            mesh=make_mesh(1, 1, 1),
            seed=0,
            batch_size=BATCH,
            samples=samples,
            samplers={RL_POLICY: sampler, SFT_POLICY: sampler},
            key=jax.random.key(7),
        )

    return make


def real(tokens_BL: Any, mask_BL: Any) -> list[list[int]]:
    return [row[mask].tolist() for row, mask in zip(np.asarray(tokens_BL), np.asarray(mask_BL), strict=True)]


def owners(data: StandInData, prompts: RolloutPrompts) -> list[Example]:
    """The example behind each row, told by the second token of its improver prompt."""
    examples = {e.prefix[1]: e for e in data.folds["rl"]}
    return [examples[row[1]] for row in real(prompts.prompt_BP, prompts.prompt_mask_BP)]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(st.integers(6, 30), max_size=5), min_size=3, max_size=3))
def test_a_reference_gets_its_eos_right_after_its_last_token(rows: list[list[int]]) -> None:
    tokens_BR = np.array([row + [99] * (6 - len(row)) for row in rows], np.int32)
    mask_BR = np.array([[True] * len(row) + [False] * (6 - len(row)) for row in rows])
    ended = with_end(tokens_BR, mask_BR, 1)
    assert real(ended.tokens_BT, ended.mask_BT) == [[*row, 1] for row in rows]


def test_an_easy_round_holds_rejected_then_chosen_references_of_each_prompt(
    supply_of: Any, data: StandInData, world: World, improver: Any
) -> None:
    supply = supply_of()
    rounds = [supply.improving(r, EASY, improver)[0] for r in range(ROUNDS)]
    for prompts in rounds:
        examples = owners(data, prompts)
        assert examples[: BATCH // 2] == examples[BATCH // 2 :], "each prompt once with each reference"
        references = [e.rejected for e in examples[: BATCH // 2]] + [e.chosen for e in examples[BATCH // 2 :]]
        assert real(prompts.prompt_BP, prompts.prompt_mask_BP) == [
            [*e.prefix, *reference, *world.suffix] for e, reference in zip(examples, references, strict=True)
        ]
        assert real(prompts.plain_BP, prompts.plain_mask_BP) == [list(e.prompt) for e in examples]
        assert real(prompts.reference_BT, prompts.reference_mask_BT) == [[*r, world.eos_id] for r in references]
        assert bool(prompts.prompt_mask_BP[:, -1].all()), "left-padded"
        assert prompts.reference_BT.shape == (BATCH, world.slot)
    seen = [id(e) for prompts in rounds for e in owners(data, prompts)[: BATCH // 2]]
    assert len(set(seen)) == ROUNDS * BATCH // 2, "a new prompt every time, until the fold is through"


def greedy(engine: Any, params: Any, prompt_BP: Any, mask_BP: Any) -> list[list[int]]:
    """Answers at temperature 0, their EOS included."""
    drawn = engine.complete(params, prompt_BP, mask_BP, jax.random.key(5), Sampling(jnp.float32(0.0)), 0)
    return real(drawn.tokens_BT, drawn.mask_BT)


def expected_prompts(world: World, examples: list[Example], references: list[list[int]]) -> list[list[int]]:
    return [
        [*e.prefix, *(t for t in reference if t != world.eos_id), *world.suffix]
        for e, reference in zip(examples, references, strict=True)
    ]


def test_a_hard_round_holds_the_samplers_own_answers(
    supply_of: Any, data: StandInData, engine: Any, world: World, sampler: Any, improver: Any
) -> None:
    prompts, _ = supply_of().improving(ROUNDS, HARD, improver)
    examples = owners(data, prompts)
    rows = PromptBatch(**world.arrays("prompts", examples))
    answers = greedy(engine, sampler, rows.prompt_BP, rows.prompt_mask_BP)
    assert real(prompts.reference_BT, prompts.reference_mask_BT) == answers
    assert real(prompts.prompt_BP, prompts.prompt_mask_BP) == expected_prompts(world, examples, answers)


def test_a_round_of_the_improvers_own_output_improves_the_policys_answers(
    supply_of: Any, data: StandInData, engine: Any, world: World, improver: Any
) -> None:
    supply = supply_of()
    before, _ = supply.improving(ROUNDS, HARD, improver)
    prompts, _ = supply.improving(ROUNDS, OWN, improver)
    examples = owners(data, prompts)
    assert examples == owners(data, before)
    answers = greedy(engine, improver, before.prompt_BP, before.prompt_mask_BP)
    assert real(prompts.reference_BT, prompts.reference_mask_BT) == answers
    assert real(prompts.prompt_BP, prompts.prompt_mask_BP) == expected_prompts(world, examples, answers)


def test_providers_share_a_round_in_their_order(
    supply_of: Any, data: StandInData, engine: Any, world: World, sampler: Any, improver: Any
) -> None:
    prompts, _ = supply_of().improving(0, MIXED, improver)
    examples = owners(data, prompts)
    assert examples[: BATCH // 2] == examples[BATCH // 2 :]
    rows = PromptBatch(**world.arrays("prompts", examples[: BATCH // 2]))
    sampled = greedy(engine, sampler, rows.prompt_BP, rows.prompt_mask_BP)
    chosen = [[*e.chosen, world.eos_id] for e in examples[: BATCH // 2]]
    assert real(prompts.reference_BT, prompts.reference_mask_BT) == chosen + sampled


def test_a_hard_round_is_a_function_of_the_round_and_the_sampler(
    supply_of: Any, data: StandInData, engine: Any, sampler: Any, improver: Any
) -> None:
    """Nothing has to be remembered to come back to a round; new weights need no new program."""
    supply = supply_of(temperature=1.0)
    first, second = (supply.improving(r, HARD, improver)[0] for r in (ROUNDS, ROUNDS + 1))
    again, _ = supply_of(temperature=1.0).improving(ROUNDS + 1, HARD, improver)
    for x, y in zip(jax.tree.leaves(second), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(x, y)
    assert owners(data, first) != owners(data, second)
    columns: dict[str, Any] = data.rows("rl", "prompts").first(BATCH).whole()
    rows = PromptBatch(**columns)

    def answers(params: Any, key: int) -> np.ndarray:
        drawn = engine.answer(params, rows, jax.random.key(key), supply.sampling)
        return np.asarray(drawn.tokens_BT)

    one, same, other = (answers(sampler, key) for key in (1, 1, 2))
    assert np.array_equal(one, same) and not np.array_equal(one, other)
    compiled = engine.complete._cache_size()
    assert not np.array_equal(one, answers(jax.tree.map(lambda x: x * 1.5, sampler), 1))
    assert engine.complete._cache_size() == compiled


def test_every_hard_round_draws_anew(supply_of: Any, data: StandInData, improver: Any) -> None:
    """Rounds over one and the same prompt still meet different references."""
    rows = {name: np.repeat(x[:1], BATCH, axis=0) for name, x in data.rows("rl", "prompts").whole().items()}
    supply = supply_of(temperature=1.0, rows=rows)
    first, second = (supply.improving(r, HARD, improver)[0] for r in (ROUNDS, ROUNDS + 1))
    assert not np.array_equal(first.reference_BT, second.reference_BT)


def test_the_policys_own_rounds_have_prompts_and_no_references(supply_of: Any, data: StandInData, world: World) -> None:
    supply = supply_of()
    seen: list[list[int]] = []
    for round in range(3):
        prompts, _ = supply.plain(round)
        assert prompts.reference_BT.shape == (BATCH, world.slot)
        assert not bool(jnp.any(prompts.reference_mask_BT))
        seen += real(prompts.prompt_BP, prompts.prompt_mask_BP)
    assert sorted(seen) == sorted(list(e.prompt) for e in data.folds["rl"]), "three rounds of 8 meet the 24 once each"


@pytest.mark.parametrize(("names", "samples"), [(HARD, 4), (EASY, 2), (EASY, 4), (HARD, 1)])
def test_responses_of_one_prompt_and_reference_lie_side_by_side(
    supply_of: Any, data: StandInData, improver: Any, names: Sequence[str], samples: int
) -> None:
    """Every group is one (prompt, reference), drawn once; the groups are those of a round without samples."""
    prompts, numbers = supply_of(temperature=1.0, samples=samples).improving(ROUNDS, names, improver)
    for leaf in jax.tree.leaves(prompts):
        groups = np.asarray(leaf).reshape(BATCH // samples, samples, *leaf.shape[1:])
        np.testing.assert_array_equal(groups, np.repeat(groups[:, :1], samples, axis=1))
    examples = owners(data, prompts)[::samples]
    part = len(examples) // len(names)
    assert all(examples[i * part : (i + 1) * part] == examples[:part] for i in range(len(names)))
    assert len({id(e) for e in examples[:part]}) == part
    if names == EASY:
        references = [e.rejected for e in examples[:part]] + [e.chosen for e in examples[part:]]
        found = real(prompts.reference_BT, prompts.reference_mask_BT)[::samples]
        assert found == [[*r, 1] for r in references]
    assert [data.folds["rl"][i] for i in numbers] == owners(data, prompts), "the numbers are those of the rows"


def test_the_policys_groups_are_its_prompts(supply_of: Any, data: StandInData) -> None:
    """A pass over the fold takes `samples` times as many rounds."""
    supply = supply_of(samples=4)
    seen: list[int] = []
    for round in range(12):
        prompts, numbers = supply.plain(round)
        assert numbers.tolist() == np.repeat(numbers[::4], 4).tolist()
        plain = [list(data.folds["rl"][i].prompt) for i in numbers]
        assert real(prompts.prompt_BP, prompts.prompt_mask_BP) == plain
        seen += numbers[::4].tolist()
    assert sorted(seen) == list(range(24))


def test_an_unknown_provider_is_named(supply_of: Any, improver: Any) -> None:
    with pytest.raises(UserError, match="no reference 'policy_rl'; did you mean policy-rl.; known: rejected, chosen,"):
        supply_of().improving(0, ("policy_rl",), improver)


def test_what_providers_need_and_cost() -> None:
    """A rewrite of the policy's answer is two draws, the longer of them behind the improver's prompt."""
    assert models_needed(("rejected", "chosen")) == ()
    assert models_needed(("policy-sft", "improver", "policy-rl")) == (SFT_POLICY, RL_POLICY)
    assert [name for name in REFERENCES.names() if not REFERENCES[name].drawn] == ["rejected", "chosen"]


def test_the_cost_of_references_is_what_is_drawn(world: World) -> None:
    passes = Passes(world.config, world.vocab)

    def cost(*names: str) -> Any:
        return reference_cost(passes, names, prompt=8, improver=18, slot=8)

    assert cost("rejected", "chosen") == cost()
    assert cost("improver") == passes.draw(8, 8, 8) + passes.draw(18, 8, 8)
    assert cost("policy-rl", "policy-sft") == 2 * passes.draw(8, 8, 8)
