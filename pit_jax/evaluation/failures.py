"""Where improving made things worse: the answers a person should read before believing a mean."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SHOWN = 10  # of a report's page: what a person reads


@dataclass(frozen=True)
class Failure:
    """One improvement that made things worse; the scores are grades, or of a judge that grades none the judgement."""

    prompt: str
    before: str
    after: str
    score_before: float | None
    score_after: float
    judge: str


def worst(
    prompts: Sequence[str],
    before: Sequence[str],
    after: Sequence[str],
    gains_N: np.ndarray,
    *,
    judge: str,
    grades: tuple[np.ndarray, np.ndarray] | None = None,
    count: int = SHOWN,
) -> list[Failure]:
    """The `count` improvements that a judge likes least, worst first; fewer where fewer made things worse.

    Args:
        gains_N: the judgement of `after` against `before`; of equal ones the first come first.
        judge: its name.
        grades: of a judge that grades, the grades [N] before and after.
    """
    order = [int(i) for i in np.argsort(gains_N, kind="stable")[:count] if gains_N[i] < 0]
    return [
        Failure(
            prompt=prompts[i],
            before=before[i],
            after=after[i],
            score_before=None if grades is None else float(grades[0][i]),
            score_after=float(gains_N[i] if grades is None else grades[1][i]),
            judge=judge,
        )
        for i in order
    ]
