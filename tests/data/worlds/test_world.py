"""What every world keeps: ideal answers, faults that cost, noisy labels, pairs that follow from seed and row alone."""

import hashlib
import math
import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pit_jax.data.worlds.builtin import WORLDS
from pit_jax.data.worlds.notes import NOTES
from pit_jax.data.worlds.world import World, draw_pair, pairs, score_of
from pit_jax.errors import UserError

every_world = pytest.mark.parametrize("world", list(WORLDS), ids=lambda world: world.name)


def draws(world: World, count: int) -> Iterator[tuple[str, str, random.Random]]:
    """(prompt, ideal answer, rng) of that many draws."""
    for seed in range(count):
        rng = random.Random(seed)
        prompt = world.prompt(rng)
        yield prompt, world.ideal(prompt, rng), rng


@every_world
def test_ideal_answers_score_the_maximum_and_have_no_flaw(world: World) -> None:
    assert world.flaws is not None
    for prompt, ideal, _ in draws(world, 300):
        assert world.score(prompt, ideal) == world.max_score and list(world.flaws(prompt, ideal)) == []


@every_world
def test_no_fault_changes_nothing(world: World) -> None:
    assert all(world.corrupt(prompt, ideal, 0, rng) == ideal for prompt, ideal, rng in draws(world, 100))


@every_world
def test_an_ideal_answer_holds_choices_that_the_prompt_does_not_determine(world: World) -> None:
    prompt = world.prompt(random.Random(0))
    assert len({world.ideal(prompt, random.Random(seed)) for seed in range(300)}) > 30


@every_world
def test_more_faults_score_lower_on_average(world: World) -> None:
    means = [
        sum(world.score(prompt, world.corrupt(prompt, ideal, faults, rng)) for prompt, ideal, rng in draws(world, 300))
        / 300
        for faults in range(5)
    ]
    assert means[0] == world.max_score and all(a > b + 0.3 for a, b in zip(means, means[1:], strict=False))


@every_world
def test_a_flaw_is_a_point(world: World) -> None:
    assert world.flaws is not None
    for row in pairs(world, 100, 0):
        assert world.score(row.prompt, row.rejected) == max(
            0, world.max_score - len(world.flaws(row.prompt, row.rejected))
        )
    assert score_of(["a", "b"], 7.0) == 5.0 and score_of(["a"] * 9, 7.0) == 0.0


@every_world
def test_pairs_depend_on_seed_and_row_alone(world: World) -> None:
    assert pairs(world, 40, 0) == pairs(world, 60, 0)[:40]
    assert not set(pairs(world, 40, 0)) & set(pairs(world, 40, 1))


@every_world
def test_pairs_have_distinct_prompts_and_different_answers(world: World) -> None:
    rows = pairs(world, 500, 0)
    assert len({row.prompt for row in rows}) == 500
    assert all(row.chosen != row.rejected and row.chosen and row.rejected for row in rows)


@every_world
def test_labels_are_good_but_noisy(world: World) -> None:
    rows = pairs(world, 1500, 0)
    gaps = [world.score(row.prompt, row.chosen) - world.score(row.prompt, row.rejected) for row in rows]
    assert 0 not in gaps, "a pair without a better answer teaches nothing"
    right = sum(gap > 0 for gap in gaps) / len(gaps)
    assert 0.9 < right < 1.0
    expected = sum(1 / (1 + math.exp(-world.sharpness * abs(gap))) for gap in gaps) / len(gaps)
    assert abs(right - expected) < 4 * math.sqrt(expected * (1 - expected) / len(gaps)), "a Bradley-Terry draw"


@every_world
def test_answers_of_a_pair_share_what_the_prompt_does_not_determine(world: World) -> None:
    """Both are corruptions of one ideal answer: they share far more sentences than answers of two draws would."""

    def shared(a: str, b: str) -> float:
        first, second = set(a.split(". ")), set(b.split(". "))
        return len(first & second) / len(first | second)

    rows = pairs(world, 300, 0)
    assert sum(shared(row.chosen, row.rejected) for row in rows) / len(rows) > 0.3


@every_world
def test_answers_of_every_quality_are_met(world: World) -> None:
    rows = pairs(world, 1500, 0)
    scores = [world.score(row.prompt, text) for row in rows for text in (row.chosen, row.rejected)]
    assert scores.count(world.max_score) > 0.02 * len(rows)
    assert {*scores} == set(range(int(world.max_score) + 1))


@every_world
@given(text=st.text(max_size=60))
def test_garbage_scores_low_and_never_fails(world: World, text: str) -> None:
    assert 0 <= world.score(world.prompt(random.Random(0)), text) <= 2


@every_world
@given(text=st.text(max_size=60))
def test_a_prompt_of_another_world_is_refused(world: World, text: str) -> None:
    others = [other.prompt(random.Random(0)) for other in WORLDS if other != world]
    for prompt in (text, *others):
        with pytest.raises(UserError, match=f"the world {world.name} judges its own"):
            world.score(prompt, "")


FROZEN = {
    "notes": "b674708dcd9fa0ec",
    "plans": "4ee322f26028e023",
    "orders": "d328b3abdd44e79a",
    "matches": "61c3fa7a5f712cf5",
}


@every_world
def test_a_world_is_frozen(world: World) -> None:
    """Figures of a world stand beside earlier ones: neither its pairs nor its scores may move."""
    rows = pairs(world, 200, 0)
    scores = [world.score(row.prompt, text) for row in rows for text in (row.chosen, row.rejected)]
    assert hashlib.sha256(repr((rows, scores)).encode()).hexdigest()[:16] == FROZEN[world.name]


def test_a_world_whose_faults_never_matter_has_no_pairs() -> None:
    dull = replace(NOTES, corrupt=lambda prompt, answer, faults, rng: answer)
    with pytest.raises(UserError, match="world notes: 100 corruptions of .* all have the score of their pair"):
        draw_pair(dull, random.Random(0))


def test_a_world_has_no_more_pairs_than_prompts() -> None:
    prompt = NOTES.prompt(random.Random(0))
    with pytest.raises(UserError, match="world notes: asked for 3 pairs, found 1 prompts; ask for less"):
        pairs(replace(NOTES, prompt=lambda rng: prompt), 3, 0)
