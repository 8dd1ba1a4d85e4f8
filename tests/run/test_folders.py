"""A stage's folder: who may write into it, what it was made from, and what a person is told."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pit_jax.config import CheckpointConfig, Config, MeshConfig
from pit_jax.files import write_json
from pit_jax.recipes.catalogue import GAP, REWARD, RL_IMPROVER, RL_POLICY, SFT_IMPROVER, SFT_POLICY, catalogue
from pit_jax.run.folders import Run
from pit_jax.run.provenance import StageId
from pit_jax.run.stage import Stage
from tests.run.on_disk import CONFIG, TRAINED, finish, folder_in, make, message, run_in
from tests.world import finish as mark

SECOND = StageId("rm", "second-gap")
WATCHED = replace(CONFIG, rm=replace(CONFIG.rm, second_gap_steps=5))


def test_a_folder_is_named_by_stage_and_model(tmp_path: Path) -> None:
    assert folder_in(tmp_path, RL_IMPROVER).path == tmp_path / "rl-improver"
    assert folder_in(tmp_path, StageId("evaluate")).path == tmp_path / "evaluate"


def test_missing_parents_are_named_with_the_commands_that_make_them(tmp_path: Path) -> None:
    folder = folder_in(tmp_path, RL_IMPROVER)
    assert message(folder.check_parents, CONFIG) == (
        f"stage rl-improver needs finished sft-policy, sft-improver, rm-improver, rl-policy in {tmp_path}, "
        "found no finished stage; run first: --stage=sft --model=policy; --stage=sft --model=improver; "
        "--stage=rm --model=improver; --stage=rl --model=policy (or --stage=all)"
    )
    finish(tmp_path, SFT_POLICY, SFT_IMPROVER, REWARD, RL_POLICY)
    text = message(folder.check_parents, CONFIG)
    assert "needs finished rm-improver in" in text
    assert "found rl-policy, rm-policy, sft-improver, sft-policy; run first: --stage=rm --model=improver (or" in text
    folder.check_parents(CONFIG, but=[GAP])
    finish(tmp_path, GAP)
    folder.check_parents(CONFIG)


def test_a_second_gap_model_is_a_parent_only_where_it_is_asked_for(tmp_path: Path) -> None:
    finish(tmp_path, *TRAINED)
    folder = folder_in(tmp_path, RL_IMPROVER, WATCHED)
    folder.check_parents(CONFIG)
    assert "needs finished rm-second-gap in" in message(folder.check_parents, WATCHED)
    assert "run first: --stage=rm --model=second-gap" in message(folder.check_parents, WATCHED)
    finish(tmp_path, SECOND)
    lineage = folder.begin(WATCHED, data_fingerprint="d")
    assert lineage["ancestors"]["rm-second-gap"] == "digest of rm-second-gap"
    assert "(rm-second-gap changed)" in message(folder.begin, CONFIG, data_fingerprint="d")


@pytest.mark.parametrize("name", ["done.json", "lineage.json", "config.json"])
@pytest.mark.parametrize("text", ["", '{"rou', "[]", "null", '{"round": [], "ancestors": 3}'])
def test_a_damaged_small_file_is_named_with_its_cure(tmp_path: Path, name: str, text: str) -> None:
    """Whatever asks for it; a config may hold any names."""
    make(tmp_path, SFT_POLICY)
    path = tmp_path / "sft-policy" / name
    path.write_text(text)
    if name == "config.json" and text.endswith("}"):
        return

    def asked() -> None:
        folder = folder_in(tmp_path, SFT_POLICY)
        folder.check_config(CONFIG)
        folder.changed_inputs({"data": "d"})
        folder_in(tmp_path, SFT_IMPROVER).check_parents(CONFIG)
        folder_in(tmp_path, SFT_IMPROVER).ancestors(CONFIG)

    found = message(asked)
    assert found.startswith(f"{path}: asked for ")
    assert found.endswith(f"; put back a copy, or delete {tmp_path / 'sft-policy'} to run the stage again")


def test_a_started_parent_is_not_a_finished_one(tmp_path: Path) -> None:
    folder_in(tmp_path, SFT_POLICY).begin(CONFIG, data_fingerprint="d")
    assert "needs finished sft-policy" in message(folder_in(tmp_path, REWARD).check_parents, CONFIG)


def test_beginning_again_with_the_same_config_is_resuming(tmp_path: Path) -> None:
    folder = folder_in(tmp_path, SFT_POLICY)
    assert not folder.begun()
    first = folder.begin(CONFIG, data_fingerprint="d")
    before = {p.name: p.read_text() for p in folder.path.iterdir()}
    assert folder.begun() and folder.begin(CONFIG, data_fingerprint="d") == first
    assert {p.name: p.read_text() for p in folder.path.iterdir()} == before
    assert set(before) == {"config.json", "lineage.json"}


def test_a_changed_config_names_the_knobs_and_both_values(tmp_path: Path) -> None:
    folder = folder_in(tmp_path, SFT_POLICY)
    folder.begin(CONFIG, data_fingerprint="d")
    before = (folder.path / "config.json").read_bytes()
    changed = replace(CONFIG, seed=3, sft=replace(CONFIG.sft, batch_size=32))
    assert message(folder.begin, changed, data_fingerprint="d") == (
        f"the config of {folder.path} changed (seed: 0 -> 3, sft.batch_size: 64 -> 32); use another --workdir, "
        f"restore the old values, or delete {folder.path} to run the stage again"
    )
    assert (folder.path / "config.json").read_bytes() == before, "nothing is written over"


def test_a_folder_outlives_a_new_knob_at_its_default(tmp_path: Path) -> None:
    folder = folder_in(tmp_path, SFT_POLICY)
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
        replace(CONFIG, transformer=replace(CONFIG.transformer, remat="full", unroll=2)),
        replace(CONFIG, rl=replace(CONFIG.rl, kl_coef=0.5)),
        replace(CONFIG, stage="sft", model="policy", workdir="elsewhere"),
        replace(CONFIG, seeds=(0, 1)),
    ],
    ids=["mesh", "checkpoints", "remat", "another stage's knob", "stage and workdir", "the other seeds"],
)
def test_knobs_that_do_not_decide_what_a_stage_computes_may_change(tmp_path: Path, harmless: Config) -> None:
    folder = folder_in(tmp_path, SFT_POLICY)
    folder.begin(CONFIG, data_fingerprint="d")
    folder.begin(harmless, data_fingerprint="d")


def test_other_data_or_another_parent_are_named(tmp_path: Path) -> None:
    finish(tmp_path, SFT_POLICY)
    first, folder = folder_in(tmp_path, SFT_POLICY), folder_in(tmp_path, REWARD)
    lineage = folder.begin(CONFIG, data_fingerprint="d")
    assert lineage["data"] == "d" and lineage["ancestors"] == {"sft-policy": "digest of sft-policy"}
    assert message(folder.begin, CONFIG, data_fingerprint="e") == (
        f"{first.path} was made from other data (d) than {tmp_path / 'data'} holds (e); put the old data back, or "
        f"delete {first.path} to run that stage again"
    )
    write_json(first.path / "lineage.json", {"data": "e", "ancestors": {}})
    assert message(folder.begin, CONFIG, data_fingerprint="e") == (
        f"{folder.path} was made from other inputs (data changed); delete {folder.path} to run the stage again, "
        "or use another --workdir"
    )
    mark(first, "another digest")
    assert "(sft-policy changed)" in message(folder.begin, CONFIG, data_fingerprint="d")
    assert json.loads((folder.path / "lineage.json").read_text()) == lineage


@pytest.mark.parametrize("id", [SFT_POLICY, SFT_IMPROVER, REWARD])
def test_ancestors_of_another_seed_or_network_are_refused(tmp_path: Path, id: StageId) -> None:
    """However far up; knobs of the ancestor's own may be left out of the command that runs its child."""
    make(tmp_path, *TRAINED)
    folder = folder_in(tmp_path, RL_IMPROVER)
    config = json.loads((folder_in(tmp_path, id).path / "config.json").read_text())
    write_json(folder_in(tmp_path, id).path / "config.json", config | {"seed": 1})
    assert message(folder.check_parents, CONFIG) == (
        f"{tmp_path / str(id)} was made with another config (seed: 1 -> 0); restore the old values, use another "
        f"--workdir, or delete {tmp_path / str(id)} to run that stage again"
    )
    write_json(folder_in(tmp_path, id).path / "config.json", config)
    deeper = replace(CONFIG, transformer=replace(CONFIG.transformer, layers=7))
    assert f"(transformer.layers: {CONFIG.transformer.layers} -> 7)" in message(folder.check_parents, deeper)
    folder.check_parents(replace(CONFIG, sft=replace(CONFIG.sft, policy_steps=3)))


