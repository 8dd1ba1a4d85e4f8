"""Pairs of a model's own answers: what is asked, how the judge grades, what is labelled, and a draw that goes on."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from pit_jax.batch import Answer
from pit_jax.data.layouts import pairs
from pit_jax.evaluation.answers import AnswerRow
from pit_jax.evaluation.judges.builtin import JUDGES
from pit_jax.evaluation.judges.judge import Judge
from pit_jax.forks import load_forks, unload_forks
from tests import tiny_checkpoint

ROOT = Path(__file__).resolve().parents[2]
FORK = ROOT / "examples" / "forks" / "sentiment_judge.py"
WORDS = Judge("words", lambda prompts, answers: [len(answer.split()) for answer in answers])


@pytest.fixture(scope="module")
def samples() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pairs_of_samples", ROOT / "examples" / "pairs_of_samples.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def dialogues(tmp_path: Path) -> Path:
    """Two dialogues in the form of HH-RLHF, with a turn that both have and one that is too short."""
    return written(tmp_path, ("how do i bake bread", "why?"), ("How do I bake  bread", "and what about cake"))


def written(folder: Path, *turns: tuple[str, str]) -> Path:
    path = folder / "hh.jsonl"
    with path.open("w") as file:
        for first, second in turns:
            before = f"\n\nHuman: {first}\n\nAssistant: Like this.\n\nHuman: {second}\n\nAssistant: "
            file.write(json.dumps({"chosen": before + "Well.", "rejected": before + "No."}) + "\n")
    return path


def command(folder: Path, dialogues: Path, *more: str) -> list[str]:
    names = [f"--base={folder / 'base'}", f"--prompts=hh:{dialogues}", f"--fork={FORK}", "--judge=sentiment"]
    return [*names, f"--out={folder / 'out' / 'pairs.jsonl'}", "--tokens=8", "--rows=16", *more]


def test_a_turn_is_asked_once_and_by_itself(samples: ModuleType, dialogues: Path, tmp_path: Path) -> None:
    asked = samples.asked(samples.flags(command(tmp_path, dialogues, "--request=Be brief.")))
    assert asked == ["how do i bake bread\nBe brief.", "and what about cake\nBe brief."]
    first = samples.flags(command(tmp_path, dialogues, "--request=", "--first-turns"))
    assert samples.asked(first) == ["how do i bake bread"]


def test_a_positive_answer_grades_higher_and_an_empty_one_lowest() -> None:
    load_forks([str(FORK)])
    try:
        texts = ["I love this, what a great idea.", "It is made of wood, I think.", "I hate this terrible idea.", ""]
        grades = JUDGES["sentiment"].score(["x"] * 5, [*texts, "Great, wonderful, superb!"])
    finally:
        unload_forks()
    assert 0.8 < grades[0] < 1 and grades[1] == 0 and -1 < grades[2] < -0.7
    assert grades[3:] == [-1, -1], "what says nothing, or next to nothing, earns nothing"


def test_a_label_is_a_noisy_draw_of_the_seed_and_the_number(samples: ModuleType) -> None:
    def row(index: int, *texts: str, ended: bool = True) -> AnswerRow:
        return AnswerRow(index, "x", "", [Answer(text, (), ended) for text in texts])

    rows = [row(index, "one two", "one") for index in range(400)]
    triples = [pairs(line) for line in samples.labelled(rows, WORDS, 1.0, 0)]
    right = [triple.chosen == "one two" for triple in triples]
    assert 0.68 < sum(right) / 400 < 0.78  # sigmoid(1) = 0.73
    again = [pairs(line) for line in samples.labelled(rows[100:], WORDS, 1.0, 0)]
    assert again == triples[100:] != [pairs(line) for line in samples.labelled(rows[100:], WORDS, 1.0, 1)]
    useless = row(0, "one", "two"), row(1, "one two", "one", ended=False), row(2, "one", " ")
    assert samples.labelled(useless, WORDS, 1.0, 0) == []


def test_a_draw_goes_on_where_it_ended(samples: ModuleType, tmp_path: Path) -> None:
    tiny_checkpoint.write(tmp_path / "base")
    given = command(tmp_path, written(tmp_path, *((f"what is number {n}", "why?") for n in range(40))))
    samples.main(given)
    answers = tmp_path / "out" / "policy@1.jsonl"
    whole = answers.read_bytes()
    assert whole.count(b'"ended"') == 80
    answers.unlink()
    samples.main([*given, "--count=20"])  # a part of the first of two chunks
    samples.main(given)
    assert answers.read_bytes() == whole
