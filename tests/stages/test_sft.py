"""The SFT loss of a batch against a plain reading: mean negative log-likelihood of the answers and their EOS."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pit_jax.batch import SftBatch
from pit_jax.data.features import Example
from pit_jax.model.attention import causal_visible, segment_positions
from pit_jax.stages.sft import make_loss

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def params(world: Any) -> Any:
    return world.draw(world.language, 0)


@pytest.fixture(scope="module")
def examples(world: Any) -> list[Example]:
    return world.examples(6, seed=3)


@pytest.fixture(scope="module")
def loss(world: Any) -> Any:
    """Room for the answers of a packed row."""
    return jax.jit(make_loss(world.language, slots=40))


def likelihoods(world: Any, params: Any, prompt: list[int], answer: list[int]) -> list[float]:
    """-log p of each token of `answer` after `prompt`, from one unpadded row, in float64."""

    @partial(jax.jit, static_argnums=1)
    def logits(tokens_1L: jax.Array, length: int) -> jax.Array:
        segments_1L = jnp.ones((1, length), jnp.int32)
        place = (segment_positions(segments_1L), causal_visible(segments_1L))
        return world.language.logits(params, world.language.hidden(params, tokens_1L, *place))

    row = [*prompt, *answer]
    logits_LV = np.asarray(logits(jnp.asarray([row], jnp.int32), len(row)), np.float64)[0]
    logprobs_LV = logits_LV - np.log(np.exp(logits_LV).sum(-1, keepdims=True))
    return [-logprobs_LV[i - 1, row[i]] for i in range(len(prompt), len(row))]


@pytest.mark.parametrize("kind", ["sft-policy", "sft-improver"])
def test_the_loss_is_the_mean_over_answer_tokens(world: Any, params: Any, loss: Any, kind: str) -> None:
    chosen = [Example([7, 8], [3, 8], [9, 10, 11], [12]), Example([20], [3, 20], [], [13, 14])]
    value, metrics = loss(params, world.batch(kind, chosen), KEY)
    nll: list[float] = []
    for e in chosen:
        prompt = list(e.prompt) if kind == "sft-policy" else [*e.prefix, *e.rejected, *world.suffix]
        nll += likelihoods(world, params, prompt, [*e.chosen, world.eos_id])
    assert float(metrics["loss"].count) == len(nll) == 5
    np.testing.assert_allclose(value, np.mean(nll), rtol=1e-5)


@pytest.mark.parametrize("kind", ["sft-policy", "sft-improver"])
def test_packed_rows_give_the_same_loss(world: Any, params: Any, loss: Any, examples: list[Example], kind: str) -> None:
    plain, packed = world.batch(kind, examples), world.packed(kind, examples, length=40)
    assert len(packed.tokens_BL) < len(plain.tokens_BL)
    value, metrics = loss(params, plain, KEY)
    packed_value, packed_metrics = loss(params, packed, KEY)
    np.testing.assert_allclose(packed_value, value, rtol=1e-5)
    assert float(packed_metrics["loss"].count) == float(metrics["loss"].count)


def test_only_answers_slots_make_logits_and_more_slots_change_nothing(
    world: Any, params: Any, loss: Any, examples: list[Example]
) -> None:
    batch: SftBatch = world.batch("sft-improver", examples)
    longest = int(batch.mask_BL.sum(axis=1).max())
    tight = make_loss(world.language, slots=longest)
    np.testing.assert_allclose(jax.jit(tight)(params, batch, KEY)[0], loss(params, batch, KEY)[0], rtol=1e-6)
    shapes = [v.aval.shape for e in jax.make_jaxpr(tight)(params, batch, KEY).eqns for v in e.outvars]
    assert (len(examples), longest, world.vocab) in shapes
    assert (*batch.tokens_BL.shape, world.vocab) not in shapes


def test_tokens_in_padding_change_neither_loss_nor_gradient(world: Any, params: Any, examples: list[Example]) -> None:
    batch: SftBatch = world.batch("sft-policy", examples)
    padding = batch.segments_BL == 0
    assert padding.any()
    junk = SftBatch(
        tokens_BL=np.where(padding, 33, batch.tokens_BL),
        targets_BL=np.where(batch.mask_BL, batch.targets_BL, 17),
        mask_BL=batch.mask_BL,
        positions_BL=np.where(padding, 9, batch.positions_BL),
        segments_BL=batch.segments_BL,
    )
    gradient = jax.jit(jax.value_and_grad(lambda p, b: make_loss(world.language, slots=8)(p, b, KEY)[0]))
    for found, expected in zip(
        jax.tree.leaves(gradient(params, junk)), jax.tree.leaves(gradient(params, batch)), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
