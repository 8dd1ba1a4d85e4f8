"""Who learns in RL, who stays frozen beside it, and over which weights."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

from pit_jax.config import AdapterConfig, Config, CurriculumConfig
from pit_jax.parallel.sharding import named_leaves
from pit_jax.recipes.catalogue import GAP, REWARD, RL_IMPROVER, RL_POLICY, SFT_IMPROVER, SFT_POLICY
from pit_jax.rl.roles import SECOND_GAP, WORD_MODEL, Roles, load_roles, parents_of
from pit_jax.run.context import Context
from pit_jax.run.params import VALUE, Models
from pit_jax.run.provenance import StageId
from tests.world import MakeContext, finish_parents

MakeModels = Callable[..., Models]


@pytest.fixture
def adapted(place: MakeContext) -> Callable[..., Context]:
    """adapted(*full) -> a context with adapters of rank 2, but for the stages that train in full."""

    def make(*full: str, rank: int = 2, stage: StageId = RL_IMPROVER, **rl: Any) -> Context:
        base = Config()
        config = replace(base, adapter=AdapterConfig(rank=rank, full=full), rl=replace(base.rl, **rl))
        return finish_parents(place(config, stage))

    return make


def roles_of(context: Context, models: Models | None = None) -> Roles:
    return load_roles(models or Models(context), context.config, context.stage.role)


def same(a: Any, b: Any) -> bool:
    """Whether two trees hold the very same arrays."""
    return all(x is y for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def matrices(params: Any) -> Any:
    """A model's own matrices, without adapters and head."""
    return {"embedding": params["embedding"], "attention": params["blocks"]["attention"]}


def count(tree: Any) -> int:
    return sum(x.size for x in jax.tree.leaves(tree))


def test_all_roles_of_rl_hold_one_copy_of_the_weights(adapted: Any) -> None:
    context = adapted()
    models = Models(context)
    roles, base = roles_of(context, models), matrices(models.root())
    for params in (roles.frozen["anchor"], roles.frozen["scorer"]["trunk"], roles.samplers[RL_POLICY]):
        assert same(matrices(params), base)
    under = roles.under
    assert under is not None and same(matrices(under["policy"]), base) and same(matrices(under["value"]["trunk"]), base)
    assert count(roles.trainable) < 0.6 * count(models.root())
    trained = roles.trainable
    assert set(trained["policy"]["blocks"]) == {"adapter"} and set(trained["value"]) == {"trunk", "head"}


def test_training_begins_where_the_parent_ended(adapted: Any) -> None:
    roles = roles_of(adapted())
    whole = roles.whole(roles.trainable)
    assert same(whole, {"policy": roles.frozen["anchor"], "value": roles.frozen["scorer"]})


def test_without_adapters_all_is_trained(adapted: Any) -> None:
    roles = roles_of(adapted(rank=0))
    assert roles.under is None
    assert same(roles.trainable, {"policy": roles.frozen["anchor"], "value": roles.frozen["scorer"]})


def test_frozen_matrices_have_a_dtype_of_their_own(adapted: Any) -> None:
    """What is trained begins in float32, and adapters, heads and norms keep it; one backbone stays one."""
    for rank in (0, 2):
        context = adapted(rank=rank)
        half = replace(context.config.transformer, frozen_dtype="bfloat16")
        roles = roles_of(replace(context, config=replace(context.config, transformer=half)))
        samplers = {str(stage): params for stage, params in roles.samplers.items()}
        dtypes = {name: str(x.dtype) for name, x in named_leaves({**roles.frozen, **samplers}).items()}
        matrices = {name for name, dtype in dtypes.items() if dtype == "bfloat16"}
        assert {name for name in dtypes if name.endswith(("embedding", "query", "down"))} <= matrices
        assert not any("adapter" in name or "scale" in name or "head" in name for name in matrices)
        assert {str(x.dtype) for x in jax.tree.leaves(roles.trainable)} == {"float32"}
        anchor, scorer = roles.frozen["anchor"], roles.frozen["scorer"]["trunk"]
        assert (anchor["embedding"] is scorer["embedding"]) == (rank > 0)


def test_what_was_trained_from_is_not_held_once_a_state_has_begun(adapted: Any) -> None:
    roles = roles_of(adapted())
    begun = roles.begun()
    assert not any(isinstance(x, jax.Array) for x in jax.tree.leaves(begun.trainable))
    assert same(begun.under, roles.under) and same(begun.whole(roles.trainable), roles.whole(roles.trainable))


