"""Stop rules: hand-worked trails, the rules as properties of a whole program, and what stopped rows cost."""

from collections.abc import Callable
from functools import partial
from typing import Any

import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pit_jax.batch import PromptBatch
from pit_jax.inference.improve import Answers, improve
from pit_jax.inference.sampling import Sampling
from pit_jax.inference.stopping import (
    NEVER,
    ScoredTrail,
    chained_gaps,
    check_stop,
    chosen_round,
    improve_scored,
)

ROUNDS, THRESHOLD = 4, 0.0
WARM, GREEDY = Sampling(jnp.float32(1.0)), Sampling(jnp.float32(0.0))
KEY = jax.random.key(0)
calls: list[int] = []


def hashed(answers: Answers) -> jax.Array:
    """value_B in [-0.5, 0.5): a number that looks random, from an answer's real tokens."""
    weights_1T = jnp.arange(3, 3 + answers.mask_BT.shape[1], dtype=jnp.int32)[None]
    sums_B = jnp.sum(jnp.where(answers.mask_BT, answers.tokens_BT * weights_1T, 0), axis=1)
    return (sums_B % 97).astype(jnp.float32) / 97.0 - 0.5


def toy_gap(rows: PromptBatch, reference: Answers, candidate: Answers) -> jax.Array:
    """An offset of the prompt, which centring takes away, and the difference of two hashes. Counts its calls."""
    jax.debug.callback(lambda: calls.append(1))
    offset_B = jnp.sum(rows.prefix_BP, axis=1).astype(jnp.float32)
    return offset_B + hashed(candidate) - 0.25 * hashed(reference)


@pytest.fixture(scope="module")
def program(tiny: Any) -> Callable[..., ScoredTrail]:
    """program(rows, threshold, sampling) with fixed weights and key: one compiled program for every threshold."""
    policy, improver = tiny.draw(0), tiny.draw(1)

    def run(rows: PromptBatch, sampling: Sampling, threshold: jax.Array) -> ScoredTrail:
        return improve_scored(
            tiny.model, policy, improver, rows, KEY, sampling, toy_gap, threshold, rounds=ROUNDS, slots=tiny.slots
        )

    compiled = jax.jit(run)

    def at(rows: PromptBatch, threshold: float, sampling: Sampling = WARM) -> ScoredTrail:
        calls.clear()
        found = jax.device_get(compiled(rows, sampling, jnp.float32(threshold)))
        jax.effects_barrier()
        assert compiled._cache_size() == 1
        return found

    return at


def permuted(rows: PromptBatch, order: Any) -> PromptBatch:
    return jax.tree.map(lambda x: x[order], rows)


def same(found: Any, expected: Any) -> None:
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


def test_never_stopping_is_the_fixed_number_of_rounds(tiny: Any, program: Any, rows: PromptBatch) -> None:
    trail = program(rows, NEVER)
    fixed = jax.jit(partial(improve, tiny.model, rounds=ROUNDS, slots=tiny.slots))
    plain = fixed(tiny.draw(0), tiny.draw(1), rows, KEY, WARM)
    same(trail.answers, plain)
    assert trail.active_B.all() and trail.kept_B.all()
    np.testing.assert_array_equal(trail.tokens_B, np.asarray(plain.mask_BT[1:]).sum(axis=2))
    np.testing.assert_array_equal(chosen_round(trail, "rounds"), np.full(tiny.count, ROUNDS))
    np.testing.assert_array_equal(chosen_round(trail, "threshold"), np.full(tiny.count, ROUNDS))


