"""The engine: the same distribution as a full forward pass, the right slots, and no more steps than needed."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pit_jax.batch import Completions, DecodeSpec, PromptBatch, Responses
from pit_jax.config import TransformerConfig
from pit_jax.inference.decoding import complete
from pit_jax.inference.engine import Engine
from pit_jax.inference.sampling import Sampling
from pit_jax.model.networks import LanguageModel
from pit_jax.model.rows import Sequences
from pit_jax.parallel.mesh import mesh_of

VOCAB, PAD, NEVER = 40, 0, -1
PROMPT, SLOT = 8, 10
CONFIG = TransformerConfig(width=16, layers=2, query_heads=4, kv_heads=2, head_size=4, ffn=24)
MODEL = LanguageModel(CONFIG, VOCAB)


def draw(seed: int, model: LanguageModel = MODEL) -> Any:
    """Weights of the size of fresh ones; NumPy, since `init` compiles for long."""
    rng = np.random.default_rng(seed)

    def normal(path: Any, leaf: Any) -> jax.Array:
        mean = 1.0 if "scale" in jax.tree_util.keystr(path) else 0.0
        return jnp.asarray(rng.normal(mean, 0.25, leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(normal, jax.eval_shape(model.init, jax.random.key(0)))


@pytest.fixture(scope="module")
def params() -> Any:
    return draw(0)


def prompts(lengths: list[int], seed: int = 0, slot: int = PROMPT) -> tuple[jax.Array, jax.Array]:
    """Left-padded prompts of these lengths; the padding holds junk on purpose."""
    rng = np.random.default_rng(seed)
    tokens = [rng.integers(1, VOCAB, length) for length in lengths]
    junk_BP = np.full((len(lengths), slot), VOCAB - 1)
    mask_BP = np.arange(slot)[None] >= slot - np.array(lengths)[:, None]
    junk_BP[mask_BP] = np.concatenate(tokens)
    return jnp.asarray(junk_BP, jnp.int32), jnp.asarray(mask_BP)


@partial(jax.jit, static_argnames=("slot", "model"))
def run(
    params: Any, prompt: Any, key: jax.Array, sampling: Sampling, *, eos_id: int, slot: int = SLOT, model: Any = MODEL
) -> Completions:
    """`complete`, in one program for every EOS."""
    prompt_BP, mask_BP = prompt
    return complete(model, params, prompt_BP, mask_BP, key, sampling, spec=DecodeSpec(slot, eos_id, PAD, ()))


@partial(jax.jit, static_argnums=0)
def forward(model: LanguageModel, params: Any, tokens_BL: jax.Array, mask_BL: jax.Array) -> jax.Array:
    return model.logits(params, model.hidden(params, tokens_BL, Sequences.alone(mask_BL.astype(jnp.int32))))


def teacher_forced(
    params: Any, prompt: Any, drawn: Completions, temperature: float, model: LanguageModel = MODEL
) -> np.ndarray:
    """Log-probs of the drawn tokens from one pass over prompt and response, softmax in float64."""
    tokens_BL = jnp.concatenate([prompt[0], drawn.tokens_BT], axis=1)
    logits_BLV = np.asarray(forward(model, params, tokens_BL, jnp.concatenate([prompt[1], drawn.mask_BT], axis=1)))
    slot = drawn.tokens_BT.shape[1]
    scaled_BTV = logits_BLV[:, -slot - 1 : -1].astype(np.float64) / temperature
    total_BT = np.log(np.exp(scaled_BTV - scaled_BTV.max(-1, keepdims=True)).sum(-1)) + scaled_BTV.max(-1)
    return np.take_along_axis(scaled_BTV, np.asarray(drawn.tokens_BT)[..., None], -1)[..., 0] - total_BT


def common_token(params: Any, prompt: Any, key: jax.Array, sampling: Sampling) -> int:
    """A token to call EOS: drawn by some rows before their last slot, and not by others."""
    tokens_BT = np.asarray(run(params, prompt, key, sampling, eos_id=NEVER).tokens_BT)
    for token in np.unique(tokens_BT[:, 1:-2]):
        holds_B = (tokens_BT == token).any(axis=1)
        if holds_B.any() and not holds_B.all():
            return int(token)
    raise AssertionError("no token ends some rows and not others: choose another seed")


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_sampled_log_probs_are_those_of_a_full_forward_pass(params: Any, temperature: float) -> None:
    prompt, key, sampling = prompts([8, 5, 1, 7, 3, 8]), jax.random.key(1), Sampling(jnp.float32(temperature))
    eos_id = common_token(params, prompt, key, sampling)
    drawn = run(params, prompt, key, sampling, eos_id=eos_id)
    mask_BT = np.asarray(drawn.mask_BT)
    assert 0 < np.asarray(drawn.ended_B).sum() < 6, "rows that end and rows that fill their slot"
    expected_BT = teacher_forced(params, prompt, drawn, temperature)
    np.testing.assert_allclose(np.asarray(drawn.logprobs_BT)[mask_BT], expected_BT[mask_BT], atol=1e-5)
    assert (np.asarray(drawn.logprobs_BT)[~mask_BT] == 0).all()
    wrong_BT = teacher_forced(params, prompt, drawn, 1.5 * temperature)
    assert np.abs(wrong_BT - expected_BT)[mask_BT].max() > 0.1, "the comparison can tell temperatures apart"


def test_every_step_draws_anew(params: Any) -> None:
    """Weights of 0 give every step one distribution, a uniform one: with one key it would draw one token for ever."""
    nothing = jax.tree.map(jnp.zeros_like, params)
    drawn = run(nothing, prompts([8, 5, 1, 7, 3, 8]), jax.random.key(1), Sampling(jnp.float32(1.0)), eos_id=NEVER)
    assert min(len(set(row_T)) for row_T in np.asarray(drawn.tokens_BT).tolist()) > SLOT // 2


def test_bfloat16_log_probs_agree_to_its_precision(params: Any) -> None:
    half = LanguageModel(TransformerConfig(**{**vars(CONFIG), "dtype": "bfloat16"}), VOCAB)
    prompt = prompts([8, 5, 1, 7, 3, 8])
    drawn = run(params, prompt, jax.random.key(1), Sampling(jnp.float32(1.0)), eos_id=NEVER, model=half)
    assert drawn.logprobs_BT.dtype == jnp.float32
    np.testing.assert_allclose(drawn.logprobs_BT, teacher_forced(params, prompt, drawn, 1.0, half), atol=0.15)


def test_greedy_decoding_is_the_argmax_of_full_forward_passes(params: Any) -> None:
    prompt = prompts([8, 2, 5])
    drawn = run(params, prompt, jax.random.key(0), Sampling(jnp.float32(0.0)), eos_id=NEVER)
    tokens_BL, mask_BL = (np.pad(np.asarray(x), ((0, 0), (0, SLOT))) for x in prompt)
    for step in range(SLOT):
        logits_BLV = forward(MODEL, params, jnp.asarray(tokens_BL), jnp.asarray(mask_BL))
        tokens_BL[:, PROMPT + step] = np.argmax(logits_BLV[:, PROMPT + step - 1], axis=-1)
        mask_BL[:, PROMPT + step] = True
    np.testing.assert_array_equal(drawn.tokens_BT, tokens_BL[:, PROMPT:])


def test_left_padding_does_not_change_greedy_output(params: Any) -> None:
    greedy = Sampling(jnp.float32(0.0))
    tight = run(params, prompts([4, 4, 2]), jax.random.key(0), greedy, eos_id=NEVER)
    wide = run(params, prompts([4, 4, 2], slot=PROMPT + 3), jax.random.key(0), greedy, eos_id=NEVER)
    np.testing.assert_array_equal(tight.tokens_BT, wide.tokens_BT)
    np.testing.assert_allclose(tight.logprobs_BT, wide.logprobs_BT, atol=1e-5)


def test_a_greedy_row_does_not_depend_on_the_other_rows(params: Any) -> None:
    prompt = prompts([8, 5, 1, 7])
    together = run(params, prompt, jax.random.key(0), Sampling(jnp.float32(0.0)), eos_id=NEVER)
    fewer = run(params, tuple(x[1:3] for x in prompt), jax.random.key(9), Sampling(jnp.float32(0.0)), eos_id=NEVER)
    np.testing.assert_array_equal(together.tokens_BT[1:3], fewer.tokens_BT)


def test_draws_depend_on_the_key_and_not_on_when_other_rows_end(params: Any) -> None:
    """With an EOS, every row is the row without one up to there."""
    prompt, sampling = prompts([8, 5, 1, 7, 3, 8]), Sampling(jnp.float32(1.0))
    eos_id = common_token(params, prompt, jax.random.key(1), sampling)
    endless = run(params, prompt, jax.random.key(1), sampling, eos_id=NEVER)
    drawn = run(params, prompt, jax.random.key(1), sampling, eos_id=eos_id)
    mask_BT = np.asarray(drawn.mask_BT)
    np.testing.assert_array_equal(np.asarray(drawn.tokens_BT)[mask_BT], np.asarray(endless.tokens_BT)[mask_BT])
    other = run(params, prompt, jax.random.key(2), sampling, eos_id=NEVER)
    assert not np.array_equal(endless.tokens_BT, other.tokens_BT)


def test_a_response_is_real_up_to_its_eos_and_pad_after(params: Any) -> None:
    prompt, sampling = prompts([8, 5, 1, 7, 3, 8]), Sampling(jnp.float32(1.0))
    eos_id = common_token(params, prompt, jax.random.key(1), sampling)
    drawn = jax.device_get(run(params, prompt, jax.random.key(1), sampling, eos_id=eos_id))
    for tokens_T, mask_T, ended in zip(drawn.tokens_BT.tolist(), drawn.mask_BT.tolist(), drawn.ended_B, strict=True):
        assert ended == (eos_id in tokens_T)
        length = tokens_T.index(eos_id) + 1 if ended else SLOT
        assert mask_T == [True] * length + [False] * (SLOT - length)
        assert tokens_T[length:] == [PAD] * (SLOT - length)


def test_a_row_without_a_prompt_produces_nothing(params: Any) -> None:
    drawn = jax.device_get(run(params, prompts([8, 0, 3]), jax.random.key(0), Sampling(jnp.float32(1.0)), eos_id=NEVER))
    assert not drawn.mask_BT[1].any() and (drawn.tokens_BT[1] == PAD).all() and drawn.ended_B.tolist()[1]
    assert (drawn.logprobs_BT[1] == 0).all() and drawn.mask_BT[[0, 2]].all()
    assert np.isfinite(drawn.logprobs_BT).all()


def all_lengths(count: int) -> tuple[jax.Array, jax.Array]:
    """Prompts of every length, two of them without a token, which end at once."""
    return prompts([*np.random.default_rng(3).integers(1, PROMPT + 1, count - 2).tolist(), 0, 0], seed=4)


def assert_same(found: Completions, expected: Completions) -> None:
    for field in ("tokens_BT", "mask_BT", "ended_B"):
        np.testing.assert_array_equal(getattr(found, field), getattr(expected, field), field)
    np.testing.assert_allclose(found.logprobs_BT, expected.logprobs_BT, atol=1e-5)


@pytest.mark.parametrize(
    ("rows", "model"),
    [(4, MODEL), (23, MODEL), (1, MODEL), (8, LanguageModel(replace(CONFIG, window=3), VOCAB))],
    ids=["4", "23", "1", "8 windowed"],
)
def test_rows_that_take_the_next_prompts_draw_what_all_at_once_draw(params: Any, rows: int, model: Any) -> None:
    """24 prompts: the cache's slots come round, and hold what an earlier prompt of the row has left."""
    prompt, key, sampling = all_lengths(24), jax.random.key(3), Sampling(jnp.float32(1.0))
    eos_id = common_token(params, prompt, key, sampling)
    together = Engine(model, DecodeSpec(SLOT, eos_id, PAD, ())).complete(params, *prompt, key, sampling, 0)
    turns = Engine(model, DecodeSpec(SLOT, eos_id, PAD, (), rows)).complete(params, *prompt, key, sampling, 0)
    assert_same(turns, together)
    assert 0 < int(together.ended_B.sum()) - 2 < 22


