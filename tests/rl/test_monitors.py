"""When a monitor is over its limit, worked out by hand; what a run is told, and that a resumed one is told the same."""

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from pit_jax.config import Config, MonitorsConfig
from pit_jax.errors import UserError
from pit_jax.masked import Mean
from pit_jax.rl.monitors import (
    FIGURES,
    STEP,
    Evaluation,
    Watch,
    check_monitors,
    noted,
    over_limit,
    read,
    since_best,
    stepped,
    unwatched,
)
from pit_jax.run.screen import Screen

LIMITS = MonitorsConfig(
    max_step_kl=0.01, max_kl=2.0, min_entropy=0.5, max_repetition=0.1, max_second_gap_fall=0.25, max_disagreement=1.5
)
CALM = {"step": 0.0, "kl": 0.0, "entropy": 0.8, "repetition": 0.05, "gap": 0.0}


def series(**figures: Sequence[float]) -> list[Evaluation]:
    """Evaluations every 5 rounds; what is not named stays calm. A second gap that is named agrees as ever."""
    if "second_gap" in figures:
        figures = {"disagreement": [1.0] * len(figures["second_gap"]), **figures}
    rows = [dict(zip(figures, values, strict=True)) for values in zip(*figures.values(), strict=True)]
    return [Evaluation(**{**CALM, **row, "round": 5 * i}) for i, row in enumerate(rows)]


@pytest.mark.parametrize(
    ("evaluations", "expected"),
    [
        (series(step=[-1.0, 0.01, 0.002]), []),
        (series(step=[-1.0, 0.002, 0.02, 0.03]), [("step", 10, 0.02, 0.01)]),
        (series(kl=[0.0, 1.0, 2.0]), []),
        (series(kl=[0.0, 2.5, 3.0]), [("kl", 5, 2.5, 2.0)]),
        (series(entropy=[0.8, 0.5, 0.4]), []),  # half of the first is 0.4
        (series(entropy=[0.8, 0.5, 0.3, 0.2]), [("entropy", 10, 0.3, 0.4)]),
        (series(entropy=[0.2, 0.8, 0.15]), []),  # the first counts, not the highest
        (series(repetition=[0.25, 0.3, 0.35]), []),
        (series(repetition=[0.25, 0.5, 0.1]), [("repetition", 5, 0.5, 0.35)]),
        (series(kl=[0, 1, 3, 3], entropy=[1, 0.25, 0, 0]), [("entropy", 5, 0.25, 0.5), ("kl", 10, 3.0, 2.0)]),
        (series(kl=[0, 3], entropy=[1, 0.25]), [("kl", 5, 3.0, 2.0), ("entropy", 5, 0.25, 0.5)]),
    ],
)
def test_monitors_worked_out_by_hand(
    evaluations: list[Evaluation], expected: list[tuple[str, int, float, float]]
) -> None:
    found = [(a.name, a.round, a.figure, a.limit) for a in over_limit(evaluations, LIMITS)]
    assert [row[:2] for row in found] == [row[:2] for row in expected]
    np.testing.assert_allclose([row[2:] for row in found], [row[2:] for row in expected], rtol=1e-12)


@pytest.mark.parametrize(
    ("gap", "second_gap", "rounds"),
    [
        ([0.0, 1.0, 2.0, 3.0], [0.0, 0.5, 0.4, 0.0], [15]),  # best at 5: the gap is 2 higher, the second gap 0.5 lower
        ([0.0, 1.0, 2.0, 3.0], [0.0, 0.5, 0.4, 0.3], []),  # 0.2 lower is less than the limit
        ([0.0, 1.0, 0.5, 0.9], [0.0, 0.5, 0.0, 0.0], []),  # both fell: a worse model, not a proxy that is gamed
        (
            [0.0, 1.0, 0.5, 1.1],
            [0.0, 0.5, 0.0, 0.0],
            [15],
        ),  # until the gap is higher than at the second gap's best
        ([0.0, 0.5, 1.0], [1.0, 0.5, 1.5], [5]),  # once said; better later is no excuse
        ([0.0, 0.5], [1.0, 1.0], []),
    ],
)
def test_a_second_gap_that_falls_while_the_gap_rises(
    gap: list[float], second_gap: list[float], rounds: list[int]
) -> None:
    found = over_limit(series(gap=gap, second_gap=second_gap), LIMITS)
    assert [(monitor.name, monitor.round) for monitor in found] == [("second-gap", round) for round in rounds]