@pytest.mark.parametrize("lost", ["config.json", "lineage.json"])
def test_a_finished_stage_of_unknown_origin_is_refused(tmp_path: Path, lost: str) -> None:
    make(tmp_path, *TRAINED)
    (folder_in(tmp_path, SFT_IMPROVER).path / lost).unlink()
    assert message(folder_in(tmp_path, RL_IMPROVER).check_parents, CONFIG) == (
        f"{tmp_path}/sft-improver is finished, and its {lost} is gone, which said what it was made from; put it back, "
        f"or delete {tmp_path}/sft-improver to run that stage again"
    )


def test_a_lineage_names_every_ancestor(tmp_path: Path) -> None:
    """Not the parents alone: the policy's SFT is the grandparent of what RL trains."""
    make(tmp_path, *TRAINED, RL_IMPROVER)
    lineage = folder_in(tmp_path, StageId("improve")).lineage_now(CONFIG, data_fingerprint="d")
    done = {str(id): folder_in(tmp_path, id).done() or {} for id in (*TRAINED, RL_IMPROVER)}
    assert lineage["ancestors"] == {name: marker["digest"] for name, marker in done.items()}
    assert folder_in(tmp_path, GAP).lineage()["ancestors"].keys() == {"sft-policy", "sft-improver"}


