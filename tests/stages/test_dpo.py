"""DPO over rows: what is summed, what cancels, and that one step prefers the chosen answers more."""

from dataclasses import fields, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pit_jax.batch import DpoBatch
from pit_jax.config import Config, DpoConfig
from pit_jax.data.features import Example
from pit_jax.inference.sampling import token_logprobs
from pit_jax.model.attention import causal_visible, segment_positions
from pit_jax.stages.dpo import make_dpo_loss, pair_logprobs, with_reference

SHARED = [Example([9, 8], [3], [10, 11, 12], [10, 11]), Example([9], [3], [7, 7], [6, 7]), Example([9], [3], [], [7])]


@pytest.fixture(scope="module")
def params(world: Any) -> Any:
    return world.draw(world.language, 0)


def row_logprobs(world: Any, params: Any, ids: list[int]) -> np.ndarray:
    """log p of every token but the first of one row without padding."""
    tokens_BL = jnp.asarray([ids])
    segments_BL = jnp.ones_like(tokens_BL)
    hidden = world.language.hidden(params, tokens_BL, segment_positions(segments_BL), causal_visible(segments_BL))
    logits = world.language.logits(params, hidden[:, :-1])
    return np.asarray(token_logprobs(logits, tokens_BL[:, 1:], temperature=1.0)[0])


def test_the_sum_begins_where_the_answers_part(world: Any, params: Any) -> None:
    """Answers 10 11 12 EOS and 10 11 EOS after the prompt 9 8: two tokens against one. 7 7 EOS against 6 7 EOS: all
    three. EOS against 7 EOS: one against two."""
    chosen_B, rejected_B = jax.jit(partial(pair_logprobs, world.language))(params, world.batch("reward", SHARED))
    for i, (example, counted) in enumerate(zip(SHARED, ((2, 1), (3, 3), (1, 2)), strict=True)):
        for found_B, answer, last in (
            (chosen_B, example.chosen, counted[0]),
            (rejected_B, example.rejected, counted[1]),
        ):
            logprobs = row_logprobs(world, params, [*example.prompt, *answer, world.eos_id])
            assert float(found_B[i]) == pytest.approx(logprobs[-last:].sum(), rel=1e-5)


def test_what_is_left_out_cancels(world: Any, params: Any) -> None:
    """chosen - rejected equals that of the log-probs summed over the whole answers."""
    examples = [*SHARED, *world.examples(6)]
    chosen_B, rejected_B = pair_logprobs(world.language, params, world.batch("reward", examples))
    for i, example in enumerate(examples):
        sums = [
            row_logprobs(world, params, [*example.prompt, *answer, world.eos_id])[len(example.prompt) - 1 :].sum()
            for answer in (example.chosen, example.rejected)
        ]
        assert float(chosen_B[i] - rejected_B[i]) == pytest.approx(sums[0] - sums[1], abs=2e-4)


def test_equal_answers_and_padding_add_nothing(world: Any, params: Any) -> None:
    same = world.batch("reward", [Example([9], [3], [7, 8], [7, 8])])
    assert [float(x[0]) for x in pair_logprobs(world.language, params, same)] == [0.0, 0.0]
    batch = world.batch("reward", SHARED)
    padded = {f.name: np.pad(getattr(batch, f.name), ((0, 0), (0, 5))) for f in fields(batch) if f.name[-2:] == "BL"}
    wide = replace(batch, **padded)
    for narrow_B, wide_B in zip(
        pair_logprobs(world.language, params, batch), pair_logprobs(world.language, params, wide), strict=True
    ):
        np.testing.assert_allclose(narrow_B, wide_B, rtol=1e-5)


def test_before_training_the_loss_is_ln_2_and_a_step_prefers_the_chosen(
    world: Any, params: Any, context: Any, make_mesh: Any
) -> None:
    config = replace(Config(), improve=replace(Config().improve, batch_size=4))
    tiny, examples = context(config, make_mesh(1, 1, 1)), world.examples(6)
    with jax.set_mesh(tiny.mesh):
        arrays = with_reference(tiny, params, world.arrays("reward", examples))
    batch = DpoBatch(**arrays)
    chosen_B, rejected_B = pair_logprobs(world.language, params, world.batch("reward", examples))
    np.testing.assert_allclose(arrays["ref_chosen_B"], chosen_B, rtol=1e-5)
    np.testing.assert_allclose(arrays["ref_rejected_B"], rejected_B, rtol=1e-5)
    loss = make_dpo_loss(world.language, DpoConfig())
    (before, metrics), gradient = jax.value_and_grad(lambda p: loss(p, batch, jax.random.key(0)), has_aux=True)(params)
    assert float(before) == pytest.approx(np.log(2), abs=1e-5)
    assert metrics["rewards/margins"].value == pytest.approx(0.0, abs=1e-5)
    after, metrics = loss(jax.tree.map(lambda p, g: p - 1e-2 * g, params, gradient), batch, jax.random.key(0))
    assert float(after) < float(before) and metrics["rewards/margins"].value > 0
