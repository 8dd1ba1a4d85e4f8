"""Iterated improvement as one program, against a loop over plain lists."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pit_jax.batch import PromptBatch
from pit_jax.inference.engine import generate
from pit_jax.inference.improve import Answers, answer, improve
from pit_jax.inference.sampling import Sampling

ROUNDS = 3
SAMPLING = Sampling(jnp.float32(1.0))
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def program(tiny: Any) -> Any:
    return jax.jit(partial(improve, tiny.model, rounds=ROUNDS, slots=tiny.slots))


@pytest.fixture(scope="module")
def plain_generate(tiny: Any) -> Any:
    ids = {"response_slot": tiny.slot, "eos_id": tiny.eos, "pad_id": tiny.pad}
    return jax.jit(partial(generate, tiny.model, sampling=SAMPLING, **ids))


def texts(answers: Answers, k: int, eos: int) -> list[list[int]]:
    """The tokens of y_k, without EOS."""
    found = []
    for tokens_T, mask_T in zip(np.asarray(answers.tokens_BT[k]), np.asarray(answers.mask_BT[k]), strict=True):
        row = tokens_T[mask_T].tolist()
        found.append(row[:-1] if row and row[-1] == eos else row)
    return found


def test_every_round_rewrites_the_answer_before(
    tiny: Any, program: Any, plain_generate: Any, rows: PromptBatch
) -> None:
    policy, improver = tiny.draw(0), tiny.draw(1)
    found = program(policy, improver, rows, KEY, SAMPLING)
    assert found.tokens_BT.shape == found.mask_BT.shape == (ROUNDS + 1, tiny.count, tiny.slot)
    expected = plain_generate(policy, rows.prompt_BP, rows.prompt_mask_BP, jax.random.fold_in(KEY, 0))
    np.testing.assert_array_equal(found.tokens_BT[0], expected.tokens_BT)
    slot = tiny.prompt_slot + tiny.slot + len(tiny.suffix)
    for k in range(1, ROUNDS + 1):
        prompts = [[3, *x, *y, *tiny.suffix] for x, y in zip(tiny.prompts, texts(found, k - 1, tiny.eos), strict=True)]
        tokens_BL = np.array([[tiny.pad] * (slot - len(row)) + row for row in prompts], np.int32)
        mask_BL = np.array([[False] * (slot - len(row)) + [True] * len(row) for row in prompts])
        expected = plain_generate(improver, tokens_BL, mask_BL, jax.random.fold_in(KEY, k))
        np.testing.assert_array_equal(found.tokens_BT[k], expected.tokens_BT)
        np.testing.assert_array_equal(found.mask_BT[k], expected.mask_BT)
        ends_B = (found.tokens_BT[k - 1] == tiny.eos).any(axis=1)
        assert 0 < ends_B.sum() < tiny.count, "references that end and references that fill their slot"
    assert not np.array_equal(found.tokens_BT[1], found.tokens_BT[2])


def test_two_improvers_improve_the_same_first_answers_in_one_program(
    tiny: Any, program: Any, rows: PromptBatch
) -> None:
    one = program(tiny.draw(0), tiny.draw(1), rows, KEY, SAMPLING)
    other = program(tiny.draw(0), tiny.draw(2), rows, KEY, SAMPLING)
    np.testing.assert_array_equal(one.tokens_BT[0], other.tokens_BT[0])
    assert not np.array_equal(one.tokens_BT[1], other.tokens_BT[1])
    cold = program(tiny.draw(0), tiny.draw(1), rows, KEY, Sampling(jnp.float32(0.3)))
    assert not np.array_equal(one.tokens_BT[0], cold.tokens_BT[0])
    assert program._cache_size() == 1


def test_the_first_answer_is_the_policys(tiny: Any, program: Any, rows: PromptBatch) -> None:
    """`answer` alone, with the key of round 0, is y_0 of the whole program."""
    policy = tiny.draw(0)
    first = jax.jit(partial(answer, tiny.model, slots=tiny.slots))
    alone = first(policy, rows, jax.random.fold_in(KEY, 0), SAMPLING)
    whole = program(policy, tiny.draw(1), rows, KEY, SAMPLING)
    np.testing.assert_array_equal(alone.tokens_BT, whole.tokens_BT[0])


def test_rows_that_only_fill_up_the_batch_stay_empty(tiny: Any, program: Any, rows: PromptBatch) -> None:
    found = program(tiny.draw(0), tiny.draw(1), tiny.rows(real=range(tiny.count - 1)), KEY, SAMPLING)
    assert not np.asarray(found.mask_BT[:, -1]).any() and (np.asarray(found.tokens_BT[:, -1]) == tiny.pad).all()
    full = program(tiny.draw(0), tiny.draw(1), rows, KEY, SAMPLING)
    np.testing.assert_array_equal(found.tokens_BT[:, :-1], full.tokens_BT[:, :-1])
