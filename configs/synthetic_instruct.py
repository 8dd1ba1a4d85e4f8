"""Synthetic instructions: a public stand-in for PIT's third set, with the paper's settings as far as they are known.

Data      The paper's own set is not public: instructions whose y_w a much larger model wrote, judged on following them
          alone [S]; its size and generator are not known. Here: Dahoas/synthetic-instruct-gptj-pairwise from the
          Hugging Face hub (33,143 rows [M]). A copy on disk: --data.sources synthetic_instruct:PATH.
Command   python launch/tpu_run.py --stage=all --config=configs/synthetic_instruct.py --base=checkpoints/MODEL
Model     As in configs/hh_rlhf.py; this set is the smallest of the three, and the one to begin with.
Memory    per chip: not known before a run, for there is no planner yet; see configs/hh_rlhf.py.
Expect    not measured here, and another set than the paper's: PIT against the original +33.6, against Self-Refine +10.2
          (GPT-4, n = 128) [V].

Tags as in configs/hh_rlhf.py. What is not named below is as there.
"""

from dataclasses import replace

from pit_jax.config import Config
from pit_jax.shipped import shipped


def get_config() -> Config:
    base = shipped("hh_rlhf")
    return replace(
        base,
        workdir="runs/synthetic_instruct",
        data=replace(base.data, sources=("synthetic_instruct:hub",)),
        # One epoch [S] of 10,500 pairs a fold in batches of 64 (ours: half of the other sets', for twice the updates).
        sft=replace(base.sft, policy_steps=164, improver_steps=164, batch_size=64),
        rm=replace(base.rm, policy_steps=164, improver_steps=164),  # unknown; one epoch is ours
        # Unknown; one pass over the fold's prompts in each stage, 256 at a time, is ours.
        rl=replace(base.rl, batch_size=256, policy_rounds=41, curriculum=replace(base.rl.curriculum, rounds=(82, 41))),
    )
