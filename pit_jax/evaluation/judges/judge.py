"""Judges say by how much each left answer is better than the right answer to the same prompt."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pit_jax.batch import Answer
from pit_jax.config import Config
from pit_jax.errors import UserError
from pit_jax.inference.texts import TextEngine
from pit_jax.model.networks import Params
from pit_jax.run.provenance import StageId

Answers = Sequence[Answer]
VERDICTS = (-1.0, 0.0, 1.0)


@dataclass(frozen=True)
class Judgement:
    """What a judge said of N prompts."""

    scores_N: np.ndarray
    """[N]: positive where left is better, negative where it is worse."""
    flipped_N: np.ndarray | None = None
    """[N] whether the verdict changed with the order of the two answers; None where no verdict has an order."""

    @property
    def flipped(self) -> float | None:
        """The share of prompts whose verdict changed with the order."""
        return None if self.flipped_N is None else float(np.mean(self.flipped_N))


@dataclass(frozen=True)
class Bench:
    """What a judge that asks the run's own models is given: the parameters of the stages it needs, and an engine."""

    texts: TextEngine
    models: Mapping[StageId, Params]


def everywhere(config: Config) -> bool:
    """Of a judge that can judge any answer."""
    return True


@dataclass(frozen=True)
class Judge:
    """A judge by name. Which of three questions `score` answers is its `kind`; all get lists and return N numbers.

    grade      score(prompts, answers): how good each is. The judgement is the difference of two grades.
    gap        score(prompts, candidates, references): by how much each candidate is better. Asked in both orders and
               halved, (g(a | b) - g(b | a)) / 2: antisymmetric, and 0 for two equal answers whatever the gap's zero is.
    verdict    score(prompts, firsts, seconds): 1 where the first is better, -1 where the second is, 0 for a tie. Asked
               in both orders: a win or a loss counts when both agree, everything else is a tie (the rule of MT-Bench,
               arXiv 2306.05685), so a judge that always picks one place ties everywhere.

    Answers are texts. A judge with `needs` gets a Bench first, and answers as batch.Answer, with their tokens.
    """

    name: str
    score: Callable[..., Any]
    kind: Literal["grade", "gap", "verdict"] = "grade"
    batch: int = 256
    """Prompts asked at once; what it said of them is on disk before it is asked more."""
    needs: tuple[StageId, ...] = ()
    """Stages whose models it asks."""
    applies: Callable[[Config], bool] = everywhere
    """Whether it can judge the answers of a run."""


def ask(judge: Judge, prompts: Sequence[str], left: Answers, right: Answers, bench: Bench | None = None) -> Judgement:
    """What a judge says of left against right.

    Raises:
        UserError: not one answer a prompt, not one finite number each, or of a verdict another one than 1, -1 and 0
            (an answer that nobody could parse is an error, not a tie).
    """
    if not len(prompts) == len(left) == len(right):
        raise UserError(
            f"judge {judge.name}: found {len(prompts)} prompts, {len(left)} left and {len(right)} right answers; pass "
            "one of each per prompt"
        )
    match judge.kind:
        case "grade":
            return Judgement(grades(judge, prompts, left, bench) - grades(judge, prompts, right, bench))
        case "gap":
            forward_N = _asked(judge, bench, prompts, left, right)
            return Judgement((forward_N - _asked(judge, bench, prompts, right, left)) / 2.0)
        case "verdict":
            forward_N = _asked(judge, bench, prompts, left, right)
            backward_N = -_asked(judge, bench, prompts, right, left)
            flipped_N = forward_N != backward_N
            return Judgement(np.where(flipped_N, 0.0, forward_N), flipped_N)


def grades(judge: Judge, prompts: Sequence[str], answers: Answers, bench: Bench | None = None) -> np.ndarray:
    """The grade of each answer by a judge of that kind, [N]. UserError as `ask`."""
    assert judge.kind == "grade", f"judge {judge.name} grades no answer by itself"
    return _asked(judge, bench, prompts, answers)


def _asked(judge: Judge, bench: Bench | None, prompts: Sequence[str], *sides: Answers) -> np.ndarray:
    """float64, so that differences of grades are not rounded a second time."""
    if judge.needs:
        assert bench is not None, f"judge {judge.name} asks models"
        scores = judge.score(bench, list(prompts), *sides)
    else:
        scores = judge.score(list(prompts), *([answer.text for answer in side] for side in sides))
    values_N = np.asarray(scores, np.float64)
    if values_N.shape != (len(prompts),):
        raise UserError(
            f"judge {judge.name}: asked for a number for each of {len(prompts)} prompts, found shape {values_N.shape}"
        )
    bad = np.flatnonzero(~np.isin(values_N, VERDICTS) if judge.kind == "verdict" else ~np.isfinite(values_N))
    if bad.size:
        wanted = "1, -1 or 0" if judge.kind == "verdict" else "a finite number"
        raise UserError(
            f"judge {judge.name}: asked for {wanted}, found {values_N[bad[0]]} for the prompt "
            f"{prompts[int(bad[0])]!r:.200}"
        )
    return values_N
