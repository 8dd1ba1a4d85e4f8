"""The policy as a text function, and Self-Refine over it: a tiny network that reviews and rewrites in numbers."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from string import Template
from typing import Any

import jax
import numpy as np
import pytest

from pit_jax.config import Config
from pit_jax.inference.self_refine import PROMPTS as PACKAGED
from pit_jax.inference.self_refine import Refined, Wording, load_wording, reflect, self_refine
from pit_jax.recipes.comparison.draw import POLICY_RL, Answering
from pit_jax.recipes.comparison.refine import Refining, Writer, wording_digest, wording_of
from pit_jax.run.params import Models
from tests.recipes.comparison.conftest import CONFIG

PROMPTS = ["7 8 9", "10", "11 12 13 14 15 16 17", "18 19", "20", "21 22"]
NUMBERS = {
    "feedback": "$prompt 30 $answer",
    "refine": "$prompt 31 $history",
    "history": "3$round $answer 33 $feedback",
    "one_line": "$prompt 34 $answer",
}
WORDING = Wording(**{name: Template(text) for name, text in NUMBERS.items()})
LONGEST = 48
Make = Callable[..., Answering]


@pytest.fixture
def asked(answering: Make) -> Answering:
    return answering(PROMPTS)


@pytest.fixture
def writer(asked: Answering) -> Writer:
    return Writer(asked, 0.8, key=jax.random.key(5), longest=LONGEST)


@pytest.fixture
def refining(answering: Make, tmp_path: Path) -> Callable[..., Refining]:
    """refining(length, folder) -> Self-Refine by the numbers above, in prompts of so many tokens."""

    def make(length: int = 0, folder: str = "answers", texts: dict[str, str] = NUMBERS) -> Refining:
        (tmp_path / "wording").mkdir(exist_ok=True)
        for name, text in texts.items():
            (tmp_path / "wording" / f"{name}.txt").write_text(text)
        knobs = replace(CONFIG.paper, wording=str(tmp_path / "wording"), refine_length=length)
        return Refining(answering(PROMPTS, folder, config=replace(CONFIG, paper=knobs)))

    return make


def ids(text: str) -> list[int]:
    return [int(word) for word in text.split()]


def test_a_reply_is_the_models_answer_to_the_text(asked: Answering, writer: Writer, mesh: Any) -> None:
    """Two batches; the first call draws from fold_in(key, 0), the second from another key."""
    key, params = jax.random.fold_in(jax.random.key(5), 0), asked.source(POLICY_RL).params
    expected = []
    for chunk in asked.texts.chunks(PROMPTS, least=LONGEST + 1):
        expected += asked.texts.answer(params, chunk, key, asked.sampling(0.8))
    found, again = writer(PROMPTS), writer(PROMPTS)
    assert found == [answer.text for answer in expected]
    assert again != found


def test_the_longest_text(writer: Writer, mesh: Any) -> None:
    """As many tokens as a prompt may have, and one more."""
    text = " ".join(["7"] * LONGEST)
    assert writer.count("7 8 9") == 4 and writer.count(text) == writer.limit
    assert len(writer([text])) == 1
    with pytest.raises(ValueError, match="prompt 1 has 49 tokens, the models were trained on at most 48"):
        writer([text + " 7"])


def test_more_tokens_than_in_training_if_asked_for(asked: Answering, mesh: Any) -> None:
    wide = Writer(asked, 0.8, key=jax.random.key(5), longest=60)
    text = " ".join(["7"] * 60)
    assert wide.count(text) == wide.limit
    assert len(wide([text, "8"])) == 2
    with pytest.raises(ValueError, match="prompt 1 has 61 tokens"):
        wide([text + " 7"])


def test_self_refine_with_a_tiny_network(asked: Answering, writer: Writer, mesh: Any) -> None:
    """No review of numbers holds a total score, so all four rounds run, and the last histories outgrow 48 tokens."""
    originals = ["7 8", "", "9 10 11", "12", "13 14", "15"]
    program: Any = asked.texts.engine.complete
    before = program._cache_size()
    writer(["7"])
    rows = self_refine(PROMPTS, originals, writer, writer.count, limit=writer.limit, wording=WORDING)
    for row, prompt, original in zip(rows, PROMPTS, originals, strict=True):
        assert (row.prompt, row.answers[0], row.stopped) == (prompt, original, "rounds")
        assert len(row.answers) == 5 and len(row.reviews) == 4
        assert row.tokens == sum(len(ids(text)) + 1 for text in row.answers + row.reviews)
        assert row.dropped == dropped(row, LONGEST)
    assert sum(row.dropped for row in rows) > 0
    assert len({tuple(row.answers[1:]) for row in rows}) > 1
    assert program._cache_size() <= before + 1, "one compiled program, whatever the prompts"


def dropped(row: Refined, longest: int) -> int:
    """Reviewed answers that did not fit, in plain arithmetic: x, a separator, and 2 + |y_t| + |fb_t| for each."""
    sizes = [2 + len(ids(y)) + len(ids(review)) for y, review in zip(row.answers, row.reviews, strict=False)]
    total = 0
    for t in range(1, len(sizes) + 1):
        kept = max(k for k in range(t + 1) if len(ids(row.prompt)) + 1 + sum(sizes[t - k : t]) <= longest)
        total += t - kept
    return total


def test_one_line_with_a_tiny_network(writer: Writer, mesh: Any) -> None:
    originals = ["7"] * len(PROMPTS)
    rows = reflect(PROMPTS, originals, writer, writer.count, limit=writer.limit, wording=WORDING, rounds=2)
    assert all(len(row.answers) == 3 and not row.reviews and row.stopped == "rounds" for row in rows)
    assert all(row.tokens == sum(len(ids(text)) + 1 for text in row.answers) for row in rows)


def test_rounds_of_self_refine_are_read_from_one_file(
    refining: Callable[..., Refining], mesh: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each round pays for its drafts, reviews and rewrites, and begins at the answers that others improve too."""
    first, second = refining().refined(0.8, 2)
    original = first.reference
    assert original is not None and second.reference is original
    assert (first.replies, second.replies) == (3.0, 5.0), "an answer, then a review and a rewrite a round"
    assert (original.drawn_N < first.drawn_N).all() and (first.drawn_N < second.drawn_N).all()
    names = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "answers").iterdir()}
    assert set(names) == {"policy@0.8.jsonl", "self-refine-x2@0.8.jsonl"}
    monkeypatch.setattr(Models, "load", lambda self, id: pytest.fail(f"{id} was loaded"))
    again = refining().refined(0.8, 2)
    assert [output.answers for output in again] == [first.answers, second.answers]
    assert [output.drawn_N.tolist() for output in again] == [first.drawn_N.tolist(), second.drawn_N.tolist()]
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "answers").iterdir()} == names


