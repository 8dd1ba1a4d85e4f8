"""Guards against over-optimisation: what held-out evaluations of RL are watched for, and when an alarm goes off.

A proxy that is optimised for long enough stops to measure what it stands for (arXiv 2210.10760). These signs need no
truth: updates that go too far at once, the distance from the SFT model, an entropy that collapses, answers that repeat
themselves, and a second gap model, the guard, that falls while the first one still rises or is ever further from it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from pit_jax.config import Config, GuardsConfig
from pit_jax.masked import Mean

FIGURES = {
    "kl": "objective/kl",
    "entropy": "objective/entropy",
    "repetition": "val/repetition",
    "gap": "objective/scores",
    "guard": "guard/scores",
    "disagreement": "guard/disagreement",
}
OF_A_GUARD = ("guard", "disagreement")
STEP = "policy/approxkl_avg"
MEANINGS = {
    "step": "the updates of a round move the model too far from the answers they learn from: lower the learning rate",
    "kl": "the model is far from its SFT model, where nobody has checked the gap or the reward",
    "entropy": "the answers of one prompt are becoming one answer",
    "repetition": "the answers repeat themselves",
    "guard": "a second gap model likes the answers less and less while the gap rises: RL lives off what is wrong in it",
    "disagreement": "two gap models that differ in their seed alone no longer agree: RL has left what they learned",
}
NEVER = -1.0  # the round of an evaluation that is yet to be made, the step before any round


@dataclass(frozen=True)
class Evaluation:
    """What the alarms look at: `step` is the largest since the evaluation before; the last two need a guard."""

    round: int
    step: float
    kl: float
    entropy: float
    repetition: float
    gap: float
    guard: float | None = None
    disagreement: float | None = None


@dataclass(frozen=True)
class Alarm:
    """The first evaluation at which a figure was over its limit, or for entropy under it."""

    name: str
    round: int
    figure: float
    limit: float
    meaning: str


def check_guards(config: Config) -> None:
    """ValueError for limits that nothing can keep, and for a guard that is asked for and not there."""
    guards, steps = config.rl.guards, config.rm.guard_steps
    limits = {name: value for name, value in vars(guards).items() if name.startswith("max_")}
    if min(limits.values()) <= 0:
        raise ValueError(f"--rl.guards: every limit must be above 0, found {limits}; inf = no limit")
    if guards.max_disagreement < 1:
        raise ValueError(
            f"--rl.guards.max-disagreement={guards.max_disagreement}: a multiple of the first disagreement, at least 1"
        )
    if not 0 <= guards.min_entropy < 1:
        raise ValueError(
            f"--rl.guards.min-entropy={guards.min_entropy}: a share of the first entropy, from 0 to below 1"
        )
    if guards.worst_case and not (steps > 0 and config.rl.center_gap):
        raise ValueError(
            f"--rl.guards.worst-case compares the gap with the guard's, found --rm.guard-steps={steps} and "
            f"--rl.center-gap={config.rl.center_gap}; train a guard, and centre both gaps: else each has its own zero"
        )
    if steps > 0 and config.rl.reward == "difference":
        raise ValueError(
            f"--rl.reward=difference has no gap model that a guard could watch, found --rm.guard-steps={steps}; "
            "leave one of them out"
        )
    if config.model == "guard" and config.stage != "all" and (config.stage != "rm" or steps < 1):
        raise ValueError(
            f"--model=guard is the second gap model of --stage=rm with --rm.guard-steps above 0, found "
            f"--stage={config.stage} and --rm.guard-steps={steps}"
        )


def unwatched(evaluations: int, *, guarded: bool) -> dict[str, np.ndarray]:
    """Room for the figures of that many evaluations, as a checkpoint holds them: float32 arrays [evaluations]."""
    names = ("round", "step", *(name for name in FIGURES if name not in OF_A_GUARD or guarded))
    return {name: np.full(evaluations, NEVER, np.float32) for name in names}


def noted(
    arrays: Mapping[str, np.ndarray | jax.Array], round: int, metrics: Mapping[str, float]
) -> dict[str, np.ndarray]:
    """`arrays` with one more evaluation, that of the state after `round` rounds."""
    found, place = _opened(arrays)
    for name in FIGURES.keys() & found.keys():
        found[name][place] = metrics[FIGURES[name]]
    found["round"][place] = round
    return found


def stepped(arrays: Mapping[str, np.ndarray | jax.Array], step: float) -> dict[str, np.ndarray]:
    """`arrays` after a round whose updates went `step` far, which the next evaluation looks at."""
    found, place = _opened(arrays)
    found["step"][place] = max(found["step"][place], step)
    return found


def _opened(arrays: Mapping[str, np.ndarray | jax.Array]) -> tuple[dict[str, np.ndarray], int]:
    """(copies, index of the next evaluation)."""
    found = {name: np.array(array) for name, array in arrays.items()}
    return found, int(np.sum(found["round"] > NEVER))


def read(arrays: Mapping[str, np.ndarray]) -> list[Evaluation]:
    """The evaluations in `arrays`, in order."""
    rows = [
        dict(zip(arrays, values, strict=True)) for values in zip(*(a.tolist() for a in arrays.values()), strict=True)
    ]
    made = [row for row in rows if row["round"] > NEVER]
    return [Evaluation(**{**row, "round": int(row["round"])}) for row in made]


def alarms(evaluations: Sequence[Evaluation], limits: GuardsConfig) -> list[Alarm]:
    """The alarms of a run so far, each where it first went off, in the order of their rounds.

    step           mean of (log ratio)^2 / 2 over the tokens of a round's updates > max_step_kl, in any round since the
                   evaluation before; the first time, the state is evaluated for it at once, and under `stop` the
                   rest of the round's updates is left out
    kl             KL > max_kl
    entropy        entropy < min_entropy * first entropy
    repetition     share > first share + max_repetition
    guard          G_best - G > max_guard_fall and gap > gap_best, where best is the evaluation, of those before, at
                   which the guard's mean gap G was highest (the first of equals)
    disagreement   mean |gap - guard's gap| > max_disagreement * the first one: the spread of an ensemble of two, which
                   says where a reward model has not learned (arXiv 2310.02743)
    """
    found: dict[str, Alarm] = {}
    for count, now in enumerate(evaluations, 1):
        for name, figure, limit, over in _checks(evaluations[:count], limits):
            if over and name not in found:
                found[name] = Alarm(name, now.round, figure, limit, MEANINGS[name])
    return list(found.values())


def _checks(evaluations: Sequence[Evaluation], limits: GuardsConfig) -> Iterator[tuple[str, float, float, bool]]:
    """(name, figure, limit, over it) of the last evaluation."""
    first, now = evaluations[0], evaluations[-1]
    entropy, repetition = limits.min_entropy * first.entropy, first.repetition + limits.max_repetition
    yield "step", now.step, limits.max_step_kl, now.step > limits.max_step_kl
    yield "kl", now.kl, limits.max_kl, now.kl > limits.max_kl
    yield "entropy", now.entropy, entropy, now.entropy < entropy
    yield "repetition", now.repetition, repetition, now.repetition > repetition
    if first.disagreement is not None and now.disagreement is not None:
        rise, fall = since_best(evaluations)
        yield "guard", fall, limits.max_guard_fall, rise > 0 and fall > limits.max_guard_fall
        apart = limits.max_disagreement * first.disagreement
        yield "disagreement", now.disagreement, apart, now.disagreement > apart


def since_best(evaluations: Sequence[Evaluation]) -> tuple[float, float]:
    """(rise of the gap, fall of the guard's gap) of the last evaluation since that at which the guard's was highest."""
    last, heights = evaluations[-1], [e.guard for e in evaluations if e.guard is not None]
    best = int(np.argmax(heights))
    return last.gap - evaluations[best].gap, heights[best] - heights[-1]


class Watch:
    """The alarms of a stage: fed by every round and held-out evaluation, kept in the checkpoints, said once each.

    A checkpoint holds the evaluations before its own, which a resumed run makes again: it raises the same alarms at the
    same rounds.
    """

    def __init__(self, limits: GuardsConfig, stage: str, say: Callable[..., None]):
        self._limits, self._stage, self._say = limits, stage, say
        self.arrays: dict[str, np.ndarray] = {}
        self.alarms: list[Alarm] = []

    def look(self, before: Mapping[str, jax.Array], round: int, metrics: Mapping[str, float]) -> None:
        """Take in the evaluation of the state after `round` rounds, whose extras hold the evaluations `before` it."""
        self.arrays = noted(before, round, metrics)
        self.alarms = alarms(read(self.arrays), self._limits)
        for alarm in self.alarms:
            if alarm.round == round:
                what = "the stage ends here" if self.stops else "the stage goes on"
                self._say(f"[red]{self._stage}: {sentence(alarm)}; {what}[/]", soft_wrap=True)

    def stepped(self, metrics: Mapping[str, Mean]) -> dict[str, np.ndarray]:
        """What the next checkpoint must hold, after a round with these metrics of its updates."""
        self.arrays = stepped(self.arrays, metrics[STEP].value)
        return self.arrays

    def ends_round(self, step: float) -> bool:
        """True where a round's updates so far are over the limit and an alarm ends the stage: more do more harm."""
        return self._limits.action == "stop" and step > self._limits.max_step_kl

    @property
    def urgent(self) -> bool:
        """True where the updates since the last evaluation went too far and no alarm has said so: evaluate now."""
        if not self.arrays or any(alarm.name == "step" for alarm in self.alarms):
            return False
        steps, (_, place) = self.arrays["step"], _opened(self.arrays)
        return place < len(steps) and bool(steps[place] > self._limits.max_step_kl)

    @property
    def stops(self) -> bool:
        """True once an alarm has ended the stage."""
        return self._limits.action == "stop" and bool(self.alarms)


def sentence(alarm: Alarm) -> str:
    asked = "at least" if alarm.name == "entropy" else "at most"
    return (
        f"alarm {alarm.name} at round {alarm.round}: {alarm.figure:.3g}, asked for {asked} {alarm.limit:.3g} "
        f"({alarm.meaning})"
    )
