"""Judges say by how much each response is better than its reference answer to the same prompt."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

Texts = Sequence[str]


class Judge(Protocol):
    """`scores` returns [N]: positive where responses[i] is better than references[i], negative where it is worse.

    The scores of two systems against each other compare with zeros:
    compare(judge.scores(prompts, left, right), zeros_N, ...).
    """

    @property
    def name(self) -> str: ...

    def scores(self, prompts: Texts, responses: Texts, references: Texts) -> np.ndarray: ...


@dataclass(frozen=True)
class PointwiseJudge:
    """A judge that grades one answer at a time, such as a rubric or a reward model: the difference of two grades."""

    name: str
    score: Callable[[Texts, Texts], np.ndarray]
    """score(prompts, answers) -> [N]."""

    def scores(self, prompts: Texts, responses: Texts, references: Texts) -> np.ndarray:
        """[N] grade of the response minus grade of the reference. ValueError when the lengths differ."""
        _check(self.name, prompts, responses, references)
        return _vector(self.score(prompts, responses)) - _vector(self.score(prompts, references))


@dataclass(frozen=True)
class PairJudge:
    """A judge that looks at both answers, such as the gap model, asked in both orders so that order cannot favour one.

    score = (gap(a | b) - gap(b | a)) / 2: antisymmetric, and 0 for two equal answers whatever the gap's zero is.
    """

    name: str
    gap: Callable[[Texts, Texts, Texts], np.ndarray]
    """gap(prompts, candidates, references) -> [N], the gap of each candidate over its reference."""

    def scores(self, prompts: Texts, responses: Texts, references: Texts) -> np.ndarray:
        """[N] symmetrised gap of the response over the reference. ValueError when the lengths differ."""
        _check(self.name, prompts, responses, references)
        forward_N = _vector(self.gap(prompts, responses, references))
        backward_N = _vector(self.gap(prompts, references, responses))
        return (forward_N - backward_N) / 2.0


def _vector(values: np.ndarray) -> np.ndarray:
    """float64, so that differences of grades are not rounded a second time."""
    return np.asarray(values, np.float64)


def _check(name: str, prompts: Texts, responses: Texts, references: Texts) -> None:
    if not len(prompts) == len(responses) == len(references):
        raise ValueError(
            f"judge {name}: found {len(prompts)} prompts, {len(responses)} responses and {len(references)} references; "
            "pass one of each per prompt"
        )