def test_a_draw_depends_on_its_number_and_not_on_its_neighbours(params: Any) -> None:
    engine: Any = Engine(MODEL, DecodeSpec(SLOT, 1, PAD, ()))
    prompt, key, sampling = prompts([8, 5, 1, 7, 3, 8]), jax.random.key(1), Sampling(jnp.float32(1.0))
    together = engine.complete(params, *prompt, key, sampling, 10)
    for number in range(6):
        alone = engine.complete(params, *(x[number : number + 1] for x in prompt), key, sampling, 10 + number)
        assert_same(alone, jax.tree.map(lambda x, number=number: x[number : number + 1], together))
    same = tuple(jnp.tile(x[:1], (6, 1)) for x in prompt)
    drawn_BT = np.asarray(engine.complete(params, *same, key, sampling, 0).tokens_BT)
    assert len({tuple(row_T) for row_T in drawn_BT.tolist()}) == 6, "one prompt, six numbers"


@pytest.mark.parametrize("rows", [0, 6, 7])
def test_samples_of_a_prompt_are_those_of_the_prompt_written_out(params: Any, rows: int) -> None:
    """Three of each, side by side; 7 rows are 9, since all samples of a prompt begin together."""
    prompt, key, sampling = all_lengths(8), jax.random.key(3), Sampling(jnp.float32(1.0))
    eos_id = common_token(params, prompt, key, sampling)
    engine: Any = Engine(MODEL, DecodeSpec(SLOT, eos_id, PAD, (), rows))
    written_out = tuple(jnp.repeat(x, 3, axis=0) for x in prompt)
    expected = Engine(MODEL, DecodeSpec(SLOT, eos_id, PAD, ())).complete(params, *written_out, key, sampling, 0)
    assert_same(engine.completing(3)(params, *prompt, key, sampling, 0), expected)


