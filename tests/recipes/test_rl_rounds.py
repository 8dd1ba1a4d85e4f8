"""The rounds of RL: when updates stop, what is evaluated and chosen, what the curriculum and the anchor do.

Over models of three weights (toy_rl.py): every path of the loop, without waiting for a transformer.
"""

import shutil
import weakref
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pit_jax.config import RlConfig
from pit_jax.errors import Preempted, UserError
from pit_jax.masked import Mean
from pit_jax.recipes import rl
from pit_jax.report.performance import performance_rows
from pit_jax.rl.monitors import STEP, Watch
from pit_jax.training.session import Session
from tests.recipes.toy_rl import UNLIMITED, ToyEngine, config_of, evaluated, roles_of, run, toy, train
from tests.world import MakeContext, finish_parents

__all__ = ["run", "toy"]


def updates_of(steps: list[float], *, ratio: float = 1.0, **knobs: Any) -> int:
    """How many of a round's updates are made, whose approximate KL would be `steps`."""
    monitors = replace(UNLIMITED, **knobs.pop("monitors", {}))
    made: list[float] = []

    class Scripted:
        performance = SimpleNamespace(clock=SimpleNamespace(lap=lambda phase, scores_B: None))

        def update(self, step: Any, batch: Any) -> dict[str, Mean]:
            made.append(steps[len(made)])
            return {"val/ratio": mean(ratio), STEP: mean(made[-1])}

        @property
        def totals(self) -> dict[str, Mean]:
            return {STEP: Mean(jnp.float32(sum(made)), jnp.float32(len(made)))}

    def mean(value: float) -> Mean:
        return Mean(jnp.float32(value), jnp.float32(1))

    config = RlConfig(**{"stop_kl": 0.1, **knobs})
    trainer: Any = SimpleNamespace(config=config, dtype="float32", minibatches=lambda *_: iter(range(len(steps))))
    screen: Any = SimpleNamespace(update=lambda number: None)
    session: Any = Scripted()
    never, experience = None, SimpleNamespace(scores_B=None)
    watch = Watch(monitors, "rl-improver", print)
    counted: int = rl.learn(session, cast(Any, never), trainer, cast(Any, experience), 0, watch, screen)
    assert counted == len(made)
    return counted


def test_a_round_stops_once_its_kl_is_spent() -> None:
    """Of the update just made, more than the limit; with 0 there is none."""
    assert updates_of([0.0, 0.05, 0.0999, 0.2, 0.0, 0.0]) == 4
    assert updates_of([0.0, 0.05, 0.0999, 0.2, 0.0, 0.0], stop_kl=0.01) == 2
    assert updates_of([0.0, 0.05, 0.0999, 0.2, 0.0, 0.0], stop_kl=0.0) == 6
    assert updates_of([0.0, 0.05, 0.09]) == 3


def test_a_monitor_stops_a_round_by_the_mean_of_its_updates() -> None:
    """0 + 0.02 + 0.08 over three; a warning lets the round go on."""
    steps = [0.0, 0.02, 0.08, 0.0]
    assert updates_of(steps, monitors={"max_step_kl": 0.03}) == 3
    assert updates_of(steps, monitors={"max_step_kl": 0.04}) == 4
    assert updates_of(steps, monitors={"max_step_kl": 0.03, "action": "warn"}) == 4


