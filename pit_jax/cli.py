"""The command line: parse, show the resolved config, run; errors of the user in one sentence, exit code 2."""

import io
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from pit_jax import signals
from pit_jax.config import Config, config_hash, flatten
from pit_jax.errors import Preempted, UserError
from pit_jax.flags import parse
from pit_jax.forks import fault_of
from pit_jax.parallel.host_memory import keep_freed_memory
from pit_jax.paths import to_path
from pit_jax.signals import STOPPED
from pit_jax.terminal import Terminal, tell, tell_traceback


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


def keep_compiled(folder: Path) -> None:
    """Keep compiled programs in `folder`, for when the run is resumed; the user's own folder for them goes before.

    Not those for several CPU devices: XLA keeps the order of their collectives out of the file. Read again, devices
    wait for each other in different ones (jax 0.10.2: 200 updates came to a stop in 2 of 3 runs on two devices).
    """
    import jax

    from pit_jax.parallel import hosts

    if hosts.spans_cpus():
        jax.config.update("jax_enable_compilation_cache", False)
    elif not jax.config.values["jax_compilation_cache_dir"]:
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # most of a start's programs take less


def main(argv: Sequence[str]) -> int:
    """Parse, show the resolved config, run. Returns the exit code.

    0; 2 for what the user can mend; 75 where the same command must be run again, since the machine is taken away or
    other hosts did not come; 130 if stopped from the keyboard.
    """
    try:
        try:
            config = parse(argv)
        except Exception as error:
            if (sentence := sentence_of(error)) is None:
                raise
            return told(2, sentence)
        return run(config)
    except KeyboardInterrupt:
        return told(130, STOPPED)


def run(config: Config) -> int:
    """Start this host's part, run, and end with the other hosts. Returns the exit code."""
    from pit_jax.parallel import hosts, preemption  # jax, which --help and a wrong flag do not need
    from pit_jax.recipes import pipeline, seeds

    signals.start()

    def ended(code: int, message: str) -> int:
        """On every host, said by main."""
        if hosts.is_main():
            told(code, message)
        hosts.fail(code, message)
        return code

    try:
        keep_freed_memory()
        if config.mesh.simulate:
            simulate_devices(config.mesh.simulate)
        hosts.start(config.hosts, simulated=config.mesh.simulate > 0)
        preemption.heed()
        keep_compiled(to_path(config.workdir) / "compiled")
        if hosts.is_main():
            Terminal().print(resolved(config))
        logging.getLogger("absl").setLevel(logging.ERROR)  # orbax warns of what is meant: what a killed save left goes
        if config.seeds:
            seeds.run(config)
        else:
            pipeline.run(config)
        hosts.finish()
    except KeyboardInterrupt:
        return ended(130, STOPPED)
    except Preempted as notice:
        hosts.finish()  # nobody leaves before what all have saved is on disk
        return told(os.EX_TEMPFAIL, f"\n{notice}")
    except Exception as error:
        if (sentence := sentence_of(error)) is not None:
            return ended(2, sentence)
        if hosts.count() > 1:
            tell_traceback(error)
            hosts.fail(1, f"{type(error).__name__}: {error}; the traceback is in the log of that host")
        raise
    return 0


def sentence_of(error: Exception) -> str | None:
    """What a person can mend, their own or a fork's fault; None for a fault of ours, which has a traceback."""
    fault = str(error) if isinstance(error, UserError) else fault_of(error)
    return None if fault is None else f"error: {fault}"


def told(code: int, message: str) -> int:
    """Say why the command ends; its exit code."""
    tell(message, error=True)
    return code


def entry() -> None:
    """The `pit-jax` command."""
    signals.guard()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # of a terminal that has not all characters
    try:
        code = main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:
        tell_traceback(error)
        code = 1
    signals.leave(code)