def test_rows_of_a_mesh_take_turns_on_their_devices(params: Any) -> None:
    """Four parts of six prompts and two rows, with one sample and with two: the answers of one device.

    Then two parts have no prompt at all, and one has a single one.
    """
    engine = Engine(MODEL, DecodeSpec(SLOT, 5, PAD, (), 8), mesh_of(2, 2, 2), share=2)
    full, key, sampling = all_lengths(24), jax.random.key(3), Sampling(jnp.float32(1.0))
    few = full[0], full[1] & (jnp.arange(24) < 7)[:, None]
    weights, one = engine.to_decode(params), Engine(MODEL, DecodeSpec(SLOT, 5, PAD, ()))
    for prompt, samples in ((full, 1), (full, 2), (few, 1), (few, 2)):
        spread = engine.completing(samples)(weights, *prompt, key, sampling, 0)
        assert_same(spread, one.completing(samples)(params, *prompt, key, sampling, 0))


forward_passes: list[int] = []


@dataclass(frozen=True)
class CountingModel(LanguageModel):
    """Notes the number of tokens of every forward pass that runs (not: that is traced)."""

    def decode(self, params: Any, tokens_BL: jax.Array, *args: Any) -> Any:
        jax.debug.callback(lambda length: forward_passes.append(int(length)), jnp.int32(tokens_BL.shape[1]))
        return super().decode(params, tokens_BL, *args)


