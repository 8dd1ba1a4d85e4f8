"""Ablations change what their name says and nothing else, and live in the run that they branch off."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pit_jax.config import Config, flatten
from pit_jax.stages.ablations import ABLATIONS, branch, check_ablations
from pit_jax.stages.guards import check_guards

CHANGES: dict[str, dict[str, Any]] = {
    "first-only": {"rl.curriculum.references": ["rejected+chosen"], "rl.curriculum.rounds": [60]},
    "second-only": {"rl.curriculum.references": ["policy-rl"], "rl.curriculum.rounds": [60]},
    "without-second": {"rl.curriculum.references": ["rejected+chosen"], "rl.curriculum.rounds": [25]},
    "without-first": {"rl.curriculum.references": ["policy-rl"], "rl.curriculum.rounds": [35]},
    "direct-rlhf": {"rl.policy_rounds": 90},
    "pair-gap": {"rm.gap_loss": "pair", "rl.ignore_gates": True},
    "score-difference": {"rl.reward": "difference"},
}


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_changes_one_thing(context: Any, make_mesh: Any, name: str) -> None:
    """The default curriculum has 25 and 35 rounds, the policy 30."""
    base = context(Config(), make_mesh(1, 1, 1))
    own = branch(base, name)
    before, after = flatten(base.config), flatten(own.config)
    changed = {knob: value for knob, value in after.items() if value != before[knob]}
    where = {"workdir": str(Path(base.config.workdir) / "paper" / name), "trunk": base.config.workdir}
    assert changed == where | CHANGES[name]
    assert own.folder(*ABLATIONS[name].stages[-1]).path.parent == Path(where["workdir"])


def test_a_guard_watches_no_difference_of_scores(context: Any, make_mesh: Any) -> None:
    guarded = replace(Config(), rm=replace(Config().rm, guard_steps=5))
    assert branch(context(guarded, make_mesh(1, 1, 1)), "score-difference").config.rm.guard_steps == 0
    with pytest.raises(ValueError, match=r"--rl.reward=difference has no gap model .* --rm.guard-steps=5"):
        check_guards(replace(guarded, rl=replace(guarded.rl, reward="difference")))


def test_wrong_names_are_refused() -> None:
    check_ablations(())
    check_ablations(tuple(ABLATIONS))
    for names in (("first",), ("first-only", "first-only")):
        with pytest.raises(ValueError, match=f"name each of {', '.join(ABLATIONS)} at most once"):
            check_ablations(names)


def test_a_curriculum_of_three_stages_keeps_its_ends(context: Any, make_mesh: Any) -> None:
    base = Config()
    curriculum = replace(base.rl.curriculum, references=("rejected", "policy-sft", "policy-rl"), rounds=(1, 2, 4))
    made = context(replace(base, rl=replace(base.rl, curriculum=curriculum)), make_mesh(1, 1, 1))
    ends = {name: branch(made, name).config.rl.curriculum for name in ("first-only", "second-only")}
    assert (ends["first-only"].references, ends["first-only"].rounds) == (("rejected",), (7,))
    assert (ends["second-only"].references, ends["second-only"].rounds) == (("policy-rl",), (7,))
