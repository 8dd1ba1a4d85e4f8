"""Trails of improvements: against a loop over plain lists, drawn in pieces or at once, and what stopped ones cost."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pit_jax.batch import Answer
from pit_jax.inference.improve import Gap, Trail, extend
from pit_jax.inference.sampling import Sampling
from pit_jax.inference.texts import TextEngine

ROUNDS, THRESHOLD, KEY = 4, 0.0, jax.random.key(0)
WARM, GREEDY = Sampling(jnp.float32(1.0)), Sampling(jnp.float32(0.0))


@pytest.fixture(scope="module")
def improver(bench: Any) -> Any:
    return bench.policy(1)


@pytest.fixture(scope="module")
def model_gap(bench: Any, compiled: TextEngine) -> Gap:
    return partial(compiled.gaps, bench.reward())


class HashedGap:
    """A gap that looks random: the offset of a prompt, which the other order takes away, and a difference of hashes."""

    def __init__(self) -> None:
        self.asked = list[int]()

    def __call__(self, prompts: Sequence[str], news: Sequence[Answer], olds: Sequence[Answer]) -> np.ndarray:
        self.asked.append(len(prompts))
        offsets = [sum(map(int, prompt.split())) for prompt in prompts]
        rows = zip(offsets, news, olds, strict=True)
        return np.array([offset + hashed(new) - 0.25 * hashed(old) for offset, new, old in rows], np.float32)


def hashed(answer: Answer) -> float:
    """In [-0.5, 0.5)."""
    return sum((3 + i) * token for i, token in enumerate(answer.ids)) % 97 / 97.0 - 0.5


def fresh(bench: Any, texts: Any, index: int = 0, count: int = 21) -> tuple[Any, list[Trail]]:
    """A chunk and its trails, which hold the policy's answers alone."""
    chunk = texts.chunks(bench.prompts[:count], least=bench.world.prompt_slot)[index]
    originals = texts.answer(bench.policy(), chunk, jax.random.fold_in(KEY, 0), WARM)
    prompts = bench.prompts[chunk.first : chunk.first + chunk.real]
    texts.engine.decodes.clear()
    return chunk, [Trail(prompt, original) for prompt, original in zip(prompts, originals, strict=True)]


@pytest.fixture
def trails(bench: Any, texts: TextEngine, improver: Any) -> Callable[..., list[Trail]]:
    """trails(rounds, threshold=..) -> those of the first chunk, extended once for each number of rounds given."""

    def run(*rounds: int, gap: Gap | None = None, sampling: Sampling = WARM, **knobs: Any) -> list[Trail]:
        chunk, found = fresh(bench, texts)
        for each in rounds:
            extend(texts, improver, chunk, found, KEY, sampling, rounds=each, gap=gap, **knobs)
        return found

    return run


def test_every_round_rewrites_the_answer_before(bench: Any, texts: Any, improver: Any, trails: Any) -> None:
    """Each draft again, from plain lists, one decode a round with fold_in(key, round)."""
    world, found = bench.world, trails(ROUNDS)
    slot = world.prompt_slot + world.slot + len(world.suffix)
    for k in range(1, ROUNDS + 1):
        rows = []
        for trail in found:
            reference = [token for token in trail.answers[k - 1].ids if token != world.eos_id]
            rows.append([3, *map(int, trail.prompt.split()), *reference, *world.suffix])
        tokens_BL = np.array([[world.pad_id] * (slot - len(row)) + row for row in rows], np.int32)
        mask_BL = np.arange(slot)[None] >= slot - np.array([[len(row)] for row in rows])
        drawn = texts.engine.compiled(1)(improver, tokens_BL, mask_BL, jax.random.fold_in(KEY, k), WARM, 0)
        assert [trail.answers[k] for trail in found] == texts.read(drawn, len(found))
    ended = [answer.ended for trail in found for answer in trail.answers[:-1]]
    assert any(ended) and not all(ended), "references that end and references that fill their slot"
    assert all(not trail.gaps for trail in found), "nobody asked"


