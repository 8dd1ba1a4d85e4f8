"""The embedded `notes` set with the demo's models and more RL: the paper's analyses over seeds.

Command   python launch/tpu_run.py --stage=all --config=configs/notes.py --workdir=runs/notes --seeds=0,1,2,3,4
          python launch/tpu_run.py --stage=paper --config=configs/notes.py --workdir=runs/notes --seeds=0,1,2,3,4
Model     the one of configs/tiny.py.
Hardware  two CPU cores, 3 GiB: a quarter of an hour a seed for each of the two commands. One H200: four minutes for
          each of the two, the five seeds side by side with --seed in place of --seeds.
Expect    the table of five seeds in docs/experiments.md. The headline is at temperature 1.0, where the policy scores 60
          to 80% of the rubric. `pair-gap`, the ablation that trains a gap model of its own, is left out: it takes as
          long again.
"""

from dataclasses import replace

from pit_jax.config import Config
from pit_jax.shipped import shipped


def get_config() -> Config:
    base = shipped("tiny")
    return replace(
        base,
        # As in the paper: the gap is less that of a copy, and the last draft is the answer.
        rl=replace(base.rl, gap="centred", curriculum=replace(base.rl.curriculum, rounds=(30, 90))),
        improve=replace(base.improve, stop="rounds"),
        evaluate=replace(base.evaluate, prompts=1024, temperatures=(0.4, 0.6, 0.8, 1.0)),
        paper=replace(base.paper, ablations=("first-only", "second-only", "direct-rlhf", "score-difference")),
    )
