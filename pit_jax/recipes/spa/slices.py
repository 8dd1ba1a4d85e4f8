"""Which prompts have gold labels, and which iteration the others belong to: by the hash of a prompt alone."""

from collections.abc import Iterable, Sequence
from itertools import accumulate

from pit_jax.batch import Triple
from pit_jax.config import SpaConfig
from pit_jax.data.folds import point_of
from pit_jax.errors import UserError

FOLD = "rm"  # whose labels reward models, gap models and DPO learn from
GOLD = 0  # the slice of the gold pairs; those of the iterations are 1, 2, ..


def slice_of(prompt: str, config: SpaConfig) -> int:
    """GOLD, or the number of the iteration that answers the prompt. A row that is added changes that of no other."""
    point = point_of(prompt, salt="spa ")
    if point < config.gold_share:
        return GOLD
    place = (point - config.gold_share) / (1.0 - config.gold_share) * sum(config.slices)
    ends = list(accumulate(config.slices))
    return next((number for number, end in enumerate(ends, 1) if place < end), len(ends))


def sliced(triples: Iterable[Triple], config: SpaConfig) -> list[list[int]]:
    """The rows of a fold by slice. UserError for a slice without a row."""
    rows: list[list[int]] = [[] for _ in range(len(config.slices) + 1)]
    for row, triple in enumerate(triples):
        rows[slice_of(triple.prompt, config)].append(row)
    empty = [f"iteration {number}" if number else "the gold pairs" for number, found in enumerate(rows) if not found]
    if empty:
        raise UserError(
            f"--spa.gold-share={config.gold_share:g} and --spa.slices leave {' and '.join(empty)} without a prompt of "
            f"the {sum(map(len, rows)):,} pairs in the fold {FOLD}; give more pairs, a larger share, or fewer slices"
        )
    return rows


def prompts_of(triples: Sequence[Triple], rows: Sequence[int]) -> list[str]:
    """The prompts of these rows, each once, in order."""
    return list(dict.fromkeys(triples[row].prompt for row in rows))
