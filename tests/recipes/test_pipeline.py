"""One command: what is refused before anything compiles, and which stages are run, skipped or made again."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import pytest
from rich.console import Console

from pit_jax.config import Config, EvaluateConfig
from pit_jax.errors import UserError
from pit_jax.recipes import pipeline
from pit_jax.recipes.catalogue import RL_IMPROVER, SFT_IMPROVER, SFT_POLICY, catalogue, of
from pit_jax.run.context import Context
from pit_jax.run.folders import Run
from pit_jax.run.provenance import StageId
from pit_jax.run.screen import Screen
from pit_jax.run.stage import Stage
from tests.run.on_disk import CONFIG, TRAINED, folder_in, make, message
from tests.world import MakeContext

EVALUATE = StageId("evaluate")


def asked(workdir: Path, stage: str, model: Any = "improver", **changes: Any) -> Config:
    return replace(CONFIG, stage=stage, model=model, workdir=str(workdir), **changes)


@pytest.fixture
def before_the_mesh(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that gets as far as the mesh has found nothing."""

    def reached(config: Any) -> Any:
        raise AssertionError("nothing was refused")

    monkeypatch.setattr(pipeline, "make_mesh", reached)


@pytest.mark.parametrize("stage", ["evaluate", "rl", "improve"])
def test_mixed_generations_are_refused_before_anything_compiles(
    before_the_mesh: None, tmp_path: Path, stage: str
) -> None:
    """The policy's SFT was trained again, its children were not: the message names both digests and what to delete."""
    make(tmp_path, *TRAINED, RL_IMPROVER)
    done = folder_in(tmp_path, SFT_POLICY).done()
    assert done is not None
    folder_in(tmp_path, SFT_POLICY).finish(round=7, digest="of another training")
    child = tmp_path / ("rm-policy" if stage == "improve" else "sft-improver")
    assert message(pipeline.check, asked(tmp_path, stage)) == (
        f"{child} was made from another sft-policy (digest {done['digest']}) than the one that is there now "
        f"(of another training); delete {child} to run that stage again"
    )


def test_a_missing_parent_is_named_before_anything_compiles(before_the_mesh: None, tmp_path: Path) -> None:
    make(tmp_path, SFT_POLICY, SFT_IMPROVER)
    assert "needs finished rm-improver, rl-policy in" in message(pipeline.check, asked(tmp_path, "rl"))
    with pytest.raises(AssertionError, match="nothing was refused"):
        pipeline.check(asked(tmp_path, "rm"))


def test_changed_knobs_are_named_before_anything_compiles(before_the_mesh: None, tmp_path: Path) -> None:
    make(tmp_path, *TRAINED)
    changed = replace(CONFIG.rm, batch_size=32)
    assert "rm.batch_size: 64 -> 32" in message(pipeline.check, asked(tmp_path, "rm", rm=changed))
    assert "rm.batch_size: 64 -> 32" in message(pipeline.check, asked(tmp_path, "all", rm=changed))


def test_knobs_that_no_rollout_can_follow(before_the_mesh: None, tmp_path: Path) -> None:
    make(tmp_path, *TRAINED)
    for changes, text in (
        ({"temperature": 0.0}, "--rl.temperature=0.0: asked for FLOAT>0"),
        ({"score_rows": 48}, "--rl.score-rows=48: 0, or a divisor of --rl.batch-size=128"),
        (
            {"accumulate": 64},
            "--rl.accumulate=64: --rl.batch-size=128 does not divide into minibatches x accumulate = 256",
        ),
        ({"accumulate": 2, "loss_mean": "slots"}, "--rl.accumulate=2 with --rl.loss-mean=slots: a critic's loss"),
        ({"improver_algorithm": "gpro"}, "no RL algorithm 'gpro'; did you mean grpo?"),
        ({"improver_rewards": ("short",)}, "no text reward 'short'"),
        ({"curriculum": replace(CONFIG.rl.curriculum, rounds=(1,))}, "every phase needs references and rounds"),
        ({"improver_algorithm": "grpo", "batch_size": 4}, "its 1 (prompt, reference) pairs cannot be shared by the 2"),
    ):
        assert text in message(pipeline.check, asked(tmp_path, "rl", rl=replace(CONFIG.rl, **changes)))