def test_the_loop_stops_when_the_last_row_has_ended(params: Any) -> None:
    """One pass over the prompt slot, then one pass of one token a step, as many as the longest response has tokens."""
    key, warm, greedy = jax.random.key(1), Sampling(jnp.float32(1.0)), Sampling(jnp.float32(0.0))
    several, single, none = prompts([8, 5, 1]), prompts([8, 0, 0]), prompts([0, 0, 0])
    row = np.asarray(run(params, single, key, warm, eos_id=NEVER).tokens_BT)[0].tolist()
    silent = {**params, "final_norm": {"scale": jnp.zeros(16)}}  # all logits are 0: greedy takes token 0 at once
    cases = [
        (params, several, warm, NEVER, SLOT),
        (params, single, warm, row[4], row.index(row[4]) + 1),
        (silent, several, greedy, 0, 1),
        (params, none, warm, NEVER, 0),
    ]
    for weights, prompt, sampling, eos_id, steps in cases:
        forward_passes.clear()
        drawn = run(weights, prompt, key, sampling, eos_id=eos_id, model=CountingModel(CONFIG, VOCAB))
        jax.effects_barrier()
        assert [PROMPT] + [1] * steps == forward_passes
        assert int(drawn.mask_BT.sum(axis=1).max()) == steps


def test_rows_take_turns_in_no_more_steps_than_they_need(params: Any) -> None:
    """Two rows over four prompts whose answers fill their slot: they begin again one after the other, and together."""
    forward_passes.clear()
    spec = DecodeSpec(SLOT, NEVER, PAD, (), rows=2)
    model = CountingModel(CONFIG, VOCAB)
    asked = *prompts([8, 5, 1, 7]), jax.random.key(1), Sampling(jnp.float32(1.0)), 0
    jax.block_until_ready(Engine(model, spec).complete(params, *asked))
    jax.effects_barrier()
    assert forward_passes == [PROMPT, *[1] * SLOT, PROMPT, PROMPT, *[1] * SLOT]


