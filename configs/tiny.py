"""The embedded `notes` set on a laptop: PIT end to end with nothing to download.

Command   make demo
          python launch/tpu_run.py --stage=all --config=configs/tiny.py --workdir=runs/tiny
Model     two layers, width 64, a tokenizer trained on the data; CPU, float32.
"""

from pit_jax.config import Config


def get_config() -> Config:
    """The defaults of pit_jax.config are the settings of this run."""
    return Config()
