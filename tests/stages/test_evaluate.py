from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pit_jax.config import Config, EvaluateConfig, ImproveConfig
from pit_jax.evaluation.judges import Judge, OrderedJudge, PointwiseJudge, Texts
from pit_jax.stages.evaluate import control_rows, headline_temperature, judged, pairs_of
from pit_jax.stages.outputs import Output, describe

CONFIG = Config(evaluate=EvaluateConfig(tie_margin=1.0, resamples=200))


def words(prompts: Texts, answers: Texts) -> np.ndarray:
    return np.array([len(answer.split()) for answer in answers], float)


def output(*texts: str, reference: Output | None = None) -> Output:
    ended_N = np.array([text != "" for text in texts])
    lengths_N = words([], texts) + 1
    return Output(list(texts), lengths_N, ended_N, lengths_N, reference=reference)


def test_a_system_is_described_against_what_it_improved() -> None:
    """Lengths 4, 3, 1: mean 8 / 3. One of three copies. Edits: 0, 1 of 2 words, 1 of 1: mean 0.5. Scores 1, 2, 6."""
    before = output("7 8 9", "7 8", "7")
    after = output("7 8 9", "7 9", "", reference=before)
    row = describe("PIT x1", 0.8, after, np.array([1.0, 2.0, 6.0]))
    assert (row["name"], row["temperature"]) == ("PIT x1", 0.8)
    numbers = [row[name] for name in ("length_mean", "eos_rate", "copy_rate", "edit_distance", "score_mean")]
    assert numbers == pytest.approx([8 / 3, 2 / 3, 1 / 3, 0.5, 3.0])
    assert describe("policy", 0.8, before, None)["edit_distance"] is None


def test_a_row_holds_the_comparison_its_lengths_and_the_flips() -> None:
    """Word differences 2, 1, 0, -3 with a margin of 1: a win, two ties, a loss. The same in tokens."""
    left, right = output("7 8 9", "7 8", "7", "7"), output("7", "7", "7", "7 8 9 10")
    found, row = judged(CONFIG, PointwiseJudge("words", words), ["p"] * 4, left, right)
    shares = row["win"], row["tie"], row["lose"], row["delta"], row["n"]
    assert shares == (found.win, found.tie, found.lose, found.delta, found.n) == (25.0, 50.0, 25.0, 0.0, 4)
    lengths = row["left_tokens"], row["right_tokens"], row["win_tokens"], row["lose_tokens"]
    assert lengths == (11 / 4, 11 / 4, 2.0, -3.0)
    assert row["lc_low"] <= row["lc_win_rate"] <= row["lc_high"]
    assert row["flipped"] is None
    first = OrderedJudge("first", lambda prompts, firsts, seconds: np.ones(len(prompts)))
    assert judged(CONFIG, first, ["p"] * 4, left, right)[1]["flipped"] == 1.0


def test_the_controls_tell_what_a_judge_likes(context: Any, make_mesh: Any) -> None:
    """Three words said twice are three tokens longer; a judge of length is caught, one of content is not."""
    content = PointwiseJudge("content", lambda prompts, answers: np.array([len(set(a.split())) for a in answers]))
    judges: list[Judge] = [content, PointwiseJudge("words", words)]
    rows = control_rows(
        context(replace(CONFIG, evaluate=EvaluateConfig()), make_mesh(1, 1, 1)), judges, ["p"] * 20, ["7 8 9"] * 20
    )
    assert [(row["judge"], row["left"], row["delta"], row["holds"]) for row in rows] == [
        ("content", "longest", 0.0, True),
        ("content", "copy", 0.0, True),
        ("content", "empty", -100.0, True),
        ("words", "longest", 100.0, False),
        ("words", "copy", 0.0, True),
        ("words", "empty", -100.0, True),
    ]
    assert [(row["left_tokens"], row["right_tokens"]) for row in rows[:3]] == [(7.0, 4.0), (4.0, 4.0), (1.0, 4.0)]


@pytest.mark.parametrize(
    ("temperatures", "headline"), [((0.4, 0.8, 1.0), 0.8), ((0.4, 1.0), 0.4), ((), 0.8), ((0.8,), 0.8)]
)
def test_the_headline_is_a_temperature_that_is_evaluated(temperatures: tuple[float, ...], headline: float) -> None:
    config = Config(evaluate=EvaluateConfig(temperatures=temperatures), improve=ImproveConfig(temperature=0.8))
    assert headline_temperature(config) == headline


def test_the_last_improvement_meets_the_first() -> None:
    assert ("PIT x3", "PIT x1") in pairs_of(3)
    assert all(left != right for left, right in pairs_of(1))