def test_adapters_over_weights_that_sft_trained_in_full(adapted: Any) -> None:
    context = adapted("sft-policy", "sft-improver")
    models = Models(context)
    roles, sft = roles_of(context, models), models.load(SFT_IMPROVER)
    assert "adapter" not in sft["blocks"] and same(matrices(roles.frozen["scorer"]["trunk"]), matrices(sft))
    assert same(models.backbone(RL_IMPROVER), sft) and same(models.backbone(GAP), sft)
    assert set(roles.trainable["policy"]["blocks"]) == {"adapter"}
    fresh = roles.trainable["policy"]["blocks"]["adapter"]["query_b"]
    assert not np.asarray(fresh).any(), "the policy begins as its SFT model"
    assert same(models.backbone(RL_POLICY), models.load(SFT_POLICY))


def test_a_value_model_in_full_beside_a_policy_with_adapters(adapted: Any) -> None:
    roles = roles_of(adapted(VALUE))
    assert "adapter" not in roles.trainable["value"]["trunk"]["blocks"] and roles.under is not None
    assert set(roles.under) == {"policy"}


@pytest.mark.parametrize("algorithm", ["grpo", "rloo", "dr_grpo"])
@pytest.mark.parametrize(("stage", "role"), [(RL_POLICY, "policy"), (RL_IMPROVER, "improver")])
def test_without_a_critic_nobody_holds_a_value_model(adapted: Any, algorithm: str, stage: StageId, role: str) -> None:
    """Neither trained nor frozen under what is trained; only the named model's RL follows the knob."""
    roles = roles_of(adapted(stage=stage, **{f"{role}_algorithm": algorithm}))
    assert roles.value is None and set(roles.trainable) == {"policy"}
    assert roles.under is not None and set(roles.under) == {"policy"}
    assert set(roles.whole(roles.trainable)) == {"policy"} and {"anchor", "scorer"} == set(roles.frozen)
    other = "improver" if role == "policy" else "policy"
    assert roles_of(adapted(stage=stage, **{f"{other}_algorithm": algorithm})).value is not None


def test_the_policy_meets_no_references(adapted: Any) -> None:
    roles = roles_of(adapted(rank=0, stage=RL_POLICY))
    assert roles.samplers == {} and set(roles.frozen) == {"anchor", "scorer"}


def test_a_second_gap_model_is_loaded_where_it_is_asked_for(place: MakeContext) -> None:
    config = replace(Config(), rm=replace(Config().rm, second_gap_steps=5))
    roles = roles_of(finish_parents(place(config)))
    assert set(roles.frozen) == {"anchor", "scorer", "second-gap"}
    assert not np.array_equal(roles.frozen["scorer"]["head"]["kernel"], roles.frozen["second-gap"]["head"]["kernel"])


def test_every_parent_is_loaded_and_nothing_else(place: MakeContext) -> None:
    """The lineage of RL names the models that RL meets, here under a curriculum with samplers of every kind."""
    base = Config()
    references = CurriculumConfig(references=("chosen+policy-sft", "improver"), rounds=(1, 1))
    rm = replace(base.rm, second_gap_steps=5)
    config = replace(base, rm=rm, rl=replace(base.rl, batch_size=16, curriculum=references))
    asked: list[StageId] = []

    class Noted(Models):
        def load(self, id: StageId, phase: str | None = None) -> Any:
            asked.append(id)
            return super().load(id, phase)

    for stage in (RL_POLICY, RL_IMPROVER):
        asked.clear()
        context = finish_parents(place(config, stage))
        load_roles(Noted(context), config, stage.role)
        assert set(asked) == set(parents_of(config, stage.role))


def test_the_improver_s_parents_follow_its_reward_and_references() -> None:
    base = Config()
    assert parents_of(base, "policy") == (SFT_POLICY, REWARD)
    assert parents_of(base, "improver") == (SFT_POLICY, SFT_IMPROVER, GAP, RL_POLICY)
    difference = replace(base, rl=replace(base.rl, reward="difference"))
    assert parents_of(difference, "improver") == (SFT_POLICY, SFT_IMPROVER, REWARD, RL_POLICY)
    second = replace(base, rm=replace(base.rm, second_gap_steps=1))
    assert parents_of(second, "improver") == (SFT_POLICY, SFT_IMPROVER, GAP, RL_POLICY, SECOND_GAP)
    assert parents_of(second, "policy") == (SFT_POLICY, REWARD)
    words = replace(base, rm=replace(base.rm, word_model=0.5))
    assert parents_of(words, "policy") == (SFT_POLICY, REWARD, WORD_MODEL)
    assert parents_of(words, "improver") == (SFT_POLICY, SFT_IMPROVER, GAP, RL_POLICY, WORD_MODEL)
