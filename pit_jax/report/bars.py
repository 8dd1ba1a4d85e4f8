"""Rows of comparisons as a page shows them: by temperature, each with a bar on one track."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pit_jax.evaluation.results import ComparisonRow


@dataclass(frozen=True)
class Bar:
    """Places deltas on a track whose middle is 0 and whose ends are +-`scale`."""

    rows: Sequence[ComparisonRow]

    @property
    def scale(self) -> float:
        ends = [abs(end) for row in self.rows for end in (row.low, row.high) if math.isfinite(end)]
        return min(100.0, math.ceil(max([*ends, 1.0]) / 10) * 10.0)

    def place(self, value: float) -> float:
        """Percent from the left end."""
        return round(50 + 50 * max(-1.0, min(1.0, value / self.scale)), 2) if math.isfinite(value) else 50.0


def by_temperature(rows: Sequence[ComparisonRow]) -> list[tuple[float, list[ComparisonRow]]]:
    """Rows under the temperature of their answers, in the order in which these come."""
    return [(t, [row for row in rows if row.temperature == t]) for t in dict.fromkeys(row.temperature for row in rows)]
