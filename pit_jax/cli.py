"""The command line: parse, show the resolved config, run; errors of the user in one sentence, exit code 2."""

import logging
import os
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pit_jax.config import Config, config_hash, flatten
from pit_jax.errors import UserError
from pit_jax.flags import parse
from pit_jax.forks import fault_of
from pit_jax.parallel.host_memory import keep_freed_memory


def resolved(config: Config) -> Table:
    """The hash of a config and the fields in which it differs from the defaults of pit_jax.config."""
    flat, usual = flatten(config), flatten(type(config)())
    title = f"{config.stage} · config {config_hash(flat)} · {config.workdir}"
    table = Table(title=Text(title), title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for column in ("knob", "value", "default"):
        table.add_column(column, style="dim" if column == "default" else "")
    for name, value in flat.items():
        if value != usual[name]:
            table.add_row(name, Text(str(value)), Text(str(usual[name])))
    return table


def simulate_devices(count: int) -> None:
    """Make JAX see `count` CPU devices; to be called before the first use of a device."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", count)


def main(argv: Sequence[str]) -> int:
    """Parse, show the resolved config, run. Returns the exit code: 0, 2 for what the user can cure, 130 if stopped."""
    try:
        config = parse(argv)
        keep_freed_memory()
        if config.mesh.simulate < 0:
            raise UserError(f"--mesh.simulate={config.mesh.simulate}: pass a number of devices, or 0 for the real ones")
        if config.mesh.simulate:
            simulate_devices(config.mesh.simulate)
        Console().print(resolved(config))
        logging.getLogger("absl").setLevel(logging.ERROR)  # orbax warns of what is meant: what a killed save left goes
        if config.seeds:
            from pit_jax.recipes import seeds

            seeds.run(config)
        else:
            from pit_jax.recipes import pipeline

            pipeline.run(config)
    except KeyboardInterrupt:
        print("\nstopped; the same command resumes", file=sys.stderr)
        return 130
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Exception as error:
        fault = fault_of(error)
        if fault is None:
            raise
        print(f"error: {fault}", file=sys.stderr)
        return 2
    return 0


def entry() -> None:
    """The `pit-jax` command."""
    try:
        code = main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)