def retrain(workdir: Path, id: StageId) -> tuple[str, str]:
    """The stage again from its own folder; (digest before, digest now)."""
    folder = folder_in(workdir, id)
    done = folder.done() or {}
    folder.finish(round=7, digest="of another training")
    return done["digest"], "of another training"


@pytest.mark.parametrize(
    ("again", "child"), [(SFT_POLICY, "sft-improver"), (SFT_IMPROVER, "rm-improver"), (REWARD, "rl-policy")]
)
def test_mixed_generations_are_refused(tmp_path: Path, again: StageId, child: str) -> None:
    """A stage that was trained again after its children: whoever would read both is told which child is of the past."""
    make(tmp_path, *TRAINED)
    old, new = retrain(tmp_path, again)
    folder = folder_in(tmp_path, RL_IMPROVER)
    expected = (
        f"{tmp_path / child} was made from another {again} (digest {old}) than the one that is there now ({new}); "
        f"delete {tmp_path / child} to run that stage again"
    )
    assert message(folder.check_parents, CONFIG) == expected
    assert message(folder.begin, CONFIG, data_fingerprint="d") == expected
    assert not folder.begun()


def test_evaluating_mixed_generations_is_refused(tmp_path: Path) -> None:
    """However deep the change: every parent of evaluate is finished, and each was made before the policy's SFT."""
    make(tmp_path, *TRAINED, RL_IMPROVER)
    evaluate = folder_in(tmp_path, StageId("evaluate"))
    evaluate.check_parents(CONFIG)
    retrain(tmp_path, SFT_POLICY)
    assert f"{tmp_path}/sft-improver was made from another sft-policy" in message(evaluate.check_parents, CONFIG)
    assert "delete" in message(evaluate.begin, CONFIG, data_fingerprint="d", derived=True)


