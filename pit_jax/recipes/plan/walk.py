"""One plan: every program of every stage that was asked for, compiled for the machine, and what it would take."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from pit_jax.config import Config, Effort
from pit_jax.data.features import Layout, round_up, row_lengths
from pit_jax.data.store import read_report
from pit_jax.errors import UserError, did_you_mean
from pit_jax.model.pretrained.published import PUBLISHED
from pit_jax.parallel.mesh import check_batch, mesh_over, mesh_shape
from pit_jax.parallel.sharding import row_shards
from pit_jax.parallel.topologies import GIB, Topology, has_tpu_compiler, simulated_devices, tpu_devices
from pit_jax.recipes.catalogue import catalogue
from pit_jax.run.base import OURS
from pit_jax.run.compiled import compile_program, device_bytes, too_large
from pit_jax.run.frozen import as_trained
from pit_jax.run.loads import Load
from pit_jax.run.plan import Compiled, Plan, ProgramPlan, StagePlan
from pit_jax.run.programs import Program, Shapes
from pit_jax.run.roofline import Demand, roofline
from pit_jax.run.stage import Stage

NUMBER = {"float32": 4, "bfloat16": 2}  # bytes of a number in the cache


@dataclass(frozen=True)
class Machine:
    """Where programs are compiled for, and how hard the compiler tries."""

    topology: Topology
    devices: Sequence[Any]
    effort: Effort = "full"


def machine_of(topology: Topology, effort: Effort = "full") -> Machine:
    """A TPU's devices where its compiler is installed, else as many simulated ones."""
    if has_tpu_compiler():
        return Machine(topology, tpu_devices(topology), effort)
    return Machine(topology, simulated_devices(topology.chips), effort)


def stages_of(config: Config) -> list[Stage]:
    """The stages to plan, in the order of the catalogue. UserError for one that is not there or trains nothing."""
    known = {str(id): stage for id, stage in catalogue().items() if stage.leaves}
    asked: list[str] = []
    for name in config.plan.stages:
        of_name = [
            id for id, stage in known.items() if id == name or (stage.name == name and stage.role != "second-gap")
        ]
        if not of_name:
            names = [*dict.fromkeys(stage.name for stage in known.values()), *known]
            raise UserError(
                f"--plan.stages {name}: no stage that trains{did_you_mean(name, names)}; known: {', '.join(names)}"
            )
        asked += of_name
    return [stage for id, stage in known.items() if id in asked]


def with_model(config: Config) -> Config:
    """`config` with the architecture that --plan.model names."""
    if not config.plan.model:
        return config
    kept = {name: getattr(config.transformer, name) for name in OURS}
    return replace(config, transformer=replace(PUBLISHED[config.plan.model], **kept))


def layout_of(config: Config, data: Path) -> Layout:
    """That of the prepared data, or the longest rows that the config lets in."""
    report = read_report(data)
    if report is not None:
        return Layout(**report["layout"])
    prompt, answer, suffix = config.data.prompt_length, config.data.response_length, config.plan.suffix_tokens
    lengths = np.array([[prompt, prompt, answer - 1, answer - 1]])
    kinds = ("sft-policy", "sft-improver", "reward", "gap")
    rows = {kind: round_up(int(row_lengths(kind, lengths, suffix)[0]), 8) for kind in kinds}
    return Layout(0, 1, (2,) * suffix, rows, round_up(prompt, 4), round_up(answer, 4))


def vocabulary(config: Config) -> int:
    """Rows of the embedding: those asked for, or the model's, or the most that a trained tokenizer has."""
    return config.plan.vocab_size or config.transformer.vocab_rows or config.tokenizer.vocab_size


def check_stages(stages: Sequence[Stage], config: Config, mesh: Mesh) -> None:
    """UserError for a knob of a stage, or a batch that the mesh does not divide."""
    for stage in stages:
        stage.check(config)
        for flag, rows, parts in stage.batches(config):
            check_batch(flag, rows, parts, mesh)


def plan_of(
    config: Config,
    machine: Machine,
    *,
    workdir: Path,
    data: Path,
    say: Callable[[str], None],
    flags: tuple[str, ...] = (),
    to_the_end: bool = True,
) -> Plan:
    """Compile, or read from the workdir, all programs of the stages asked for, on the mesh of the config.

    Without `to_the_end` the plan ends with the first program that does not fit.

    Raises UserError for a mesh, a knob or a batch that cannot be.
    """
    topology = machine.topology
    shape = mesh_shape(config.mesh, topology.chips)
    mesh = mesh_over(shape, machine.devices, topology.slices)
    stages = stages_of(config)
    check_stages(stages, config, mesh)
    shapes = Shapes(config, layout_of(config, data), vocabulary(config), mesh)
    planned: list[StagePlan] = []
    for stage in stages:
        programs = []
        for program in _programs(stage, shapes, machine, workdir / "compiled", quick_first=not to_the_end):
            say(f"{stage.id}: {told(program)}")
            programs.append(program)
            if program.fits is False and not to_the_end:
                break
        planned.append(StagePlan(str(stage.id), tuple(programs)))
        if planned[-1].fits is False and not to_the_end:
            break
    language = jax.eval_shape(shapes.language_model.init, jax.random.key(0))
    return Plan(
        topology=str(topology),
        chips=topology.chips,
        hosts=topology.hosts,
        accelerator_type=topology.accelerator_type,
        mesh=shape,
        model=config.plan.model or config.base or "the transformer's knobs",
        parameters=sum(leaf.size for leaf in jax.tree.leaves(language)),
        price=config.plan.price,
        stages=tuple(planned),
        flags=flags,
    )


