"""run.json: a run is opened from its folder alone, also after it has moved."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pit_jax.config import Config, flatten
from pit_jax.errors import UserError
from pit_jax.run.record import read_record, recorded_forks, write_record
from tests.run.on_disk import Forked, MineConfig


def changed(workdir: Path, **more: Any) -> Config:
    """A config in which fields of every kind have other values than by default."""
    base = Config()
    monitors = replace(base.rl.monitors, max_kl=float("inf"), action="warn")
    curriculum = replace(base.rl.curriculum, references=("chosen", "policy-rl", "improver"), rounds=(1, 0, 2))
    rl = replace(base.rl, curriculum=curriculum, monitors=monitors, improver_rewards=("short:-0.5",))
    transformer = replace(base.transformer, windowed=(True, False), window=4)
    named = {"stage": "evaluate", "seed": 7, "rl": rl, "transformer": transformer, **more}
    return replace(base, workdir=str(workdir), **named)


def test_a_config_comes_back_whole(tmp_path: Path) -> None:
    config = changed(tmp_path / "run")
    assert flatten(config) != flatten(Config())
    write_record(config)
    assert read_record(tmp_path / "run", Config) == config


def test_a_run_that_moved_is_read_where_it_is(tmp_path: Path) -> None:
    write_record(changed(tmp_path / "run"))
    (tmp_path / "run").rename(tmp_path / "moved")
    assert read_record(tmp_path / "moved", Config) == changed(tmp_path / "moved")


def test_a_parent_run_moves_along(tmp_path: Path) -> None:
    """Its path is kept as seen from the branch, and read as seen from here."""
    branch, parent = tmp_path / "all" / "branches" / "one", tmp_path / "all" / "parent"
    parent.mkdir(parents=True)
    write_record(changed(branch, parent_run=str(parent)))
    assert json.loads((branch / "run.json").read_text())["parent_run"] == "../../parent"
    assert read_record(branch, Config).parent_run == str(parent)
    (tmp_path / "all").rename(tmp_path / "elsewhere")
    moved = tmp_path / "elsewhere"
    assert read_record(moved / "branches" / "one", Config).parent_run == str(moved / "parent")


def test_paths_from_a_working_folder_mean_the_same_from_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here" / "runs").mkdir(parents=True)
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    write_record(changed(Path("runs/branch"), parent_run="runs/parent"))
    monkeypatch.chdir(tmp_path / "there")
    found = read_record(Path("../here/runs/branch"), Config)
    assert (found.workdir, found.parent_run) == ("../here/runs/branch", "../here/runs/parent")


def test_forks_are_files_beside_the_run_or_names_of_installed_ones(tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()
    file, workdir = tmp_path / "all" / "mine.py", tmp_path / "all" / "runs" / "one"
    file.write_text("")
    config = changed(workdir, forks=(str(file), "installed"))
    write_record(config)
    assert json.loads((workdir / "run.json").read_text())["forks"] == ["../../mine.py", "installed"]
    assert recorded_forks(workdir) == config.forks == read_record(workdir, Config).forks
    (tmp_path / "all").rename(tmp_path / "moved")
    moved = tmp_path / "moved"
    assert recorded_forks(moved / "runs" / "one") == (str(moved / "mine.py"), "installed")
    assert recorded_forks(tmp_path / "nothing") == ()


def test_the_flags_of_a_fork_s_stage_come_back(tmp_path: Path) -> None:
    config = Forked(workdir=str(tmp_path), mine=MineConfig(margin=2.0))
    write_record(config)
    found = read_record(tmp_path, Forked)
    assert isinstance(found, Forked) and found == config


def test_a_record_of_fewer_knobs_has_the_others_at_their_defaults(tmp_path: Path) -> None:
    write_record(changed(tmp_path))
    content = json.loads((tmp_path / "run.json").read_text())
    del content["rl"]["loss_mean"], content["dpo"]
    (tmp_path / "run.json").write_text(json.dumps(content))
    assert read_record(tmp_path, Config) == changed(tmp_path)


def test_a_folder_that_is_no_run_and_a_record_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"^{tmp_path}: asked for the workdir of a run, found no run.json in it; run"):
        read_record(tmp_path, Config)
    (tmp_path / "run.json").write_text('{"seed": "zero"}')
    with pytest.raises(UserError, match=r"run.json: not the config of a run of this version \(.*\$\.seed"):
        read_record(tmp_path, Config)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(UserError, match=r"run.json: asked for JSON, found"):
        read_record(tmp_path, Config)
