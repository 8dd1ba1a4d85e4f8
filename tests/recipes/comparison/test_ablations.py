"""Ablations change what their name says and nothing else, and live in the run that they branch off."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pit_jax.config import Config, flatten
from pit_jax.evaluation.systems import SystemId
from pit_jax.recipes.comparison.ablations import ABLATIONS, ablations_of, branch_config, branched, branches
from pit_jax.rl.monitors import check_monitors
from pit_jax.run.provenance import StageId
from tests.world import MakeContext

CHANGES: dict[str, dict[str, Any]] = {
    "first-only": {"rl.curriculum.references": ["rejected+chosen"], "rl.curriculum.rounds": [60]},
    "second-only": {"rl.curriculum.references": ["policy-rl"], "rl.curriculum.rounds": [60]},
    "without-second": {"rl.curriculum.references": ["rejected+chosen"], "rl.curriculum.rounds": [25]},
    "without-first": {"rl.curriculum.references": ["policy-rl"], "rl.curriculum.rounds": [35]},
    "direct-rlhf": {"rl.policy_rounds": 90},
    "pair-gap": {"rm.gap_loss": "pair", "rl.ignore_gates": True},
    "score-difference": {"rl.reward": "difference"},
}
PAPER = StageId("paper")


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_changes_one_thing(context: MakeContext, name: str) -> None:
    """The default curriculum has 25 and 35 rounds, the policy 30."""
    base = context(Config(), None, PAPER)
    own = branched(base, ABLATIONS[name])
    before, after = flatten(base.config), flatten(own.config)
    changed = {knob: value for knob, value in after.items() if value != before[knob]}
    where = {"workdir": str(Path(base.config.workdir) / "paper" / name), "parent_run": base.config.workdir}
    assert changed == where | CHANGES[name]
    assert own.folder_of(ABLATIONS[name].stages[-1]).path.parent == Path(where["workdir"])
    assert own.run.parent is not None and own.run.parent.workdir == base.run.workdir
    assert own.stage == base.stage and own.run.config == own.config


def test_a_second_gap_model_watches_no_difference_of_scores() -> None:
    watched = replace(Config(), rm=replace(Config().rm, second_gap_steps=5))
    assert branch_config(watched, ABLATIONS["score-difference"]).rm.second_gap_steps == 0
    with pytest.raises(ValueError, match=r"--rl.reward=difference has no gap model .* --rm.second-gap-steps=5"):
        check_monitors(replace(watched, rl=replace(watched.rl, reward="difference")))


def test_wrong_names_are_refused() -> None:
    def asked(*names: str) -> Config:
        return replace(Config(), paper=replace(Config().paper, ablations=names))

    assert ablations_of(asked()) == [] and ablations_of(asked(*ABLATIONS)) == list(ABLATIONS.values())
    for names in (("first",), ("first-only", "first-only")):
        with pytest.raises(ValueError, match=f"name each of {', '.join(ABLATIONS)} at most once"):
            ablations_of(asked(*names))


def test_a_curriculum_of_three_phases_keeps_its_ends() -> None:
    base = Config()
    curriculum = replace(base.rl.curriculum, references=("rejected", "policy-sft", "policy-rl"), rounds=(1, 2, 4))
    three = replace(base, rl=replace(base.rl, curriculum=curriculum))
    ends = {name: branch_config(three, ABLATIONS[name]).rl.curriculum for name in ("first-only", "second-only")}
    assert (ends["first-only"].references, ends["first-only"].rounds) == (("rejected",), (7,))
    assert (ends["second-only"].references, ends["second-only"].rounds) == (("policy-rl",), (7,))


def test_the_last_stage_of_an_ablation_gives_its_system() -> None:
    systems = {name: ablation.system for name, ablation in ABLATIONS.items()}
    assert systems["direct-rlhf"] == SystemId("branch-policy", source="direct-rlhf")
    assert systems["pair-gap"] == SystemId("branch-improver", 1, "pair-gap")
    assert all(system.improves == (name != "direct-rlhf") for name, system in systems.items())


def test_what_a_paper_trains_for_its_ablations() -> None:
    """Each branch its own stages, in the order in which they need each other."""
    config = replace(Config(), paper=replace(Config().paper, ablations=("pair-gap", "direct-rlhf")))
    found = [(Path(branch.workdir).name, str(id)) for branch, id in branches(config, ablations_of(config))]
    assert found == [("pair-gap", "rm-improver"), ("pair-gap", "rl-improver"), ("direct-rlhf", "rl-policy")]
