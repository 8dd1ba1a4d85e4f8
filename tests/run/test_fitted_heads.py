"""Heads that are fitted before the first update: what they read, on every mesh, and that a kill does not fit again."""

import json
import shutil
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from pit_jax.batch import RewardBatch
from pit_jax.config import AdapterConfig, Config
from pit_jax.data.rows import as_rows
from pit_jax.masked import Mean
from pit_jax.model.scoring import tree_gaps
from pit_jax.recipes import gap, reward
from pit_jax.recipes.catalogue import GAP, REWARD
from pit_jax.run import supervised
from pit_jax.run.context import Context
from pit_jax.run.params import Models
from pit_jax.run.provenance import StageId
from pit_jax.run.supervised import Task, before, by, heldout_metrics, train, with_head
from pit_jax.training import head
from pit_jax.training.head import HeadFit, fitted, linear
from tests.world import MakeContext, World, finish_parents


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("kind", ["reward", "gap"])
def test_scores_are_linear_in_the_head(world: World, pooled: bool, kind: str) -> None:
    """Those of a head that nobody has read, from the slopes; pairs of a reward model have margins of their own."""
    model = replace(world, config=replace(world.config, pooled_head=pooled)).scalar
    params = world.draw(model, 0)
    examples = [replace(example, margin=0.5 * i) for i, example in enumerate(world.examples(5))]
    batch, scores = world.batch(kind, examples), partial(reward.scores if kind == "reward" else tree_gaps, model)

    @jax.jit
    def both(params: Any, batch: Any) -> Any:
        return scores(params, batch), linear(lambda head: scores({**params, "head": head}, batch), params["head"])

    wanted, found = both(params, batch)
    got = found.scores(np.asarray(ravel_pytree(params["head"])[0]))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


def words(params: Any, batch: RewardBatch) -> tuple[jax.Array, jax.Array, None]:
    """Scores that compile in no time: of words without order."""

    def score(tokens_BL: jax.Array) -> jax.Array:
        return jnp.mean(params["trunk"]["embedding"][tokens_BL], axis=1) @ params["head"]["kernel"]

    return score(batch.chosen_BL), score(batch.rejected_BL), None


def word_loss(params: Any, batch: RewardBatch, key: jax.Array) -> tuple[jax.Array, dict[str, Mean]]:
    return reward.objective(words(params, batch))


def task_of(context: Context, **changes: Any) -> Task:
    task = Task(
        loss=word_loss,
        make_batch=RewardBatch,
        rows=context.data.rows("rm", "reward"),
        heldout=context.data.rows("heldout", "reward"),
        optimizer=context.config.rm.optimizer,
        steps=4,
        batch_size=8,
        accumulate=1,
        seed=0,
        score=by("loss", sign=-1.0),
        head_fit=HeadFit(words, reward.objective),
    )
    return replace(task, **changes)


def start_of(place: MakeContext, config: Config, **where: Any) -> tuple[Context, Models, Any]:
    base = replace(config, checkpoint=replace(config.checkpoint, every=2))
    context = finish_parents(place(base, REWARD, **where))
    models = Models(context)
    return context, models, with_head(context, models, "reward")


def test_the_head_of_the_least_loss_on_every_mesh(place: MakeContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a better one than none, which has ln 2, on the pairs that it was fitted to; the trunk stays.

    A weak ridge is given: held-out pairs would ask for the strongest, since these few say nothing of each other.
    """
    monkeypatch.setattr(head, "RIDGES", (1.0,))
    heads = []
    for mesh in ((1, 1, 1), (2, 2, 2)):
        context, models, drawn = start_of(place, Config(), mesh=mesh)
        task = task_of(context)
        with jax.set_mesh(context.mesh):
            given = models.partition("rm-policy", drawn)
            found = before(given, context, task)
        assert found["trunk"] is given.trainable["trunk"]
        assert found["head"]["kernel"].sharding == drawn["head"]["kernel"].sharding
        heads.append(np.asarray(found["head"]["kernel"]))
        columns: dict[str, Any] = {name: np.asarray(x) for name, x in as_rows(task.rows).batch(np.arange(24)).items()}
        batch = RewardBatch(**columns)
        loss, _ = reward.objective(words(jax.tree.map(np.asarray, found), batch))
        assert float(loss) < np.log(2) - 1e-4
    np.testing.assert_allclose(heads[0], heads[1], rtol=1e-2, atol=1e-3 * np.abs(heads[0]).max())


@pytest.mark.parametrize("rank", [0, 2])
def test_a_resumed_training_fits_no_head_again(place: MakeContext, monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    """With adapters too, whose training asks for the weights below them again."""
    context, models, drawn = start_of(place, Config(adapter=AdapterConfig(rank=rank)))
    asked: list[Any] = []

    def noted(*args: Any, **named: Any) -> Any:
        asked.append(fitted(*args, **named))
        return asked[-1]

    monkeypatch.setattr(supervised, "fitted", noted)
    task = task_of(context, optimizer=replace(context.config.rm.optimizer, learning_rate=1e-12))
    with jax.set_mesh(context.mesh):
        ended = train(context, task, models, lambda: drawn)
        loss = heldout_metrics(context, task)({**drawn, "head": asked[0][0]})["loss"]
        shutil.rmtree(context.folder.path / "checkpoints" / "4")
        assert train(context, task, models, lambda: drawn) == ended
    lines = (context.folder.path / "metrics.jsonl").read_text().splitlines()
    losses = [row["loss"] for row in map(json.loads, lines) if row["phase"] == "eval"]
    np.testing.assert_allclose(losses, [loss, loss, loss], rtol=1e-5)
    assert len(asked) == 1


def test_updates_that_help_no_fitted_head_are_not_kept(place: MakeContext) -> None:
    """As it was fitted it is one of the checkpoints, and here the best: far too large updates follow."""
    context, models, drawn = start_of(place, Config())
    optimizer = replace(context.config.rm.optimizer, learning_rate=1e3)
    for phase, head_fit in {"drawn": None, "fitted": HeadFit(words, reward.objective)}.items():
        task = task_of(context, optimizer=optimizer, head_fit=head_fit, phase=phase)
        with jax.set_mesh(context.mesh):
            round, _ = train(context, task, models, lambda: drawn)
        assert (round == 0) == (phase == "fitted")


def test_reward_and_gap_model_fit_their_heads_where_they_are_asked_to(
    place: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the second gap model does not, which is there to differ."""
    begun: dict[str, Task] = {}

    def noted(context: Context, task: Task, models: Models, start: Any) -> tuple[int, str]:
        begun[context.folder.name] = task
        return 1, "digest"

    monkeypatch.setattr(gap, "train", noted)
    monkeypatch.setattr(gap, "measure_gates", lambda context, params: None)
    monkeypatch.setattr(reward, "fit", noted)
    for fit_head in (False, True):
        config = replace(Config(), rm=replace(Config().rm, fit_head=fit_head, second_gap_steps=2))
        for stage in (REWARD, GAP, StageId("rm", "second-gap")):
            context = finish_parents(place(config, stage))
            context.folder.path.mkdir(exist_ok=True)
            (reward if stage == REWARD else gap).run(context)
        fits = {name: task.head_fit is not None for name, task in begun.items()}
        assert fits == {"rm-policy": fit_head, "rm-improver": fit_head, "rm-second-gap": False}