def test_a_child_that_is_trained_again_too_is_of_this_generation(tmp_path: Path) -> None:
    make(tmp_path, *TRAINED)
    retrain(tmp_path, SFT_POLICY)
    for id in TRAINED[1:]:
        assert "was made from another sft-policy" in message(folder_in(tmp_path, RL_IMPROVER).check_parents, CONFIG)
        shutil.rmtree(folder_in(tmp_path, id).path)
        make(tmp_path, id)
    folder_in(tmp_path, RL_IMPROVER).check_parents(CONFIG)


def test_what_is_derived_takes_the_place_of_what_was(tmp_path: Path) -> None:
    """Knobs and inputs of a comparison may change: it is made again, from what lies on disk."""
    finish(tmp_path, SFT_POLICY)
    folder = folder_in(tmp_path, REWARD)
    folder.begin(CONFIG, data_fingerprint="d", derived=True)
    mark(folder_in(tmp_path, SFT_POLICY), "another digest")
    changed = replace(CONFIG, rm=replace(CONFIG.rm, batch_size=8))
    assert folder.changed(changed) == ["rm.batch_size: 64 -> 8"]
    now = folder.lineage_now(changed, data_fingerprint="d")
    assert folder.changed_inputs(now) == ["sft-policy"]
    lineage = folder.begin(changed, data_fingerprint="d", derived=True)
    assert lineage == now == folder.lineage() and folder.changed(changed) == []


def test_notes_and_the_package_s_code_are_no_inputs(tmp_path: Path) -> None:
    folder = folder_in(tmp_path, SFT_POLICY)
    plain = folder.begin(CONFIG, data_fingerprint="d")
    assert "notes" not in plain and "package" not in plain
    noted = folder.begin(CONFIG, data_fingerprint="d", package="1.0 abc", notes={"gates": "ignored"})
    assert noted == {**plain, "package": "1.0 abc", "notes": {"gates": "ignored"}}
    newer = folder.begin(CONFIG, data_fingerprint="d", package="1.1 def")
    assert newer == {**noted, "package": "1.1 def"} == folder.lineage()
    assert "(data changed)" in message(folder.begin, CONFIG, data_fingerprint="e")


def test_a_done_marker_says_which_round_children_read(tmp_path: Path) -> None:
    folder = folder_in(tmp_path, SFT_POLICY)
    assert folder.done() is None
    mark(folder)
    assert folder.done() == {"round": 1, "digest": "digest of sft-policy"}
    folder.finish(round=8, digest="d", monitors=[])
    assert folder.done() == {"round": 8, "digest": "d", "monitors": []}


def test_a_stage_that_stands_in_has_the_folder_of_its_own_name(tmp_path: Path) -> None:
    """Everywhere: as itself, as the parent of others, and in what is missing."""
    mine = Stage(name="mine", role="policy", run=lambda context: None, help="", replaces=REWARD, leaves="scalar")
    run = Run(replace(CONFIG, workdir=str(tmp_path)), {**catalogue(), mine.id: mine})
    assert run.stage(REWARD) is mine is run.stage(mine.id)
    assert run.folder(REWARD).path == run.folder(mine.id).path == tmp_path / "mine-policy"
    finish(tmp_path, SFT_POLICY, REWARD)
    text = message(run.folder(RL_POLICY).check_parents, CONFIG)
    assert "needs finished mine-policy in" in text and "run first: --stage=mine --model=policy (or" in text
    mark(run.folder(REWARD))
    assert set(run.folder(RL_POLICY).ancestors(CONFIG)) == {"sft-policy", "mine-policy"}
    assert run_in(tmp_path).folder(REWARD).path == tmp_path / "rm-policy", "where nobody knows the fork"
