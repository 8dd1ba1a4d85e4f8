"""A text reward of your own beside the gap: every word over a limit costs.

pit-jax --fork=examples/forks/short_reward.py --stage=rl --rl.improver-rewards short:0.1
"""

from collections.abc import Sequence

from pit_jax.fork import RewardRow, TextReward, fork

LIMIT = 30  # words


def short(prompts: Sequence[str], responses: Sequence[str], rows: Sequence[RewardRow]) -> list[float]:
    """Minus the words over LIMIT, where the reference was not as long itself."""
    return [
        float(min(0, max(LIMIT, len(row.reference.split())) - len(response.split())))
        for response, row in zip(responses, rows, strict=True)
    ]


fork(TextReward("short", short, weight=0.05))
