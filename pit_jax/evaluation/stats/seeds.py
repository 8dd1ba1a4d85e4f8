"""One analysis over several seeds: every comparison and system by its mean, its spread and an interval of the mean."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from pit_jax.errors import UserError
from pit_jax.files import Row

NAMES = {"delta": ("judge", "left", "right"), "score_mean": ("name",)}  # what tells rows of a temperature apart
HEADLINES = ("rows", "table")  # lists that are read first


@dataclass(frozen=True)
class Spread:
    """One number over seeds: its mean, the standard deviation between seeds (divisor S - 1), the 95% interval
    [low, high] of the mean, and the seeds that lie farthest apart."""

    mean: float
    sd: float
    low: float
    high: float
    smallest: float
    largest: float


def spread(values_S: Sequence[float]) -> Spread:
    """Mean, standard deviation and the interval mean +- t sd / sqrt(S), t at S - 1 degrees of freedom; S >= 2.

    The interval says where the mean over all seeds lies, if seeds scatter as a normal variable does. With few seeds it
    is wide, as it should be: t is 12.7 for two, 4.3 for three and 2.8 for five. By hand: 1, 2 and 6 have mean 3 and
    sd sqrt((4 + 1 + 9) / 2) = 2.6458, so the interval is 3 -+ 4.3027 * 2.6458 / sqrt(3) = 3 -+ 6.572.
    """
    assert len(values_S) >= 2, "one seed has no spread"
    mean, sd = float(np.mean(values_S)), float(np.std(values_S, ddof=1))
    half = float(stats.t.ppf(0.975, len(values_S) - 1)) * sd / math.sqrt(len(values_S))
    return Spread(mean, sd, mean - half, mean + half, float(min(values_S)), float(max(values_S)))


def aggregate(results: Mapping[int, Mapping[str, Any]], *, file: str) -> dict[str, list[Row]]:
    """The lists of comparisons (rows with judge, left, right, delta) and of systems (name, score_mean) in a
    results.json, over the seeds it was made with.

    Args:
        results: by seed, the content of the same file.
        file: what an error calls it.

    Returns:
        By the name of the list, headlines first, its rows in order: temperature and n (None where the rows have none),
        the other names, the fields of a Spread, `values` (one a seed, in their order) and, of comparisons, `above`: in
        how many seeds the seed's own interval is above 0. Rows without a number, such as the score of data without a
        truth, are left out.

    Raises:
        UserError: a seed lacks a row that another one has, has it twice, or over another number of prompts.
    """
    tables: dict[str, list[Row]] = {}
    list_names = dict.fromkeys(name for content in results.values() for name in content)
    for name in sorted(list_names, key=lambda name: name not in HEADLINES):
        for field, names in NAMES.items():
            rows = {seed: _rows(content.get(name), (*names, field)) for seed, content in results.items()}
            if any(rows.values()):
                tables[name] = _table(rows, field, ("temperature", *names), where=f"{file}, {name}")
    return tables


def _rows(content: Any, required: Sequence[str]) -> list[Row]:
    """The rows that hold what is required."""
    rows = content if isinstance(content, list) else []
    return [row for row in rows if isinstance(row, dict) and all(row.get(name) is not None for name in required)]


def _table(rows: Mapping[int, list[Row]], field: str, names: Sequence[str], *, where: str) -> list[Row]:
    """One row for each combination of names that a seed has; every seed must have it once."""
    keys = {seed: [tuple(row.get(name) for name in names) for row in seed_rows] for seed, seed_rows in rows.items()}
    table = []
    for key in dict.fromkeys(key for seed_keys in keys.values() for key in seed_keys):
        what = ", ".join(f"{name} {value}" for name, value in zip(names, key, strict=True) if value is not None)
        for seed, seed_keys in keys.items():
            if (times := seed_keys.count(key)) != 1:
                raise UserError(
                    f"seed {seed}: {where}: found {times} rows of {what}, asked for one in every seed; "
                    "run every seed with the same knobs"
                )
        matched = [seed_rows[keys[seed].index(key)] for seed, seed_rows in rows.items()]
        counts = [row.get("n") for row in matched]
        if len(set(counts)) > 1:
            listed = ", ".join(f"{n} in seed {seed}" for seed, n in zip(rows, counts, strict=True))
            raise UserError(f"{where}: {what} is over different prompts ({listed}); run every seed with the same knobs")
        values = [float(row[field]) for row in matched]
        row = dict(zip(names, key, strict=True)) | asdict(spread(values)) | {"values": values, "n": counts[0]}
        table.append(row | ({"above": sum(seed_row["low"] > 0 for seed_row in matched)} if field == "delta" else {}))
    return table


def curve_over(curves: Sequence[tuple[Sequence[int], Sequence[float]]]) -> tuple[list[int], list[Spread]]:
    """(steps, spread at each) over the (steps, values) of every seed, at the steps that all of them have."""
    by_step = [dict(zip(steps, values, strict=True)) for steps, values in curves]
    shared = [step for step in by_step[0] if all(step in curve for curve in by_step)]
    return shared, [spread([curve[step] for curve in by_step]) for step in shared]
