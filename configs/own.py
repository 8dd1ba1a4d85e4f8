"""Your own pairs: name the source and nothing else. What the pairs decide is printed with its reason and kept.

Command   python launch/tpu_run.py --stage=data --config=configs/own.py --data.sources pairs:pairs.jsonl
          python launch/tpu_run.py --stage=all --config=configs/own.py --data.sources pairs:pairs.jsonl
Model     that of configs/tiny.py, from a random start: two layers, width 64, a tokenizer trained on the pairs.
Hardware  two CPU cores, 3 GiB; how long it takes follows from the pairs: 54,000 short ones, 40 to 50 minutes of a core.
Expect    the gap model's figures on held-out pairs, and PIT x1 against the policy, in the report. What it gives on
          worlds that it was not tuned for: docs/experiments.md, "Pairs that nobody tuned for".
"""

from dataclasses import replace

from pit_jax.config import Config, OptimizerConfig
from pit_jax.limits import MonitorsConfig
from pit_jax.shipped import shipped


def get_config() -> Config:
    """A 0 is decided by the pairs (pit_jax/recipes/choices.py), or by a rule of width and batch."""
    base = shipped("tiny")

    def by_rule(optimizer: OptimizerConfig) -> OptimizerConfig:
        return replace(optimizer, learning_rate=0.0)

    return replace(
        base,
        workdir="runs/own",
        data=replace(base.data, prompt_length=0, response_length=0),
        sft=replace(
            base.sft,
            policy_steps=0,
            policy_epochs=8.0,
            improver_steps=0,
            improver_epochs=6.0,
            patience=3,
            optimizer=by_rule(base.sft.optimizer),
        ),
        rm=replace(
            base.rm,
            pairs="all",
            word_model=1.0,
            policy_steps=0,
            policy_epochs=1.0,
            improver_steps=0,
            improver_epochs=1.5,
            patience=3,
            optimizer=by_rule(base.rm.optimizer),
        ),
        # How far an update may go without harm is another on every set: these limits are those of every config.
        rl=replace(
            base.rl,
            patience=6,
            value_learning_rate=0.0,
            optimizer=by_rule(base.rl.optimizer),
            monitors=MonitorsConfig(),
        ),
        dpo=replace(base.dpo, steps=0, optimizer=by_rule(base.dpo.optimizer)),
        spa=replace(base.spa, optimizer=by_rule(base.spa.optimizer)),
        checkpoint=replace(base.checkpoint, every=0),
    )
