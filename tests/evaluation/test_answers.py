"""Answers on disk: completed after a kill at any byte, extended without touching the rest, refused by another key."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from pit_jax.batch import Answer
from pit_jax.evaluation.answers import AnswerFile, AnswerRow
from pit_jax.evaluation.systems import POLICY, pit

PROMPTS = ["write to Zoë", "line one\nline two \u2028 three", "\N{DIGIT ONE}", 'ask "why"', "🎂 on monday"]
CHUNK = 2


def keys(prompts: Sequence[str]) -> list[str]:
    return [f"key of {prompt}" for prompt in prompts]


def draft(prompt: str, round: int) -> Answer:
    """Every second draft fills its slot without an end."""
    return Answer(f"ä draft {round} of {prompt}", (len(prompt), round, 1), ended=round % 2 == 1)


def draw(
    folder: Path, prompts: Sequence[str] = PROMPTS, rounds: int = 2, *, kill: int | None = None
) -> list[AnswerRow]:
    """What a stage does: the rows of a chunk after the other, those that are whole left as they are.

    With `kill` only so many chunks are drawn, and the file is left as it is then.
    """
    file = AnswerFile(folder, pit(0), 0.8)
    rows = file.rows(prompts, keys(prompts))
    for number, first in enumerate(range(0, len(rows), CHUNK)):
        chunk = rows[first : first + CHUNK]
        if all(len(row.drafts) >= rounds for row in chunk):
            continue
        if number == kill:
            return rows
        for row in chunk:
            for round in range(len(row.drafts) + 1, rounds + 1):
                row.add(draft(row.prompt, round), replies=round)
                row.gaps.append(round / 3)
        file.add(chunk)
    file.close()
    return rows


def path_in(folder: Path) -> Path:
    return folder / "pit@0.8.jsonl"


def test_a_row_comes_back_as_it_was_written(tmp_path: Path) -> None:
    written = draw(tmp_path)
    found = AnswerFile(tmp_path, pit(0), 0.8).rows(PROMPTS, keys(PROMPTS))
    assert found == written and [row.index for row in found] == list(range(5))
    assert found[0].drafts == [draft(PROMPTS[0], 1), draft(PROMPTS[0], 2)]
    assert (found[0].tokens, found[0].replies, found[0].gaps) == ([3, 3], [1, 2], [1 / 3, 2 / 3])
    assert len(path_in(tmp_path).read_bytes().split(b"\n")) == 6, "one line a prompt"


def test_what_was_drawn_for_a_draft_may_be_more_than_its_tokens() -> None:
    row = AnswerRow(0, "p", "k")
    row.add(draft("p", 1), tokens=17, replies=4)
    assert (row.tokens, row.replies) == ([17], [4])


def test_a_file_cut_at_any_byte_is_completed_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of a run, when rows have been appended, and of a finished file; also inside a character."""
    monkeypatch.setattr("os.fsync", lambda handle: None)
    whole, unfinished, prompts = tmp_path / "whole", tmp_path / "unfinished", PROMPTS[:3]
    draw(whole, prompts, 1)
    draw(unfinished, prompts, 1, kill=1)
    expected = path_in(whole).read_bytes()
    for source in (path_in(whole), path_in(unfinished)):
        content = source.read_bytes()
        for place in range(len(content) + 1):
            path_in(tmp_path).write_bytes(content[:place])
            draw(tmp_path, prompts, 1)
            assert path_in(tmp_path).read_bytes() == expected, f"{source}, cut at byte {place}"


def test_a_kill_between_chunks_keeps_what_was_drawn(tmp_path: Path) -> None:
    draw(tmp_path, kill=1)
    found = AnswerFile(tmp_path, pit(0), 0.8).rows(PROMPTS, keys(PROMPTS))
    assert [len(row.drafts) for row in found] == [2, 2, 0, 0, 0]


def test_more_rounds_and_more_prompts_equal_all_at_once(tmp_path: Path) -> None:
    at_once, later = tmp_path / "once", tmp_path / "later"
    draw(at_once, PROMPTS, 5)
    draw(later, PROMPTS[:3], 3)
    before = AnswerFile(later, pit(0), 0.8).rows(PROMPTS[:3], keys(PROMPTS[:3]))
    draw(later, PROMPTS[:3], 5)
    draw(later, PROMPTS, 5)
    assert path_in(later).read_bytes() == path_in(at_once).read_bytes()
    for old, new in zip(before, AnswerFile(later, pit(0), 0.8).rows(PROMPTS, keys(PROMPTS)), strict=False):
        assert new.drafts[:3] == old.drafts and new.gaps[:3] == old.gaps and new.tokens[:3] == old.tokens


def test_who_asks_for_less_reads_and_writes_nothing(tmp_path: Path) -> None:
    draw(tmp_path, PROMPTS, 5)
    before = path_in(tmp_path).stat().st_mtime_ns, path_in(tmp_path).read_bytes()
    assert [len(row.drafts) for row in draw(tmp_path, PROMPTS[:2], 3)] == [5, 5]
    assert (path_in(tmp_path).stat().st_mtime_ns, path_in(tmp_path).read_bytes()) == before


@pytest.mark.parametrize(
    ("prompts", "others"),
    [(PROMPTS, ["another"]), (["another", *PROMPTS[1:]], keys(PROMPTS)[:1])],
    ids=["key", "prompt"],
)
def test_answers_of_another_key_are_refused(tmp_path: Path, prompts: list[str], others: list[str]) -> None:
    draw(tmp_path)
    content = path_in(tmp_path).read_bytes()
    with pytest.raises(ValueError) as told:
        AnswerFile(tmp_path, pit(0), 0.8).rows(prompts, [*others, *keys(PROMPTS)[1:]])
    for part in (str(path_in(tmp_path)), "(prompt 0)", "delete it to draw them again, or use another --workdir"):
        assert part in str(told.value)
    assert path_in(tmp_path).read_bytes() == content


def test_each_system_and_temperature_has_a_file(tmp_path: Path) -> None:
    names = [AnswerFile(tmp_path, *which).path.name for which in ((POLICY, 1.0), (pit(0), 0.4), (POLICY, 0.0))]
    assert names == ["policy@1.jsonl", "pit@0.4.jsonl", "policy@0.jsonl"]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"drafts": 3}, r"Expected `array`, got `int` - at `\$.drafts`"),
        ({"index": None}, r"Expected `int`, got `null` - at `\$.index`"),
    ],
)
def test_a_row_that_is_no_answer_is_named(tmp_path: Path, change: dict[str, object], found: str) -> None:
    row = {"index": 0, "prompt": "p", "key": "k", "drafts": []} | change
    path_in(tmp_path).write_text(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=rf"pit@0.8.jsonl: a row that is no answer \({found}.*\); delete the file"):
        AnswerFile(tmp_path, pit(0), 0.8)


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    draw(tmp_path)
    lines = path_in(tmp_path).read_text().split("\n")
    path_in(tmp_path).write_text("\n".join([lines[0], lines[1][:20], *lines[2:]]))
    with pytest.raises(ValueError, match=r"pit@0.8.jsonl, line 2: asked for a JSON object, found"):
        AnswerFile(tmp_path, pit(0), 0.8)
