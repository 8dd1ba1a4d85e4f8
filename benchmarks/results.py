"""What benchmarks measured, kept: benchmarks/results/<name>.jsonl has one line a run, with date, commit and machine."""

import argparse
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax

from pit_jax.files import append_jsonl

HERE = Path(__file__).resolve().parent


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """The flags that every benchmark has: --results=FOLDER."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder that gets the line")
    return parser


def keep(folder: Path, name: str, figures: Mapping[str, Any]) -> None:
    """Append the figures of a run to <folder>/<name>.jsonl."""
    line = {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "machine": machine(),
        "figures": dict(figures),
    }
    folder.mkdir(parents=True, exist_ok=True)
    append_jsonl(folder / f"{name}.jsonl", [line])


def commit() -> str:
    """The commit of the checkout, with `-dirty` where files differ from it; "unknown" outside of one."""
    command = ["git", "-C", str(HERE), "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def machine() -> str:
    """Devices, processor, cores, memory and the version of jax, in words."""
    kinds = sorted({device.device_kind for device in jax.devices()})
    gibibytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{jax.device_count()} {jax.default_backend()} device(s) ({', '.join(kinds)}), {os.cpu_count()} cores of "
        f"{platform.machine()}, {gibibytes:.0f} GiB, jax {jax.__version__}"
    )
