"""Iterated improvement as one program, against a loop over plain lists."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pit_jax.batch import PromptBatch
from pit_jax.config import TransformerConfig
from pit_jax.data.features import Example, Layout, build
from pit_jax.generation.decode import generate
from pit_jax.generation.sampling import Sampling
from pit_jax.improvement.pit import Answers, Slots, answer, improve
from pit_jax.model.networks import LanguageModel

VOCAB, PAD, EOS, SUFFIX = 40, 0, 1, (4, 5)
PROMPT, RESPONSE, ROUNDS = 6, 7, 3
MODEL = LanguageModel(TransformerConfig(width=16, layers=2, query_heads=4, kv_heads=2, head_size=4, ffn=24), VOCAB)
SLOTS = Slots(response=RESPONSE, eos_id=EOS, pad_id=PAD, suffix=SUFFIX)
SAMPLING = Sampling(jnp.float32(1.0))
PROMPTS = [[6 + i] * (1 + i % 5) for i in range(24)]
KEY = jax.random.key(0)


def draw(seed: int) -> Any:
    """Weights of the size of fresh ones; NumPy, since `init` compiles for long."""
    rng = np.random.default_rng(seed)

    def normal(path: Any, leaf: Any) -> jax.Array:
        mean = 1.0 if "scale" in jax.tree_util.keystr(path) else 0.0
        return jnp.asarray(rng.normal(mean, 0.25, leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(normal, jax.eval_shape(MODEL.init, jax.random.key(0)))


@pytest.fixture(scope="module")
def rows() -> PromptBatch:
    examples = [Example(prompt, [3, *prompt], [], []) for prompt in PROMPTS]
    return PromptBatch(**build("prompts", examples, Layout(PAD, EOS, SUFFIX, {}, PROMPT, RESPONSE)))


@pytest.fixture(scope="module")
def program() -> Any:
    return jax.jit(partial(improve, MODEL, rounds=ROUNDS, slots=SLOTS))


@jax.jit
def plain_generate(params: Any, prompt_BP: jax.Array, mask_BP: jax.Array, key: jax.Array) -> Any:
    return generate(
        MODEL, params, prompt_BP, mask_BP, key, sampling=SAMPLING, response_slot=RESPONSE, eos_id=EOS, pad_id=PAD
    )


def texts(answers: Answers, k: int) -> list[list[int]]:
    """The tokens of y_k, without EOS."""
    found = []
    for tokens_T, mask_T in zip(np.asarray(answers.tokens_BT[k]), np.asarray(answers.mask_BT[k]), strict=True):
        row = tokens_T[mask_T].tolist()
        found.append(row[:-1] if row and row[-1] == EOS else row)
    return found


def test_every_round_rewrites_the_answer_before(program: Any, rows: PromptBatch) -> None:
    policy, improver = draw(0), draw(1)
    found = program(policy, improver, rows, KEY, SAMPLING)
    assert found.tokens_BT.shape == found.mask_BT.shape == (ROUNDS + 1, len(PROMPTS), RESPONSE)
    expected = plain_generate(policy, rows.prompt_BP, rows.prompt_mask_BP, jax.random.fold_in(KEY, 0))
    np.testing.assert_array_equal(found.tokens_BT[0], expected.tokens_BT)
    slot = PROMPT + RESPONSE + len(SUFFIX)
    for k in range(1, ROUNDS + 1):
        prompts = [[3, *x, *y, *SUFFIX] for x, y in zip(PROMPTS, texts(found, k - 1), strict=True)]
        tokens_BL = np.array([[PAD] * (slot - len(row)) + row for row in prompts], np.int32)
        mask_BL = np.array([[False] * (slot - len(row)) + [True] * len(row) for row in prompts])
        expected = plain_generate(improver, tokens_BL, mask_BL, jax.random.fold_in(KEY, k))
        np.testing.assert_array_equal(found.tokens_BT[k], expected.tokens_BT)
        np.testing.assert_array_equal(found.mask_BT[k], expected.mask_BT)
        ends_B = (found.tokens_BT[k - 1] == EOS).any(axis=1)
        assert 0 < ends_B.sum() < len(PROMPTS), "references that end and references that fill their slot"
    assert not np.array_equal(found.tokens_BT[1], found.tokens_BT[2])


def test_two_improvers_improve_the_same_first_answers_in_one_program(program: Any, rows: PromptBatch) -> None:
    one = program(draw(0), draw(1), rows, KEY, SAMPLING)
    other = program(draw(0), draw(2), rows, KEY, SAMPLING)
    np.testing.assert_array_equal(one.tokens_BT[0], other.tokens_BT[0])
    assert not np.array_equal(one.tokens_BT[1], other.tokens_BT[1])
    cold = program(draw(0), draw(1), rows, KEY, Sampling(jnp.float32(0.3)))
    assert not np.array_equal(one.tokens_BT[0], cold.tokens_BT[0])
    assert program._cache_size() == 1


def test_the_first_answer_is_the_policys(program: Any, rows: PromptBatch) -> None:
    """`answer` alone, with the key of round 0, is y_0 of the whole program."""
    alone = jax.jit(partial(answer, MODEL, slots=SLOTS))(draw(0), rows, jax.random.fold_in(KEY, 0), SAMPLING)
    np.testing.assert_array_equal(alone.tokens_BT, program(draw(0), draw(1), rows, KEY, SAMPLING).tokens_BT[0])


def test_rows_that_only_fill_up_the_batch_stay_empty(program: Any, rows: PromptBatch) -> None:
    real_B1 = np.array([[True]] * (len(PROMPTS) - 1) + [[False]])
    holes = PromptBatch(
        **{name: x & real_B1 if name in ("prompt_mask_BP", "prefix_mask_BP") else x for name, x in vars(rows).items()}
    )
    found = program(draw(0), draw(1), holes, KEY, SAMPLING)
    assert not np.asarray(found.mask_BT[:, -1]).any() and (np.asarray(found.tokens_BT[:, -1]) == PAD).all()
    full = program(draw(0), draw(1), rows, KEY, SAMPLING)
    np.testing.assert_array_equal(found.tokens_BT[:, :-1], full.tokens_BT[:, :-1])
