"""What a config leaves open, as a 0, and the pairs decide: lengths of texts, of trainings, and learning rates.

Where the data are prepared, every open knob gets its number, which then stands in run.json and in the hash of the
stages like one that was given.

A learning rate follows width and batch from where one was found to be good, at the width of configs/tiny.py: Adam's
rate of matrices goes with 1/width (muP, arXiv 2203.03466) and with the root of the rows of an update (arXiv
2205.10287). Both rules are of models that are trained from a random start.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pit_jax.config import Config, flatten
from pit_jax.data.folds import PAIR_FOLDS
from pit_jax.errors import UserError
from pit_jax.ranges import flag_of

FEWEST_STEPS = 1000  # from a random start: after 533 the policy of `plans` scored 1.0 of 8, and after 2,137 3.5
EVALUATIONS = 10  # of the longest training
TUNED_WIDTH = 64  # that of configs/tiny.py, where the rates below come from


@dataclass(frozen=True)
class Choice:
    """A number that the config left open, and why it is what it is."""

    knob: str
    value: float
    reason: str


@dataclass(frozen=True)
class Passes:
    """A training whose updates follow from passes over the examples of its folds."""

    steps: str
    folds: Callable[[Config], Sequence[str]]
    epochs: Callable[[Config], float]
    rows: Callable[[Config], int]  # of an update
    fewest: int = FEWEST_STEPS  # without a base


@dataclass(frozen=True)
class Rate:
    """A learning rate that is good at TUNED_WIDTH for updates of so many rows."""

    knob: str
    tuned: float
    tuned_rows: int
    rows: Callable[[Config], int]


def _of_sft(config: Config) -> Sequence[str]:
    return ("sft",)


def _of_pairs(config: Config) -> Sequence[str]:
    return PAIR_FOLDS[config.rm.pairs]


TRAININGS = (
    Passes("sft.policy_steps", _of_sft, lambda config: config.sft.policy_epochs, lambda config: config.sft.batch_size),
    Passes(
        "sft.improver_steps", _of_sft, lambda config: config.sft.improver_epochs, lambda config: config.sft.batch_size
    ),
    Passes("rm.policy_steps", _of_pairs, lambda config: config.rm.policy_epochs, lambda config: config.rm.batch_size),
    Passes(
        "rm.improver_steps", _of_pairs, lambda config: config.rm.improver_epochs, lambda config: config.rm.batch_size
    ),
    Passes(
        "dpo.steps",
        lambda config: PAIR_FOLDS["fold"],
        lambda config: config.dpo.epochs,
        lambda config: config.dpo.batch_size,
        fewest=1,  # it starts from a model that has learned
    ),
)
RATES = (
    Rate("sft.optimizer.learning_rate", 3e-3, 64, lambda config: config.sft.batch_size),
    Rate("rm.optimizer.learning_rate", 3e-3, 32, lambda config: config.rm.batch_size),
    Rate("rl.optimizer.learning_rate", 2e-4, 32, lambda config: config.rl.batch_size // config.rl.minibatches),
    Rate("rl.value_learning_rate", 5e-4, 32, lambda config: config.rl.batch_size // config.rl.minibatches),
    Rate("dpo.optimizer.learning_rate", 1e-4, 32, lambda config: config.dpo.batch_size),
    Rate("spa.optimizer.learning_rate", 1e-4, 32, lambda config: config.spa.batch_size),
)
LIMITS, EVERY = ("data.prompt_length", "data.response_length"), "checkpoint.every"
OPEN = (*LIMITS, *(training.steps for training in TRAININGS), *(rate.knob for rate in RATES), EVERY)


def open_knobs(config: Config) -> list[str]:
    """The knobs that the pairs decide."""
    flat = flatten(config)
    return [knob for knob in OPEN if not flat[knob]]


def settled(config: Config, report: Mapping[str, Any]) -> tuple[Config, list[Choice]]:
    """The config without an open knob, and what was chosen; `report` is that of the prepared data."""
    choices = []
    for choice in _choices(config, report):
        config = with_knob(config, choice.knob, choice.value)
        choices.append(choice)
    if EVERY in open_knobs(config):
        longest = max(flatten(config)[training.steps] for training in TRAININGS)
        every = max(1, longest // EVALUATIONS)
        choices.append(Choice(EVERY, every, f"{EVALUATIONS} evaluations of the longest training, {longest:,} updates"))
        config = with_knob(config, EVERY, every)
    return config, choices


def check_rules(config: Config) -> None:
    """UserError for an open knob that no rule covers: a rate beside a base, passes over packed rows."""
    left_open = open_knobs(config)
    if config.base and (rates := [rate.knob for rate in RATES if rate.knob in left_open]):
        raise UserError(
            f"{', '.join(map(flag_of, rates))} = 0 follow from the width of a model that is trained from a random "
            f"start; beside --base={config.base} give rates"
        )
    passes = [training.steps for training in TRAININGS if training.folds is _of_sft and training.steps in left_open]
    if config.sft.packed_width and passes:
        raise UserError(
            f"{', '.join(map(flag_of, passes))} = 0 counts examples, and a row of --sft.packed-width="
            f"{config.sft.packed_width} holds several; give the updates"
        )


def _choices(config: Config, report: Mapping[str, Any]) -> Iterator[Choice]:
    left_open = open_knobs(config)
    for knob in LIMITS:
        if knob in left_open:
            yield Choice(knob, report["limits"][knob], "tokens that 99 of 100 examples need")
    for training in TRAININGS:
        if training.steps in left_open:
            examples = sum(report["folds"][fold]["examples"] for fold in training.folds(config))
            yield passes_of(config, training, examples)
    for rate in RATES:
        if rate.knob in left_open:
            yield rate_of(config, rate)


def passes_of(config: Config, training: Passes, examples: int) -> Choice:
    """Updates of a training: its passes over the examples of its folds, and no fewer than its model needs to learn.

    By hand: 8 passes over 17,000 examples in batches of 64 are 2,125 updates.
    """
    epochs, rows = training.epochs(config), training.rows(config)
    passes = math.ceil(epochs * examples / rows)
    reason = f"{epochs:g} passes over {examples:,} examples, {rows} an update"
    fewest = 1 if config.base else training.fewest
    if passes < fewest:
        reason = f"no fewer than {fewest:,}; {reason} would be {passes:,}"
    return Choice(training.steps, max(passes, fewest), reason)


def rate_of(config: Config, rate: Rate) -> Choice:
    """A learning rate: tuned * (TUNED_WIDTH / width) * sqrt(rows / tuned_rows).

    By hand: 3e-3 for 64 rows is 3e-3 * (64 / 256) * sqrt(16 / 64) = 3.75e-4 at width 256 for 16 rows.
    """
    width, rows = config.transformer.width, rate.rows(config)
    value = rate.tuned * TUNED_WIDTH / width * math.sqrt(rows / rate.tuned_rows)
    return Choice(
        rate.knob,
        float(f"{value:.3g}"),
        f"{rate.tuned:g} x {TUNED_WIDTH}/{width} (width) x root of {rows}/{rate.tuned_rows} (rows)",
    )


def with_knob(config: Config, knob: str, value: float) -> Config:
    """The config with another value of one knob, "sft.optimizer.learning_rate"."""

    def changed(section: Any, names: list[str]) -> Any:
        name, *rest = names
        return replace(section, **{name: changed(getattr(section, name), rest) if rest else value})

    found: Config = changed(config, knob.split("."))
    return found