def test_new_weights_prompts_keys_and_temperatures_do_not_compile_again() -> None:
    engine: Any = Engine(MODEL, DecodeSpec(4, eos_id=1, pad_id=PAD, suffix=()))
    for seed, temperature in ((0, 1.0), (1, 0.4), (2, 0.0)):
        prompt = prompts([3 + seed, 8, 1], seed)
        engine.complete(draw(seed), *prompt, jax.random.key(seed), Sampling(jnp.float32(temperature)), seed)
    assert engine.complete._cache_size() == 1
    engine.complete(draw(0), *prompt, jax.random.key(0), Sampling(jnp.float32(1.0), top_k=2), 0)
    assert engine.complete._cache_size() == 2, "truncation is part of the program"


@pytest.mark.parametrize("tied", [True, False])
def test_a_vocabulary_that_does_not_divide_is_split_all_the_same(tied: bool) -> None:
    """39 tokens over eight devices: five rows on each, the last of them nobody's, and the answers of one device."""
    model = LanguageModel(replace(CONFIG, tied=tied), VOCAB - 1)
    params, spec = draw(0, model), DecodeSpec(SLOT, eos_id=1, pad_id=PAD, suffix=())
    one, eight = Engine(model, spec), Engine(model, spec, mesh_of(1, 4, 2), share=4)
    given = jax.tree.map(lambda x: jnp.minimum(x, VOCAB - 2) if x.dtype == jnp.int32 else x, prompts([3, 8, 1, 5]))
    weights = eight.to_decode(params)
    for name in ["embedding"] if tied else ["embedding", "unembedding"]:
        matrix = weights[name]
        assert matrix.size == VOCAB * CONFIG.width
        assert {shard.data.size for shard in matrix.addressable_shards} == {5 * CONFIG.width}
    for sampling in (Sampling(jnp.float32(0.0)), Sampling(jnp.float32(1.0))):
        alone = one.complete(params, *given, jax.random.key(2), sampling, 0)
        spread = eight.complete(weights, *given, jax.random.key(2), sampling, 0)
        np.testing.assert_array_equal(spread.tokens_BT, alone.tokens_BT)
        np.testing.assert_allclose(spread.logprobs_BT, alone.logprobs_BT, atol=1e-5)


def test_answering_and_rewriting_complete_their_prompts(params: Any) -> None:
    """The policy prompt as it is; the improver's with the reference (less its EOS) and the suffix packed behind it."""
    engine, key, warm = Engine(MODEL, DecodeSpec(4, eos_id=1, pad_id=PAD, suffix=(6, 7))), jax.random.key(3), Sampling()
    (policy, policy_mask), (prefix, prefix_mask) = prompts([5, 8, 2]), prompts([4, 1, 8], seed=1)
    nothing = jnp.zeros((3, 4), jnp.int32)
    rows = PromptBatch(policy, policy_mask, prefix, prefix_mask, nothing, nothing > 0, nothing, nothing > 0)
    answered, expected = (
        engine.answer(params, rows, key, warm),
        engine.complete(params, policy, policy_mask, key, warm, 0),
    )
    np.testing.assert_array_equal(answered.tokens_BT, expected.tokens_BT)
    references = [[9, 10, 11, 1], [12, 13, 14, 15], [1]]
    tokens_BT = np.array([row + [39] * (4 - len(row)) for row in references], np.int32)
    mask_BT = np.arange(4)[None] < np.array([[len(row)] for row in references])
    full = [np.asarray(prefix[b])[np.asarray(prefix_mask[b])].tolist() for b in range(3)]
    full = [[*head, *(t for t in row if t != 1), 6, 7] for head, row in zip(full, references, strict=True)]
    slot = PROMPT + 4 + 2
    packed = np.array([[PAD] * (slot - len(row)) + row for row in full], np.int32)
    packed_mask = np.arange(slot)[None] >= slot - np.array([[len(row)] for row in full])
    rewritten = engine.rewrite(params, rows, Responses(jnp.asarray(tokens_BT), jnp.asarray(mask_BT)), key, warm)
    expected = engine.complete(params, jnp.asarray(packed), jnp.asarray(packed_mask), key, warm, 0)
    np.testing.assert_array_equal(rewritten.tokens_BT, expected.tokens_BT)
    np.testing.assert_array_equal(rewritten.responses.mask_BT, expected.mask_BT)
