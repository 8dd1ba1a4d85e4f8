"""Who trains what over which weights."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

from pit_jax.config import AdapterConfig, Config
from pit_jax.stages.actors import load_actors
from pit_jax.stages.context import Context
from pit_jax.stages.models import VALUE, backbone, check_adapters, load, root, start


@pytest.fixture
def adapted(place: Any) -> Callable[..., Context]:
    """adapted(*full) -> a context with adapters of rank 2, but for the stages that train in full."""

    def make(*full: str, rank: int = 2) -> Context:
        context: Context = place(replace(Config(), adapter=AdapterConfig(rank=rank, full=full)))
        for parent in context.folder("rl", "improver").parents(context.config):
            parent.path.mkdir(exist_ok=True)
            parent.finish(round=1, digest=f"digest of {parent.name}")
        return context

    return make


def same(a: Any, b: Any) -> bool:
    """Whether two trees hold the very same arrays."""
    return all(x is y for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def weights(params: Any) -> Any:
    """A model's own matrices, without adapters and head."""
    return {"embedding": params["embedding"], "attention": params["blocks"]["attention"]}


def count(tree: Any) -> int:
    return sum(x.size for x in jax.tree.leaves(tree))


def test_all_roles_of_rl_hold_one_copy_of_the_weights(adapted: Callable[..., Context]) -> None:
    context = adapted()
    actors, base = load_actors(context, "improver"), weights(root(context))
    for params in (actors.frozen["anchor"], actors.frozen["scorer"]["trunk"], actors.samplers["policy-rl"]):
        assert same(weights(params), base)
    under = actors.under
    assert under is not None and same(weights(under["policy"]), base) and same(weights(under["value"]["trunk"]), base)
    assert count(actors.trained) < 0.6 * count(root(context))
    assert set(actors.trained["policy"]["blocks"]) == {"adapter"} and set(actors.trained["value"]) == {"trunk", "head"}


def test_training_begins_where_the_parent_ended(adapted: Callable[..., Context]) -> None:
    actors = load_actors(adapted(), "improver")
    whole = actors.whole(actors.trained)
    assert same(whole, {"policy": actors.frozen["anchor"], "value": actors.frozen["scorer"]})


def test_without_adapters_all_is_trained(adapted: Callable[..., Context]) -> None:
    context = adapted(rank=0)
    actors = load_actors(context, "improver")
    assert actors.under is None and not context.backbones
    assert same(actors.trained, {"policy": actors.frozen["anchor"], "value": actors.frozen["scorer"]})


def test_adapters_over_weights_that_sft_trained_in_full(adapted: Callable[..., Context]) -> None:
    context = adapted("sft-policy", "sft-improver")
    actors, sft = load_actors(context, "improver"), load(context, "sft", "improver")
    assert "adapter" not in sft["blocks"] and same(weights(actors.frozen["scorer"]["trunk"]), weights(sft))
    assert same(backbone(context, "rl", "improver"), sft) and same(backbone(context, "rm", "improver"), sft)
    assert set(actors.trained["policy"]["blocks"]) == {"adapter"}
    fresh = actors.trained["policy"]["blocks"]["adapter"]["query_b"]
    assert not np.asarray(fresh).any(), "the policy begins as its SFT model"
    assert same(backbone(context, "rl", "policy"), load(context, "sft", "policy"))


def test_a_value_model_in_full_beside_a_policy_with_adapters(adapted: Callable[..., Context]) -> None:
    actors = load_actors(adapted(VALUE), "improver")
    assert "adapter" not in actors.trained["value"]["trunk"]["blocks"] and actors.under is not None
    assert set(actors.under) == {"policy"}


def test_a_full_stage_over_a_parent_with_adapters_begins_with_merged_weights(adapted: Callable[..., Context]) -> None:
    context = adapted("rl-policy")
    parent = load(context, "sft", "policy")
    begin = start(context, "rl-policy", parent)
    assert begin.frozen is None and "adapter" not in begin.trained["blocks"]
    before, after = (tree["blocks"]["attention"]["query"] for tree in (parent, begin.trained))
    assert np.abs(np.asarray(after) - np.asarray(before)).max() > 0


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        (AdapterConfig(rank=-1), "a rank of 0 or more"),
        (AdapterConfig(rank=2, targets=("quary",)), r"--adapter.targets: unknown quary; known: query, key, value, out"),
        (AdapterConfig(rank=2, full=("sft",)), r"--adapter.full: unknown sft; known: sft-policy, .*value"),
        (AdapterConfig(rank=2, targets=()), "no matrix of this model would have an adapter"),
    ],
)
def test_what_cannot_be_trained_is_refused(adapter: AdapterConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_adapters(replace(Config(), adapter=adapter))
