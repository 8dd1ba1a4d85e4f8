"""The improve stage over a tiny run: what it writes and prints, on held-out prompts and on rows of a file."""

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from pit_jax.batch import Answer
from pit_jax.config import Config, ImproveConfig
from pit_jax.evaluation.answers import AnswerRow
from pit_jax.evaluation.systems import Output
from pit_jax.files import read_jsonl
from pit_jax.inference.stopping import Rule, chosen_round
from pit_jax.recipes.catalogue import catalogue
from pit_jax.recipes.comparison import improve
from pit_jax.recipes.comparison.draw import Answering
from pit_jax.run.context import Context
from pit_jax.run.params import Models
from pit_jax.run.provenance import StageId
from pit_jax.run.screen import Screen
from tests.recipes.comparison.conftest import CONFIG
from tests.world import MakeContext

PROMPTS = ["7 8 9", "10", "11 12", "13 14 15 16", "17", "18 19", "20 21 22", "23", "24 25", "26"]
ROUNDS = 3
IMPROVE = StageId("improve")
Rows = list[dict[str, Any]]


def settings(**changes: Any) -> Config:
    return replace(CONFIG, improve=replace(ImproveConfig(ROUNDS, batch_size=4, queue=1), **changes))


def asked_file(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def improved(ready: MakeContext, mesh: Any) -> Callable[..., tuple[Context, Rows]]:
    """improved(truth=False, **knobs of improve) -> the context of a finished stage, and its trails."""

    def run(*, truth: bool = False, **knobs: Any) -> tuple[Context, Rows]:
        context = ready(settings(**knobs), IMPROVE, truth=truth)
        context = replace(context, screen=Screen(Console(record=True, width=100, file=io.StringIO())))
        shutil.rmtree(context.folder.path, ignore_errors=True)
        improve.run(context)
        assert context.folder.done() is not None
        return context, read_jsonl(context.folder.path / "trails.jsonl")

    return run


def answers_in(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}


def test_a_run_writes_the_trail_of_every_held_out_prompt(improved: Callable[..., Any]) -> None:
    """As many as are evaluated, with their true scores: here the number of words."""
    context, rows = improved(truth=True)
    assert [row["prompt"] for row in rows] == [triple.prompt for triple in context.data.triples("heldout")[:6]]
    answers = Path(context.config.workdir) / "answers"
    first, drafts = (read_jsonl(answers / f"{n}@0.8.jsonl") for n in ("policy", "pit"))
    for row, original, improver in zip(rows, first, drafts, strict=True):
        assert len(row["answers"]) == len(row["tokens"]) == ROUNDS + 1 and len(row["gaps"]) == ROUNDS
        assert row["answers"] == [draft["text"] for draft in (*original["drafts"], *improver["drafts"])]
        assert row["tokens"] == [len(draft["ids"]) for draft in (*original["drafts"], *improver["drafts"])]
        np.testing.assert_allclose(row["gaps"], improver["gaps"], atol=1e-4)
        assert row["scores"] == [len(text.split()) for text in row["answers"]]
        assert row["chosen"] == ROUNDS and row["answer"] == row["answers"][-1]
    printed = context.screen.console.export_text()
    assert "improve, n = 6" in printed and "mean gap" in printed and "chosen %" in printed


def test_every_stop_rule_chooses_from_the_same_drafts(
    improved: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is drawn for another rule, and what a rule returns is what its gaps say."""
    context, whole = improved()
    answers = Path(context.config.workdir) / "answers"
    before = answers_in(answers)
    monkeypatch.setattr(Models, "load", lambda self, id: pytest.fail(f"{id} was loaded"))
    chosen = {}
    rules: list[tuple[Rule, float]] = [("best", 0.0), ("threshold", 0.0), ("threshold", 0.1)]
    for stop, threshold in rules:
        _, rows = improved(stop=stop, stop_threshold=threshold)
        for row, full in zip(rows, whole, strict=True):
            assert row["chosen"] == chosen_round(full["gaps"], stop, rounds=ROUNDS, threshold=threshold)
            assert row["answer"] == full["answers"][row["chosen"]]
            seen = len(row["answers"])
            assert row["answers"] == full["answers"][:seen] and row["gaps"] == full["gaps"][: seen - 1]
        chosen[stop, threshold] = [row["chosen"] for row in rows]
    assert answers_in(answers) == before
    assert len({*chosen["best", 0.0]}) > 1 and len({*chosen["threshold", 0.0]}) > 1


def test_a_threshold_writes_the_same_whether_or_not_others_drew_more(improved: Callable[..., Any]) -> None:
    """Alone it draws a draft behind which each trail ends; the whole trails are completed later from there."""
    context, alone = improved(stop="threshold")
    answers = Path(context.config.workdir) / "answers"
    drawn = [row["drafts"] for row in read_jsonl(answers / "pit@0.8.jsonl")]
    assert [len(drafts) for drafts in drawn] == [len(row["gaps"]) for row in alone]
    assert min(map(len, drawn)) == 1 and max(map(len, drawn)) > 1
    for row in alone:
        assert all(gap >= 0 for gap in row["gaps"][:-1]) and row["chosen"] in (len(row["gaps"]) - 1, len(row["gaps"]))
    _, whole = improved()
    for row, full in zip(alone, whole, strict=True):
        assert full["answers"][: len(row["answers"])] == row["answers"]
    _, again = improved(stop="threshold")
    for row, before in zip(again, alone, strict=True):
        np.testing.assert_allclose(row.pop("gaps"), before.pop("gaps"), atol=2e-4)
        assert row == before


def test_rows_of_a_file_are_improved_from_their_answers(improved: Callable[..., Any], tmp_path: Path) -> None:
    given = ["30 31", None, "35", "32 33", None, None, None, "34", None, None]
    rows = [{"prompt": p, **({} if a is None else {"answer": a})} for p, a in zip(PROMPTS, given, strict=True)]
    context, trails = improved(prompts=str(asked_file(tmp_path / "mine.jsonl", rows)))
    assert [row["prompt"] for row in trails] == PROMPTS
    assert all(row["scores"] is None for row in trails), "nobody knows a truth of them"
    for row, answer in zip(trails, given, strict=True):
        assert (row["answers"][0] == answer, row["tokens"][0] == 0) == (answer is not None, answer is not None)
    own = context.folder.path / "answers"
    kept = [row["drafts"][0] for row in read_jsonl(own / "policy@0.8.jsonl")]
    for draft, answer in zip(kept, given, strict=True):
        if answer is not None:
            assert draft == {"text": answer, "ids": [*map(int, answer.split()), 1], "ended": True}
    assert not (Path(context.config.workdir) / "answers").exists(), "the answers of comparisons are others"


def test_rows_without_an_answer_get_the_policys(
    improved: Callable[..., Any], answering: Callable[..., Answering], tmp_path: Path
) -> None:
    path = asked_file(tmp_path / "mine.jsonl", [{"prompt": prompt} for prompt in PROMPTS])
    _, trails = improved(prompts=str(path))
    expected = answering(PROMPTS, "others", config=settings()).policy(0.8)
    assert [row["answers"][0] for row in trails] == expected.texts


def test_the_first_rows_alone(improved: Callable[..., Any], tmp_path: Path) -> None:
    path = asked_file(tmp_path / "mine.jsonl", [{"prompt": prompt} for prompt in PROMPTS])
    assert [row["prompt"] for row in improved(prompts=str(path), limit=3)[1]] == PROMPTS[:3]


def test_the_files_content_is_part_of_the_hash(improved: Callable[..., Any], tmp_path: Path) -> None:
    """The same rows by another path are the same; one byte more is another input, which is refused by name."""
    path, rows = tmp_path / "mine.jsonl", [{"prompt": prompt} for prompt in PROMPTS[:4]]
    context, _ = improved(prompts=str(asked_file(path, rows)))
    stage = catalogue()[IMPROVE]
    moved = asked_file(tmp_path / "elsewhere.jsonl", rows)
    config = replace(context.config, improve=replace(context.config.improve, prompts=str(moved)))
    assert stage.depends_on(config) == stage.depends_on(context.config)
    context.folder.check_config(config)
    moved.write_text(moved.read_text() + " ")
    with pytest.raises(ValueError, match="the config of .*improve changed .contents of improve.prompts: '.*' -> '"):
        context.folder.check_config(config)
    heldout = replace(config, improve=replace(config.improve, prompts=""))
    with pytest.raises(ValueError, match="contents of improve.prompts: '.*' -> None"):
        context.folder.check_config(heldout)
    hub = [replace(config, improve=replace(config.improve, prompts=f"hub/{name}")) for name in ("a/b", "a/c", "a/b@x")]
    assert len({stage.depends_on(config)["contents of improve.prompts"] for config in hub}) == 3, (
        "no file tells them apart"
    )


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "7"}, {"prompt": "8", "answer": "9 " * 8}], "answer 2 has 9 tokens, .* at most 8; shorten it"),
        ([{"prompt": "7"}, {"prompt": " ".join(["8"] * 49)}], "prompt 2 has 49 tokens, .* at most 48; shorten it"),
        ([], "mine.jsonl"),
        ([{"prompt": "7"}, {"answer": "8"}], "mine.jsonl: 1 of 2 rows cannot be improved: .*line 2"),
    ],
)
def test_rows_that_no_model_can_improve_are_named(
    improved: Callable[..., Any], tmp_path: Path, rows: Rows, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        improved(prompts=str(asked_file(tmp_path / "mine.jsonl", rows)))


def test_a_file_that_is_not_there(improved: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"nowhere.jsonl: no such file or folder; pass rows with a `prompt`"):
        improved(prompts="nowhere.jsonl")


def trail(prompt: str, drafts: list[tuple[int, ...]], gaps: list[float]) -> AnswerRow:
    row = AnswerRow(0, prompt, "k")
    for ids in drafts:
        row.add(Answer(f"text {ids}", ids))
    row.gaps = gaps
    return row


def test_the_table_by_hand() -> None:
    """Two prompts, two rounds. Round 1: gaps +0.5 and -0.1, so the second prompt keeps its answer and stops.

    Round 2: the first prompt alone draws, a copy. Tokens 2 and 1, then 3 and 2, then 3.
    """
    rows = [trail("p", [(7, 8, 1), (7, 8, 1)], [0.5, 0.0]), trail("q", [(9, 1)], [-0.1])]
    original = Output([Answer("a", (7, 1)), Answer("b", (1,))], ["k", "l"], np.array([2, 1]))
    console = Console(record=True, width=100, file=io.StringIO())
    console.print(improve.round_table(rows, original, [2, 0], 2))
    lines = [line.split() for line in console.export_text().splitlines()]
    assert lines[0] == ["improve,", "n", "=", "2"]
    assert lines[2:] == [
        ["0", "2", "–", "1.5", "–", "50.0"],
        ["1", "2", "+0.200", "2.5", "0.0", "0.0"],
        ["2", "1", "+0.000", "3.0", "100.0", "50.0"],
    ]
    (first, second) = improve.trail_lines(rows, original, [2, 0], lambda prompt, text: float(len(text)))
    assert first == {
        "prompt": "p",
        "answer": "text (7, 8, 1)",
        "answers": ["a", "text (7, 8, 1)", "text (7, 8, 1)"],
        "gaps": [0.5, 0.0],
        "tokens": [2, 3, 3],
        "chosen": 2,
        "scores": [1.0, 14.0, 14.0],
    }
    assert (second["answer"], second["answers"], second["tokens"]) == ("b", ["b", "text (9, 1)"], [1, 2])


def test_a_round_in_which_nobody_draws_has_no_means() -> None:
    original = Output([Answer("a", (7, 8, 9, 1))], ["k"], np.array([4]))
    console = Console(record=True, width=100, file=io.StringIO())
    console.print(improve.round_table([trail("p", [(7, 1)], [-1.0])], original, [0], 2))
    assert console.export_text().splitlines()[4].split() == ["2", "0", "–", "–", "–", "0.0"]


def test_a_row_ends_behind_its_last_round_or_its_first_small_gap() -> None:
    row = trail("p", [(7, 1), (8, 1), (9, 1)], [0.5, -0.2, 0.3])
    for rounds, threshold, kept in (
        (3, -np.inf, 3),
        (2, -np.inf, 2),
        (3, 0.0, 2),
        (1, 0.0, 1),
        (3, 0.6, 1),
        (5, 0.0, 2),
    ):
        found = improve.within(row, rounds, threshold)
        assert (found.drafts, found.gaps, found.tokens) == (row.drafts[:kept], row.gaps[:kept], row.tokens[:kept])
    assert len(row.drafts) == 3


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"stop_threshold": 0.1}, "has no effect under --improve.stop=rounds"),
    ],
)
def test_knobs_that_improve_nothing_are_refused(knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        catalogue()[IMPROVE].check(settings(**knobs))
