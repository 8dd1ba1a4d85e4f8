"""The entry for every stage: python launch/tpu_run.py --stage=rl --config=configs/tiny.py --workdir=runs/tiny."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # Works from a checkout whether or not the package is installed.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from pit_jax.cli import entry

    entry()