def test_a_killed_file_of_self_refine_is_drawn_whole(
    refining: Callable[..., Refining], mesh: Any, tmp_path: Path
) -> None:
    """What it writes for one prompt depends on which others are asked: a part of them is worth nothing."""
    refining().reflected(0.8)
    path = tmp_path / "answers" / "one-line@0.8.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refining().reflected(0.8)
    assert path.read_bytes() == whole


def test_self_refine_without_room_keeps_the_answers(refining: Callable[..., Refining], mesh: Any) -> None:
    """A feedback prompt has more tokens than the seven of the longest prompt."""
    short = refining(length=8, texts=NUMBERS | {"feedback": "$prompt $answer " + " ".join(["30"] * 8)})
    for output in short.refined(0.8, 2):
        assert output.reference is not None and output.texts == output.reference.texts and output.replies == 1.0
        np.testing.assert_array_equal(output.drawn_N, output.reference.drawn_N)


def test_the_wording_of_a_folder_is_asked(refining: Callable[..., Refining], mesh: Any) -> None:
    """Other words, other answers; and the answers to other words are not taken for these."""
    found = refining().reflected(0.8)
    assert found.reference is not None
    assert found.texts != found.reference.texts and (found.drawn_N > found.reference.drawn_N).all()
    with pytest.raises(ValueError, match=r"one-line@0.8.jsonl holds answers .* or of other models or settings"):
        refining(texts=NUMBERS | {"one_line": "$answer 35 $prompt"}).reflected(0.8)


@pytest.mark.parametrize("name", NUMBERS)
def test_a_digest_names_the_words(name: str) -> None:
    """The same of the same words, read again; every file counts."""
    again = Wording(**{name: Template(text) for name, text in NUMBERS.items()})
    assert wording_digest(again) == wording_digest(WORDING)
    assert wording_digest(replace(WORDING, **{name: Template(NUMBERS[name] + " 9")})) != wording_digest(WORDING)


def test_the_packaged_wording_is_asked_unless_another_is_named() -> None:
    assert wording_digest(wording_of(Config())) == wording_digest(load_wording(PACKAGED)) != wording_digest(WORDING)
    with pytest.raises(ValueError, match="feedback.txt: no such file; the wording needs feedback.txt"):
        wording_of(replace(Config(), paper=replace(Config().paper, wording="nowhere")))
