"""Forward passes read out, against the plain forward pass of one unpadded sequence at a time, in float64."""

import math
from dataclasses import fields, replace
from functools import partial
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pit_jax.batch import DpoBatch, PromptBatch, Responses, SftBatch
from pit_jax.data.features import Example
from pit_jax.model import scoring
from pit_jax.objectives.sft import token_loss
from tests.sequences import with_junk

SHARED = [Example([9, 8], [3], [10, 11, 12], [10, 11]), Example([9], [3], [7, 7], [6, 7]), Example([9], [3], [], [7])]
PROMPT, SLOT = 6, 5


@pytest.fixture(scope="module")
def policy(world: Any) -> Any:
    return world.draw(world.language, 0)


@pytest.fixture(scope="module")
def reward(world: Any) -> Any:
    return world.draw(world.scalar, 0)


@pytest.fixture(scope="module")
def pair_logprobs(world: Any) -> Any:
    return jax.jit(partial(scoring.pair_logprobs, world.language))


@pytest.fixture(scope="module")
def scores(world: Any) -> Any:
    return jax.jit(partial(scoring.end_scores, world.scalar))


def rows(world: Any, seed: int = 0) -> tuple[list[list[int]], list[list[int]], jax.Array, jax.Array]:
    """Prompts, responses, and both in rows [left-padded | right-padded] with junk in the padding: tokens, segments."""
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(2, world.vocab, size).tolist() for size in (6, 1, 3, 4)]
    responses = [rng.integers(2, world.vocab, size).tolist() for size in (5, 2, 1, 4)]
    tokens, segments = np.full((4, PROMPT + SLOT), world.vocab - 1), np.zeros((4, PROMPT + SLOT))
    for b, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        here = slice(PROMPT - len(prompt), PROMPT + len(response))
        tokens[b, here], segments[b, here] = prompt + response, 1
    return prompts, responses, jnp.asarray(tokens, jnp.int32), jnp.asarray(segments, jnp.int32)


def logs(*probs: float) -> list[float]:
    return [math.log(p) for p in probs]


def test_log_probs_by_hand() -> None:
    """softmax((0, ln 3, ln 4)) = (1, 3, 4) / 8; at temperature 0.5 the odds are squared: (1, 9, 16) / 26."""
    logits_BTV = jnp.broadcast_to(jnp.asarray([0.0, math.log(3), math.log(4)], jnp.float32)[None, None], (1, 3, 3))
    at = partial(jax.jit(scoring.token_logprobs), logits_BTV, jnp.asarray([[0, 1, 2]], jnp.int32))
    np.testing.assert_allclose(at(temperature=1.0), [logs(1 / 8, 3 / 8, 4 / 8)], rtol=1e-6)
    np.testing.assert_allclose(at(temperature=0.5), [logs(1 / 26, 9 / 26, 16 / 26)], rtol=1e-6)
    np.testing.assert_array_equal(at(temperature=0.0), at(temperature=1.0))


def test_log_probs_are_float32_and_survive_large_logits() -> None:
    logits_BTV = jnp.asarray([[[1e4, -1e4, 0.0]]], jnp.bfloat16)
    found_BT = scoring.token_logprobs(logits_BTV, jnp.asarray([[0]], jnp.int32), temperature=0.1)
    assert found_BT.dtype == jnp.float32 and float(found_BT[0, 0]) == 0.0


@pytest.mark.parametrize(("temperature", "divisor"), [(0.0, 1.0), (0.25, 0.25), (1.0, 1.0), (2.0, 2.0)])
def test_logits_are_divided_by_the_temperature_and_greedy_ones_are_not(temperature: float, divisor: float) -> None:
    for given in (temperature, jnp.float32(temperature)):
        assert scoring.divisor(given).dtype == jnp.float32 and float(scoring.divisor(given)) == divisor


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_response_log_probs_are_those_of_a_plain_pass(
    world: Any, plain: ModuleType, policy: Any, temperature: float
) -> None:
    """Whatever stands in the padding of either side; logits are made for the response slot alone."""
    prompts, responses, tokens_BL, segments_BL = rows(world)
    read = partial(scoring.response_logprobs, world.language, slot=SLOT, temperature=temperature)
    found_BT = np.asarray(jax.jit(read)(policy, tokens_BL, segments_BL))
    assert found_BT.shape == (4, SLOT)
    for b, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        expected_T = plain.answer_logprobs(policy, world.config, prompt, response, temperature=temperature)
        np.testing.assert_allclose(found_BT[b, : len(response)], expected_T, rtol=1e-5, atol=1e-5)
    shapes = [v.aval.shape for e in jax.make_jaxpr(read)(policy, tokens_BL, segments_BL).eqns for v in e.outvars]
    assert (4, SLOT, world.vocab) in shapes and (*tokens_BL.shape, world.vocab) not in shapes