@pytest.mark.parametrize(
    ("apart", "rounds"),
    [([0.8, 1.0, 1.2, 0.4], []), ([0.8, 1.0, 1.25, 1.6], [10]), ([0.8, 0.4, 0.7, 0.8], [])],
)
def test_a_second_gap_that_is_ever_further_from_the_gap(apart: list[float], rounds: list[int]) -> None:
    """At most 1.5 times the first, 1.2 here; the lowest does not count."""
    found = over_limit(series(gap=[0, 1, 2, 3], second_gap=[0, 1, 2, 3], disagreement=apart), LIMITS)
    assert [(monitor.name, monitor.round) for monitor in found] == [("disagreement", round) for round in rounds]


def test_the_best_evaluation_of_the_second_gap_is_the_first_of_equals() -> None:
    assert since_best(series(gap=[0.0, 1.0, 3.0, 4.5], second_gap=[0.25, 0.5, 0.5, 0.125])) == (3.5, 0.375)
    assert since_best(series(gap=[2.0], second_gap=[1.0])) == (0.0, 0.0)


def test_without_a_second_gap_its_monitor_is_silent() -> None:
    assert over_limit(series(gap=[0.0, 1.0, 9.0]), replace(LIMITS, max_second_gap_fall=1e-9)) == []


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(*[st.floats(0, 3, width=32)] * 6), min_size=1, max_size=8), st.integers(0, 7))
def test_later_evaluations_take_nothing_back(rows: list[tuple[float, ...]], cut: int) -> None:
    evaluations = series(**dict(zip(FIGURES, zip(*rows, strict=True), strict=True)))
    whole, part = over_limit(evaluations, LIMITS), over_limit(evaluations[: cut + 1], LIMITS)
    assert part == [monitor for monitor in whole if monitor.round <= 5 * cut]
    assert [monitor.round for monitor in whole] == sorted(monitor.round for monitor in whole)


def metrics_of(evaluation: Evaluation) -> dict[str, float]:
    """As a held-out evaluation of RL names them."""
    named = {metric: getattr(evaluation, name) for name, metric in FIGURES.items()}
    return {"val/eos_rate": 1.0} | {metric: value for metric, value in named.items() if value is not None}


@pytest.mark.parametrize("second", [True, False])
def test_a_checkpoint_holds_the_evaluations(second: bool) -> None:
    """And the largest step of the rounds before each."""
    made = series(kl=[0.0, 1.5], gap=[-0.5, 0.25], **({"second_gap": [0.75, 0.5]} if second else {}))
    made = [replace(e, entropy=0.5, repetition=0.125) for e in made]
    made = [replace(made[0], step=-1.0), replace(made[1], step=0.25)]
    arrays = unwatched(4, second_gap=second)
    assert ("second_gap" in arrays) == ("disagreement" in arrays) == second and read(arrays) == []
    arrays = noted(arrays, 0, metrics_of(made[0]))
    for step in (0.125, 0.25, 0.0625):
        arrays = stepped(arrays, step)
    arrays = noted(arrays, 5, metrics_of(made[1]))
    assert {(array.shape, array.dtype) for array in arrays.values()} == {((4,), np.dtype(np.float32))}
    assert read(arrays) == made


def watch(say: Any = lambda *_, **__: None, **knobs: Any) -> Watch:
    return Watch(replace(LIMITS, **knobs), "rl-improver", say)


COLLAPSE = series(
    step=[-1.0, 0.002, 0.003, 0.5],
    kl=[0, 1, 2.1, 2.2],
    entropy=[0.7, 0.6, 0.5, 0.1],
    gap=[0.1, 0.2, 0.3, 0.4],
    second_gap=[0.3, 0.4, 0.1, 0],
)