def test_an_infinite_threshold_returns_the_original_everywhere(program: Any, rows: PromptBatch) -> None:
    """Each row spends one draft on finding out; after that no round computes anything: one pair of scores."""
    trail = program(rows, np.inf)
    same(trail.answers, jax.tree.map(lambda x: np.stack([x[0]] * (ROUNDS + 1)), trail.answers))
    assert (chosen_round(trail, "threshold") == 0).all()
    assert trail.active_B[0].all() and (trail.tokens_B[0] > 0).all()
    assert not trail.active_B[1:].any() and not trail.kept_B.any()
    assert not trail.tokens_B[1:].any() and not trail.gap_B[1:].any()
    assert len(calls) == 2


def test_a_row_stops_at_its_first_small_gap_and_keeps_the_answer_before(
    tiny: Any, program: Any, rows: PromptBatch
) -> None:
    """Row by row from the trail that never stops: both draw the same drafts until a row stops."""
    free, trail = program(rows, NEVER), program(rows, THRESHOLD)
    chosen_B = chosen_round(trail, "threshold")
    for b in range(tiny.count):
        small = [k for k in range(ROUNDS) if free.gap_B[k, b] < THRESHOLD]
        stop = small[0] if small else ROUNDS
        assert chosen_B[b] == stop
        for k in range(ROUNDS + 1):
            for found, expected in zip(jax.tree.leaves(trail.answers), jax.tree.leaves(free.answers), strict=True):
                np.testing.assert_array_equal(found[k, b], expected[min(k, stop), b])
        np.testing.assert_array_equal(trail.gap_B[: stop + 1, b], free.gap_B[: stop + 1, b])
        np.testing.assert_array_equal(trail.tokens_B[: stop + 1, b], free.tokens_B[: stop + 1, b])
        assert not trail.tokens_B[stop + 1 :, b].any() and not trail.gap_B[stop + 1 :, b].any()
        np.testing.assert_array_equal(trail.active_B[:, b], np.arange(ROUNDS) <= stop)
        np.testing.assert_array_equal(trail.kept_B[:, b], np.arange(ROUNDS) < stop)
    assert len(set(chosen_B.tolist())) >= 3, "rows stop at different rounds"


def test_gaps_are_centred_on_the_answer_before(program: Any, rows: PromptBatch) -> None:
    """toy_gap(x, new, old) - toy_gap(x, old, old) = hash(new) - hash(old), up to the rounding of the offset."""
    trail = program(rows, NEVER)
    values_KB = np.stack([hashed(jax.tree.map(lambda x, k=k: x[k], trail.answers)) for k in range(ROUNDS + 1)])
    np.testing.assert_allclose(trail.gap_B, np.diff(values_KB, axis=0), atol=1e-4)


def test_a_copy_is_counted_and_gains_nothing(tiny: Any, rows: PromptBatch) -> None:
    """Greedy rewrites by a model without weights repeat one token, so every draft equals the one before it."""
    blank = jax.tree.map(jnp.zeros_like, tiny.draw(0))
    trail = jax.device_get(
        jax.jit(partial(improve_scored, tiny.model, gap=toy_gap, rounds=2, slots=tiny.slots))(
            blank, blank, rows, KEY, GREEDY, threshold=jnp.float32(0.0)
        )
    )
    assert trail.copied_B.all() and trail.kept_B.all() and not trail.gap_B.any()
    assert (trail.tokens_B == tiny.slot).all()


def test_a_stopped_row_is_not_a_copy(program: Any, rows: PromptBatch) -> None:
    assert not program(rows, np.inf).copied_B.any()


def test_greedy_rows_do_not_depend_on_the_order_of_the_batch(tiny: Any, program: Any, rows: PromptBatch) -> None:
    order = np.random.default_rng(0).permutation(tiny.count)
    straight, shuffled = program(rows, THRESHOLD, GREEDY), program(permuted(rows, order), THRESHOLD, GREEDY)
    same(shuffled, jax.tree.map(lambda x: x[:, order], straight))
    assert 0 < straight.kept_B.sum() < straight.kept_B.size


