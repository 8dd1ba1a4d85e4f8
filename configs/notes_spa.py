"""SPA on the embedded `notes` set, with as many pairs as its paper has: 2,000 gold ones of 60,000.

Command   python launch/tpu_run.py --stage=sft --model=policy --config=configs/notes_spa.py --workdir=runs/spa
          python launch/tpu_run.py --stage=spa-tables --config=configs/notes_spa.py --workdir=runs/spa
          With --seeds=0,1,2 behind both: mean and spread.
Model     the one of configs/tiny.py; so are SPA's knobs, which are not the paper's: those are for models of billions.
Hardware  one CPU core, 3 GiB: forty minutes for SPA itself, ten for DPO on all pairs, forty for each ablation.
Expect    docs/experiments.md.
"""

from dataclasses import replace

from pit_jax.config import Config
from pit_jax.shipped import shipped


def get_config() -> Config:
    base = shipped("notes")
    return replace(
        base,
        workdir="runs/spa",
        data=replace(base.data, world_pairs=200_000),  # a third of them in the fold that SPA learns from
        dpo=replace(base.dpo, steps=1900),  # one pass over that fold: DPO on all gold pairs
    )
