"""Monitors of over-optimisation: what held-out evaluations of RL are watched for, and when one is over its limit.

A proxy that is optimised for long enough stops to measure what it stands for (arXiv 2210.10760). These signs need no
truth: updates that go too far at once, the distance from the SFT model, an entropy that collapses, answers that repeat
themselves, and a second gap model that falls while the first one still rises or is ever further from it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from pit_jax.config import Config, MonitorsConfig
from pit_jax.errors import UserError
from pit_jax.masked import Mean
from pit_jax.parallel.hosts import whole

FIGURES = {
    "kl": "objective/kl",
    "entropy": "objective/entropy",
    "repetition": "val/repetition",
    "gap": "objective/scores",
    "second_gap": "second-gap/scores",
    "disagreement": "second-gap/disagreement",
}
OF_A_SECOND_GAP = ("second_gap", "disagreement")
STEP = "policy/approxkl_avg"
MEANINGS = {
    "step": "the updates of a round move the model too far from the answers they learn from: lower the learning rate",
    "kl": "the model is far from its SFT model, where nobody has checked the gap or the reward",
    "entropy": "the answers of one prompt are becoming one answer",
    "repetition": "the answers repeat themselves",
    "second-gap": "a second gap model likes the answers less and less while the gap rises: RL lives off its mistakes",
    "disagreement": "two gap models that differ in their seed alone no longer agree: RL has left what they learned",
}
NEVER = -1.0  # the round of an evaluation that is yet to be made, the step before any round


@dataclass(frozen=True)
class Evaluation:
    """What monitors look at: `step` is the largest since the evaluation before; the last two need two gap models."""

    round: int
    step: float
    kl: float
    entropy: float
    repetition: float
    gap: float
    second_gap: float | None = None
    disagreement: float | None = None


@dataclass(frozen=True)
class Monitor:
    """A monitor and the first evaluation at which its figure was over its limit, or for entropy under it."""

    name: str
    round: int
    figure: float
    limit: float
    meaning: str


def check_monitors(config: Config) -> None:
    """UserError for a second gap model that is asked for and not there."""
    monitors, steps = config.rl.monitors, config.rm.second_gap_steps
    if monitors.worst_case and (steps == 0 or config.rl.gap == "plain"):
        raise UserError(
            f"--rl.monitors.worst-case compares the gap with a second one, found --rm.second-gap-steps={steps} and "
            f"--rl.gap={config.rl.gap}; train a second gap model, and take no plain gap, of which each model has "
            "its own zero"
        )
    if steps > 0 and config.rl.reward == "difference":
        raise UserError(
            f"--rl.reward=difference has no gap model that a second one could watch, found "
            f"--rm.second-gap-steps={steps}; leave one of them out"
        )


def unwatched(evaluations: int, *, second_gap: bool) -> dict[str, np.ndarray]:
    """Room for the figures of that many evaluations, as a checkpoint holds them: float32 arrays [evaluations]."""
    names = ("round", "step", *(name for name in FIGURES if name not in OF_A_SECOND_GAP or second_gap))
    return {name: np.full(evaluations, NEVER, np.float32) for name in names}


def noted(
    arrays: Mapping[str, np.ndarray | jax.Array], round: int, metrics: Mapping[str, float]
) -> dict[str, np.ndarray]:
    """`arrays` with one more evaluation, that of the state after `round` rounds."""
    copies, index = _opened(arrays)
    for name in FIGURES.keys() & copies.keys():
        copies[name][index] = metrics[FIGURES[name]]
    copies["round"][index] = round
    return copies


def stepped(arrays: Mapping[str, np.ndarray | jax.Array], step: float) -> dict[str, np.ndarray]:
    """`arrays` after a round whose updates went `step` far, which the next evaluation looks at."""
    copies, index = _opened(arrays)
    copies["step"][index] = max(copies["step"][index], step)
    return copies


def _opened(arrays: Mapping[str, np.ndarray | jax.Array]) -> tuple[dict[str, np.ndarray], int]:
    """(copies, index of the next evaluation)."""
    copies = {name: np.array(array) for name, array in whole(dict(arrays)).items()}
    return copies, int(np.sum(copies["round"] > NEVER))


def read(arrays: Mapping[str, np.ndarray]) -> list[Evaluation]:
    """The evaluations in `arrays`, in order."""
    rows = [
        dict(zip(arrays, values, strict=True)) for values in zip(*(a.tolist() for a in arrays.values()), strict=True)
    ]
    made = [row for row in rows if row["round"] > NEVER]
    return [Evaluation(**{**row, "round": int(row["round"])}) for row in made]


def over_limit(evaluations: Sequence[Evaluation], limits: MonitorsConfig) -> list[Monitor]:
    """The monitors that were over their limit so far, each where it first was, in the order of their rounds.

    step           mean of (log ratio)^2 / 2 over the tokens of a round's updates > max_step_kl, in any round since the
                   evaluation before; the first time, the state is evaluated for it at once, and under `stop` the
                   rest of the round's updates is left out
    kl             KL > max_kl
    entropy        entropy < min_entropy * first entropy
    repetition     share > first share + max_repetition
    second-gap     G_best - G > max_second_gap_fall and gap > gap_best, where best is the evaluation, of those before,
                   at which the second gap model's mean G was highest (the first of equals)
    disagreement   mean |gap - second gap| > max_disagreement * the first one: the spread of an ensemble of two, which
                   says where a reward model has not learned (arXiv 2310.02743)
    """
    monitors: dict[str, Monitor] = {}
    for count, now in enumerate(evaluations, 1):
        for name, figure, limit, over in _checks(evaluations[:count], limits):
            if over and name not in monitors:
                monitors[name] = Monitor(name, now.round, figure, limit, MEANINGS[name])
    return list(monitors.values())


def _checks(evaluations: Sequence[Evaluation], limits: MonitorsConfig) -> Iterator[tuple[str, float, float, bool]]:
    """(name, figure, limit, over it) of the last evaluation."""
    first, now = evaluations[0], evaluations[-1]
    entropy, repetition = limits.min_entropy * first.entropy, first.repetition + limits.max_repetition
    yield "step", now.step, limits.max_step_kl, now.step > limits.max_step_kl
    yield "kl", now.kl, limits.max_kl, now.kl > limits.max_kl
    yield "entropy", now.entropy, entropy, now.entropy < entropy
    yield "repetition", now.repetition, repetition, now.repetition > repetition
    if first.disagreement is not None and now.disagreement is not None:
        rise, fall = since_best(evaluations)
        yield "second-gap", fall, limits.max_second_gap_fall, rise > 0 and fall > limits.max_second_gap_fall
        apart = limits.max_disagreement * first.disagreement
        yield "disagreement", now.disagreement, apart, now.disagreement > apart


def since_best(evaluations: Sequence[Evaluation]) -> tuple[float, float]:
    """(rise of the gap, fall of the second gap) of the last evaluation since that at which the second was highest."""
    last, heights = evaluations[-1], [e.second_gap for e in evaluations if e.second_gap is not None]
    best = int(np.argmax(heights))
    return last.gap - evaluations[best].gap, heights[best] - heights[-1]


class Watch:
    """The monitors of a stage: fed by every round and held-out evaluation, kept in the checkpoints, said once each.

    A checkpoint holds the evaluations before its own, which a resumed run makes again: it says the same of the
    same rounds.
    """

    def __init__(self, limits: MonitorsConfig, stage: str, say: Callable[[str], None]):
        self._limits, self._stage, self._say = limits, stage, say
        self.arrays: dict[str, np.ndarray] = {}
        self.over: list[Monitor] = []

    def resume(self, arrays: Mapping[str, jax.Array]) -> None:
        """Go on from what a state's extras hold."""
        self.arrays, _ = _opened(arrays)
        self.over = over_limit(read(self.arrays), self._limits)

    def look(self, before: Mapping[str, jax.Array], round: int, metrics: Mapping[str, float]) -> None:
        """Take in the evaluation of the state after `round` rounds, whose extras hold the evaluations `before` it."""
        self.arrays = noted(before, round, metrics)
        self.over = over_limit(read(self.arrays), self._limits)
        for monitor in self.over:
            if monitor.round == round:
                what = "the stage ends here" if self.stops else "the stage goes on"
                self._say(f"{self._stage}: {sentence(monitor)}; {what}")

    def stepped(self, metrics: Mapping[str, Mean]) -> dict[str, np.ndarray]:
        """What the next checkpoint must hold, after a round with these metrics of its updates."""
        self.arrays = stepped(self.arrays, metrics[STEP].value)
        return self.arrays

    def ends_round(self, step: Mean) -> bool:
        """True where a round's updates so far are over the limit and that ends the stage: more do more harm.

        Only where they may end it is `step` waited for.
        """
        return self._limits.action == "stop" and step.value > self._limits.max_step_kl

    @property
    def urgent(self) -> bool:
        """True where the updates since the last evaluation went too far and no monitor has said so: evaluate now."""
        if not self.arrays or any(monitor.name == "step" for monitor in self.over):
            return False
        steps, (_, index) = self.arrays["step"], _opened(self.arrays)
        return index < len(steps) and bool(steps[index] > self._limits.max_step_kl)

    @property
    def stops(self) -> bool:
        """True once a monitor has ended the stage."""
        return self._limits.action == "stop" and bool(self.over)


def sentence(monitor: Monitor) -> str:
    asked = "at least" if monitor.name == "entropy" else "at most"
    return (
        f"monitor {monitor.name} at round {monitor.round}: {monitor.figure:.3g}, asked for {asked} {monitor.limit:.3g} "
        f"({monitor.meaning})"
    )