def test_sampled_rows_depend_on_their_place_alone(program: Any, rows: PromptBatch) -> None:
    """A key serves a whole batch: other neighbours change nothing, another place draws other tokens."""
    order = np.array([*range(12), *reversed(range(12, 24))])
    straight, shuffled = program(rows, THRESHOLD), program(permuted(rows, order), THRESHOLD)
    same(jax.tree.map(lambda x: x[:, :12], shuffled), jax.tree.map(lambda x: x[:, :12], straight))
    moved = jax.tree.map(lambda x: x[:, order], straight)
    assert not np.array_equal(shuffled.answers.tokens_BT[:, 12:], moved.answers.tokens_BT[:, 12:])


def test_rows_that_only_fill_up_the_batch_do_not_keep_it_going(tiny: Any, program: Any, rows: PromptBatch) -> None:
    """A copy of nothing is never worse than nothing: they would go on for ever.

    A round in which a row draws asks for two scores.
    """
    early = int(np.argmin(program(rows, THRESHOLD).active_B.sum(axis=0)))
    trail = program(tiny.rows(real=[early]), THRESHOLD)
    others = np.arange(tiny.count) != early
    assert not trail.active_B[:, others].any() and not trail.tokens_B[:, others].any()
    assert len(calls) == 2 * trail.active_B[:, early].sum() < 2 * ROUNDS


GAPS = hnp.arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 4)), elements=st.integers(-3, 3).map(float))


def bare(gap_B: np.ndarray, kept_B: np.ndarray) -> ScoredTrail:
    """A trail of which only gaps and decisions matter."""
    nothing = Answers(np.zeros(0), np.zeros(0))
    return ScoredTrail(nothing, gap_B, np.zeros_like(gap_B), np.zeros_like(kept_B), np.ones_like(kept_B), kept_B)


@given(GAPS)
def test_the_best_answer_is_never_below_the_original(gap_KB: np.ndarray) -> None:
    """Against a plain loop that moves on only when a sum is larger than every sum before it."""
    trail = bare(gap_KB, np.ones(gap_KB.shape, bool))
    for b, found in enumerate(chosen_round(trail, "best")):
        total, best, best_round = 0.0, 0.0, 0
        for k, gap in enumerate(gap_KB[:, b].tolist(), 1):
            total += gap
            if total > best:
                best, best_round = total, k
        assert found == best_round
        assert chained_gaps(gap_KB)[found, b] == best >= 0.0


def test_hand_worked_choices() -> None:
    """Three prompts, three rounds. Sums: 0 1 0 2 -> round 3; 0 1 1 0 -> round 1 (earliest); 0 -1 -2 -1 -> original.

    Kept drafts: all three; the first alone; none.
    """
    gap_KB = np.array([[1, 1, -1], [-1, 0, -1], [2, -1, 1]], np.float32)
    kept_KB = np.array([[1, 1, 0], [1, 0, 0], [1, 0, 0]], bool)
    trail = bare(gap_KB, kept_KB)
    assert chosen_round(trail, "best").tolist() == [3, 1, 0]
    assert chosen_round(trail, "threshold").tolist() == [3, 1, 0]
    np.testing.assert_array_equal(chained_gaps(gap_KB)[:, 0], [0, 1, 0, 2])


@pytest.mark.parametrize(
    ("stop", "threshold", "message"),
    [
        ("round", 0.0, "--improve.stop=round: no such rule; known: rounds, threshold, best"),
        ("threshold", float("nan"), "--improve.stop-threshold=nan"),
        ("best", 0.5, "no effect under --improve.stop=best; add --improve.stop=threshold"),
        ("rounds", -np.inf, "no effect under --improve.stop=rounds"),
    ],
)
def test_wrong_rules(stop: str, threshold: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_stop(stop, threshold)


@pytest.mark.parametrize(("stop", "threshold"), [("rounds", 0.0), ("best", 0.0), ("threshold", -np.inf)])
def test_right_rules(stop: str, threshold: float) -> None:
    check_stop(stop, threshold)