def test_two_improvers_improve_the_same_answers(bench: Any, texts: TextEngine, trails: Any) -> None:
    one = trails(1)
    chunk, other = fresh(bench, texts)
    extend(texts, bench.policy(2), chunk, other, KEY, WARM, rounds=1)
    assert [trail.original for trail in one] == [trail.original for trail in other]
    assert [trail.drafts for trail in one] != [trail.drafts for trail in other]
    chunk, again = fresh(bench, texts)
    extend(texts, bench.policy(1), chunk, again, KEY, WARM, rounds=1)
    assert again == one


@pytest.mark.parametrize("steps", [(1, ROUNDS), (2, 3, ROUNDS)])
def test_a_trail_in_steps_is_a_trail_at_once(trails: Any, model_gap: Gap, steps: tuple[int, ...]) -> None:
    """Drafts and gaps, whoever stopped in between; what is there already is not drawn again."""
    at_once = trails(ROUNDS, gap=model_gap)
    assert trails(*steps, gap=model_gap) == at_once and {len(trail.drafts) for trail in at_once} == {ROUNDS}
    stopped = trails(ROUNDS, gap=HashedGap(), threshold=THRESHOLD)
    assert trails(*steps, gap=HashedGap(), threshold=THRESHOLD) == stopped
    assert len({len(trail.drafts) for trail in stopped}) >= 3, "trails stop at different rounds"


def test_gaps_change_no_draft(trails: Any) -> None:
    """Without a threshold a scored trail is the plain one."""
    scored = trails(ROUNDS, gap=HashedGap())
    assert [trail.drafts for trail in scored] == [trail.drafts for trail in trails(ROUNDS)]
    assert all(len(trail.gaps) == ROUNDS for trail in scored)


def test_gaps_are_of_both_orders_over_the_answer_before(trails: Any) -> None:
    """(gap(x, new, old) - gap(x, old, new)) / 2 = 1.25 (hash(new) - hash(old)) / 2, but for the offset's rounding."""
    for trail in trails(ROUNDS, gap=HashedGap()):
        expected = 0.625 * np.diff([hashed(answer) for answer in trail.answers])
        np.testing.assert_allclose(trail.gaps, expected, atol=1e-4)


def test_gaps_are_the_gap_models(bench: Any, texts: TextEngine, trails: Any, model_gap: Gap) -> None:
    found = trails(ROUNDS, gap=model_gap)
    for trail in found:
        olds, news = trail.answers[:-1], trail.answers[1:]
        gap = partial(model_gap, [trail.prompt] * ROUNDS)
        np.testing.assert_allclose(trail.gaps, (gap(news, olds) - gap(olds, news)) / 2, atol=1e-5)
    assert np.abs([trail.gaps for trail in found]).max() > 0.05


def test_a_trail_stops_behind_its_first_small_gap(texts: Any, trails: Any) -> None:
    """Row by row from the trail that never stops: both draw the same drafts until a row stops."""
    free, gap = trails(ROUNDS, gap=HashedGap()), HashedGap()
    stopped = trails(ROUNDS, gap=gap, threshold=THRESHOLD)
    for whole, trail in zip(free, stopped, strict=True):
        small = [k for k, gained in enumerate(whole.gaps, 1) if gained < THRESHOLD]
        drafts = small[0] if small else ROUNDS
        assert trail.drafts == whole.drafts[:drafts] and trail.gaps == whole.gaps[:drafts]
    lengths = [len(trail.drafts) for trail in stopped]
    assert len(set(lengths)) >= 3, "rows stop at different rounds"
    live = [[length >= k for length in lengths] for k in range(1, ROUNDS + 1)]
    live = [row for row in live if any(row)]
    assert [row for row, _ in texts.engine.decodes] == live, "a stopped row holds no prompt"
    assert [[n > 0 for n in drawn] for _, drawn in texts.engine.decodes] == live, "and draws nothing"
    assert gap.asked == [sum(row) for row in live for _ in range(2)], "and is scored no more"


def test_an_infinite_threshold_costs_one_draft_a_row(bench: Any, texts: Any, improver: Any) -> None:
    """Each row spends one draft on finding out; after that nothing is computed, then or later."""
    gap, (chunk, found) = HashedGap(), fresh(bench, texts)
    run = partial(extend, texts, improver, chunk, found, KEY, WARM, rounds=ROUNDS, gap=gap, threshold=np.inf)
    assert run() and [len(trail.drafts) for trail in found] == [1] * 8
    assert len(texts.engine.decodes) == 1 and gap.asked == [8, 8]
    assert not run() and len(texts.engine.decodes) == 1 and gap.asked == [8, 8]