def test_response_values_are_read_before_each_token(world: Any, plain: ModuleType, reward: Any) -> None:
    """The value of a state: the scalar at the token before, the last one of the prompt for the first."""
    prompts, responses, tokens_BL, segments_BL = rows(world)
    read = jax.jit(partial(scoring.response_values, world.scalar, slot=SLOT))
    found_BT = np.asarray(read(reward, tokens_BL, segments_BL))
    for b, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        expected_L = plain.scalars(reward, world.config, [*prompt, *response])
        found_T = found_BT[b, : len(response)]
        np.testing.assert_allclose(found_T, expected_L[len(prompt) - 1 : -1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["sft-policy", "sft-improver"])
def test_counted_log_probs_are_those_of_answers(world: Any, plain: ModuleType, policy: Any, kind: str) -> None:
    """Of each row the tokens of its answer and EOS in their order, then slots that do not count."""
    chosen = [Example([7, 8], [3, 8], [9, 10, 11], [12]), Example([20], [3, 20], [], [13, 14])]
    read = jax.jit(partial(scoring.counted_logprobs, world.language, slots=5))
    logprobs_BT, correct_BT, mask_BT = map(np.asarray, read(policy, world.batch(kind, chosen)))
    assert logprobs_BT.shape == correct_BT.shape == (2, 5) and mask_BT.sum() == 5
    for b, e in enumerate(chosen):
        prompt = list(e.prompt) if kind == "sft-policy" else [*e.prefix, *e.rejected, *world.suffix]
        answer = [*e.chosen, world.eos_id]
        assert mask_BT[b].tolist() == [True] * len(answer) + [False] * (5 - len(answer))
        expected = plain.answer_logprobs(policy, world.config, prompt, answer)
        np.testing.assert_allclose(logprobs_BT[b, : len(answer)], expected, rtol=1e-5, atol=1e-5)
        logits_LV = plain.logits(policy, world.config, [*prompt, *answer])[len(prompt) - 1 : -1]
        assert correct_BT[b, : len(answer)].tolist() == (logits_LV.argmax(axis=1) == answer).tolist()


def test_only_counted_slots_make_logits_and_more_slots_change_nothing(world: Any, policy: Any) -> None:
    examples = world.examples(6, seed=3)
    batch: SftBatch = world.batch("sft-improver", examples)
    longest = int(batch.mask_BL.sum(axis=1).max())

    def loss(slots: int) -> Any:
        read = partial(scoring.counted_logprobs, world.language, slots=slots)
        return lambda params, batch: token_loss(*read(params, batch))[0]

    tight, wide = (jax.jit(loss(slots))(policy, batch) for slots in (longest, 40))
    np.testing.assert_allclose(tight, wide, rtol=1e-6)
    shapes = [v.aval.shape for e in jax.make_jaxpr(loss(longest))(policy, batch).eqns for v in e.outvars]
    assert (len(examples), longest, world.vocab) in shapes
    assert (*batch.tokens_BL.shape, world.vocab) not in shapes


@pytest.mark.parametrize("slots", [1, 3])
def test_pieces_change_no_loss_and_no_gradient(world: Any, policy: Any, slots: int) -> None:
    """Of SFT and of DPO, with so many slots of every row at a time."""
    sft, pairs = (world.batch(kind, world.examples(4, seed=3)) for kind in ("sft-improver", "reward"))

    def gradients(model: Any) -> Any:
        def loss(params: Any) -> Any:
            counted, _ = token_loss(*scoring.counted_logprobs(model, params, sft, slots=8))
            chosen_B, rejected_B = scoring.pair_logprobs(model, params, pairs)
            return counted + jnp.mean(chosen_B - rejected_B)

        return jax.jit(jax.value_and_grad(loss))(policy)

    cut = replace(world.config, logits_bytes=8 * world.vocab * 4 * slots)
    found, expected = (gradients(replace(world.language, config=config)) for config in (cut, world.config))
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)


