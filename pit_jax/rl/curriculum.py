"""Where a run stands in its curriculum: an ordered list of phases, each with its references and its time to leave."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import jax
import numpy as np

from pit_jax.config import CurriculumConfig
from pit_jax.errors import UserError
from pit_jax.parallel.hosts import whole
from pit_jax.rl.references import REFERENCES


def providers_of(references: str) -> tuple[str, ...]:
    """The providers of one phase: "rejected+chosen" -> ("rejected", "chosen")."""
    return tuple(references.split("+"))


def every_provider(config: CurriculumConfig) -> tuple[str, ...]:
    """The providers of all phases, each once, in the order in which they are met."""
    return tuple(dict.fromkeys(name for references in config.references for name in providers_of(references)))


def check_curriculum(config: CurriculumConfig, groups: int) -> None:
    """UserError for unknown providers, lists that do not fit, and groups of responses that providers cannot share.

    `groups` are the (prompt, reference) pairs of a round.
    """
    if len(config.references) != len(config.rounds):
        raise UserError(
            f"--rl.curriculum: every phase needs references and rounds, found {len(config.references)} references "
            f"{config.references} and {len(config.rounds)} rounds {config.rounds}"
        )
    if not sum(config.rounds):
        raise UserError(f"--rl.curriculum.rounds={config.rounds}: ask for at least 1 in all")
    for references in config.references:
        names = providers_of(references)
        if len(set(names)) != len(names) or any(name not in REFERENCES for name in names):
            known = ", ".join(REFERENCES.names())
            raise UserError(f"--rl.curriculum.references: found {references!r}; join different names of {known} by +")
        if groups % len(names):
            raise UserError(
                f"--rl.batch-size: its {groups} (prompt, reference) pairs cannot be shared by the {len(names)} "
                f"references {references!r}; choose a multiple of {len(names)}"
            )


@dataclass(frozen=True)
class Place:
    """Saved with every checkpoint; with the held-out gap of the evaluation at hand it decides the next round."""

    phase: int = 0
    entered: int = 0
    """Round at which the phase began."""
    best: float = float(np.finfo(np.float32).min)
    """Best held-out gap of the phase."""
    stale: int = 0
    """Evaluations since then."""
    success: float = 0.0
    """Share of the last round's rollouts that beat their reference."""

    @classmethod
    def read(cls, arrays: Mapping[str, jax.Array]) -> "Place":
        """From the arrays that a checkpoint holds."""
        return cls(**{name: array.item() for name, array in whole(dict(arrays)).items()})

    def arrays(self) -> dict[str, np.ndarray]:
        """As a checkpoint holds it: scalars, float32 or int32."""
        return {
            name: np.array(value, np.float32 if isinstance(value, float) else np.int32)
            for name, value in vars(self).items()
        }


def advance(config: CurriculumConfig, progress: Place, round: int, heldout_gap: float | None) -> Place:
    """The place at the start of `round`; `heldout_gap` is that of the evaluation before it, None where none was made.

    A phase ends after its rounds, and sooner by config.switch: "plateau" after `patience` evaluations without a
    better held-out gap, "success" once `success` of a round's rollouts beat their reference. The last phase never
    ends, so the number of rounds in all is the same under every rule.
    """
    if heldout_gap is not None:
        better = heldout_gap > progress.best
        progress = replace(progress, best=max(progress.best, heldout_gap), stale=0 if better else progress.stale + 1)
    while progress.phase + 1 < len(config.references) and _is_over(config, progress, round):
        progress = Place(phase=progress.phase + 1, entered=round)
    return progress


def is_settled(config: CurriculumConfig, place: Place, patience: int) -> bool:
    """Whether the last phase has met `patience` evaluations in a row without a better held-out gap; 0 = never."""
    return place.phase + 1 == len(config.references) and 0 < patience <= place.stale


def _is_over(config: CurriculumConfig, progress: Place, round: int) -> bool:
    if round - progress.entered >= config.rounds[progress.phase]:
        return True
    match config.switch:
        case "plateau":
            return progress.stale >= config.patience
        case "success":
            return round > progress.entered and progress.success >= config.success
        case "rounds":
            return False
