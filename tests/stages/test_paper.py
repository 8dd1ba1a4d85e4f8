"""The paper's systems on random models: who rewrites what, and what every answer has cost."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from rich.console import Console
from rich.progress import Progress

from pit_jax.config import Config, EvaluateConfig, ImproveConfig, PaperConfig
from pit_jax.stages import paper
from pit_jax.stages.answering import Answering
from pit_jax.stages.context import Context
from pit_jax.stages.evaluate import POLICY, pit_name
from pit_jax.stages.paper import games_between, refine_name

PROMPTS = ["7 8", "9", "10 11", "12", "13 14", "15"]
CHOSEN = ["20 21", "22", "23", "24 25 26", "27", ""]
KNOBS = PaperConfig(ablations=(), prompts=6, temperatures=(0.5, 1.0), temperature=1.0, rounds=2)
CONFIG = Config(paper=KNOBS, improve=ImproveConfig(batch_size=4), evaluate=EvaluateConfig(resamples=20), rl=Config().rl)


@pytest.fixture
def answering(place: Any) -> Any:
    """answering(paper knobs) -> Answering over PROMPTS."""

    def make(knobs: PaperConfig = KNOBS) -> Answering:
        return Answering(place(replace(CONFIG, paper=knobs)), PROMPTS, CHOSEN)

    return make


@pytest.fixture
def mesh(make_mesh: Any) -> Any:
    with jax.set_mesh(make_mesh(1, 1, 1)):
        yield


def nobody(done: int) -> None:
    """Watches nothing."""


def test_every_improver_rewrites_the_same_originals_and_pays_for_them(answering: Any, mesh: Any, world: Any) -> None:
    found = answering()
    outputs = found.trail(1.0, 2, nobody)
    assert list(outputs) == [POLICY, "PIT x1", "PIT x2"]
    again = found.trail(1.0, 1, nobody)
    assert again[POLICY].texts == outputs[POLICY].texts and again["PIT x1"].texts == outputs["PIT x1"].texts
    assert found.trail(0.5, 1, nobody)[POLICY].texts != outputs[POLICY].texts
    other = found.improved_by(world.draw(world.language, 99), 1.0, outputs[POLICY])
    assert other.reference is outputs[POLICY] and other.texts != outputs["PIT x1"].texts
    lengths = [outputs[name].lengths_N for name in outputs]
    for k, name in enumerate(outputs):
        np.testing.assert_array_equal(outputs[name].drawn_N, sum(lengths[: k + 1]))


def test_best_of_n_spends_what_its_rival_spends(answering: Any, mesh: Any) -> None:
    found = answering()
    outputs = found.trail(1.0, 2, nobody)
    name, best = found.best_of_n(1.0, outputs["PIT x2"], outputs[POLICY])
    assert name == f"best of {round(outputs['PIT x2'].drawn_N.sum() / outputs[POLICY].drawn_N.sum())}"
    assert (best.drawn_N > best.lengths_N).all()


def test_self_refine_without_room_keeps_the_answers(answering: Any, mesh: Any, place: Any) -> None:
    """The fixture's tokenizer knows numbers alone, so that the wording of the prompts is counted here as one."""
    found = answering()
    context: Context = found._context
    numbers_only = context.data.template
    wide = type(numbers_only)(**vars(numbers_only))
    wide.response = lambda text: [int(word) if word.isdigit() else 6 for word in text.split()]
    wide.policy_prompt = wide.response
    found._context = replace(context, data=replace_template(context.data, wide))
    original = found.trail(1.0, 1, nobody)[POLICY]
    for output in found.refined(1.0, 2, original):
        assert output.texts == original.texts
        np.testing.assert_array_equal(output.drawn_N, original.drawn_N)


def test_the_wording_of_a_folder_is_asked(answering: Any, mesh: Any, tmp_path: Path) -> None:
    """One-line prompts of numbers alone, which fit: the answers are rewritten."""
    for name, text in (
        ("feedback", "$prompt $answer"),
        ("refine", "$prompt $history"),
        ("one_line", "$answer $prompt"),
    ):
        (tmp_path / f"{name}.txt").write_text(text)
    (tmp_path / "history.txt").write_text("$round $answer $feedback")
    found = answering(replace(KNOBS, wording=str(tmp_path), refine_length=40))
    original = found.trail(1.0, 1, nobody)[POLICY]
    rewritten = found.reflected(1.0, original)
    assert rewritten.texts != original.texts and (rewritten.drawn_N > original.drawn_N).all()


def replace_template(data: Any, template: Any) -> Any:
    """Prepared data with another template."""
    changed = type("Data", (type(data),), {"template": property(lambda self: template)})
    return changed(data.world, data.folds)


def test_games_are_the_outcomes_of_all_pairs(answering: Any, mesh: Any, place: Any) -> None:
    """The truth of these random words is their number."""
    found = answering()
    context = place(CONFIG, truth=True)
    outputs = found.trail(1.0, 2, nobody)
    judges = {judge.name: judge for judge in paper.judges_of(context)[1]}
    games = {name: games_between(context, judge, PROMPTS, outputs, list(outputs)) for name, judge in judges.items()}
    assert set(games) == {"rubric", "gap"} and len(games["rubric"]) == 3
    words = {name: [len(text.split()) for text in output.texts] for name, output in outputs.items()}
    for (left, right), won_N in games["rubric"].items():
        difference_N = np.subtract(words[left], words[right])
        np.testing.assert_array_equal(won_N, 0.5 + 0.5 * np.sign(difference_N))


def test_the_results_of_a_run(place: Any, mesh: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the prompted baselines, whose wording the numbers-only tokenizer cannot read."""
    monkeypatch.setattr(Answering, "_prompted", lambda self, method, at, rounds, original: [original] * rounds)
    context = place(replace(CONFIG, rl=replace(CONFIG.rl, batch_size=16)), truth=True)
    for parent in context.folder("paper", "").parents(context.config):
        parent.path.mkdir(exist_ok=True)
        (parent.path / "done.json").write_text('{"round": 1, "digest": "0123456789ab"}')
    with Progress(console=Console(quiet=True)) as progress:
        paper.run(context, progress)
    results = json.loads((context.folder("paper", "").path / "results.json").read_text())
    names = [row["name"] for row in results["systems"]]
    assert names[:3] == [POLICY, pit_name(1), pit_name(2)] and refine_name(1) not in names
    assert {"chosen", "SFT improver x1", "DPO", "Self-Refine", "one-line"} < set(names)
    assert [row["left"] for row in results["table"] if row["judge"] == "rubric"] == names[1:]
    assert {row["temperature"] for row in results["sweep"]} == {0.5, 1.0} and len(results["sweep"]) == 2 * 3 * 2
    assert all(row["right"] in (POLICY, "SFT improver x1") for row in results["curriculum"])
    assert {row["name"] for row in results["costs"]["answers"]} == set(names) - {"chosen"}
    spent = {row["name"]: row["flops"] for row in results["costs"]["answers"]}
    assert spent[POLICY] == spent["Self-Refine"] < spent["SFT improver x1"] and spent["PIT x1"] < spent["PIT x2"]
    assert [row["name"] for row in results["costs"]["training"]][-1] == "dpo-policy"
    assert all(len(rows) == 1 + 2 * 2 for rows in results["ratings"].values())
    difference = results["gap_losses"][-1]["quality"]
    assert difference["agreement"] == {"tie": 0.0, "antisymmetry": 0.0} and difference["reference_share"] == 0.5
