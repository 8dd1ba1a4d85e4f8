"""The SFT loss of a batch against a plain reading: mean negative log-likelihood of the answers and their EOS."""

from dataclasses import replace
from io import StringIO
from typing import Any

import jax
import numpy as np
import pytest
from rich.console import Console

from pit_jax.batch import SftBatch
from pit_jax.config import Config
from pit_jax.data.features import Example
from pit_jax.data.packing import PackedRows
from pit_jax.data.rows import as_rows
from pit_jax.errors import UserError
from pit_jax.recipes import sft
from pit_jax.recipes.catalogue import SFT_IMPROVER, SFT_POLICY
from pit_jax.recipes.sft import make_loss
from pit_jax.run.context import Context
from pit_jax.run.params import Models
from pit_jax.run.screen import Screen
from pit_jax.run.supervised import Task
from tests.model import plain_forward as plain
from tests.sequences import with_junk
from tests.world import MakeContext, StandInData, World, finish_parents

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def params(world: World) -> Any:
    return world.draw(world.language, 0)


@pytest.fixture(scope="module")
def examples(world: World) -> list[Example]:
    return world.examples(6, seed=3)


@pytest.fixture(scope="module")
def loss(world: World) -> Any:
    """With more slots than any answer needs."""
    return jax.jit(make_loss(world.language, slots=40))


@pytest.mark.parametrize("kind", ["sft-policy", "sft-improver"])
def test_the_loss_is_the_mean_over_answer_tokens(world: World, params: Any, loss: Any, kind: str) -> None:
    chosen = [Example([7, 8], [3, 8], [9, 10, 11], [12]), Example([20], [3, 20], [], [13, 14])]
    value, metrics = loss(params, world.batch(kind, chosen), KEY)
    logprobs: list[float] = []
    for e in chosen:
        prompt = list(e.prompt) if kind == "sft-policy" else [*e.prefix, *e.rejected, *world.suffix]
        logprobs += plain.answer_logprobs(params, world.config, prompt, [*e.chosen, world.eos_id]).tolist()
    assert float(metrics["loss"].count) == len(logprobs) == 5
    np.testing.assert_allclose(value, -np.mean(logprobs), rtol=1e-5)


def test_only_answers_slots_make_logits_and_more_slots_change_nothing(
    world: World, params: Any, loss: Any, examples: list[Example]
) -> None:
    batch: SftBatch = world.batch("sft-improver", examples)
    longest = int(batch.mask_BL.sum(axis=1).max())
    tight = make_loss(world.language, slots=longest)
    np.testing.assert_allclose(jax.jit(tight)(params, batch, KEY)[0], loss(params, batch, KEY)[0], rtol=1e-6)
    shapes = [v.aval.shape for e in jax.make_jaxpr(tight)(params, batch, KEY).eqns for v in e.outvars]
    assert (len(examples), longest, world.vocab) in shapes
    assert (*batch.tokens_BL.shape, world.vocab) not in shapes


def test_tokens_in_padding_change_neither_loss_nor_gradient(world: World, params: Any, examples: list[Example]) -> None:
    batch: SftBatch = world.batch("sft-policy", examples)
    junk = with_junk(batch)
    gradient = jax.jit(jax.value_and_grad(lambda p, b: make_loss(world.language, slots=8)(p, b, KEY)[0]))
    for found, expected in zip(
        jax.tree.leaves(gradient(params, junk)), jax.tree.leaves(gradient(params, batch)), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", ["sft-policy", "sft-improver"])
def test_packed_rows_have_the_loss_and_the_gradient_of_their_examples(
    world: World, params: Any, examples: list[Example], kind: str
) -> None:
    """Six examples in rows of 40 tokens, of which none sees its neighbour."""
    rows = StandInData(world, {"sft": examples}).rows("sft", kind)
    several = PackedRows(rows, 40)
    fields = several.batch(np.arange(len(several)))
    arrays: dict[str, Any] = {name: np.asarray(column) for name, column in fields.items()}
    packed = SftBatch(**arrays)
    assert len(several) < 6 and packed.segments_BL.max() > 1

    def value(params: Any, batch: SftBatch, single: bool) -> Any:
        return make_loss(world.language, slots=40, single=single)(params, batch, KEY)

    gradient = jax.jit(jax.value_and_grad(value, has_aux=True), static_argnums=2)
    found, expected = gradient(params, packed, False), gradient(params, world.batch(kind, examples), True)
    assert float(found[0][1]["loss"].count) == float(expected[0][1]["loss"].count)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_a_packed_training_says_what_it_packs(place: MakeContext, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks: list[Task] = []
    told = StringIO()
    monkeypatch.setattr(sft, "fit", lambda context, task, *_: tasks.append(task))
    context = finish_parents(place(replace(Config(), sft=replace(Config().sft, packed_width=64)), SFT_POLICY))
    sft.run(replace(context, screen=Screen(Console(file=told))))
    rows = tasks[0].rows
    assert isinstance(rows, PackedRows) and (rows.width, len(rows) < len(rows.rows)) == (64, True)
    line = f"sft-policy: {len(rows.rows)} examples in {len(rows)} rows of 64 tokens, {rows.padding:.1%} padding"
    assert told.getvalue().split() == line.split()
    narrow = place(replace(context.config, sft=replace(context.config.sft, packed_width=8)), SFT_POLICY)
    with pytest.raises(UserError, match="--sft.packed-width=8: the longest row of sft-policy has"):
        sft.run(narrow)


def test_the_improver_starts_from_the_policy(place: MakeContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each on its own rows for its own number of updates; the policy from what the run starts from."""
    begun: dict[str, tuple[Task, Any]] = {}

    def noted(context: Context, task: Task, models: Models, start: Any) -> None:
        begun[str(context.stage.id)] = (task, start())

    monkeypatch.setattr(sft, "fit", noted)
    config = replace(Config(), sft=replace(Config().sft, policy_steps=3, improver_steps=4))
    for stage in (SFT_POLICY, SFT_IMPROVER):
        context = finish_parents(place(config, stage))
        sft.run(context)
    (policy, root), (improver, start) = begun["sft-policy"], begun["sft-improver"]
    assert (policy.steps, improver.steps) == (3, 4)
    for found, expected in zip(jax.tree.leaves(start), jax.tree.leaves(Models(context).load(SFT_POLICY)), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert not np.array_equal(root["embedding"], start["embedding"])
    widths = [as_rows(task.rows).batch(np.arange(2))["tokens_BL"].shape[1] for task in (policy, improver)]
    assert widths[0] < widths[1], "the improver reads references too"
    assert policy.score is not None
    assert policy.score({"loss": 2.0}) < policy.score({"loss": 1.0}), "the checkpoint with the lowest held-out loss"
