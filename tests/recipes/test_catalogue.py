"""THE list of stages: its order, its roles, its knobs, and what a fork's stage takes the place of."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pit_jax.config import Config, flatten
from pit_jax.errors import UserError
from pit_jax.recipes.catalogue import (
    GAP,
    REWARD,
    RL_IMPROVER,
    RL_POLICY,
    SFT_IMPROVER,
    SFT_POLICY,
    STAGES,
    catalogue,
    selected,
    stage_names,
)
from pit_jax.recipes.facts import WORD_MODEL, of
from pit_jax.rl.algorithms import ALGORITHMS
from pit_jax.rl.references import REFERENCES
from pit_jax.rl.rewards import TEXT_REWARDS, TextReward
from pit_jax.run import params
from pit_jax.run.context import Context
from pit_jax.run.folders import Run, StageFolder
from pit_jax.run.params import Models
from pit_jax.run.provenance import StageId
from pit_jax.run.stage import Stage, never
from pit_jax.table import Source, forget
from tests.world import MakeContext, finish_parents

CONFIG = Config()
WATCHED = replace(CONFIG, rm=replace(CONFIG.rm, second_gap_steps=5))
WORDED = replace(CONFIG, rm=replace(CONFIG.rm, word_model=1.0))
SECOND, EVALUATE = StageId("rm", "second-gap"), StageId("evaluate")
FORK = Source(Path("mine.py"), "0123456789ab")
# What no stage's hash holds, and why its results do not change.
DECIDES_NOTHING = {
    "stage": "what is run",
    "model": "what is run",
    "seeds": "each of them is a run with a seed",
    "workdir": "where it is kept",
    "parent_run": "whose results are used, which have a lineage of their own",
    "forks": "their code is part of the hash of what uses it",
    "base": "its weights count by their content, and it sets the transformer and the tokenizer",
    "mesh": "one device equals eight",
    "hosts": "one host equals two",
    "plan": "what a run would take",
    "profile": "what is looked at",
    "checkpoint": "a killed run equals one that was not",
    "sft.policy_epochs": "the updates that follow from it count",
    "sft.improver_epochs": "the updates that follow from it count",
    "rm.policy_epochs": "the updates that follow from it count",
    "rm.improver_epochs": "the updates that follow from it count",
    "dpo.epochs": "the updates that follow from it count",
    "transformer.remat": "how a network is computed",
    "transformer.unroll": "how a network is computed",
    "transformer.logits_bytes": "how a network is computed",
    "data.sources": "files, which count by their content",
    "tokenizer.path": "files, which count by their content",
    "improve.prompts": "a file, which counts by its content",
    "improve.batch_size": "what is drawn for a prompt depends on its number, not on its batch",
    "improve.queue": "what is drawn for a prompt depends on its number, not on its batch",
    "paper.wording": "a folder, which counts by its content",
}


def ids(config: Config) -> list[StageId]:
    return [stage.id for stage in selected(replace(config, stage="all"))]


@pytest.fixture
def declare() -> Iterator[Callable[..., Stage]]:
    """declare(name, role, **facts) -> a stage of a fork, in the catalogue for the length of a test."""

    def make(name: str, role: str = "policy", **facts: Any) -> Stage:
        stage = Stage(**{"name": name, "role": role, "run": lambda context: None, "help": "mine", **facts})
        STAGES.add(stage, FORK)
        return stage

    yield make
    forget(FORK)


@pytest.mark.parametrize("config", [CONFIG, WATCHED, WORDED], ids=["one gap model", "two", "a word model"])
def test_all_runs_parents_first(config: Config) -> None:
    order = ids(config)
    for id in order:
        above = catalogue()[id].parents(replace(config, stage="all"))
        assert all(order.index(parent) < order.index(id) for parent in above), id
    assert len(set(order)) == len(order) and (SECOND in order) == (config is WATCHED)
    assert (WORD_MODEL in order) == (config is WORDED)
    trained = [SFT_POLICY, SFT_IMPROVER, REWARD, GAP, RL_POLICY, RL_IMPROVER]
    assert [id for id in order if id not in (SECOND, WORD_MODEL)] == [*trained, StageId("improve"), EVALUATE]


def test_every_stage_stands_behind_its_parents_in_the_list() -> None:
    order = list(catalogue())
    for config in (CONFIG, WATCHED, WORDED):
        for id, stage in catalogue().items():
            assert all(order.index(parent) < order.index(id) for parent in stage.parents(config)), id


def test_parents_come_first_whatever_the_order_of_the_list(declare: Any) -> None:
    """A fork's stages stand behind the built-in ones; one that others need, or that stands in for it, runs before."""
    late = declare("late", parents=of(REWARD))
    hinge = declare("hinge", parents=of(SFT_POLICY), replaces=REWARD, leaves="scalar")
    early = declare("early", parents=of(late.id), replaces=SFT_IMPROVER, leaves="language")
    unused = declare("unused", in_all=never)
    order = ids(CONFIG)
    places = [order.index(id) for id in (SFT_POLICY, hinge.id, late.id, early.id, GAP)]
    assert places == sorted(places) and len(set(order)) == len(order)
    assert not {REWARD, SFT_IMPROVER, unused.id} & set(order)


