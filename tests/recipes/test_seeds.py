"""recipes/seeds.py: the loop over seeds, with a stand-in for the run of one seed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pit_jax.config import Config
from pit_jax.evaluation.results import Costs, PaperResults, Results, write_results
from pit_jax.recipes import pipeline, seeds
from tests.report.pages import compared

Calls = list[tuple[str, Config, Path | None]]
FINISHED = ("sft-policy", "improve", "evaluate", "rm-second-gap", "export")


def evaluated(config: Config, delta: float, judge: str = "rubric") -> None:
    """Leave an evaluation: PIT x1 against the policy over 16 prompts, the interval delta +- 1."""
    row = compared(judge=judge, delta=delta, width=1.0, n=16)
    write_results(Path(config.workdir) / "evaluate" / "results.json", Results([judge], 0.8, None, [row], [], []))


def swept(config: Config, delta: float) -> None:
    """Leave the results of a paper that are one row of its sweep."""
    row = compared(delta=delta, width=1.0, n=16)
    results = PaperResults(["rubric"], 1.0, None, 16, [], [], [], [row], {}, [], Costs([], []), [])
    write_results(Path(config.workdir) / "paper" / "results.json", results)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Puts a run that leaves 2 + its seed as its delta in the place of the pipeline's; what was called, in order."""
    found: Calls = []

    def run(config: Config, data_folder: Path) -> None:
        found.append(("run", config, data_folder))
        evaluated(config, 2.0 + config.seed)

    monkeypatch.setattr(pipeline, "check", lambda config, data: found.append(("check", config, data)))
    monkeypatch.setattr(pipeline, "run", run)
    return found


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(stage="evaluate", workdir=str(tmp_path / "many"), seeds=(3, 0))


def test_every_seed_is_an_ordinary_run_on_the_same_data(config: Config, calls: Calls) -> None:
    seeds.run(config)
    root = Path(config.workdir)
    wanted = [replace(config, seed=seed, seeds=(), workdir=str(root / f"seed-{seed}")) for seed in (3, 0)]
    whole = replace(config, seed=3, workdir=str(root / "seed-3"))  # a stage may refuse seeds
    checked = [("check", one, root / "data") for one in (whole, *wanted)]
    assert calls == checked + [("run", one, root / "data") for one in wanted]


def test_nothing_runs_before_every_seed_is_checked(
    config: Config, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(one: Config, data: Path) -> None:
        if one.seed == 0 and not one.seeds:
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
    swept(ones[0], 1.0)
    seeds.run(config)
    assert json.loads((root / "seeds.json").read_text()).keys() == {"seeds", "evaluate"}
    assert "paper: not compared, seed 0 has not run it yet" in capsys.readouterr().out
    swept(ones[1], 2.0)
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
    monkeypatch.setattr(pipeline, "run", lambda one, data: evaluated(one, 1.0, f"judge {one.seed}"))
    with pytest.raises(ValueError, match="seed 0: evaluate/results.json, rows: found 0 rows of .*judge 3"):
        seeds.run(config)
    assert (Path(config.workdir) / "seeds.json").read_bytes() == before


@pytest.mark.parametrize("name", FINISHED)
def test_the_workdir_of_one_seed_is_refused(config: Config, calls: Calls, name: str) -> None:
    (Path(config.workdir) / name).mkdir(parents=True)
    with pytest.raises(ValueError, match=rf"found the run of one seed in .*many \({name}\); pass another --workdir"):
        seeds.run(config)
    assert calls == []


def test_results_of_another_form_are_named_with_their_seed(
    config: Config, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(one: Config, data: Path) -> None:
        path = Path(one.workdir) / "evaluate" / "results.json"
        path.parent.mkdir(parents=True)
        path.write_text('{"judges": ["rubric"]}')

    monkeypatch.setattr(pipeline, "run", run)
    with pytest.raises(ValueError, match=r"seed-3/evaluate/results.json: .*missing required field `headline_temp"):
        seeds.run(config)