def test_junk_in_padding_changes_no_counted_log_prob_and_no_gradient(world: Any, policy: Any) -> None:
    batch: SftBatch = world.batch("sft-policy", world.examples(6, seed=3))
    junk = with_junk(batch)
    read = partial(scoring.counted_logprobs, world.language, slots=8)
    gradient = jax.jit(jax.value_and_grad(lambda p, b: token_loss(*read(p, b))[0]))
    clean, dirty = gradient(policy, batch), gradient(policy, junk)
    for found, expected in zip(jax.tree.leaves(dirty), jax.tree.leaves(clean), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_the_sum_of_a_pair_begins_where_the_answers_part(
    world: Any, plain: ModuleType, policy: Any, pair_logprobs: Any
) -> None:
    """Answers 10 11 12 EOS and 10 11 EOS after the prompt 9 8: two tokens against one. 7 7 EOS against 6 7 EOS: all
    three. EOS against 7 EOS: one against two."""
    found = pair_logprobs(policy, world.batch("reward", SHARED))
    for i, (example, counted) in enumerate(zip(SHARED, ((2, 1), (3, 3), (1, 2)), strict=True)):
        for found_B, answer, last in zip(found, (example.chosen, example.rejected), counted, strict=True):
            logprobs_T = plain.answer_logprobs(policy, world.config, example.prompt, [*answer, world.eos_id])
            assert float(found_B[i]) == pytest.approx(logprobs_T[-last:].sum(), rel=1e-5)


def test_what_a_pair_leaves_out_cancels(world: Any, plain: ModuleType, policy: Any, pair_logprobs: Any) -> None:
    """chosen - rejected equals that of the log-probs summed over the whole answers."""
    examples = [*SHARED, *world.examples(6)]
    chosen_B, rejected_B = pair_logprobs(policy, world.batch("reward", examples))
    for i, example in enumerate(examples):
        sums = [
            plain.answer_logprobs(policy, world.config, example.prompt, [*answer, world.eos_id]).sum()
            for answer in (example.chosen, example.rejected)
        ]
        assert float(chosen_B[i] - rejected_B[i]) == pytest.approx(sums[0] - sums[1], abs=2e-4)


def test_equal_answers_and_padding_add_nothing_to_a_pair(world: Any, policy: Any, pair_logprobs: Any) -> None:
    same = world.batch("reward", [Example([9], [3], [7, 8], [7, 8])])
    assert [float(x[0]) for x in pair_logprobs(policy, same)] == [0.0, 0.0]
    batch = world.batch("reward", SHARED)
    padded = {f.name: np.pad(getattr(batch, f.name), ((0, 0), (0, 5))) for f in fields(batch) if f.name[-2:] == "BL"}
    narrow, wide = (pair_logprobs(policy, b) for b in (batch, replace(batch, **padded)))
    for narrow_B, wide_B in zip(narrow, wide, strict=True):
        np.testing.assert_allclose(narrow_B, wide_B, rtol=1e-5)
    rows = {f.name: getattr(batch, f.name) for f in fields(batch) if f.name != "margin_B"}
    nothing_B: Any = np.zeros(len(SHARED), np.float32)
    dpo = pair_logprobs(policy, DpoBatch(**rows, anchor_chosen_B=nothing_B, anchor_rejected_B=nothing_B))
    for found_B, expected_B in zip(dpo, narrow, strict=True):
        np.testing.assert_array_equal(found_B, expected_B)


def test_a_score_is_read_at_the_last_real_token(world: Any, plain: ModuleType, reward: Any, scores: Any) -> None:
    """Whatever the padding side, and whatever the padding holds."""
    row = [9, 12, 7, 30, 1]
    padded = {"left": (0, 3), "right": (3, 0), "both": (1, 2)}
    tokens_BL = np.array([[33] * a + row + [33] * b for a, b in padded.values()], np.int32)
    segments_BL = np.array([[0] * a + [1] * 5 + [0] * b for a, b in padded.values()], np.int32)
    scalars_L = plain.scalars(reward, world.config, row)
    np.testing.assert_allclose(scores(reward, tokens_BL, segments_BL), [scalars_L[-1]] * 3, rtol=1e-5)
    assert abs(scalars_L[-1] - scalars_L[-2]) > 1e-2, "another token has another scalar"


def test_a_pair_is_scored_as_its_two_rows(world: Any, reward: Any, examples: list[Example], scores: Any) -> None:
    batch = world.batch("reward", examples)
    chosen_B, rejected_B = jax.jit(partial(scoring.pair_scores, world.scalar))(reward, batch)
    np.testing.assert_allclose(chosen_B, scores(reward, batch.chosen_BL, batch.chosen_segments_BL), rtol=1e-5)
    np.testing.assert_allclose(rejected_B, scores(reward, batch.rejected_BL, batch.rejected_segments_BL), rtol=1e-5)
    assert np.abs(np.asarray(chosen_B - rejected_B)[:-1]).min() > 1e-3


def test_scores_in_place_are_those_of_reward_rows(
    world: Any, reward: Any, examples: list[Example], scores: Any
) -> None:
    """Left-padded prompt and answer slot, or the right-padded rows [prompt | y EOS] of the reward model's training."""
    batch, prompts = world.batch("reward", examples), PromptBatch(**world.arrays("prompts", examples))
    ids = [[*example.rejected, world.eos_id] for example in examples]
    tokens_BT: Any = np.array([row + [world.pad_id] * (world.slot - len(row)) for row in ids], np.int32)
    mask_BT: Any = np.arange(world.slot)[None] < np.array([[len(row)] for row in ids])
    in_place = jax.jit(partial(scoring.response_scores, world.scalar))
    found_B = in_place(reward, prompts.prompt_BP, prompts.prompt_mask_BP, Responses(tokens_BT, mask_BT))
    expected_B = scores(reward, batch.rejected_BL, batch.rejected_segments_BL)
    np.testing.assert_allclose(found_B, expected_B, rtol=1e-5, atol=1e-6)
