"""What the pairs decide: updates by hand, learning rates by their rule, and that nothing given is touched."""

from dataclasses import replace
from typing import Any

import pytest

from pit_jax.config import Config, flatten
from pit_jax.errors import UserError
from pit_jax.recipes.choices import OPEN, Choice, check_rules, open_knobs, settled, with_knob
from pit_jax.shipped import shipped

REPORT: dict[str, Any] = {
    "folds": {
        name: {"examples": count} for name, count in (("sft", 17_000), ("rm", 16_000), ("rl", 1), ("heldout", 1))
    },
    "limits": {"data.prompt_length": 31, "data.response_length": 57},
}
WIDE = 256


def opened(config: Config, *knobs: str) -> Config:
    for knob in knobs:
        config = with_knob(config, knob, 0)
    return config


def test_a_config_that_says_everything_is_left_alone() -> None:
    assert open_knobs(Config()) == [] and settled(Config(), REPORT) == (Config(), [])
    assert {knob for knob in OPEN if knob not in flatten(Config())} == set()


def test_passes_over_a_fold_by_hand() -> None:
    """4 passes over 17,000 examples, 64 an update: 1,062.5. The pairs of dpo are those of the reward model."""
    config = replace(Config(), sft=replace(Config().sft, policy_epochs=4.0))
    found, choices = settled(opened(config, "sft.policy_steps", "dpo.steps"), REPORT)
    assert (found.sft.policy_steps, found.dpo.steps, found.sft.improver_steps) == (1063, 500, 1600)
    assert choices == [
        Choice("sft.policy_steps", 1063, "4 passes over 17,000 examples, 64 an update"),
        Choice("dpo.steps", 500, "1 passes over 16,000 examples, 32 an update"),
    ]


def test_passes_over_the_pairs_of_every_training_fold() -> None:
    """2 passes over 17,000, 16,000 and 1 pairs, 64 an update: 1,031.28; DPO keeps to its own fold."""
    config = replace(Config(), rm=replace(Config().rm, pairs="all", improver_epochs=2.0))
    found, choices = settled(opened(config, "rm.improver_steps", "dpo.steps"), REPORT)
    assert (found.rm.improver_steps, found.dpo.steps) == (1032, 500)
    assert choices[0].reason == "2 passes over 33,001 examples, 64 an update"


def test_few_pairs_are_passed_more_often() -> None:
    """But by what starts from a base, or from a model of the run, as DPO does."""
    few = REPORT | {"folds": {"sft": {"examples": 1000}, "rm": {"examples": 1000}}}
    config = opened(Config(), "sft.policy_steps", "dpo.steps")
    found, choices = settled(config, few)
    assert (found.sft.policy_steps, found.dpo.steps) == (1000, 32)
    assert choices[0].reason == "no fewer than 1,000; 2 passes over 1,000 examples, 64 an update would be 32"
    assert settled(replace(config, base="checkpoints/llama"), few)[0].sft.policy_steps == 32


def test_texts_are_as_long_as_they_need() -> None:
    found, _ = settled(opened(Config(), "data.prompt_length", "data.response_length"), REPORT)
    assert (found.data.prompt_length, found.data.response_length) == (31, 57)
    assert settled(opened(Config(), "data.response_length"), REPORT)[0].data.prompt_length == 48


def test_rates_follow_width_and_batch() -> None:
    """3e-3 for 64 rows at width 64 is a quarter of it at four times the width, half of that for a quarter of the rows.

    RL's rows are those of a minibatch: 128 rollouts in 4 are 32, what its rate was found for.
    """
    base = Config()
    wide = replace(
        base, transformer=replace(base.transformer, width=WIDE), sft=replace(base.sft, batch_size=16), seed=3
    )
    found, choices = settled(opened(wide, "sft.optimizer.learning_rate", "rl.value_learning_rate"), REPORT)
    assert found.sft.optimizer.learning_rate == 3.75e-4 and found.rl.value_learning_rate == 1.25e-4
    assert choices[0].reason == "0.003 x 64/256 (width) x root of 16/64 (rows)"
    assert found.rm.optimizer == base.rm.optimizer and found.seed == 3


def test_the_demos_rates_are_the_rules_own() -> None:
    tiny = shipped("tiny")
    rates = ("sft.optimizer.learning_rate", "rm.optimizer.learning_rate", "rl.optimizer.learning_rate")
    assert settled(opened(tiny, *rates), REPORT)[0] == tiny


def test_checkpoints_are_ten_of_the_longest_training() -> None:
    found, choices = settled(opened(Config(), "checkpoint.every"), REPORT)
    assert choices == [Choice("checkpoint.every", 160, "10 evaluations of the longest training, 1,600 updates")]
    assert found.checkpoint.every == 160
    first = settled(opened(Config(), "checkpoint.every", "sft.improver_steps"), REPORT)[0]
    assert first.checkpoint.every == 100, "3 passes over 17,000 examples are 797 updates; 1,000 are the fewest"


def test_own_leaves_all_to_the_pairs() -> None:
    own = shipped("own")
    assert set(open_knobs(own)) == set(OPEN)
    assert open_knobs(settled(own, REPORT)[0]) == []


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            replace(opened(Config(), "rm.optimizer.learning_rate"), base="checkpoints/llama"),
            "--rm.optimizer.learning-rate = 0 follow from the width of a model that is trained from a random start; "
            "beside --base=checkpoints/llama give rates",
        ),
        (
            replace(
                opened(Config(), "sft.policy_steps"),
                sft=replace(Config().sft, policy_steps=0, packed_width=512),
            ),
            "--sft.policy-steps = 0 counts examples, and a row of --sft.packed-width=512 holds several",
        ),
    ],
)
def test_what_no_rule_covers(config: Config, message: str) -> None:
    with pytest.raises(UserError) as told:
        check_rules(config)
    assert message in str(told.value)
