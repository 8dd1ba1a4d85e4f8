"""A stage's folder: who may write into it, and what a person is told."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pit_jax.config import CheckpointConfig, Config, MeshConfig
from pit_jax.stages.workspace import (
    PARENTS,
    StageFolder,
    data_folder,
    locate,
    parents_of,
    relevant_config,
)

CONFIG = Config()
GUARDED = replace(CONFIG, rm=replace(CONFIG.rm, guard_steps=5))


def finish(workdir: Path, *stages: tuple[str, str]) -> None:
    for stage, model in stages:
        folder = StageFolder(workdir, stage, model)
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.finish(round=7, digest=f"digest of {folder.name}")


def message(call: Any, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(ValueError) as error:
        call(*args, **kwargs)
    return str(error.value)


def test_a_folder_is_named_by_stage_and_model(tmp_path: Path) -> None:
    assert StageFolder(tmp_path, "rl", "improver").path == tmp_path / "rl-improver"
    assert StageFolder(tmp_path, "evaluate", "").path == tmp_path / "evaluate"


def test_every_stage_comes_after_its_parents() -> None:
    order = list(PARENTS)
    for stage, parents in PARENTS.items():
        assert all(order.index(parent) < order.index(stage) for parent in parents)


def test_missing_parents_are_named_with_the_commands_that_make_them(tmp_path: Path) -> None:
    folder = StageFolder(tmp_path, "rl", "improver")
    assert message(folder.check_parents, CONFIG) == (
        f"stage rl-improver needs finished sft-policy, sft-improver, rm-improver, rl-policy in {tmp_path}, "
        "found no finished stage; run first: --stage=sft --model=policy; --stage=sft --model=improver; "
        "--stage=rm --model=improver; --stage=rl --model=policy (or --stage=all)"
    )
    finish(tmp_path, ("sft", "policy"), ("sft", "improver"), ("rl", "policy"))
    text = message(folder.check_parents, CONFIG)
    assert "needs finished rm-improver in" in text
    assert "found rl-policy, sft-improver, sft-policy; run first: --stage=rm --model=improver (or" in text
    finish(tmp_path, ("rm", "improver"))
    folder.check_parents(CONFIG)


def test_a_guard_is_a_stage_and_a_parent_only_where_it_is_asked_for(tmp_path: Path) -> None:
    for place, parents in PARENTS.items():
        assert parents_of(CONFIG, *place) == parents
        assert parents_of(GUARDED, *place) == (parents if place != ("rl", "improver") else (*parents, ("rm", "guard")))
    finish(tmp_path, *PARENTS["rl", "improver"])
    folder = StageFolder(tmp_path, "rl", "improver")
    folder.check_parents(CONFIG)
    assert "needs finished rm-guard in" in message(folder.check_parents, GUARDED)
    assert "run first: --stage=rm --model=guard" in message(folder.check_parents, GUARDED)
    finish(tmp_path, ("rm", "guard"))
    assert folder.begin(GUARDED, data_fingerprint="d")["rm-guard"] == "digest of rm-guard"
    assert "(rm-guard changed)" in message(folder.begin, CONFIG, data_fingerprint="d")


def test_the_improver_is_a_child_of_the_model_that_rewards_it() -> None:
    other = replace(CONFIG, rl=replace(CONFIG.rl, reward="difference"))
    for place, parents in PARENTS.items():
        found = parents_of(other, *place)
        assert found == tuple(
            ("rm", "policy") if (place, parent) == (("rl", "improver"), ("rm", "improver")) else parent
            for parent in parents
        )
    assert relevant_config(other, "rl", "policy") == relevant_config(CONFIG, "rl", "policy")


def test_the_steps_of_a_guard_are_its_own() -> None:
    """A guard can be added to a finished run."""
    for stage in ("rm", "rl"):
        for model in ("policy", "improver"):
            assert relevant_config(GUARDED, stage, model) == relevant_config(CONFIG, stage, model)
    assert relevant_config(GUARDED, "rm", "guard")["rm.guard_steps"] == 5


def test_a_guard_serves_a_gap_model_with_another_loss() -> None:
    pair = replace(GUARDED, rm=replace(GUARDED.rm, gap_loss="pair"))
    assert relevant_config(pair, "rm", "guard") == relevant_config(GUARDED, "rm", "guard")
    assert relevant_config(pair, "rm", "improver") != relevant_config(GUARDED, "rm", "improver")


def test_a_started_parent_is_not_a_finished_one(tmp_path: Path) -> None:
    StageFolder(tmp_path, "sft", "policy").begin(CONFIG, data_fingerprint="d")
    assert "needs finished sft-policy" in message(StageFolder(tmp_path, "rm", "policy").check_parents, CONFIG)


def test_beginning_again_with_the_same_config_is_resuming(tmp_path: Path) -> None:
    folder = StageFolder(tmp_path, "sft", "policy")
    first = folder.begin(CONFIG, data_fingerprint="d")
    before = {p.name: p.read_text() for p in folder.path.iterdir()}
    assert folder.begin(CONFIG, data_fingerprint="d") == first
    assert {p.name: p.read_text() for p in folder.path.iterdir()} == before
    assert set(before) == {"config.json", "lineage.json"}


def test_a_changed_config_names_the_knobs_and_both_values(tmp_path: Path) -> None:
    folder = StageFolder(tmp_path, "sft", "policy")
    folder.begin(CONFIG, data_fingerprint="d")
    before = (folder.path / "config.json").read_bytes()
    changed = replace(CONFIG, seed=3, sft=replace(CONFIG.sft, batch_size=32))
    assert message(folder.begin, changed, data_fingerprint="d") == (
        f"the config of {folder.path} changed (seed: 0 -> 3, sft.batch_size: 64 -> 32); use another --workdir, "
        f"restore the old values, or delete {folder.path} to run the stage again"
    )
    assert (folder.path / "config.json").read_bytes() == before, "nothing is written over"


def test_a_folder_outlives_a_new_knob_at_its_default(tmp_path: Path) -> None:
    folder = StageFolder(tmp_path, "sft", "policy")
    folder.begin(CONFIG, data_fingerprint="d")
    record = folder.path / "config.json"
    older = {name: value for name, value in json.loads(record.read_text()).items() if name != "sft.batch_size"}
    record.write_text(json.dumps(older))
    (folder.path / "lineage.json").write_text(json.dumps({**folder.lineage(), "config": "hash of fewer knobs"}))
    folder.begin(CONFIG, data_fingerprint="d")
    record.write_text(json.dumps(older))
    changed = replace(CONFIG, sft=replace(CONFIG.sft, batch_size=32))
    assert "changed (sft.batch_size: 64 -> 32)" in message(folder.begin, changed, data_fingerprint="d")
    record.write_text(json.dumps({**older, "sft.forgotten": 3}))
    assert "changed (sft.forgotten: 3 -> None)" in message(folder.begin, CONFIG, data_fingerprint="d")


@pytest.mark.parametrize(
    "harmless",
    [
        replace(CONFIG, mesh=MeshConfig(fsdp=4)),
        replace(CONFIG, checkpoint=CheckpointConfig(every=5)),
        replace(CONFIG, transformer=replace(CONFIG.transformer, remat=True, unroll=2)),
        replace(CONFIG, rl=replace(CONFIG.rl, kl_coef=0.5)),
        replace(CONFIG, stage="sft", model="policy", workdir="elsewhere"),
        replace(CONFIG, seeds=(0, 1)),
    ],
    ids=["mesh", "checkpoints", "remat", "another stage's knob", "stage and workdir", "the other seeds"],
)
def test_knobs_that_do_not_decide_what_a_stage_computes_may_change(tmp_path: Path, harmless: Config) -> None:
    folder = StageFolder(tmp_path, "sft", "policy")
    folder.begin(CONFIG, data_fingerprint="d")
    folder.begin(harmless, data_fingerprint="d")


def test_the_limits_of_gates_may_change_without_training_again() -> None:
    gates = replace(CONFIG.rm.gates, min_accuracy=0.1)
    changed = replace(CONFIG, rm=replace(CONFIG.rm, gates=gates), rl=replace(CONFIG.rl, ignore_gates=True))
    for stage in ("rm", "rl"):
        knobs = relevant_config(CONFIG, stage, "improver")
        assert relevant_config(changed, stage, "improver") == knobs
        assert any(name.startswith(f"{stage}.") for name in knobs)


def test_a_model_does_not_depend_on_the_knobs_of_the_other() -> None:
    for stage in ("sft", "rm", "rl"):
        policy, improver = (set(relevant_config(CONFIG, stage, model)) for model in ("policy", "improver"))
        assert any(name.startswith(f"{stage}.policy_") for name in policy - improver)
        assert not any("policy_" in name for name in improver)
        assert not any(".improver_" in name or ".curriculum." in name for name in policy)
    assert "rl.curriculum.rounds" in relevant_config(CONFIG, "rl", "improver")


@pytest.mark.parametrize(("stage", "model"), PARENTS)
def test_every_stage_depends_on_seed_data_tokenizer_model_and_its_own_section(stage: str, model: str) -> None:
    knobs = {name.split(".")[0] for name in relevant_config(CONFIG, stage, model)}
    assert {"seed", "data", "tokenizer", "transformer", stage} <= knobs
    assert not knobs & {"mesh", "checkpoint", "workdir", "stage"}


def test_other_data_or_another_parent_are_named(tmp_path: Path) -> None:
    finish(tmp_path, ("sft", "policy"))
    folder = StageFolder(tmp_path, "rm", "policy")
    lineage = folder.begin(CONFIG, data_fingerprint="first data")
    assert lineage["data"] == "first data" and lineage["sft-policy"] == "digest of sft-policy"
    text = message(folder.begin, CONFIG, data_fingerprint="second data")
    assert text == (
        f"{folder.path} was made from other inputs (data changed); delete {folder.path} to run the stage again, "
        "or use another --workdir"
    )
    StageFolder(tmp_path, "sft", "policy").finish(round=9, digest="another digest")
    assert "(sft-policy changed)" in message(folder.begin, CONFIG, data_fingerprint="first data")
    assert json.loads((folder.path / "lineage.json").read_text()) == lineage


def test_notes_stay_in_the_lineage_and_are_no_input_of_it(tmp_path: Path) -> None:
    folder = StageFolder(tmp_path, "sft", "policy")
    plain = folder.begin(CONFIG, data_fingerprint="d")
    assert "notes" not in plain
    noted = folder.begin(CONFIG, data_fingerprint="d", notes={"gates": "ignored"})
    assert noted == {**plain, "notes": {"gates": "ignored"}}
    assert folder.begin(CONFIG, data_fingerprint="d") == noted == folder.lineage()
    assert "(data changed)" in message(folder.begin, CONFIG, data_fingerprint="e")


def test_a_done_marker_says_which_round_children_read(tmp_path: Path) -> None:
    folder = StageFolder(tmp_path, "sft", "policy")
    assert folder.done() is None
    finish(tmp_path, ("sft", "policy"))
    assert folder.done() == {"round": 7, "digest": "digest of sft-policy"}
    folder.finish(round=8, digest="d", alarms=[])
    assert folder.done() == {"round": 8, "digest": "d", "alarms": []}


TRAINED = (("sft", "policy"), ("sft", "improver"), ("rm", "policy"), ("rm", "improver"), ("rl", "policy"))


@pytest.fixture
def trunk(tmp_path: Path) -> Path:
    """A run whose training is finished but for the improver's RL."""
    workdir = tmp_path / "trunk"
    for stage, model in TRAINED:
        folder = StageFolder(workdir, stage, model)
        folder.begin(replace(CONFIG, workdir=str(workdir)), data_fingerprint="d")
        folder.finish(round=7, digest=f"digest of {folder.name}")
    return workdir


