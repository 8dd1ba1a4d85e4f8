"""A run that branches off another: what it uses of it, and what it trains again."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pit_jax.config import Config
from pit_jax.recipes.catalogue import GAP, REWARD, RL_IMPROVER, RL_POLICY, catalogue
from pit_jax.recipes.facts import WORD_MODEL
from pit_jax.run.folders import Run, StageFolder
from pit_jax.run.provenance import StageId
from tests.run.on_disk import CONFIG, TRAINED, folder_in, make

ROLES = ("policy", "improver")


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    """A run whose training is finished but for the improver's RL."""
    workdir = tmp_path / "parent"
    make(workdir, *TRAINED)
    return workdir


def branch_of(parent: Path) -> Config:
    return replace(CONFIG, workdir=str(parent.parent / "branch"), parent_run=str(parent))


def homes(config: Config) -> dict[str, str]:
    """Where each training stage of a run lives."""
    run = Run(config, catalogue())
    return {str(id): run.folder(id).run.workdir.name for id in (*TRAINED, RL_IMPROVER)}


def test_one_seed_of_several_uses_the_data_beside_it(tmp_path: Path) -> None:
    def folder(workdir: str, parent: str = "") -> Path:
        config = replace(CONFIG, workdir=str(tmp_path / workdir), parent_run=parent and str(tmp_path / parent))
        return Run(config, catalogue()).data_folder.relative_to(tmp_path)

    assert folder("many/seed-1") == Path("many/seed-1/data"), "an ordinary run that is called so"
    (tmp_path / "many" / "data").mkdir(parents=True)
    (tmp_path / "many" / "data" / "done.json").touch()
    assert folder("many/seed-1") == folder("branch", "many/seed-1") == Path("many/data")
    assert folder("many/seeds") == Path("many/seeds/data") and folder("branch", "many") == Path("many/data")
    (tmp_path / "many" / "seed-1" / "data").mkdir(parents=True)
    assert folder("many/seed-1") == Path("many/seed-1/data")


def test_a_branch_uses_what_its_parent_run_has_made_from_the_same_knobs(parent: Path) -> None:
    """The improver's RL is not finished there. Another curriculum changes that stage alone; another loss the gap model
    and the RL on it; another seed everything."""
    branch = branch_of(parent)
    own = {str(id): "parent" for id in TRAINED} | {"rl-improver": "branch"}
    assert homes(branch) == own
    curriculum = replace(branch.rl.curriculum, references=("policy-rl",), rounds=(9,))
    assert homes(replace(branch, rl=replace(branch.rl, curriculum=curriculum))) == own
    assert homes(replace(branch, rm=replace(branch.rm, gap_loss="pair"))) == own | {"rm-improver": "branch"}
    assert set(homes(replace(branch, seed=1)).values()) == {"branch"}


def test_a_branch_trains_again_what_comes_after_a_change(parent: Path) -> None:
    """The policy's SFT changes its reward model and RL, the improver's SFT that starts from it, and the gap model."""
    branch = branch_of(parent)
    assert set(homes(replace(branch, sft=replace(branch.sft, policy_steps=3))).values()) == {"branch"}
    rm = replace(branch.rm, policy_steps=3)
    assert [name for name, home in homes(replace(branch, rm=rm)).items() if home == "branch"] == [
        "rm-policy",
        "rl-policy",
        "rl-improver",
    ]


def test_a_branch_with_another_algorithm_trains_that_model_alone(parent: Path) -> None:
    make(parent, RL_IMPROVER)
    branch = branch_of(parent)
    assert set(homes(branch).values()) == {"parent"}
    changes: dict[str, dict[str, Any]] = {role: {f"{role}_algorithm": "grpo"} for role in ROLES}
    other = {role: homes(replace(branch, rl=replace(branch.rl, **changes[role]))) for role in ROLES}
    assert [name for name, home in other["improver"].items() if home == "branch"] == ["rl-improver"]
    assert [name for name, home in other["policy"].items() if home == "branch"] == ["rl-policy", "rl-improver"]


def test_a_branch_keeps_what_it_has_begun(parent: Path) -> None:
    branch = branch_of(parent)
    run = Run(branch, catalogue())
    StageFolder(run, run.stage(REWARD)).begin(branch, data_fingerprint="d")
    assert homes(branch)["rm-policy"] == "branch"


def test_a_branch_has_the_lineage_of_its_parent_run(parent: Path) -> None:
    branch = branch_of(parent)
    lineage = Run(branch, catalogue()).folder(RL_IMPROVER).begin(branch, data_fingerprint="d")
    done = folder_in(parent, GAP).done()
    assert done is not None and lineage["ancestors"]["rm-improver"] == done["digest"]
    assert sorted(path.name for path in Path(branch.workdir).iterdir()) == ["rl-improver"]


def test_results_are_the_branch_s_own(parent: Path) -> None:
    """What trains nothing is made where it is asked for, also where the parent run has made it."""
    make(parent, RL_IMPROVER, StageId("improve"))
    run = Run(branch_of(parent), catalogue())
    assert run.folder(StageId("improve")).run is run


def test_a_branch_takes_over_a_word_model_and_what_was_made_from_it(tmp_path: Path) -> None:
    """As it does models that its knobs do not change."""
    worded = replace(CONFIG, rm=replace(CONFIG.rm, word_model=1.0))
    parent = tmp_path / "parent"
    make(parent, WORD_MODEL, *TRAINED, RL_IMPROVER, config=worded)
    branch = replace(worded, workdir=str(tmp_path / "branch"), parent_run=str(parent))
    run = Run(branch, catalogue())
    assert {run.folder(id).run.workdir for id in (WORD_MODEL, RL_POLICY, RL_IMPROVER)} == {parent}
    assert run.folder(StageId("evaluate")).run.workdir == tmp_path / "branch"
