"""A program compiled ahead of time for devices that need not be there: its memory, its traffic, or why it is none."""

import hashlib
import re
import time
from collections.abc import Iterable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import jax
import msgspec
import numpy as np
from jax.sharding import Mesh

from pit_jax.config import Effort
from pit_jax.files import read_json, write_json
from pit_jax.parallel import hlo
from pit_jax.parallel.hlo import Collective, between_slices, collectives
from pit_jax.run.plan import Compiled, Traffic
from pit_jax.run.programs import Program

UNTUNED = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}  # it is read, never run
EFFORTS: dict[Effort, dict[str, float]] = {"full": {}, "least": {"exec_time_optimization_effort": -1.0}}
UNITS = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
OUT_OF_MEMORY = (
    r"Used (?P<needed>[\d.]+)(?P<unit>[KMGT]?) of [\d.]+[KMGT]? hbm",
    r"\((?P<needed>[\d.]+)(?P<unit>[KMGT]?)\) exceeds available HBM",
)


def compile_program(program: Program, mesh: Mesh, folder: Path, slices: int = 1, effort: Effort = "full") -> Compiled:
    """Lower and compile a program for the devices of a mesh, which are a TPU's, of so many slices, or simulated.

    What was compiled once is read from `folder`, by the text of the lowered program, the compiler's version and effort
    (a TPU's) and how its answer is read. A program that does not fit is an answer, not an error; so is one that the
    compiler refuses.
    """
    begun = time.perf_counter()
    compiler = _compiler(mesh)
    lowered = program.lower(mesh, compiler)
    options = EFFORTS[effort] if compiler == "tpu" else UNTUNED
    path = folder / f"{_digest(lowered, compiler, mesh, options)}.json"
    known = read_json(path, Compiled, cure="delete it, and the program is compiled again")
    if known is not None:
        return msgspec.convert(known, Compiled)
    compiled = _compiled(program, lowered, compiler, options, begun, slices)
    write_json(path, asdict(compiled))
    return compiled


def too_large(program: Program, mesh: Mesh, room: float) -> Compiled | None:
    """Of a program whose arguments alone do not fit, that; nothing needs to be compiled."""
    arguments = device_bytes(program.args)
    if arguments <= room:
        return None
    return Compiled(_compiler(mesh), arguments, 0, None, (), 0.0, needed=arguments)


def _compiler(mesh: Mesh) -> Literal["tpu", "cpu"]:
    return "tpu" if mesh.devices.flat[0].platform == "tpu" else "cpu"


def _compiled(
    program: Program, lowered: Any, compiler: Literal["tpu", "cpu"], options: Any, begun: float, slices: int
) -> Compiled:
    try:
        executable = lowered.compile(compiler_options=options or None)
    except jax.errors.JaxRuntimeError as error:
        needed, arguments = needed_bytes(str(error)), device_bytes(program.args)
        reason = "" if needed else str(error)[:500]
        return Compiled(compiler, arguments, 0, None, (), time.perf_counter() - begun, needed, reason)
    memory, text = executable.memory_analysis(), executable.as_text()
    crossing = between_slices(text, slices) if slices > 1 else []
    arguments, outputs = memory.argument_size_in_bytes, memory.output_size_in_bytes - memory.alias_size_in_bytes
    # The peak counts arguments and outputs; temp_size_in_bytes counts memory twice that is used one after the other.
    temporaries = max(memory.peak_memory_in_bytes - arguments - outputs, 0)
    return Compiled(
        compiler,
        arguments=arguments,
        outputs=outputs,
        temporaries=temporaries if compiler == "tpu" else None,
        traffic=summed(collectives(text)) + summed(crossing, slices=True),
        seconds=time.perf_counter() - begun,
    )


def needed_bytes(message: str) -> int | None:
    """All that a program needs, from the error of a compiler for which it is too much; None for another error."""
    for pattern in OUT_OF_MEMORY:
        if match := re.search(pattern, message):
            return int(float(match["needed"]) * UNITS[match["unit"]])
    return None


def summed(found: Iterable[Collective], *, slices: bool = False) -> tuple[Traffic, ...]:
    """The collectives of a program by place and kind; those that move most first."""
    groups: dict[tuple[str, str], list[Collective]] = {}
    for one in found:
        place = "token" if one.inside_open_loop else "loop" if one.inside_loop else "once"
        groups.setdefault((one.kind, place), []).append(one)
    rows: list[Traffic] = [
        msgspec.convert(
            {
                "kind": kind,
                "place": place,
                "count": sum(one.times for one in group),
                "sent": sum(one.times * one.sent for one in group),
                "largest": max(one.largest for one in group),
                "slices": slices,
            },
            Traffic,
        )
        for (kind, place), group in groups.items()
    ]
    return tuple(sorted(rows, key=lambda row: -row.sent))


def device_bytes(tree: Any, but: Any = ()) -> int:
    """Bytes that one device holds of a tree of placed ShapeDtypeStructs, and not of the tree `but`.

    An object that stands in several places is one array (training/sharing.py); one without a place is whole everywhere.
    """
    known = {id(leaf) for leaf in jax.tree.leaves(but)}
    return sum(_leaf_bytes(leaf) for leaf in {id(x): x for x in jax.tree.leaves(tree) if id(x) not in known}.values())


def _leaf_bytes(leaf: Any) -> int:
    if not hasattr(leaf, "dtype"):
        return 0
    place = getattr(leaf, "sharding", None)
    shape = leaf.shape if place is None else place.shard_shape(leaf.shape)
    is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return int(np.prod(shape)) * (8 if is_key else leaf.dtype.itemsize)


def _digest(lowered: Any, compiler: str, mesh: Mesh, options: Any) -> str:
    try:
        release = version("libtpu" if compiler == "tpu" else "jaxlib")
    except PackageNotFoundError:
        release = ""
    kind = mesh.devices.flat[0].device_kind
    reader = Path(hlo.__file__).read_text()
    text = f"{compiler} {release} {kind} {mesh.devices.shape} {options}\n{reader}\n{lowered.as_text()}"
    return hashlib.sha256(text.encode()).hexdigest()[:24]
