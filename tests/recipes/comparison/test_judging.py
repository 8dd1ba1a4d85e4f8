"""What judges say of a run's systems: asked once, in pieces, and never of answers that nobody drew."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pit_jax.batch import Answer
from pit_jax.config import Config, EvaluateConfig
from pit_jax.evaluation.judges.builtin import GAP, GAP_MODEL, JUDGES
from pit_jax.evaluation.judges.judge import Bench, Judge
from pit_jax.evaluation.systems import POLICY, Output, SystemId, pit
from pit_jax.files import read_jsonl
from pit_jax.recipes.comparison.draw import REWARD, Answering
from pit_jax.recipes.comparison.judging import Judging
from pit_jax.run.params import Models
from pit_jax.table import Source, forget
from tests.recipes.comparison.conftest import CONFIG
from tests.world import finish

PROMPTS = ["7 8 9", "10", "11 12", "13 14 15 16", "17", "18 19", "20 21 22", "23", "24 25", "26"]
PAIR = pit(1), POLICY
Make = Callable[..., Answering]
Texts = Sequence[str]


def words(prompts: Texts, answers: Texts) -> list[float]:
    return [float(len(answer.split())) for answer in answers]


def content(prompts: Texts, answers: Texts) -> list[float]:
    return [float(len(set(answer.split()))) for answer in answers]


def total(prompts: Texts, answers: Texts) -> list[float]:
    """The sum of an answer's numbers: random answers differ in it, and hardly in their length."""
    return [float(sum(map(int, answer.split()))) for answer in answers]


def larger(prompts: Texts, firsts: Texts, seconds: Texts) -> list[float]:
    return [float(np.sign(a - b)) for a, b in zip(total(prompts, firsts), total(prompts, seconds), strict=True)]


def judged_by(*names: str, **knobs: Any) -> Config:
    return replace(CONFIG, evaluate=replace(CONFIG.evaluate, judges=names, **knobs))


def trail(asked: Answering) -> dict[SystemId, Output]:
    return dict(zip((POLICY, pit(1)), asked.trail(0.8, 1), strict=True))


def by_hand(*texts: str) -> Output:
    answers = [Answer(text, (*map(int, text.split()), 1)) for text in texts]
    return Output(answers, [f"k{i}" for i in range(len(texts))], np.ones(len(texts)))


def test_all_three_kinds_of_judges_at_once(
    answering: Make, mesh: Any, declare: Callable[[Judge], Judge], tmp_path: Path
) -> None:
    """A grade and a verdict of the same thing agree; the gap asks the run's own model, in both orders."""
    declare(Judge("total", total))
    declare(Judge("larger", larger, kind="verdict"))
    asked = answering(PROMPTS, config=judged_by("total", "larger", "gap"))
    outputs, judging = trail(asked), Judging(asked)
    assert [judge.name for judge in judging.judges] == ["total", "larger", "gap"]
    rows = judging.rows([PAIR], outputs, 0.8)
    assert [(row.judge, row.n, row.left, row.right) for row in rows] == [
        (name, 10, *PAIR) for name in ("total", "larger", "gap")
    ]
    assert (rows[0].win, rows[0].lose) == (rows[1].win, rows[1].lose) and rows[0].win > 0 < rows[0].lose
    assert [row.flipped for row in rows] == [None, 0.0, None]
    params, sides = Models(asked.context).load(GAP_MODEL), [outputs[system].answers for system in PAIR]
    gaps = asked.texts.gaps(params, PROMPTS, *sides) - asked.texts.gaps(params, PROMPTS, *reversed(sides))
    told = read_jsonl(tmp_path / "verdicts" / "gap" / "pit-x1~policy@0.8.jsonl")
    np.testing.assert_allclose([row["score"] for row in told], gaps / 2, atol=1e-6)
    assert rows[2].win == pytest.approx(100 * np.mean(gaps > 0))


def test_a_judge_that_was_killed_goes_on_where_it_stopped(
    answering: Make, mesh: Any, declare: Callable[[Judge], Judge]
) -> None:
    """Ten prompts, three at a time, in both orders: killed at the second piece, it is asked of the last seven."""
    calls: list[int] = []
    alive = [3]  # calls until it is killed: two of the first piece, one of the second

    def slow(prompts: Texts, firsts: Texts, seconds: Texts) -> list[float]:
        if not alive[0]:
            raise KeyboardInterrupt
        alive[0] -= 1
        calls.append(len(prompts))
        return larger(prompts, firsts, seconds)

    declare(Judge("slow", slow, kind="verdict", batch=3))
    asked = answering(PROMPTS, config=judged_by("slow"))
    outputs = trail(asked)
    with pytest.raises(KeyboardInterrupt):
        Judging(asked).row(JUDGES["slow"], PAIR, outputs, 0.8)
    assert calls == [3, 3, 3]
    calls.clear()
    alive[0] = 100
    first = Judging(asked).row(JUDGES["slow"], PAIR, outputs, 0.8)
    assert calls == [3, 3, 3, 3, 1, 1]
    calls.clear()
    assert Judging(answering(PROMPTS, config=judged_by("slow"))).row(JUDGES["slow"], PAIR, outputs, 0.8) == first
    assert calls == []


