"""What is found out about answers: typed rows, as results.json holds them and reports read them."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from pit_jax.config import Config
from pit_jax.errors import UserError
from pit_jax.evaluation.failures import Failure
from pit_jax.evaluation.gap_quality import GapQuality
from pit_jax.evaluation.judges.judge import Judgement
from pit_jax.evaluation.rewrites import RewriteRow
from pit_jax.evaluation.stats.comparison import Comparison, compare, outcomes
from pit_jax.evaluation.stats.length_control import control_length
from pit_jax.evaluation.systems import Output, SystemId, SystemRow
from pit_jax.files import read_json, write_json

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ComparisonRow(Comparison):
    """Left against right by one judge, with what length has to do with it (evaluation/stats/length_control.py)."""

    temperature: float
    judge: str
    left: SystemId
    right: SystemId
    left_tokens: float
    right_tokens: float
    win_tokens: float | None
    lose_tokens: float | None
    lc_win_rate: float
    lc_low: float
    lc_high: float
    flipped: float | None

    @property
    def systems(self) -> str:
        return f"{self.left} vs {self.right}"

    @property
    def tone(self) -> str:
        """good, bad or even: the 95% interval lies above 0, below 0, or holds it."""
        return "good" if self.low > 0 else "bad" if self.high < 0 else "even"


@dataclass(frozen=True)
class ControlRow:
    """What a judge says of a system whose verdict is known beforehand, against the original answers."""

    row: ComparisonRow
    expected: str
    holds: bool


@dataclass(frozen=True)
class Results:
    """evaluate/results.json."""

    judges: list[str]
    headline_temperature: float
    max_score: float | None
    rows: list[ComparisonRow]
    controls: list[ControlRow]
    systems: list[SystemRow]
    rewrites: list[RewriteRow] = field(default_factory=list)
    """Of the systems that improve; none in results that were written without them."""


@dataclass(frozen=True)
class RatingRow:
    """A system's Bradley-Terry rating over resampled prompts, and Elo over shuffled games, with 95% intervals."""

    system: SystemId
    rating: float
    low: float
    high: float
    elo: float
    elo_low: float
    elo_high: float


@dataclass(frozen=True)
class CostRow:
    """Tokens and operations of a training, or of one answer of a system."""

    name: str
    tokens: float
    flops: float


@dataclass(frozen=True)
class Costs:
    training: list[CostRow]
    answers: list[CostRow]


@dataclass(frozen=True)
class GapLossRow:
    """A gap model of the ablation, and the system that RL on it made, if any."""

    name: str
    quality: GapQuality | None
    system: SystemId | None


@dataclass(frozen=True)
class PaperResults:
    """paper/results.json."""

    judges: list[str]
    headline_temperature: float
    max_score: float | None
    prompts: int
    systems: list[SystemRow]
    table: list[ComparisonRow]
    curriculum: list[ComparisonRow]
    sweep: list[ComparisonRow]
    ratings: dict[str, list[RatingRow]]
    gap_losses: list[GapLossRow]
    costs: Costs
    failures: list[Failure]


def by_name(results: Results | PaperResults) -> dict[str, list[dict[str, Any]]]:
    """The lists of comparisons, controls and systems, with systems by their names for people, for tables over seeds."""
    lists: dict[str, list[Any]] = {
        name: [getattr(row, "row", row) for row in value]
        for name, value in vars(results).items()
        if isinstance(value, list)
    }
    return {
        name: [_named(row) for row in rows if isinstance(row, ComparisonRow | SystemRow)]
        for name, rows in lists.items()
    }


def _named(row: ComparisonRow | SystemRow) -> dict[str, Any]:
    sides = {side: str(getattr(row, side)) for side in ("left", "right") if hasattr(row, side)}
    return asdict(row) | sides


def comparison_row(
    config: Config,
    judge: str,
    judgement: Judgement,
    left: tuple[SystemId, Output],
    right: tuple[SystemId, Output],
    temperature: float,
) -> ComparisonRow:
    """Win, lose and delta of a judgement with their intervals, and what length has to do with them."""
    knobs, scores = config.evaluate, (judgement.scores_N, np.zeros_like(judgement.scores_N))
    comparison = compare(*scores, tie_margin=knobs.tie_margin, resamples=knobs.resamples, seed=config.seed)
    lengths = control_length(
        outcomes(*scores, tie_margin=knobs.tie_margin),
        left[1].lengths_N,
        right[1].lengths_N,
        resamples=knobs.resamples,
        seed=config.seed,
    )
    numbers: dict[str, Any] = asdict(comparison) | asdict(lengths) | {"flipped": judgement.flipped}
    return ComparisonRow(temperature=temperature, judge=judge, left=left[0], right=right[0], **numbers)


def write_results(path: Path, results: Any) -> None:
    """A dataclass of results as JSON."""
    write_json(path, asdict(results))


def read_results(path: Path, kind: type[T]) -> T | None:
    """Results as they were written; None where there are none. UserError names the first thing that is wrong."""
    content = read_json(path)
    if content is None:
        return None
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        raise UserError(
            f"{path}: asked for what its stage writes, found another form ({error}); delete it and the done.json "
            f"beside it, and run --stage={path.parent.name} again"
        ) from error