def homes(config: Config) -> dict[str, str]:
    """Where each training stage of a run lives."""
    return {f"{s}-{m}": locate(config, s, m).workdir.name for s, m in (*TRAINED, ("rl", "improver"))}


def test_one_seed_of_several_uses_the_data_beside_it(tmp_path: Path) -> None:
    def folder(workdir: str, trunk: str = "") -> Path:
        found = data_folder(replace(CONFIG, workdir=str(tmp_path / workdir), trunk=trunk and str(tmp_path / trunk)))
        return found.relative_to(tmp_path)

    assert folder("many/seed-1") == Path("many/seed-1/data"), "an ordinary run that is called so"
    (tmp_path / "many" / "data").mkdir(parents=True)
    (tmp_path / "many" / "data" / "done.json").touch()
    assert folder("many/seed-1") == folder("branch", "many/seed-1") == Path("many/data")
    assert folder("many/seeds") == Path("many/seeds/data") and folder("branch", "many") == Path("many/data")
    (tmp_path / "many" / "seed-1" / "data").mkdir(parents=True)
    assert folder("many/seed-1") == Path("many/seed-1/data")


def test_a_branch_uses_what_its_trunk_has_made_from_the_same_knobs(trunk: Path, tmp_path: Path) -> None:
    """The improver's RL is not finished there. Another curriculum changes that stage alone; another loss the gap model
    and the RL on it; another seed everything."""
    branch = replace(CONFIG, workdir=str(tmp_path / "branch"), trunk=str(trunk))
    own = {f"{s}-{m}": "trunk" for s, m in TRAINED} | {"rl-improver": "branch"}
    assert homes(branch) == own
    curriculum = replace(branch.rl.curriculum, references=("policy-rl",), rounds=(9,))
    assert homes(replace(branch, rl=replace(branch.rl, curriculum=curriculum))) == own
    assert homes(replace(branch, rm=replace(branch.rm, gap_loss="pair"))) == own | {"rm-improver": "branch"}
    assert set(homes(replace(branch, seed=1)).values()) == {"branch"}


