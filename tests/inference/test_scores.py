"""Scores of texts: those of the rows that the models were trained on, whatever the slots, the order and the mesh."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest

from pit_jax.batch import Answer, Responses
from pit_jax.inference.engine import Engine
from pit_jax.inference.texts import TextEngine, written
from pit_jax.model.scoring import end_scores, response_logprobs
from pit_jax.parallel.sharding import param_sharding


@pytest.fixture(scope="module")
def params(bench: Any) -> Any:
    return bench.reward()


@pytest.fixture(scope="module")
def plain(world: Any) -> Any:
    """plain(params, rows) -> the end score of each, in right-padded rows of one length."""
    program = jax.jit(partial(end_scores, world.scalar))

    def score(params: Any, rows: Sequence[Sequence[int]]) -> np.ndarray:
        tokens_BL = np.array([[*row, *[0] * (48 - len(row))] for row in rows], np.int32)
        segments_BL = np.arange(48)[None] < np.array([[len(row)] for row in rows])
        return np.asarray(program(params, tokens_BL, segments_BL.astype(np.int32)))

    return score


def answers(texts: Any, count: int, seed: int, *, longest: int | None = None) -> list[Answer]:
    """Random answers of 0 to `longest` (T - 1) words, with their EOS."""
    rng, world = np.random.default_rng(seed), texts.template.world
    sizes = rng.integers(0, longest or world.slot, count)
    return [written(texts.template, " ".join(map(str, rng.integers(6, world.vocab, size)))) for size in sizes]


def drawn_full(texts: Any, token: int) -> Answer:
    """An answer that filled its slot without an EOS."""
    ids = (token,) * texts.template.world.slot
    return Answer(" ".join(map(str, ids)), ids, ended=False)


def ids(prompt: str) -> list[int]:
    return [int(word) for word in prompt.split()]


def test_scores_are_those_of_the_reward_models_rows(bench: Any, texts: TextEngine, params: Any, plain: Any) -> None:
    """[prompt | y EOS], 21 prompts in batches of 8; an answer without an EOS is read at one all the same."""
    mine = [*answers(texts, 20, 0), drawn_full(texts, 9)]
    found_N = texts.scores(params, bench.prompts, mine)
    rows = [[*ids(x), *y.ids, *[1] * (not y.ended)] for x, y in zip(bench.prompts, mine, strict=True)]
    np.testing.assert_allclose(found_N, plain(params, rows), rtol=1e-5, atol=1e-5)
    assert found_N.shape == (21,) and found_N.dtype == np.float32 and np.ptp(found_N) > 0.5


def test_gaps_are_those_of_the_gap_models_rows(bench: Any, texts: TextEngine, params: Any, plain: Any) -> None:
    """[prefix, reference, suffix | y EOS], the reference without its EOS."""
    new, old = [*answers(texts, 20, 0), drawn_full(texts, 9)], [drawn_full(texts, 8), *answers(texts, 20, 1)]
    found_N = texts.gaps(params, bench.prompts, new, old)
    rows = []
    for x, y, reference in zip(bench.prompts, new, old, strict=True):
        y_ref = [token for token in reference.ids if token != 1]
        rows.append([3, *ids(x), *y_ref, 4, 5, *y.ids, *[1] * (not y.ended)])
    np.testing.assert_allclose(found_N, plain(params, rows), rtol=1e-5, atol=1e-5)
    assert np.ptp(found_N) > 0.5


def test_log_probs_are_those_of_the_drawn_tokens(bench: Any, texts: TextEngine) -> None:
    """[prompt | y EOS] and [prefix, reference, suffix | y EOS]; of a full slot what was drawn, without an EOS."""
    params, slot = bench.policy(), bench.world.slot
    new, old = [*answers(texts, 3, 0), drawn_full(texts, 9)], [drawn_full(texts, 8), *answers(texts, 3, 1)]
    prompts = bench.prompts[:4]
    read = jax.jit(partial(response_logprobs, bench.world.language, slot=slot, temperature=0.7))

    def alone(prompt: list[int], answer: Answer) -> float:
        row = [*prompt, *answer.ids]
        tokens_BL = np.array([[0] * (48 - len(row)) + row], np.int32)
        segments_BL = (np.arange(48)[None] >= 48 - len(row)).astype(np.int32)
        return float(np.asarray(read(params, tokens_BL, segments_BL))[0, slot - len(answer.ids) :].sum())

    found_N = texts.logprobs(params, prompts, new, temperature=0.7)
    rewritten_N = texts.logprobs(params, prompts, new, old, temperature=0.7)
    for row, (x, y, reference) in enumerate(zip(prompts, new, old, strict=True)):
        y_ref = [token for token in reference.ids if token != 1]
        assert found_N[row] == pytest.approx(alone(ids(x), y), rel=1e-5)
        assert rewritten_N[row] == pytest.approx(alone([3, *ids(x), *y_ref, 4, 5], y), rel=1e-5)


def test_a_pair_asked_in_both_orders_meets_one_program(bench: Any, params: Any) -> None:
    """A slot holds the longer of the two: short against long is long against short."""
    texts = bench.engine()
    short, long = written(texts.template, "9 8"), written(texts.template, " ".join(["9"] * 3 * bench.world.slot))
    texts.gaps(params, ["7 8"], [short], [long])
    assert texts._gap._cache_size() == 1
    texts.gaps(params, ["7 8"], [long], [short])
    texts.gaps(params, ["7 8"], [long], [long])
    assert texts._gap._cache_size() == 1
    texts.gaps(params, ["7 8"], [short], [short])
    assert texts._gap._cache_size() == 2


def test_a_copy_gains_exactly_nothing_beside_answers_that_overflow_the_slot(
    bench: Any, texts: TextEngine, params: Any
) -> None:
    """A sampled answer may fill the slot without an EOS: with one it is longer, on one side of the pair only. Two
    programs for two lengths would give equal texts gaps that differ in their last bits."""
    old = answers(texts, 21, 0)
    for row in (2, 11):
        old[row] = drawn_full(texts, 7)
    new = list(old)
    for row in (0, 7, 20):
        new[row] = drawn_full(texts, 9)
    gained_N = texts.gaps(params, bench.prompts, new, old) - texts.gaps(params, bench.prompts, old, old)
    copies = [row for row in range(21) if row not in (0, 7, 20)]
    assert gained_N[copies].tolist() == [0.0] * 18
    assert (gained_N[[0, 7, 20]] != 0.0).all()


@pytest.mark.parametrize(("shape", "batches"), [((1, 1, 1), {8: 8, 16: 4, 64: 1}), ((2, 2, 1), {8: 8, 16: 4, 64: 4})])
def test_long_pairs_take_wide_slots_and_small_batches(
    bench: Any, texts: TextEngine, params: Any, shape: tuple[int, int, int], batches: dict[int, int]
) -> None:
    """Texts of 7, 8 and 40 tokens end in slots of 8, 16 and 64; the order of the pairs stays, and so do their gaps."""
    mine = [written(texts.template, " ".join(["9"] * length)) for length in (7, 40, 3, 8, 40, 5)]
    short = written(texts.template, "13")
    alone_N = [texts.gaps(params, ["7 8"], [answer], [short])[0] for answer in mine]
    spread, seen = bench.engine(shape), {}
    run = spread._gap

    def noted(params: Any, rows: Any, candidate: Responses, reference: Responses) -> Any:
        assert candidate.tokens_BT.shape == reference.tokens_BT.shape
        seen[candidate.tokens_BT.shape[1]] = len(candidate.tokens_BT)
        return run(params, rows, candidate, reference)

    spread.__dict__["_gap"] = noted
    with jax.set_mesh(spread.mesh):
        placed = jax.device_put(params, param_sharding(params, spread.mesh))
        together_N = spread.gaps(placed, ["7 8"] * 6, mine, [short] * 6)
    assert seen == batches
    assert together_N == pytest.approx(alone_N, abs=1e-6) and len(set(alone_N)) > 3


@pytest.mark.parametrize("wider", [1, 2, 3])
def test_a_wider_slot_gives_the_same_score(bench: Any, params: Any, wider: int) -> None:
    """The answers of one slot, scored as if the slot were narrower by `wider` doublings."""
    narrow = bench.engine()
    mine = answers(narrow, 21, 4, longest=8 * bench.world.slot - 1)
    wide = replace(narrow, engine=Engine(bench.world.language, replace(bench.world.spec, response_slot=8 << wider)))
    for method, sides in (("scores", (mine,)), ("gaps", (mine, mine[::-1]))):
        expected_N = getattr(narrow, method)(params, bench.prompts, *sides)
        np.testing.assert_allclose(getattr(wide, method)(params, bench.prompts, *sides), expected_N, atol=1e-5)


def test_scores_are_given_back_in_the_order_of_the_prompts(bench: Any, texts: TextEngine, params: Any) -> None:
    """Also where long and short answers, which are scored apart, alternate."""
    mine = answers(texts, 21, 2, longest=20)
    order = np.random.default_rng(0).permutation(21)
    found_N = texts.scores(params, bench.prompts, mine)
    shuffled_N = texts.scores(params, [bench.prompts[i] for i in order], [mine[i] for i in order])
    np.testing.assert_allclose(shuffled_N, found_N[order], rtol=1e-5, atol=1e-6)


def test_no_prompt_has_no_score(texts: TextEngine, params: Any) -> None:
    for found_N in (texts.scores(params, [], []), texts.gaps(params, [], [], [])):
        assert found_N.shape == (0,)
