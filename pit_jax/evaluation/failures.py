"""Where improving made things worse: the answers a person should read before believing a mean."""

from typing import Any

import numpy as np

from pit_jax.evaluation.judges import Judge, PointwiseJudge, Texts

SHOWN = 10


def worst(prompts: Texts, before: Texts, after: Texts, judge: Judge, *, count: int = SHOWN) -> list[dict[str, Any]]:
    """The `count` improvements that the judge likes least, worst first; fewer where fewer made things worse.

    A pointwise judge ranks by the fall of its grade, and both grades are told. Any other judge ranks by its judgement
    of `after` against `before`, told as the score after; there is none before. Of equals the first come first.

    Returns:
        Rows of prompt, before, after, score_before, score_after and judge (its name).

    Raises:
        ValueError: the lengths differ, or a score is NaN or infinite.
    """
    gains_N = judge.ask(prompts, after, before).scores_N
    bad = np.flatnonzero(~np.isfinite(gains_N))
    if bad.size:
        raise ValueError(f"judge {judge.name}: {gains_N[bad[0]]} for prompt {bad[0]}; failures need finite scores")
    order = [int(i) for i in np.argsort(gains_N, kind="stable")[:count] if gains_N[i] < 0]
    scores_before: list[float | None] = [None] * len(order)
    scores_after = [float(gains_N[i]) for i in order]
    if isinstance(judge, PointwiseJudge) and order:
        asked = [prompts[i] for i in order]
        scores_before = [float(score) for score in judge.score(asked, [before[i] for i in order])]
        scores_after = [float(score) for score in judge.score(asked, [after[i] for i in order])]
    return [
        {
            "prompt": prompts[i],
            "before": before[i],
            "after": after[i],
            "score_before": score_before,
            "score_after": score_after,
            "judge": judge.name,
        }
        for i, score_before, score_after in zip(order, scores_before, scores_after, strict=True)
    ]