def test_what_stands_in_is_part_of_all_where_the_other_was(declare: Any) -> None:
    """Also a stage that would by itself be run when it is asked for alone."""
    mine = declare("mine", replaces=REWARD, leaves="scalar", parents=of(SFT_POLICY), in_all=never)
    other = declare("other", replaces=StageId("dpo", "policy"), leaves="language", in_all=never)
    order = ids(CONFIG)
    assert REWARD not in order and order.index(mine.id) < order.index(RL_POLICY) and other.id not in order


def test_a_stage_that_stands_in_does_so_everywhere(
    declare: Any, place: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In `all`, in the folders, among the parents of others, and in whose weights they load."""
    mine = declare("hinge", replaces=REWARD, leaves="scalar", init_from=SFT_POLICY, parents=of(SFT_POLICY))
    order = ids(CONFIG)
    assert REWARD not in order and order.index(SFT_POLICY) < order.index(mine.id) < order.index(RL_POLICY)
    context = finish_parents(place(CONFIG, RL_POLICY))
    assert context.folder_of(REWARD).name == "hinge-policy" == context.folder_of(mine.id).name
    assert not (context.run.workdir / "rm-policy").exists()
    assert context.folder.lineage_now(context.config, data_fingerprint="d")["ancestors"] == {
        "sft-policy": "digest of sft-policy",
        "hinge-policy": "digest of hinge-policy",
    }
    read: list[str] = []
    drawn = params.restored

    def noted(context: Context, folder: StageFolder, init: Any, round: int | None = None) -> Any:
        read.append(folder.name)
        return drawn(context, folder, init, round)

    monkeypatch.setattr(params, "restored", noted)
    assert "head" in Models(context).load(REWARD) and "head" in Models(context).load(mine.id)
    assert read == ["hinge-policy", "hinge-policy"]


def test_asking_for_what_was_replaced_is_refused(declare: Any) -> None:
    mine = declare("hinge", replaces=REWARD, leaves="scalar")
    with pytest.raises(UserError) as error:
        selected(replace(CONFIG, stage="rm", model="policy"))
    assert str(error.value) == "stage rm-policy: hinge-policy stands in for it; run --stage=hinge --model=policy"
    assert selected(replace(CONFIG, stage="hinge", model="policy")) == [mine]
    assert [stage.id for stage in selected(replace(CONFIG, stage="rm"))] == [GAP]


def test_names_are_taken_once(declare: Any) -> None:
    with pytest.raises(UserError, match="mine.py: the stage 'rm-policy' is declared by pit_jax already; give one of"):
        declare("rm")


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (
            "evalute",
            "--stage=evalute: no such stage; did you mean evaluate?; known: data, sft, rm, rl, dpo, spa, improve,",
        ),
        ("evil", "paper, spa-tables, export, plan, all. A fork's stages are known with --fork=FILE"),
    ],
)
def test_an_unknown_stage_offers_the_nearest(stage: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        selected(replace(CONFIG, stage=stage))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            replace(WATCHED, stage="rl", model="second-gap"),
            "--stage=rl --model=second-gap: this stage is for policy, imp",
        ),
        (replace(WATCHED, stage="evaluate", model="second-gap"), "this stage is for no model alone"),
        (replace(WATCHED, stage="dpo", model="second-gap"), "this stage is for policy alone"),
        (replace(CONFIG, stage="rm", model="second-gap"), "ask for its updates with --rm.second-gap-steps"),
        (replace(WORDED, stage="rl", model="word-model"), "--model=word-model: this stage is for policy, improver al"),
        (replace(CONFIG, stage="rm", model="word-model"), "give it a weight, as --rm.word-model=1"),
    ],
)
def test_a_model_that_a_stage_does_not_have(config: Config, message: str) -> None:
    with pytest.raises(UserError) as error:
        selected(config)
    assert message in str(error.value)


def test_a_stage_by_its_model() -> None:
    def chosen(stage: str, model: Any, config: Config = CONFIG) -> StageId:
        (found,) = selected(replace(config, stage=stage, model=model))
        return found.id

    assert chosen("rl", "policy") == RL_POLICY and chosen("rl", "improver") == RL_IMPROVER
    assert chosen("rm", "second-gap", WATCHED) == SECOND and chosen("rm", "word-model", WORDED) == WORD_MODEL
    assert chosen("dpo", "improver") == StageId("dpo", "policy"), "the one that there is"
    assert chosen("evaluate", "policy") == EVALUATE


def test_the_choices_are_the_stages_in_their_order_and_all() -> None:
    names = stage_names()
    assert names[0] == "data" and names[-1] == "all" and len(set(names)) == len(names)
    assert {stage.name for stage in STAGES} == set(names[:-1])


@pytest.mark.parametrize("id", list(catalogue()), ids=str)
def test_a_built_in_recipe_loads(id: StageId) -> None:
    """Its file is imported when one of its functions is called."""
    stage = catalogue()[id]
    assert list(stage.batches(CONFIG)) or id == WORD_MODEL or stage.name in ("data", "judge", "export", "plan")
    assert isinstance(dict(stage.contents(CONFIG)), dict) and isinstance(list(stage.branches(CONFIG)), list)
    assert stage.help and all(parent in catalogue() for parent in stage.parents(WATCHED))
    assert stage.init_from is None or stage.init_from in stage.parents(CONFIG)
    assert (stage.cost is not None) == bool(stage.leaves)


@pytest.mark.parametrize("id", list(catalogue()), ids=str)
def test_the_knobs_of_a_stage_exist(id: StageId) -> None:
    known = flatten(CONFIG)
    for knob in catalogue()[id].knobs:
        assert any(name == knob or name.startswith(f"{knob}.") for name in known), knob


def test_every_knob_is_a_matter_of_some_stage_or_decides_nothing() -> None:
    known = set(flatten(CONFIG))
    hashed = {name for stage in STAGES for name in stage.depends_on(CONFIG)} & known
    below = {free: {name for name in known if name == free or name.startswith(f"{free}.")} for free in DECIDES_NOTHING}
    free = set().union(*below.values())
    assert known - hashed - free == set(), "put it among the knobs of a stage, or say why it decides nothing"
    assert hashed & free == set() and all(below.values())


def test_every_knob_of_training_is_a_matter_of_a_training() -> None:
    """Not of `paper` alone, which depends on everything; but for limits that stop a stage and change none."""
    trained = [stage for stage in STAGES if stage.leaves]
    hashed = {name for stage in trained for name in stage.depends_on(CONFIG)}
    sections = ("sft.", "rm.", "rl.", "dpo.")
    free = {name for name in flatten(CONFIG) if name.startswith(sections)} - hashed
    stops = {name for name in flatten(CONFIG) if name.startswith("rm.gates.") or name == "rl.ignore_gates"}
    assert free == stops | {name for name in flatten(CONFIG) if name.endswith("epochs") and name in DECIDES_NOTHING}


def test_the_code_of_what_a_fork_declares_is_a_knob_of_the_model_that_uses_it() -> None:
    """And changes with the fork's file."""
    used = replace(
        CONFIG.rl,
        improver_algorithm="mine",
        policy_rewards=("short:0.5",),
        curriculum=replace(CONFIG.rl.curriculum, references=("longest", "policy-rl")),
    )

    def code(source: Source) -> dict[str, dict[str, Any]]:
        ALGORITHMS.add(replace(ALGORITHMS["grpo"], name="mine"), source)
        TEXT_REWARDS.add(TextReward("short", lambda prompts, responses, rows: [0.0]), source)
        REFERENCES.add(replace(REFERENCES["chosen"], name="longest"), source)
        try:
            return {
                str(id): {k: v for k, v in catalogue()[id].depends_on(replace(CONFIG, rl=used)).items() if "code" in k}
                for id in (RL_POLICY, RL_IMPROVER, GAP)
            }
        finally:
            forget(source)

    expected = {
        "rl-policy": {"code of text reward short"},
        "rl-improver": {"code of RL algorithm mine", "code of reference longest"},
        "rm-improver": set(),
    }
    found = code(FORK)
    assert {id: set(knobs) for id, knobs in found.items()} == expected
    assert {digest for knobs in found.values() for digest in knobs.values()} == {FORK.digest}
    assert code(replace(FORK, digest="another"))["rl-policy"] == {"code of text reward short": "another"}


def test_listing_the_stages_imports_nothing_heavy(repository: Path) -> None:
    """--help lists them before jax is needed."""
    program = (
        "import sys; from pit_jax.recipes.catalogue import STAGES, stage_names; "
        "assert stage_names() and all(stage.help for stage in STAGES); "
        "assert not {'jax', 'numpy', 'optax', 'transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], cwd=repository, check=True, timeout=60)


def test_a_run_knows_a_stage_by_its_id() -> None:
    assert Run(CONFIG, catalogue()).stage(GAP) is STAGES["rm-improver"]