def test_a_branch_trains_again_what_comes_after_a_change(trunk: Path, tmp_path: Path) -> None:
    """The policy's SFT changes its reward model and RL, the improver's SFT that starts from it, and the gap model."""
    branch = replace(CONFIG, workdir=str(tmp_path / "branch"), trunk=str(trunk))
    assert set(homes(replace(branch, sft=replace(branch.sft, policy_steps=3))).values()) == {"branch"}
    rm = replace(branch.rm, policy_steps=3)
    assert [name for name, home in homes(replace(branch, rm=rm)).items() if home == "branch"] == [
        "rm-policy",
        "rl-policy",
        "rl-improver",
    ]


def test_a_branch_keeps_what_it_has_begun(trunk: Path, tmp_path: Path) -> None:
    branch = replace(CONFIG, workdir=str(tmp_path / "branch"), trunk=str(trunk))
    StageFolder(tmp_path / "branch", "rm", "policy").begin(branch, data_fingerprint="d")
    assert homes(branch)["rm-policy"] == "branch"


def test_a_branch_has_the_lineage_of_its_trunk(trunk: Path, tmp_path: Path) -> None:
    branch = replace(CONFIG, workdir=str(tmp_path / "branch"), trunk=str(trunk))
    lineage = locate(branch, "rl", "improver").begin(branch, data_fingerprint="d")
    assert lineage["rm-improver"] == "digest of rm-improver"
    assert sorted(path.name for path in (tmp_path / "branch").iterdir()) == ["rl-improver"]
