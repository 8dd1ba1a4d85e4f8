"""Who loads whose weights: what a stage may read, what lies under its adapters, and what it trains."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

from pit_jax.config import AdapterConfig, Config
from pit_jax.errors import UserError
from pit_jax.recipes.catalogue import GAP, REWARD, RL_IMPROVER, RL_POLICY, SFT_IMPROVER, SFT_POLICY, catalogue
from pit_jax.run import params
from pit_jax.run.context import Context
from pit_jax.run.folders import Run
from pit_jax.run.frozen import trains_fully
from pit_jax.run.params import Models, check_adapters, ground
from pit_jax.run.provenance import StageId
from tests.world import MakeContext, finish, finish_parents

MakeAdapted = Callable[..., Context]


@pytest.fixture
def adapted(place: MakeContext) -> MakeAdapted:
    """adapted(*full) -> a context with adapters of rank 2, but for the stages that train in full."""

    def make(*full: str, rank: int = 2, stage: StageId = RL_IMPROVER) -> Context:
        config = replace(Config(), adapter=AdapterConfig(rank=rank, full=full))
        return finish_parents(place(config, stage))

    return make


def same(a: Any, b: Any) -> bool:
    """Whether two trees hold the very same arrays."""
    return all(x is y for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def matrices(tree: Any) -> Any:
    """A model's own matrices, without adapters and head."""
    return {"embedding": tree["embedding"], "attention": tree["blocks"]["attention"]}


def test_only_declared_parents_can_be_loaded(adapted: MakeAdapted) -> None:
    """However finished another stage is, its weights would be in no lineage."""
    context = adapted(rank=0, stage=GAP)
    finish(context.folder_of(REWARD))
    models = Models(context)
    assert models.load(SFT_IMPROVER)
    for id in (REWARD, SFT_POLICY, GAP):
        with pytest.raises(UserError) as error:
            models.load(id)
        assert str(error.value) == (
            f"stage rm-improver loads {id}, which is none of its parents (sft-improver); declare it, so that the "
            "lineage knows"
        )


def test_a_stage_reads_its_own_checkpoints(place: MakeContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the round that is asked for, finished or not."""
    asked: list[tuple[str, int | None]] = []
    monkeypatch.setattr(
        params, "restored", lambda context, folder, init, round=None: asked.append((folder.name, round))
    )
    Models(replace(place(Config(), GAP), devices=None)).own(3)
    assert asked == [("rm-improver", 3)]


def test_a_model_that_nobody_finished_is_not_read(context: MakeContext, make_mesh: Any) -> None:
    with pytest.raises(AssertionError, match="sft-policy is not finished"):
        Models(context(Config(), make_mesh(1, 1, 1), SFT_IMPROVER)).load(SFT_POLICY)


def test_without_adapters_nothing_is_kept(adapted: MakeAdapted) -> None:
    """Weights that no other model stands on are in memory for as long as their reader holds them."""
    models = Models(adapted(rank=0))
    assert not same(models.load(SFT_POLICY), models.load(SFT_POLICY))


def test_with_adapters_weights_under_several_models_are_read_once(adapted: MakeAdapted) -> None:
    models = Models(adapted())
    improver, gap = models.load(SFT_IMPROVER), models.load(GAP)
    assert same(matrices(improver), matrices(models.root())) and same(matrices(gap["trunk"]), matrices(models.root()))
    assert not same(improver["blocks"]["adapter"], gap["trunk"]["blocks"]["adapter"])


def test_the_ground_is_the_nearest_ancestor_that_was_trained_in_full() -> None:
    def under(*full: str) -> dict[StageId, StageId | None]:
        run = Run(replace(Config(), adapter=AdapterConfig(rank=2, full=full)), catalogue())
        found = {stage.id: ground(run, stage) for stage in run.catalogue.values() if stage.leaves}
        return {id: None if stage is None else stage.id for id, stage in found.items()}

    assert set(under().values()) == {None}, "the base"
    by_policy = under("sft-policy")
    assert by_policy.pop(SFT_POLICY) is None and set(by_policy.values()) == {SFT_POLICY}
    both = under("sft-policy", "sft-improver")
    of_improver = (RL_IMPROVER, GAP, StageId("rm", "second-gap"))
    assert {id for id, below in both.items() if below == SFT_IMPROVER} == set(of_improver)
    assert both[SFT_IMPROVER] == both[REWARD] == both[RL_POLICY] == SFT_POLICY


def test_a_full_stage_over_a_parent_with_adapters_begins_with_merged_weights(adapted: MakeAdapted) -> None:
    models = Models(adapted("rl-policy", stage=RL_POLICY))
    parent = models.load(SFT_POLICY)
    begin = models.partition("rl-policy", parent)
    assert begin.frozen is None and "adapter" not in begin.trainable["blocks"]
    before, after = (tree["blocks"]["attention"]["query"] for tree in (parent, begin.trainable))
    assert np.abs(np.asarray(after) - np.asarray(before)).max() > 0


def test_fresh_adapters_change_nothing_and_are_drawn_by_name(adapted: MakeAdapted) -> None:
    """A parent that was trained in full gets adapters that add nothing; every stage has its own."""
    context = adapted("sft-policy", "sft-improver")
    models = Models(context)
    parts = {name: models.partition(name, models.load(SFT_IMPROVER)) for name in ("rl-improver", "rm-improver")}
    drawn = {name: part.trainable["blocks"]["adapter"] for name, part in parts.items()}
    assert not any(np.asarray(adapter["query_b"]).any() for adapter in drawn.values())
    assert not np.array_equal(*(adapter["query_a"] for adapter in drawn.values()))
    again = Models(context).partition("rl-improver", models.load(SFT_IMPROVER)).trainable
    np.testing.assert_array_equal(again["blocks"]["adapter"]["query_a"], drawn["rl-improver"]["query_a"])
    assert same(parts["rl-improver"].frozen, models.load(SFT_IMPROVER))


def test_a_stage_that_is_named_trains_in_full() -> None:
    config = replace(Config(), adapter=AdapterConfig(rank=2, full=("rm-policy",)))
    assert trains_fully(config, "rm-policy") and not trains_fully(config, "rl-policy")
    assert trains_fully(Config(), "rl-policy")


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        (AdapterConfig(rank=2, targets=("quary",)), r"--adapter.targets: unknown quary; known: query, key, value, out"),
        (
            AdapterConfig(rank=2, full=("sft",)),
            r"--adapter.full: unknown sft; known: sft-policy, .*second-gap, .*value",
        ),
        (AdapterConfig(rank=2, full=("evaluate",)), r"--adapter.full: unknown evaluate"),
        (AdapterConfig(rank=2, targets=()), "no matrix of this model would have an adapter"),
    ],
)
def test_what_cannot_be_trained_is_refused(adapter: AdapterConfig, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_adapters(Run(replace(Config(), adapter=adapter), catalogue()))