@pytest.mark.parametrize("killed_at", range(len(COLLAPSE)))
def test_a_resumed_watch_says_the_same(killed_at: int) -> None:
    """A checkpoint holds the evaluations before its own; the resumed run makes that one again."""
    whole, resumed = watch(action="warn"), watch(action="warn")
    checkpoint: dict[str, Any]
    state: Any
    state = checkpoint = unwatched(len(COLLAPSE) + 1, second_gap=True)
    for i, evaluation in enumerate(COLLAPSE):
        if i:
            state = whole.stepped({STEP: Mean(jnp.float32(2 * evaluation.step), jnp.float32(2))})
        checkpoint = state if i == killed_at else checkpoint
        whole.look(state, evaluation.round, metrics_of(evaluation))
    state = {name: jnp.asarray(array) for name, array in checkpoint.items()}
    for i, evaluation in enumerate(COLLAPSE[killed_at:]):
        if i:
            state = resumed.stepped({STEP: Mean(jnp.float32(2 * evaluation.step), jnp.float32(2))})
        resumed.look(state, evaluation.round, metrics_of(evaluation))
    assert [(a.name, a.round) for a in whole.over] == [("kl", 10), ("second-gap", 10), ("step", 15), ("entropy", 15)]
    assert resumed.over == whole.over
    last, again = (found.stepped({STEP: Mean(jnp.float32(0), jnp.float32(1))}) for found in (whole, resumed))
    for name, array in last.items():
        np.testing.assert_array_equal(again[name], array, strict=True)


@pytest.mark.parametrize(("action", "what"), [("stop", "the stage ends here"), ("warn", "the stage goes on")])
def test_a_monitor_is_one_line_said_once(action: str, what: str) -> None:
    console = Console(width=100, file=io.StringIO(), record=True)
    found = watch(Screen(console).say, action=action)
    state: Any = unwatched(4, second_gap=False)
    for evaluation, stops in zip(series(entropy=[0.8, 0.3, 0.2]), (False, True, True), strict=True):
        found.look(state, evaluation.round, metrics_of(evaluation))
        state = found.stepped({STEP: Mean(jnp.float32(0), jnp.float32(1))})
        assert found.stops == (stops and action == "stop")
    assert console.export_text().splitlines() == [
        "rl-improver: monitor entropy at round 5: 0.3, asked for at least 0.4 "
        f"(the answers of one prompt are becoming one answer); {what}"
    ]


def config_of(steps: int = 0, **knobs: Any) -> Config:
    """A config with rm.second_gap_steps, rl.gap and rl.reward, and other knobs of rl.monitors."""
    base = Config()
    of_rl = {name: knobs.pop(name) for name in ("gap", "reward") if name in knobs}
    rl = replace(base.rl, monitors=replace(base.rl.monitors, **knobs), **of_rl)
    return replace(base, rl=rl, rm=replace(base.rm, second_gap_steps=steps))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            config_of(worst_case=True),
            "--rm.second-gap-steps=0 and --rl.gap=centred; train a second gap model",
        ),
        (config_of(5, worst_case=True, gap="plain"), "--rm.second-gap-steps=5 and --rl.gap=plain"),
        (
            config_of(5, reward="difference"),
            "no gap model that a second one could watch, found --rm.second-gap-",
        ),
    ],
)
def test_second_gap_models_that_cannot_be(config: Config, message: str) -> None:
    with pytest.raises(UserError) as error:
        check_monitors(config)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "config",
    [
        Config(),
        config_of(5, worst_case=True),
        config_of(5),
        config_of(reward="difference"),
    ],
)
def test_second_gap_models_that_can_be(config: Config) -> None:
    check_monitors(config)


@pytest.mark.parametrize("action", ["stop", "warn"])
def test_a_step_that_goes_too_far_is_urgent_until_it_has_been_said(action: str) -> None:
    """Before the first evaluation nothing is; a round within the limit is not; a second one too far is not news."""
    found: Any = watch(action=action)
    assert not found.urgent
    found.look(unwatched(4, second_gap=False), 0, metrics_of(series(kl=[0.0])[0]))
    mean = {name: {STEP: Mean(jnp.float32(step), jnp.float32(1))} for name, step in (("near", 0.002), ("far", 0.02))}
    found.stepped(mean["near"])
    assert not found.urgent and not found.ends_round(mean["near"][STEP])
    state = found.stepped(mean["far"])
    assert found.urgent and found.ends_round(mean["far"][STEP]) == (action == "stop")
    found.look({name: jnp.asarray(array) for name, array in state.items()}, 2, metrics_of(series(kl=[0.0])[0]))
    assert [(monitor.name, monitor.round) for monitor in found.over] == [("step", 2)] and not found.urgent
    assert found.over[0].figure == pytest.approx(0.02)
    found.stepped(mean["far"])
    assert not found.urgent
