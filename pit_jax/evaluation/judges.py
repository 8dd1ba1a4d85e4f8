"""Judges say by how much each response is better than its reference answer to the same prompt."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

Texts = Sequence[str]


@dataclass(frozen=True)
class Judgement:
    """What a judge said of N prompts."""

    scores_N: np.ndarray
    """[N]: positive where responses[i] is better than references[i], negative where it is worse."""
    flipped: float | None = None
    """Share of prompts whose verdict changed with the order of the two answers; None where no verdict has an order."""


class Judge(Protocol):
    """The scores of two systems against each other compare with zeros: compare(judgement.scores_N, zeros_N, ...)."""

    @property
    def name(self) -> str: ...

    def ask(self, prompts: Texts, responses: Texts, references: Texts) -> Judgement: ...


@dataclass(frozen=True)
class PointwiseJudge:
    """A judge that grades one answer at a time, such as a rubric or a reward model: the difference of two grades."""

    name: str
    score: Callable[[Texts, Texts], np.ndarray]
    """score(prompts, answers) -> [N]."""

    def ask(self, prompts: Texts, responses: Texts, references: Texts) -> Judgement:
        """Grade of the response minus grade of the reference. ValueError when the lengths differ."""
        _check(self.name, prompts, responses, references)
        return Judgement(_vector(self.score(prompts, responses)) - _vector(self.score(prompts, references)))


@dataclass(frozen=True)
class PairJudge:
    """A judge that looks at both answers, such as the gap model, asked in both orders so that order cannot favour one.

    score = (gap(a | b) - gap(b | a)) / 2: antisymmetric, and 0 for two equal answers whatever the gap's zero is.
    """

    name: str
    gap: Callable[[Texts, Texts, Texts], np.ndarray]
    """gap(prompts, candidates, references) -> [N], the gap of each candidate over its reference."""

    def ask(self, prompts: Texts, responses: Texts, references: Texts) -> Judgement:
        """Symmetrised gap of the response over the reference. ValueError when the lengths differ."""
        _check(self.name, prompts, responses, references)
        forward_N = _vector(self.gap(prompts, responses, references))
        backward_N = _vector(self.gap(prompts, references, responses))
        return Judgement((forward_N - backward_N) / 2.0)


@dataclass(frozen=True)
class OrderedJudge:
    """A judge that only says which of two answers is better, such as a prompted language model. It is asked in both
    orders: a win or a loss counts when both verdicts agree, everything else is a tie (the rule of MT-Bench,
    arXiv 2306.05685), so a judge that always picks one place ties everywhere.
    """

    name: str
    prefer: Callable[[Texts, Texts, Texts], np.ndarray]
    """prefer(prompts, firsts, seconds) -> [N]: 1 where the first is better, -1 where the second is, 0 for a tie."""

    def ask(self, prompts: Texts, responses: Texts, references: Texts) -> Judgement:
        """1, -1 or 0 a prompt, and the share of prompts on which the two orders disagree.

        Raises:
            ValueError: the lengths differ, or a verdict is none of 1, -1 and 0 (an answer nobody could parse is an
                error, not a tie).
        """
        _check(self.name, prompts, responses, references)
        forward_N = self._verdicts(prompts, responses, references)
        backward_N = -self._verdicts(prompts, references, responses)
        agreed_N = forward_N == backward_N
        return Judgement(np.where(agreed_N, forward_N, 0.0), float(np.mean(~agreed_N)))

    def _verdicts(self, prompts: Texts, firsts: Texts, seconds: Texts) -> np.ndarray:
        verdicts_N = _vector(self.prefer(prompts, firsts, seconds))
        bad = np.flatnonzero(~np.isin(verdicts_N, (-1.0, 0.0, 1.0)))
        if verdicts_N.shape != (len(prompts),) or bad.size:
            found = f"{verdicts_N[bad[0]]} at index {bad[0]}" if bad.size else f"shape {verdicts_N.shape}"
            raise ValueError(
                f"judge {self.name}: asked for 1, -1 or 0 for each of {len(prompts)} prompts, found {found}"
            )
        return verdicts_N


def _vector(values: np.ndarray) -> np.ndarray:
    """float64, so that differences of grades are not rounded a second time."""
    return np.asarray(values, np.float64)


def _check(name: str, prompts: Texts, responses: Texts, references: Texts) -> None:
    if not len(prompts) == len(responses) == len(references):
        raise ValueError(
            f"judge {name}: found {len(prompts)} prompts, {len(responses)} responses and {len(references)} references; "
            "pass one of each per prompt"
        )