def test_no_model_is_asked_for_what_was_said_before(
    answering: Make, mesh: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = answering(PROMPTS)
    outputs = trail(asked)
    first = Judging(asked).row(GAP, PAIR, outputs, 0.8)
    again = answering(PROMPTS)
    outputs = trail(again)
    monkeypatch.setattr(Models, "load", lambda self, id: pytest.fail(f"{id} was loaded"))
    assert Judging(again, models=False).row(GAP, PAIR, outputs, 0.8) == first


def test_without_models_a_judge_that_asks_them_names_the_stage_to_run(answering: Make, mesh: Any) -> None:
    asked = answering(PROMPTS)
    with pytest.raises(ValueError) as told:
        Judging(asked, models=False).row(GAP, PAIR, trail(asked), 0.8)
    for part in (
        "verdicts/gap/pit-x1~policy@0.8.jsonl lacks verdicts",
        "judge gap",
        "--stage=evaluate",
        "leave it out",
    ):
        assert part in str(told.value)


def test_another_gap_model_is_asked_anew(answering: Make, mesh: Any) -> None:
    """Its verdicts are its own: those of the model before are not taken for them."""
    asked = answering(PROMPTS)
    outputs = trail(asked)
    Judging(asked).row(GAP, PAIR, outputs, 0.8)
    other = answering(PROMPTS)
    finish(other.context.folder_of(GAP_MODEL), "another digest")
    with pytest.raises(ValueError, match="lacks verdicts"):
        Judging(other, models=False).row(GAP, PAIR, outputs, 0.8)


def test_a_judge_whose_code_changed_is_asked_anew(answering: Make, mesh: Any, tmp_path: Path) -> None:
    """Its file is the same, and holds what the code of today says."""
    asked, scores = answering(PROMPTS, config=judged_by("mine")), []
    outputs = trail(asked)
    for digest, sign in (("0" * 12, 1.0), ("1" * 12, -1.0)):
        source = Source(tmp_path / "mine.py", digest)
        JUDGES.add(
            Judge("mine", lambda prompts, answers, sign=sign: [sign * n for n in total(prompts, answers)]), source
        )
        scores.append(Judging(asked).judgement(JUDGES["mine"], PAIR, outputs, 0.8).scores_N)
        forget(source)
    assert scores[0].any() and (scores[0] == -scores[1]).all()
    assert len((tmp_path / "verdicts" / "mine" / "pit-x1~policy@0.8.jsonl").read_text().splitlines()) == len(PROMPTS)


def test_a_forks_judge_with_needs_gets_its_models(
    answering: Make, mesh: Any, declare: Callable[[Judge], Judge]
) -> None:
    seen: list[Any] = []

    def asking(bench: Bench, prompts: Texts, answers: Sequence[Answer]) -> np.ndarray:
        seen.append(sorted(map(str, bench.models)))
        return bench.texts.scores(bench.models[REWARD], prompts, answers)

    declare(Judge("mine", asking, needs=(REWARD,)))
    asked = answering(PROMPTS, config=judged_by("mine"))
    outputs = trail(asked)
    row = Judging(asked).row(JUDGES["mine"], PAIR, outputs, 0.8)
    scores = [asked.texts.scores(asked.source(REWARD).params, PROMPTS, outputs[system].answers) for system in PAIR]
    assert seen == [["rm-policy"]] * 2 and row.win == pytest.approx(100 * np.mean(scores[0] > scores[1]))


def test_the_controls_tell_what_a_judge_likes(
    answering: Make, declare: Callable[[Judge], Judge], tmp_path: Path
) -> None:
    """Three words said twice are three tokens longer; a judge of length is caught, one of content is not.

    Answers that are all alike make a copy of `another`, which no judge can tell.
    """
    declare(Judge("content", content))
    declare(Judge("words", words))
    asked = answering(["7"] * 20, config=replace(CONFIG, evaluate=EvaluateConfig(judges=("content", "words"))))
    controls = Judging(asked).controls(POLICY, {POLICY: by_hand(*["7 8 9"] * 20)}, 0.8)
    assert [(each.row.judge, str(each.row.left), each.row.delta, each.holds) for each in controls] == [
        ("content", "longest", 0.0, True),
        ("content", "copy", 0.0, True),
        ("content", "empty", -100.0, True),
        ("content", "another", 0.0, False),
        ("content", "cut", -100.0, True),
        ("words", "longest", 100.0, False),
        ("words", "copy", 0.0, True),
        ("words", "empty", -100.0, True),
        ("words", "another", 0.0, False),
        ("words", "cut", -100.0, True),
    ]
    rows = [each.row for each in controls[:5]]
    assert [(row.left_tokens, row.right_tokens) for row in rows] == [
        (tokens, 4.0) for tokens in (7.0, 4.0, 1.0, 4.0, 3.0)
    ]
    assert sorted(path.name for path in (tmp_path / "verdicts" / "words").iterdir()) == [
        f"control-{name}~policy@0.8.jsonl" for name in ("another", "copy", "cut", "empty", "longest")
    ]


def test_a_copy_is_the_very_answer_for_a_judge_of_tokens(answering: Make, declare: Callable[[Judge], Judge]) -> None:
    """An answer that filled its slot without an end, and is said again, is no other answer."""
    seen: list[Any] = []

    def asking(bench: Bench, prompts: Texts, answers: Sequence[Answer]) -> list[float]:
        seen.append(list(answers))
        return [0.0] * len(prompts)

    declare(Judge("mine", asking, needs=(GAP_MODEL,)))
    asked = answering(["7"], config=judged_by("mine"))
    unfinished = Output([Answer("7 8", (7, 8), ended=False)], ["k"], np.ones(1))
    Judging(asked).controls(POLICY, {POLICY: unfinished}, 0.8)
    longest, original, copy = seen[0], seen[1], seen[2]
    assert original == copy == [Answer("7 8", (7, 8), ended=False)]
    assert longest == [Answer("7 8 7 8", (7, 8, 7, 8, 1))]
