"""The entry for every stage: python launch/tpu_run.py --stage=rl --config=configs/tiny.py --workdir=runs/tiny."""

import sys
from pathlib import Path


def main() -> int:
    """Run the command of this process. Works from a checkout whether or not the package is installed."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from pit_jax.stages import command

    return command.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
