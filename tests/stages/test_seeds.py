"""stages/seeds.py: the loop over seeds, with a stand-in for the run of one seed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pit_jax.config import Config
from pit_jax.stages import pipeline, seeds

Calls = list[tuple[str, Config, Path | None]]


def write_results(config: Config, delta: float, stage: str = "evaluate", name: str = "rows") -> None:
    row = {"temperature": 0.8, "judge": "rubric", "left": "PIT x1", "right": "policy", "delta": delta, "n": 16}
    row |= {"low": delta - 1.0}
    path = Path(config.workdir) / stage / "results.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({name: [row]}))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Puts a run that leaves 2 + its seed as its delta in the place of the pipeline's; what was called, in order."""
    found: Calls = []

    def run(config: Config, data_folder: Path) -> None:
        found.append(("run", config, data_folder))
        write_results(config, 2.0 + config.seed)

    monkeypatch.setattr(pipeline, "check", lambda config: found.append(("check", config, None)))
    monkeypatch.setattr(pipeline, "run", run)
    return found


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(stage="evaluate", workdir=str(tmp_path / "many"), seeds=(3, 0))


def test_every_seed_is_an_ordinary_run_on_the_same_data(config: Config, calls: Calls) -> None:
    seeds.run(config)
    root = Path(config.workdir)
    wanted = [replace(config, seed=seed, seeds=(), workdir=str(root / f"seed-{seed}")) for seed in (3, 0)]
    assert calls == [("check", one, None) for one in wanted] + [("run", one, root / "data") for one in wanted]


def test_nothing_runs_before_every_seed_is_checked(
    config: Config, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(one: Config) -> None:
        if one.seed == 0:
            raise ValueError("the last seed is refused")

    monkeypatch.setattr(pipeline, "check", check)
    with pytest.raises(ValueError, match="the last seed is refused"):
        seeds.run(config)
    assert calls == [] and not Path(config.workdir).exists()


def test_mean_and_spread_are_written_and_shown(
    config: Config, calls: Calls, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deltas 5 (seed 3) and 2 (seed 0): mean 3.5, sd 3 / sqrt(2) = 2.1, interval 3.5 -+ 12.706 * 1.5."""
    monkeypatch.setenv("COLUMNS", "120")
    seeds.run(config)
    root = Path(config.workdir)
    content = json.loads((root / "seeds.json").read_text())
    (row,) = content["evaluate"]["rows"]
    assert content["seeds"] == [3, 0] and row["values"] == [5.0, 2.0] and row["mean"] == 3.5
    assert "PIT x1 vs policy" in (root / "report" / "index.html").read_text()
    output = " ".join(capsys.readouterr().out.split())
    assert "seed 3 (1 of 2)" in output and "seed 0 (2 of 2)" in output
    assert "0.8 rubric PIT x1 vs policy +3.5 2.1 −15.6 to +22.6 2 of 2 +5.0 +2.0" in output
    assert f"report over 2 seeds: {root / 'report' / 'index.html'}" in output
    assert sorted(path.name for path in root.iterdir()) == ["report", "seed-0", "seed-3", "seeds.json"]


def test_more_seeds_join_later(config: Config, calls: Calls) -> None:
    seeds.run(config)
    seeds.run(replace(config, seeds=(0, 3, 7)))
    content = json.loads((Path(config.workdir) / "seeds.json").read_text())
    assert content["seeds"] == [0, 3, 7] and content["evaluate"]["rows"][0]["values"] == [2.0, 5.0, 9.0]


def test_results_of_any_stage_count_once_every_seed_has_them(
    config: Config, calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(config.workdir)
    ones = [replace(config, seed=seed, workdir=str(root / f"seed-{seed}")) for seed in config.seeds]
    write_results(ones[0], 1.0, stage="paper", name="sweep")
    seeds.run(config)
    assert json.loads((root / "seeds.json").read_text()).keys() == {"seeds", "evaluate"}
    assert "paper: not compared, seed 0 has not run it yet" in capsys.readouterr().out
    write_results(ones[1], 2.0, stage="paper", name="sweep")
    seeds.run(config)
    assert json.loads((root / "seeds.json").read_text())["paper"]["sweep"][0]["mean"] == 1.5


def test_a_stage_without_results_says_what_is_missing(
    config: Config, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "run", lambda one, data_folder: Path(one.workdir).mkdir(parents=True))
    seeds.run(replace(config, stage="sft"))
    root = Path(config.workdir)
    assert json.loads((root / "seeds.json").read_text()) == {"seeds": [3, 0]}
    assert "--stage=evaluate" in (root / "report" / "index.html").read_text()


def test_seeds_that_differ_leave_the_old_summary(config: Config, calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds.run(config)
    before = (Path(config.workdir) / "seeds.json").read_bytes()
    monkeypatch.setattr(pipeline, "run", lambda one, data: write_results(one, 1.0, name=f"list {one.seed}"))
    with pytest.raises(ValueError, match="seed 0: evaluate/results.json, list 3: found 0 rows of temperature 0.8"):
        seeds.run(config)
    assert (Path(config.workdir) / "seeds.json").read_bytes() == before


def test_the_workdir_of_one_seed_is_refused(config: Config, calls: Calls) -> None:
    (Path(config.workdir) / "sft-policy").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"found the run of one seed in .*many \(sft-policy\); pass another --workdir"):
        seeds.run(config)
    assert calls == []