def test_a_finished_trail_is_left_alone(bench: Any, texts: Any, improver: Any) -> None:
    gap, (chunk, found) = HashedGap(), fresh(bench, texts)
    extend(texts, improver, chunk, found, KEY, WARM, rounds=2, gap=gap)
    before = [replace(trail, drafts=list(trail.drafts), gaps=list(trail.gaps)) for trail in found]
    texts.engine.decodes.clear()
    for rounds in (2, 1, 0):
        assert not extend(texts, improver, chunk, found, KEY, WARM, rounds=rounds, gap=gap)
    assert found == before and not texts.engine.decodes


def test_trails_of_unequal_length_are_brought_level(bench: Any, texts: TextEngine, improver: Any) -> None:
    """As after a kill between two files: those that lack drafts get theirs, the others nothing."""
    (chunk, whole), (_, found) = fresh(bench, texts), fresh(bench, texts)
    extend(texts, improver, chunk, whole, KEY, WARM, rounds=3)
    for i, (trail, full) in enumerate(zip(found, whole, strict=True)):
        trail.drafts.extend(full.drafts[: i % 4])
    assert extend(texts, improver, chunk, found, KEY, WARM, rounds=3)
    assert found == whole


def test_a_copy_gains_exactly_nothing(bench: Any, texts: TextEngine, model_gap: Gap) -> None:
    """Greedy rewrites by a model without weights repeat one token, so every draft equals the one before it."""
    chunk, found = fresh(bench, texts)
    silent = Answer(" ".join(["0"] * bench.world.slot), (0,) * bench.world.slot, ended=False)
    copies = [Trail(trail.prompt, silent) for trail in found]
    extend(texts, bench.blank(), chunk, copies, KEY, GREEDY, rounds=2, gap=model_gap, threshold=0.0)
    assert all(trail.drafts == [silent] * 2 and trail.gaps == [0.0, 0.0] for trail in copies)


def test_greedy_rows_do_not_depend_on_the_order_of_the_batch(bench: Any, texts: TextEngine, improver: Any) -> None:
    order, gap = np.random.default_rng(0).permutation(8).tolist(), HashedGap()
    found = []
    for prompts in (bench.prompts[:8], [bench.prompts[i] for i in order]):
        chunk = texts.chunks(prompts, least=8)[0]
        originals = texts.answer(bench.policy(), chunk, KEY, GREEDY)
        trails = [Trail(x, y) for x, y in zip(prompts, originals, strict=True)]
        extend(texts, improver, chunk, trails, KEY, GREEDY, rounds=ROUNDS, gap=gap, threshold=THRESHOLD)
        found.append(trails)
    straight, shuffled = found
    assert shuffled == [straight[i] for i in order]
    assert len({len(trail.drafts) for trail in straight}) > 1


def test_sampled_rows_depend_on_their_place_alone(bench: Any, texts: TextEngine, improver: Any) -> None:
    """A key serves a whole batch: other neighbours change nothing, another place draws other tokens."""
    order = [0, 1, 2, 3, 7, 6, 5, 4]
    chunk, straight = fresh(bench, texts)
    moved_chunk = texts.chunks([bench.prompts[i] for i in order], least=8)[0]
    moved = [Trail(straight[i].prompt, straight[i].original) for i in order]
    extend(texts, improver, chunk, straight, KEY, WARM, rounds=2)
    extend(texts, improver, moved_chunk, moved, KEY, WARM, rounds=2)
    assert moved[:4] == straight[:4]
    assert moved[4:] != [straight[i] for i in order[4:]]


def test_rows_that_only_fill_up_the_batch_do_not_keep_it_going(bench: Any, texts: Any, improver: Any) -> None:
    """The last chunk holds five prompts; its three other rows never draw."""
    gap, (chunk, found) = HashedGap(), fresh(bench, texts, index=2)
    extend(texts, improver, chunk, found, KEY, WARM, rounds=ROUNDS, gap=gap, threshold=THRESHOLD)
    assert len(found) == 5 and max(gap.asked) == 5
    assert len(texts.engine.decodes) == max(len(trail.drafts) for trail in found)
    assert all(not any(live[5:]) and not any(drawn[5:]) for live, drawn in texts.engine.decodes)
