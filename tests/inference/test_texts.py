"""Texts in, answers out: chunks of one shape, rows that draw nothing, answers that no neighbour touches."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pit_jax.batch import Answer, Responses
from pit_jax.errors import UserError
from pit_jax.inference.sampling import Sampling
from pit_jax.inference.texts import TextEngine, written

KEY, WARM = jax.random.key(0), Sampling(jnp.float32(1.0))


@pytest.fixture(scope="module")
def policy(bench: Any) -> Any:
    return bench.policy()


def references(world: Any, count: int, seed: int = 5) -> list[list[int]]:
    """Tokens of answers of 0 to T - 1 words, every second one with its EOS."""
    rng = np.random.default_rng(seed)
    rows = [rng.integers(6, world.vocab, rng.integers(0, world.slot)).tolist() for _ in range(count)]
    return [row + [world.eos_id] * (i % 2) for i, row in enumerate(rows)]


def test_prompts_are_cut_into_chunks_of_one_shape(bench: Any, texts: TextEngine) -> None:
    """21 prompts: 8, 8 and 5, the last of which stands three times more to fill the batch."""
    chunks = texts.chunks(bench.prompts)
    assert len(chunks) == 3 and [(c.index, c.first, c.real) for c in chunks] == [(0, 0, 8), (1, 8, 8), (2, 16, 5)]
    assert {c.rows.prompt_BP.shape for c in chunks} == {(8, 8)}, "5 words, and 3 before the improver's, in fours"
    last = jax.device_get(chunks[2].rows)
    for row in range(5, 8):
        np.testing.assert_array_equal(last.prompt_BP[row], last.prompt_BP[4])
    held = [zip(*map(np.asarray, (c.rows.prompt_BP, c.rows.prompt_mask_BP)), strict=True) for c in chunks]
    words = [row[mask].tolist() for rows in held for row, mask in rows]
    assert words[:21] == [[int(word) for word in prompt.split()] for prompt in bench.prompts]
    for outside in (3, -1):
        with pytest.raises(IndexError):
            chunks[outside]


def test_slots_take_the_longest_prompt_and_at_least_what_is_asked(bench: Any, texts: TextEngine) -> None:
    assert texts.chunks(["7", "8 9"])[0].rows.prompt_BP.shape == (8, 4)
    assert texts.chunks(["7", "8 9"], least=6)[0].rows.prompt_BP.shape == (8, 8)
    longest = " ".join(["7"] * bench.world.prompt_slot)
    assert texts.chunks([longest])[0].rows.prompt_BP.shape == (8, 12), "the improver's prompt has a token more"
    with pytest.raises(UserError, match="prompt 2 has 9 tokens, the models were trained on at most 8; shorten it"):
        texts.chunks(["7", longest + " 7"])
    assert texts.chunks([longest + " 7"], longest=9)[0].real == 1


@pytest.mark.parametrize("count", [1, 3, 8, 11])
def test_answers_do_not_depend_on_how_many_prompts_there_are(
    bench: Any, texts: TextEngine, policy: Any, count: int
) -> None:
    """Of a chunk, cut short or followed by others: the same rows, the same answers."""
    least = bench.world.prompt_slot
    whole, part = (texts.chunks(prompts, least=least) for prompts in (bench.prompts, bench.prompts[:count]))
    rows = references(bench.world, 8)
    for index, chunk in enumerate(part):
        drawn = texts.answer(policy, whole[index], KEY, WARM)
        assert texts.answer(policy, chunk, KEY, WARM) == drawn[: chunk.real]
        rewritten = texts.rewrite(policy, whole[index], rows, KEY, WARM)
        assert texts.rewrite(policy, chunk, rows[: chunk.real], KEY, WARM) == rewritten[: chunk.real]


@pytest.mark.parametrize(("batch_size", "queue"), [(4, 3), (16, 2)])
def test_answers_do_not_depend_on_batches_and_their_queue(
    bench: Any, texts: TextEngine, policy: Any, batch_size: int, queue: int
) -> None:
    """Three samples a prompt and rewrites of the first, by chunks of 8 prompts, and of 12 and 32 in other batches."""
    least = bench.world.prompt_slot

    def everything(texts: TextEngine) -> tuple[list[Answer], list[Answer]]:
        drawn: list[Answer] = []
        rewritten: list[Answer] = []
        for chunk in texts.chunks(bench.prompts, least=least):
            answers = texts.answer(policy, chunk, KEY, WARM, samples=3)
            rewritten += texts.rewrite(policy, chunk, [answer.ids for answer in answers[::3]], KEY, WARM)
            drawn += answers
        return drawn, rewritten

    expected, found = everything(texts), everything(bench.engine(batch_size=batch_size, queue=queue))
    assert len(expected[0]) == 3 * len(bench.prompts) and found == expected


def test_rows_that_are_not_wanted_draw_nothing_and_change_nothing(bench: Any, texts: Any, policy: Any) -> None:
    chunk, rows = texts.chunks(bench.prompts)[0], references(bench.world, 8)
    wanted = [True, False, True, True, False, False, True, False]
    everything = texts.answer(policy, chunk, KEY, WARM), texts.rewrite(policy, chunk, rows, KEY, WARM)
    texts.engine.decodes.clear()
    some = (
        texts.answer(policy, chunk, KEY, WARM, wanted=wanted),
        texts.rewrite(policy, chunk, rows, KEY, WARM, wanted=wanted),
    )
    for found, full in zip(some, everything, strict=True):
        assert [row for row, asked in zip(found, wanted, strict=True) if asked] == [
            row for row, asked in zip(full, wanted, strict=True) if asked
        ]
        assert all(row == Answer("", (), False) for row, asked in zip(found, wanted, strict=True) if not asked)
    assert [live for live, _ in texts.engine.decodes] == [wanted, wanted], "no prompt stands in the others"
    assert all([n > 0 for n in drawn] == wanted for _, drawn in texts.engine.decodes)


def test_rows_that_fill_up_a_batch_draw_nothing(bench: Any, texts: Any, policy: Any) -> None:
    """So that they do not keep it going."""
    chunk = texts.chunks(bench.prompts)[2]
    assert len(texts.answer(policy, chunk, KEY, WARM)) == 5
    assert len(texts.rewrite(policy, chunk, references(bench.world, 5), KEY, WARM)) == 5
    assert [live for live, _ in texts.engine.decodes] == [[True] * 5 + [False] * 3] * 2
    assert all(drawn[5:] == [0] * 3 and min(drawn[:5]) > 0 for _, drawn in texts.engine.decodes)


def test_a_rewrite_reads_prompt_reference_and_suffix(bench: Any, texts: TextEngine, policy: Any) -> None:
    """Another reference is another draw; its EOS makes none."""
    world, chunk = bench.world, texts.chunks(bench.prompts)[0]
    bare = [[7 + i, 8, 9] for i in range(8)]
    found = texts.rewrite(policy, chunk, bare, KEY, WARM)
    assert texts.rewrite(policy, chunk, [[*row, world.eos_id] for row in bare], KEY, WARM) == found
    assert texts.rewrite(policy, chunk, [[*row, 10] for row in bare], KEY, WARM) != found


def test_answers_say_whether_they_ended(bench: Any, texts: TextEngine, policy: Any) -> None:
    """An ended one holds its EOS, which is no part of its text; the others fill their slot."""
    world = bench.world
    chunks, keys = texts.chunks(bench.prompts), enumerate(map(jax.random.key, range(3)))
    answers = [answer for i, key in keys for answer in texts.answer(policy, chunks[i], key, WARM)]
    assert len(answers) == 21 and 0 < sum(answer.ended for answer in answers) < 21
    for answer in answers:
        assert answer.ended == (world.eos_id in answer.ids)
        assert answer.ids.index(world.eos_id) == len(answer.ids) - 1 if answer.ended else len(answer.ids) == world.slot
        assert answer.text == " ".join(map(str, answer.ids[: len(answer.ids) - answer.ended]))


def test_what_is_read_back_is_the_real_tokens(texts: TextEngine) -> None:
    tokens_BT: Any = np.array([[9, 8, 1, 0], [9, 8, 7, 6], [5, 5, 5, 5], [9, 9, 9, 9]], np.int32)
    mask_BT: Any = np.array([[1, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1]], bool)
    found = texts.read(Responses(tokens_BT, mask_BT), 3)
    assert found == [Answer("9 8", (9, 8, 1), True), Answer("9 8 7 6", (9, 8, 7, 6), False), Answer("", (), False)]


def test_a_text_of_no_model_is_tokenised_and_ends(texts: TextEngine) -> None:
    assert written(texts.template, "9 8") == Answer("9 8", (9, 8, 1), True)
    assert written(texts.template, "") == Answer("", (1,), True)


def test_one_program_serves_every_temperature_model_and_chunk(bench: Any) -> None:
    """Two shapes of prompts, the policy's and the improver's."""
    texts = bench.engine()
    chunks = texts.chunks(bench.prompts)
    for seed, temperature in enumerate((0.0, 0.4, 1.0)):
        params, sampling = bench.policy(seed), Sampling(jnp.float32(temperature))
        chunk, key = chunks[seed], jax.random.key(seed)
        drawn = texts.answer(params, chunk, key, sampling)
        texts.rewrite(params, chunk, [answer.ids for answer in drawn], key, sampling, wanted=[True] * chunk.real)
    assert texts.engine.compiled(1)._cache_size() == 2
    assert texts.engine.improver_prompt._cache_size() == 1
