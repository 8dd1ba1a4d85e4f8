"""Results: what a comparison measures, and files that come back as they were written or name what is wrong."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pit_jax.batch import Answer
from pit_jax.config import Config, EvaluateConfig
from pit_jax.evaluation.failures import Failure
from pit_jax.evaluation.gap_quality import measure
from pit_jax.evaluation.judges.judge import Judge, ask
from pit_jax.evaluation.results import (
    ComparisonRow,
    ControlRow,
    CostRow,
    Costs,
    GapLossRow,
    PaperResults,
    RatingRow,
    Results,
    by_name,
    comparison_row,
    read_results,
    write_results,
)
from pit_jax.evaluation.rewrites import FlawCounts, RewriteRow, check_gap, rewrite_row
from pit_jax.evaluation.systems import POLICY, Output, SystemId, describe, pit

CONFIG = Config(evaluate=EvaluateConfig(tie_margin=1.0, resamples=200))


def output(*texts: str) -> Output:
    """Answers of as many tokens as words, and EOS."""
    answers = [Answer(text, (*range(len(text.split())), 1)) for text in texts]
    return Output(answers, [f"k{i}" for i in range(len(answers))], np.array([len(answer.ids) for answer in answers]))


LEFT, RIGHT = output("7 8 9", "7 8", "7", "7"), output("7", "7", "7", "7 8 9 10")
WORDS = Judge("words", lambda prompts, answers: [len(answer.split()) for answer in answers])
FIRST = Judge("first", lambda prompts, firsts, seconds: [1] * len(prompts), kind="verdict")


def row(judge: Judge = WORDS) -> ComparisonRow:
    judgement = ask(judge, ["p"] * 4, LEFT.answers, RIGHT.answers)
    return comparison_row(CONFIG, judge.name, judgement, (pit(1), LEFT), (POLICY, RIGHT), 0.8)


def rewritten() -> list[RewriteRow]:
    """One of data with a truth, and one of other data."""
    gap = check_gap(CONFIG, np.array([1.0, -1.0]), np.array([2.0, 3.0]))
    told = rewrite_row(CONFIG, pit(1), 0.8, LEFT.texts, RIGHT.texts, flaws=FlawCounts(3, 2, 1), gap=gap)
    return [told, replace(told, flaws=None, gap=None)]


def results() -> Results:
    described = [describe(system, 0.8, side, None) for system, side in ((pit(1), LEFT), (POLICY, RIGHT))]
    control = replace(row(), left=SystemId("control", source="copy"))
    controls = [ControlRow(control, "ties", False)]
    return Results(["words"], 0.8, None, [row(), row(FIRST)], controls, described, rewritten())


def paper_results() -> PaperResults:
    quality = measure({name: np.arange(3.0) for name in ("wl", "ww", "ll", "lw")}, np.arange(3), np.arange(1.0, 4.0))
    return PaperResults(
        judges=["words"],
        headline_temperature=1.0,
        max_score=7.0,
        prompts=4,
        systems=results().systems,
        table=[row()],
        curriculum=[],
        sweep=[row(FIRST)],
        ratings={"words": [RatingRow(pit(1), 35.0, float("-inf"), 44.0, 1535.0, 1440.0, 1570.0)]},
        gap_losses=[GapLossRow("five terms", quality, pit(1)), GapLossRow("none", None, None)],
        costs=Costs([CostRow("sft-policy", 1.5e6, 1e12)], []),
        failures=[Failure("p", "a", "b", None, -2.0, "words")],
    )


def test_a_row_holds_the_comparison_its_lengths_and_the_flips() -> None:
    """Word differences 2, 1, 0, -3 with a margin of 1: a win, two ties, a loss. The same in tokens."""
    found = row()
    assert (found.win, found.tie, found.lose, found.delta, found.n) == (25.0, 50.0, 25.0, 0.0, 4)
    assert (found.left_tokens, found.right_tokens, found.win_tokens, found.lose_tokens) == (11 / 4, 11 / 4, 2.0, -3.0)
    assert found.low <= found.delta <= found.high and found.lc_low <= found.lc_win_rate <= found.lc_high
    assert (found.systems, found.judge, found.temperature, found.flipped) == ("PIT x1 vs policy", "words", 0.8, None)
    assert row(FIRST).flipped == 1.0


@pytest.mark.parametrize(
    ("low", "high", "tone"), [(1.0, 3.0, "good"), (-3.0, -1.0, "bad"), (-1.0, 1.0, "even"), (0.0, 1.0, "even")]
)
def test_the_tone_is_that_of_the_interval(low: float, high: float, tone: str) -> None:
    assert replace(row(), low=low, high=high).tone == tone


@pytest.mark.parametrize("make", [results, paper_results])
def test_what_was_written_is_read(tmp_path: Path, make: Callable[[], Any]) -> None:
    """Infinite ends and missing figures too."""
    path = tmp_path / "evaluate" / "results.json"
    write_results(path, make())
    assert read_results(path, type(make())) == make()
    assert read_results(tmp_path / "nowhere" / "results.json", type(make())) is None


def test_results_from_before_rewrites_were_measured_are_read(tmp_path: Path) -> None:
    content = asdict(results())
    del content["rewrites"]
    (tmp_path / "results.json").write_text(json.dumps(content))
    assert read_results(tmp_path / "results.json", Results) == replace(results(), rewrites=[])


Place = tuple[str | int, ...]


def changed(content: Any, where: Place, value: Any) -> Any:
    """JSON content with another value at a place; without it, where the value is `...`."""
    copied = json.loads(json.dumps(content))
    inner = copied
    for step in where[:-1]:
        inner = inner[step]
    if value is ...:
        del inner[where[-1]]
    else:
        inner[where[-1]] = value
    return copied


@pytest.mark.parametrize(
    ("where", "value", "found"),
    [
        (("ratings",), ..., "Object missing required field `ratings`"),
        (("prompts",), None, r"Expected `int`, got `null` - at `\$.prompts`"),
        (("table",), {}, r"Expected `array`, got `object` - at `\$.table`"),
        (("table", 0), None, r"Expected `object`, got `null` - at `\$.table\[0\]`"),
        (("table", 0, "delta"), "+1", r"Expected `float`, got `str` - at `\$.table\[0\].delta`"),
        (("table", 0, "low"), None, r"Expected `float`, got `null` - at `\$.table\[0\].low`"),
        (("table", 0, "left"), "PIT x1", r"Expected `object`, got `str` - at `\$.table\[0\].left`"),
        (("table", 0, "left", "kind"), "pitt", r"Invalid enum value 'pitt' - at `\$.table\[0\].left.kind`"),
        (("costs", "answers"), ..., r"Object missing required field `answers` - at `\$.costs`"),
        (("ratings", "words", 0, "rating"), ..., r"missing required field `rating` - at `\$.ratings\[...\]\[0\]`"),
        (("failures", 0, "before"), ..., r"missing required field `before` - at `\$.failures\[0\]`"),
        (("gap_losses", 0, "quality", "by_confidence"), ..., r"`by_confidence` - at `\$.gap_losses\[0\].quality`"),
    ],
)
def test_a_malformed_file_is_one_clear_error(tmp_path: Path, where: Place, value: Any, found: str) -> None:
    """The first thing that is wrong, where it stands, what to delete and what to run."""
    path = tmp_path / "paper" / "results.json"
    path.parent.mkdir()
    path.write_text(json.dumps(changed(asdict(paper_results()), where, value)))
    with pytest.raises(ValueError) as told:
        read_results(path, PaperResults)
    message = str(told.value)
    assert message.startswith(f"{path}: asked for what its stage writes, found another form (")
    assert message.endswith("; delete it and the done.json beside it, and run --stage=paper again")
    with pytest.raises(ValueError, match=found):
        read_results(path, PaperResults)


@pytest.mark.parametrize(("text", "found"), [("[]", "got `array`"), ("{", "asked for JSON, found")])
def test_a_file_of_another_form_is_named(tmp_path: Path, text: str, found: str) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(ValueError, match=f"results.json: .*{found}.*delete"):
        read_results(tmp_path / "results.json", Results)


def test_the_results_of_another_stage_are_no_results(tmp_path: Path) -> None:
    write_results(tmp_path / "results.json", results())
    with pytest.raises(ValueError, match="Object missing required field `prompts`"):
        read_results(tmp_path / "results.json", PaperResults)


def test_tables_over_seeds_get_names_for_people() -> None:
    found = by_name(results())
    assert (
        set(found) == {"judges", "rows", "controls", "systems", "rewrites"}
        and found["judges"] == found["rewrites"] == []
    )
    assert [(row["left"], row["right"], row["delta"]) for row in found["rows"]] == [("PIT x1", "policy", 0.0)] * 2
    assert [row["left"] for row in found["controls"]] == ["copy"], "a control by its row"
    assert [row["name"] for row in found["systems"]] == ["PIT x1", "policy"]
    paper = by_name(paper_results())
    assert [row["judge"] for row in paper["sweep"]] == ["first"] and paper["failures"] == paper["gap_losses"] == []