def test_a_profile_of_no_rounds(before_the_mesh: None, tmp_path: Path) -> None:
    assert "--profile=7: asked for START:STOP" in message(pipeline.check, asked(tmp_path, "sft", profile="7"))


@pytest.mark.parametrize(
    ("changes", "fits"),
    [
        ({}, True),
        ({"batch_size": 36}, False),
        ({"improver_algorithm": "grpo", "batch_size": 16, "minibatches": 1}, False),
    ],
)
def test_every_batch_divides_over_the_mesh(tmp_path: Path, changes: dict[str, Any], fits: bool) -> None:
    """Of RL its minibatches, and what each reference of a round gets: 16 rollouts are 4 pairs, 2 for each of two."""
    make(tmp_path, *TRAINED)
    config = asked(tmp_path, "rl", rl=replace(CONFIG.rl, **changes))
    if fits:
        assert [stage.id for stage in pipeline.check(config)] == [RL_IMPROVER]
    else:
        assert "--rl.batch-size" in message(pipeline.check, config)


def test_a_parent_run_that_is_none(before_the_mesh: None, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for parent, text in (("nowhere", "found no prepared data in it"), (".", "is the workdir itself")):
        config = asked(tmp_path, "sft", parent_run=str(tmp_path / parent))
        assert text in message(pipeline.check, config)


class Ran:
    """A stage that notes its runs, in a workdir of its own."""

    def __init__(self, context: Context):
        self.said = io.StringIO()
        self.context = replace(context, screen=Screen(Console(file=self.said, width=200)))
        self.names: list[str] = []

    def run(self, context: Context) -> None:
        self.names.append(str(context.stage.id))
        context.folder.begin(
            context.config, data_fingerprint=context.data.fingerprint, derived=getattr(context.stage, "derived", False)
        )
        context.folder.finish(round=1, digest="digest")

    def stage(self, **facts: Any) -> Stage:
        made = {"name": "mine", "run": self.run, "help": "", "knobs": ("seed",), "parents": of(SFT_POLICY), **facts}
        return Stage(**made)

    def __call__(self, stage: Stage, **changes: Any) -> str:
        """Run it under a changed config; what was said."""
        config = replace(self.context.config, **changes)
        run = Run(config, {**catalogue(), stage.id: stage})
        pipeline.run_stage(replace(self.context, config=config, run=run, stage=stage), stage)
        return self.said.getvalue()


@pytest.fixture
def ran(context: MakeContext, make_mesh: Callable[..., Any], tmp_path: Path) -> Ran:
    asking = context(Config(), make_mesh(1, 1, 1))
    make(tmp_path, SFT_POLICY, config=asking.config)
    return Ran(asking)


def test_what_is_finished_is_skipped(ran: Ran) -> None:
    stage = ran.stage()
    assert ran(stage) == "" and ran(stage) == "mine: finished before, skipped\n"
    assert ran.names == ["mine"]


def test_what_was_trained_from_other_knobs_or_inputs_is_refused(ran: Ran, tmp_path: Path) -> None:
    stage = ran.stage()
    ran(stage)
    with pytest.raises(UserError, match=r"the config of .*mine changed \(seed: 0 -> 1\)"):
        ran(stage, seed=1)
    folder_in(tmp_path, SFT_POLICY).finish(round=7, digest="of another training")
    with pytest.raises(UserError, match=r"mine was made from other inputs \(sft-policy changed\); delete"):
        ran(stage)


def test_what_is_derived_is_made_again(ran: Ran, tmp_path: Path) -> None:
    stage, fewer = ran.stage(derived=True, knobs=("evaluate",)), EvaluateConfig(prompts=7)
    ran(stage)
    ran(stage)
    assert ran.names == ["mine"]
    ran(stage, evaluate=fewer)
    folder_in(tmp_path, SFT_POLICY).finish(round=7, digest="of another training")
    ran(stage, evaluate=fewer)
    ran(stage, evaluate=fewer)
    assert ran.names == ["mine"] * 3


def test_what_always_runs_has_no_folder(ran: Ran) -> None:
    def look(context: Context) -> None:
        ran.names.append("looked")

    stage = ran.stage(run=look, always_runs=True)
    ran(stage)
    ran(stage)
    assert ran.names == ["looked"] * 2


def test_a_stage_that_leaves_its_folder_unfinished_is_a_bug(ran: Ran) -> None:
    with pytest.raises(AssertionError, match="stage mine did not finish its folder"):
        ran(ran.stage(run=lambda context: None))


def test_a_stage_runs_on_its_mesh(ran: Ran) -> None:
    def look(context: Context) -> None:
        ran.names.append(str(jax.sharding.get_abstract_mesh().shape_tuple))

    ran(ran.stage(run=look, always_runs=True))
    assert ran.names == ["(('data', 1), ('fsdp', 1), ('tensor', 1))"]
    ran.context = replace(ran.context, devices=None)
    ran(ran.stage(run=look, always_runs=True))
    assert ran.names[1] == "()", "or on none"


def test_stages_of_branches_come_first(ran: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each once, in the workdir of its branch."""
    first = ran.stage(name="first")
    stages = {**catalogue(), first.id: first}
    monkeypatch.setattr(pipeline, "catalogue", lambda: stages)

    def branches(config: Config) -> Any:
        branch = replace(config, workdir=str(tmp_path / "branch"), parent_run=config.workdir)
        return [(branch, first.id)]

    stage = ran.stage(branches=branches)
    make(tmp_path / "branch", SFT_POLICY, config=ran.context.config)
    said = ran(stage)
    assert ran.names == ["first", "mine"] and said == f"mine: first, in {tmp_path / 'branch'}\n"
    assert (tmp_path / "branch" / "first" / "done.json").is_file() and not (tmp_path / "first").exists()
    ran(stage)
    assert ran.names == ["first", "mine"]


def test_a_summary_of_the_data_names_drops_and_folds() -> None:
    notes, more = {"read": 5, "kept": 3, "dropped": {"too long": 2}}, {"read": 1, "kept": 1, "dropped": {}}
    sources = {"notes": notes, "more": more}
    folds = {"sft": {"examples": 3}, "rl": {"examples": 1}}
    data: Any = SimpleNamespace(report={"sources": sources, "folds": folds})
    assert pipeline.data_summary(data) == [
        "data: notes: 5 read, 3 kept; dropped: 2 too long",
        "data: more: 1 read, 1 kept; dropped: none",
        "data: folds sft 3, rl 1",
    ]


def left_open(workdir: Path, stage: str) -> Config:
    base = Config()
    return replace(
        base,
        stage=stage,
        workdir=str(workdir),
        data=replace(base.data, world_pairs=120, prompt_length=64, response_length=0),
        sft=replace(base.sft, policy_steps=0),
    )


def test_what_the_pairs_decide_is_said_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In run.json, from which a run is opened again, and in what the check of a later command compares."""
    config = left_open(tmp_path, "data")
    pipeline.run(config)
    said = capsys.readouterr().out
    assert "sft.policy_steps = 1000: no fewer than 1,000; 2 passes over " in said
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["sft"]["policy_steps"] == 1000 and 20 < record["data"]["response_length"] < 120
    found, choices = pipeline.settle(config, None)
    assert [choice.knob for choice in choices] == ["data.response_length", "sft.policy_steps"]
    folder = Run(found, catalogue()).folder(SFT_POLICY)
    folder.begin(found, data_fingerprint="d")
    assert pipeline.check(replace(config, stage="sft", model="policy")), "the numbers of the first command count"
    more = replace(config, stage="sft", model="policy", sft=replace(config.sft, policy_epochs=4000.0))
    assert "(sft.policy_steps: 1000 -> " in message(pipeline.check, more)


def test_a_stage_without_pairs_needs_numbers(tmp_path: Path) -> None:
    assert message(pipeline.check, left_open(tmp_path / "new", "plan")) == (
        "--stage=plan reads no pairs, which would decide --data.response-length, --sft.policy-steps; prepare them "
        "first, with --stage=data in this workdir, or give the numbers"
    )
