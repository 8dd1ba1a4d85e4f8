"""A judge of your own, which needs no model: the answer that says more of the prompt's words wins.

pit-jax --fork=examples/forks/overlap_judge.py --stage=judge --evaluate.judges rubric gap overlap
"""

from collections.abc import Sequence

from pit_jax.fork import Judge, fork


def overlap(prompts: Sequence[str], firsts: Sequence[str], seconds: Sequence[str]) -> list[int]:
    """1 where the first answer holds more words of its prompt, -1 where the second does, 0 for as many."""
    verdicts = []
    for prompt, first, second in zip(prompts, firsts, seconds, strict=True):
        words = set(prompt.split())
        held = [len(words & set(answer.replace(".", " ").split())) for answer in (first, second)]
        verdicts.append((held[0] > held[1]) - (held[0] < held[1]))
    return verdicts


fork(Judge("overlap", overlap, kind="verdict", batch=64))