def _programs(
    stage: Stage, shapes: Shapes, machine: Machine, folder: Path, *, quick_first: bool
) -> Iterator[ProgramPlan]:
    """In their order, or those that decode last: they take longest to compile."""
    topology, residents = machine.topology, stage.residents(shapes)
    loads = as_trained(stage.loads(shapes), shapes.config, str(stage.id))
    programs = list(stage.programs(shapes))
    if quick_first:
        programs.sort(key=lambda program: loads[program.name].decoded if program.name in loads else 0)
    for program in programs:
        load = loads.get(program.name)
        held = [residents[name] for name in (load.holds if load else ()) if name in residents]
        there = {name: tree for name, tree in residents.items() if load is None or name not in load.away}
        beside = device_bytes(there, but=held)
        compiled = too_large(program, shapes.mesh, topology.chip.hbm - beside)
        compiled = compiled or compile_program(program, shapes.mesh, folder, topology.slices, machine.effort)
        yield program_plan(program, compiled, load, beside, shapes, topology)


def program_plan(
    program: Program, compiled: Compiled, load: Load | None, beside: int, shapes: Shapes, topology: Topology
) -> ProgramPlan:
    """What a compiled program takes, where its stage runs it as the load says."""
    gathered = 0 if shapes.config.transformer.tied else device_bytes(embeddings(program))
    demand = None if load is None else demand_of(compiled, load, shapes, topology, gathered=gathered)
    tokens = 0.0 if load is None else float(load.rows * load.decoded) or load.work.tokens
    return ProgramPlan(
        name=program.name,
        compiled=compiled,
        beside=beside,
        limit=topology.chip.hbm,
        flops=demand.flops if demand else 0.0,
        hbm=demand.hbm if demand else 0.0,
        tokens=tokens,
        calls=load.calls + load.checks if load else 0.0,
        least=roofline(demand, topology.chip) if demand else None,
    )


def embeddings(program: Program) -> list[Any]:
    """Those among the arguments of a program."""
    leaves = jax.tree_util.tree_leaves_with_path(program.args)
    return [leaf for path, leaf in leaves if jax.tree_util.keystr(path[-1:], simple=True) == "embedding"]


def demand_of(compiled: Compiled, load: Load, shapes: Shapes, topology: Topology, *, gathered: int = 0) -> Demand:
    """Of one chip in one call: operations as model/flops.py counts them, bytes of HBM, bytes sent.

    At least: arguments are read once and results written; what is temporary is written and read. A program that
    decodes reads its weights and the whole cache once more for every token, but for `gathered` bytes of the weights, of
    which a token takes single rows. What is computed once before the training has no program of its own: its operations
    are shared out over the calls.
    """
    hbm = compiled.arguments + compiled.outputs + 2 * (compiled.temporaries or 0)
    if load.decoded:
        hbm += load.decoded * (compiled.arguments - gathered + cache_bytes(load, shapes))
    flops = load.work.flops + (load.before.flops / load.calls if load.calls else 0.0)
    return Demand(flops / topology.chips, float(hbm), compiled.sent(), compiled.sent(slices=True))


def cache_bytes(load: Load, shapes: Shapes) -> int:
    """Of the keys and values of all rows that one chip holds, rows over data and fsdp, heads over tensor."""
    config, tensor = shapes.config.transformer, shapes.mesh.shape["tensor"]
    rows = -(-load.rows // row_shards(shapes.mesh))
    heads = config.kv_heads // tensor if config.kv_heads % tensor == 0 else config.kv_heads
    return 2 * config.layers * rows * load.cached * heads * config.head_size * NUMBER[config.dtype]


def told(program: ProgramPlan) -> str:
    """One line: does it fit, how full is a chip, how long did the compiler take."""
    compiled = program.compiled
    answer = {True: "fits", False: "does NOT fit", None: "not known to fit"}[program.fits]
    room = f"{program.memory / GIB:.2f} of {program.limit / GIB:.2f} GiB a chip"
    return f"{program.name}: {answer}, {room} ({program.beside / GIB:.2f} beside it), {compiled.seconds:.0f} s"