def test_the_first_minibatch_must_have_ratio_one() -> None:
    for ratio in (0.99, 1.01):
        with pytest.raises(AssertionError, match="sampler and trainer disagree on log-probs"):
            updates_of([0.0], ratio=ratio)
    assert updates_of([0.0], ratio=1.0005) == 1


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The updates of each round, as they are made."""
    found: list[int] = []
    update, end = Session.update, Session.end_round
    made: list[None] = []

    def noted(self: Session, step: Any, batch: Any) -> Any:
        made.append(None)
        return update(self, step, batch)

    def ended(self: Session, round: int, **more: Any) -> None:
        found.append(len(made))
        made.clear()
        end(self, round, **more)

    monkeypatch.setattr(Session, "update", noted)
    monkeypatch.setattr(Session, "end_round", ended)
    return found


def test_a_run_whose_kl_is_spent_makes_fewer_updates(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of a round's minibatches has moved nothing yet, the second has."""
    found = counted(monkeypatch)
    for stop_kl, updates in ((0.0, 4), (1e-12, 2), (1e9, 4)):
        context, _ = run(config_of((2,), epochs=2, stop_kl=stop_kl))
        assert found == [updates, updates], stop_kl
        found.clear()
        shutil.rmtree(context.folder.path)


def test_what_draws_is_freed_before_the_updates(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of rounds that are evaluated and of those that are not: the merged weights are as large as the model."""
    converted: list[weakref.ref[Any]] = []
    living: list[int] = []
    learn = rl.learn

    def to_decode(engine: Any, params: Any) -> Any:
        weights = jax.tree.map(jnp.copy, params)
        converted.extend(map(weakref.ref, jax.tree.leaves(weights)))
        return weights

    def learning(*args: Any) -> int:
        living.append(sum(weight() is not None for weight in converted))
        return learn(*args)

    monkeypatch.setattr(ToyEngine, "decoding", to_decode)
    monkeypatch.setattr(rl, "learn", learning)
    run(config_of((2, 2), evaluate_every=2))
    assert len(converted) >= 5 and living == [0, 0, 0, 0]


def test_what_a_round_took_is_told_by_its_phases(run: Any) -> None:
    """Every round has a row of its own, and the last evaluation; seconds add up, every phase of a round is there."""
    context, _ = run(config_of((2, 1)))
    found = performance_rows(context.folder.path / "metrics.jsonl")
    assert [row["step"] for row in found] == [1, 2, 3, 3]
    assert {"perf/tokens_per_second", "perf/rollout_tokens_per_second", "perf/flops"} <= found[0].keys()
    phases = [{name.removeprefix("perf/seconds_") for name in row if "seconds_" in name} for row in found]
    assert all({"rollout", "score", "update", "evaluate", "save"} <= names for names in phases[:3])
    assert phases[3] <= {"evaluate", "save", "compile", "update"} and "perf/flops" not in found[3]
    for row in found:
        assert row["perf/seconds"] == pytest.approx(sum(row[name] for name in row if "seconds_" in name))
    drawn = [row["perf/rollout_tokens_per_second"] * row["perf/seconds_rollout"] for row in found[:3]]
    assert all(4 <= tokens <= 4 * 8 and tokens == pytest.approx(round(tokens)) for tokens in drawn)
    assert all(tokens < row["perf/total_num_tokens"] for tokens, row in zip(drawn, found, strict=False))


def test_every_phase_has_its_references_in_its_rounds(run: Any) -> None:
    _, ended = run(config_of((2, 1, 1)))
    trained = [row for row in ended.rows if row["phase"] == "train"]
    assert [row["curriculum/phase"] for row in trained] == [0, 0, 1, 2]
    names = ["rejected", "rejected", "chosen", "policy-rl"]
    for row, name in zip(trained, names, strict=True):
        assert {key for key in row if key.startswith("curriculum/") and "scores" in key} == {
            f"curriculum/{name}/scores"
        }


@pytest.mark.parametrize("switch", ["success", "plateau"])
def test_a_phase_ends_by_what_the_run_measured(run: Any, switch: str) -> None:
    """Behind the round whose rollouts did well enough, or the evaluation that was no better than the best before."""
    _, ended = run(config_of((6, 1), switch=switch, success=0.5, patience=1))
    trained, measured = ([r for r in ended.rows if r["phase"] == phase] for phase in ("train", "eval"))
    gaps = [row["objective/scores"] for row in measured]
    over = {
        "success": next(i + 1 for i, row in enumerate(trained) if row["objective/success"] >= 0.5),
        "plateau": next(i for i in range(1, len(gaps)) if gaps[i] <= max(gaps[:i])),
    }[switch]
    assert 0 < over < 6
    assert [row["curriculum/phase"] for row in trained] == [0] * over + [1] * (7 - over)


@pytest.mark.parametrize(("every", "expected"), [(1, [0, 1, 2, 3, 4]), (3, [0, 3, 4]), (9, [0, 4])])
def test_states_are_evaluated_at_the_start_on_time_and_at_the_end(run: Any, every: int, expected: list[int]) -> None:
    _, ended = run(config_of((2, 2), evaluate_every=every))
    assert evaluated(ended) == expected


def test_the_best_heldout_gap_is_chosen_among_those_near_the_anchor(run: Any) -> None:
    """Raise no limit, and it is the best; lower it below every checkpoint but the first, and it is that one."""
    _, ended = run(config_of((4,)))
    gaps = {row["step"]: row["objective/scores"] for row in ended.rows if row["phase"] == "eval"}
    far = {row["step"]: row["objective/kl"] for row in ended.rows if row["phase"] == "eval"}
    assert ended.best is not None and ended.best[0] == max(gaps, key=gaps.__getitem__)
    assert far[0] == 0.0 and len(set(far.values())) > 3


def test_where_no_checkpoint_is_near_the_anchor_the_stage_says_what_to_do(
    toy: None, place: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = finish_parents(place(config_of((1,), select_kl=-1.0)))
    monkeypatch.setattr(rl, "load_roles", lambda *_: roles_of(context))
    with pytest.raises(UserError, match="no checkpoint of rl-improver kept its KL under --rl.select-kl=-1.0 nats"):
        rl.run(context)
    assert context.folder.done() is None


def test_an_adaptive_kl_coefficient_moves_with_every_round(run: Any) -> None:
    """By 4 episodes of a horizon of 8, at most a fifth of that: here the KL stays below the target."""
    _, ended = run(config_of((3,), kl_coef=0.5, kl_target=1e6, kl_horizon=8))
    coefficients = [row["kl_coef"] for row in ended.rows if row["phase"] == "train"]
    np.testing.assert_allclose(coefficients, [0.5, 0.45, 0.405], rtol=1e-5)


@pytest.mark.parametrize("anchor", ["sft", "previous"])
def test_a_moving_anchor_follows_when_a_phase_begins(run: Any, anchor: str) -> None:
    """At the start of the second phase the KL of rollouts is 0 again; of evaluations it is that to the SFT model."""
    context, ended = run(config_of((2, 2), anchor=anchor, kl_coef=0.5))
    kl = [row["objective/kl"] for row in ended.rows if row["phase"] == "train"]
    assert kl[0] == 0.0 and kl[1] != 0.0 and kl[3] != 0.0 and (kl[2] == 0.0) == (anchor == "previous")
    measured = {row["step"]: row["objective/kl"] for row in ended.rows if row["phase"] == "eval"}
    assert measured[0] == 0.0 and 0.0 not in (measured[2], measured[4])


def test_a_run_that_heeds_a_notice_goes_on_as_if_none_had_come(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a round that is not evaluated: what the monitors have seen is in the state that is saved."""
    config = config_of((3, 3), evaluate_every=3, epochs=2)
    context, alone = run(config)
    shutil.rmtree(context.folder.path)
    notices = iter([False] * 4 + [True])
    with monkeypatch.context() as patch:
        patch.setattr("pit_jax.training.session.noticed", lambda: next(notices, True))
        patch.setattr("pit_jax.parallel.preemption.noticed", lambda: True)
        with pytest.raises(Preempted, match="the state after 4 of 6 rounds is saved"):
            run(config)
    assert not (context.folder.path / "done.json").exists()
    assert train(context) == alone
