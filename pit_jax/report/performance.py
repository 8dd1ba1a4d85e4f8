"""What the trainings of a run made of their machine: the performance rows of their metrics.jsonl, summed up."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pit_jax.files import Row, read_metrics
from pit_jax.paths import METRICS
from pit_jax.report.render import GIB
from pit_jax.run.folders import Run

PHASES = ("data", "rollout", "score", "update", "evaluate", "save", "compile")
SECONDS = "perf/seconds_"


@dataclass(frozen=True)
class Performance:
    """Of one training; its rows are those of training/performance.py. None stands for what no row says."""

    stage: str
    rows: Sequence[Row]

    @property
    def seconds(self) -> float:
        return sum(row["perf/seconds"] for row in self.rows)

    @property
    def parts(self) -> list[tuple[str, float, float]]:
        """(phase, seconds, percent of all) of the phases that there are."""
        names = [name.removeprefix(SECONDS) for row in self.rows for name in row if name.startswith(SECONDS)]
        phases = [*(phase for phase in PHASES if phase in names), *dict.fromkeys(n for n in names if n not in PHASES)]
        sums = [(phase, sum(row.get(SECONDS + phase, 0.0) for row in self.rows)) for phase in phases]
        return [(phase, total, round(100 * total / self.seconds, 2)) for phase, total in sums if self.seconds]

    @property
    def tokens_per_second(self) -> float | None:
        return self._rate("perf/total_num_tokens", "perf/tokens_per_second")

    @property
    def tokens_per_second_per_chip(self) -> float | None:
        return self._rate("perf/total_num_tokens", "perf/tokens_per_second_per_chip")

    @property
    def mfu(self) -> float | None:
        return self._rate("perf/flops", "perf/mfu")

    @property
    def flops_per_second(self) -> float | None:
        """Of all chips, where their peak is not known too."""
        speed, tokens = self.tokens_per_second, sum(row.get("perf/total_num_tokens", 0.0) for row in self.rows)
        operations = sum(row.get("perf/flops", 0.0) for row in self.rows)
        return operations * speed / tokens if speed and operations else None

    @property
    def memory(self) -> tuple[str, float] | None:
        """(whose, GiB) of the high-water mark: the fullest device's, or where devices do not tell, the process's."""
        for whose in ("device", "host"):
            marks = [row[name] for row in self.rows if (name := f"perf/{whose}_peak_bytes") in row]
            if marks:
                return whose, max(marks) / GIB
        return None

    def _rate(self, amount: str, rate: str) -> float | None:
        """The mean of a rate over what its rows took for their amounts, so that no row counts for more than it took."""
        known = [(row[amount], row[rate]) for row in self.rows if row.get(amount) and row.get(rate)]
        return sum(a for a, _ in known) / sum(a / r for a, r in known) if known else None


def of_run(run: Run) -> list[Performance]:
    """Every training of a run that has left such rows, in the order of the catalogue."""
    return [Performance(stage, rows) for stage, path in _trainings(run) if (rows := performance_rows(path))]


def performance_rows(path: Path) -> list[Row]:
    """Those of a metrics.jsonl; [] where there is none."""
    return [row for row in read_metrics(path) if row["phase"] == "performance"]


def _trainings(run: Run) -> Iterator[tuple[str, Path]]:
    for id, stage in run.catalogue.items():
        if stage.leaves:
            yield str(id), run.folder(id).path / METRICS
