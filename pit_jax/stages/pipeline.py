"""One command: check everything that can be checked, prepare the data, run the stage (or all of them)."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pit_jax.config import Config
from pit_jax.data.store import prepare
from pit_jax.generation.sampling import Sampling, check_sampling
from pit_jax.improvement.stopping import check_stop
from pit_jax.parallel.mesh import check_batch, make_mesh
from pit_jax.stages import data_report, dpo, evaluate, export, gap_gates, improve, paper, rl, rm, sft
from pit_jax.stages.ablations import ABLATIONS, branch, check_ablations
from pit_jax.stages.answering import wording_of
from pit_jax.stages.context import Context
from pit_jax.stages.curriculum import check_curriculum, providers_of
from pit_jax.stages.export import check_export
from pit_jax.stages.guards import check_guards
from pit_jax.stages.models import check_adapters
from pit_jax.stages.workspace import PARENTS, StageFolder, data_folder, has_guard, locate

ORDER = tuple(stage for stage in PARENTS if stage[0] not in ("dpo", "paper", "export"))  # what --stage=all runs


def selected(config: Config) -> list[StageFolder]:
    """The stages that this command runs, in order."""
    if config.stage == "all":
        return [locate(config, stage, model) for stage, model in ORDER if model != "guard" or has_guard(config)]
    models = {"sft": config.model, "rm": config.model, "rl": config.model, "dpo": "policy"}
    return [locate(config, config.stage, models.get(config.stage, ""))]


def check_trunk(config: Config) -> None:
    """ValueError for a trunk that is no run, or is the run itself, and for a stage that needs a run of its own."""
    if not config.trunk:
        return
    if not (data_folder(config) / "done.json").exists():
        raise ValueError(f"--trunk={config.trunk}: asked for the workdir of a run, found no prepared data in it")
    if Path(config.trunk).resolve() == Path(config.workdir).resolve():
        raise ValueError(f"--trunk={config.trunk} is the workdir itself; a branch needs a workdir of its own")
    if config.stage == "paper":
        raise ValueError("--stage=paper makes branches of a run: leave --trunk out and pass the run as --workdir")


def check_workdir(workdir: Path) -> None:
    """ValueError when the workdir cannot be made or written."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / ".probe"
        probe.write_bytes(b"0" * 4096)
        os.remove(probe)
    except OSError as error:
        raise ValueError(
            f"cannot write to workdir {workdir}: {error}; choose another --workdir or free space"
        ) from error


def check(config: Config) -> list[StageFolder]:
    """Everything that can be wrong before data are read or anything compiles. Returns the stages to run."""
    check_trunk(config)
    if config.stage == "data":
        check_workdir(Path(config.workdir))
        return []
    check_ablations(config.paper.ablations)
    wording_of(config)
    check_guards(config)
    check_export(config)
    check_adapters(config)
    folders = selected(config)
    for folder in folders:
        folder.check_config(config)
        if config.stage != "all":
            folder.check_parents(config)
    check_sampling_knobs(config)
    check_curriculum(config.rl.curriculum, config.rl.batch_size)
    mesh = make_mesh(config.mesh)
    for name, batch, accumulate in (
        ("--sft.batch-size", config.sft.batch_size, config.sft.accumulate),
        ("--rm.batch-size", config.rm.batch_size, config.rm.accumulate),
        ("--rl.batch-size", config.rl.batch_size, config.rl.minibatches),
        ("--dpo.batch-size", config.dpo.batch_size, config.dpo.accumulate),
        ("--improve.batch-size", config.improve.batch_size, 1),
    ):
        check_batch(name, batch, accumulate, mesh)
    parts = max(len(providers_of(references)) for references in config.rl.curriculum.references)
    check_batch(f"--rl.batch-size (1/{parts} of it for each reference)", config.rl.batch_size // parts, 1, mesh)
    check_workdir(Path(config.workdir))
    return folders


def check_sampling_knobs(config: Config) -> None:
    """ValueError for temperatures, truncation, rounds or a stop rule that cannot be sampled with."""
    temperatures = (*config.evaluate.temperatures, *config.paper.temperatures, config.paper.temperature)
    for temperature in (config.improve.temperature, *temperatures):
        check_sampling(Sampling(temperature, config.improve.top_k, config.improve.top_p))
    if not config.rl.temperature > 0:
        raise ValueError(f"--rl.temperature={config.rl.temperature}: rollouts need a temperature above 0 to explore")
    for flag, rounds in (("--improve.rounds", config.improve.rounds), ("--paper.rounds", config.paper.rounds)):
        if rounds < 1:
            raise ValueError(f"{flag}={rounds}: ask for at least one improvement")
    check_stop(config.improve.stop, config.improve.stop_threshold)


def make_progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    )


def run(config: Config, data: Path | None = None) -> None:
    """Run config.stage in config.workdir, on the data in the folder `data` (default: that of the run or its trunk).

    Raises ValueError for everything the user can mend.
    """
    assert not config.seeds, "stages/seeds.py runs several seeds, one config each"
    console = Console()
    folders = check(config)
    prepared = prepare(config.data, config.tokenizer, data or data_folder(config), say=console.print)
    if config.stage == "data":
        data_report.run(config, prepared, console)
        return
    for line in data_summary(prepared.report):
        console.print(line, soft_wrap=True)
    mesh = make_mesh(config.mesh)
    context = Context(config, mesh, prepared, console)
    with jax.set_mesh(mesh), make_progress(console) as progress:
        run_stages(context, folders, progress)
    if config.stage in ("evaluate", "all"):
        evaluate.show(context)
    elif config.stage == "paper":
        paper.show(context)


def run_stages(context: Context, folders: Sequence[StageFolder], progress: Progress) -> None:
    """One after the other; what is finished, from this config and these parents, is skipped."""
    for folder in folders:
        if folder.done() is None:
            run_stage(context, folder, progress)
            continue
        own = folder.workdir == Path(context.config.workdir)
        if own:
            folder.begin(context.config, data_fingerprint=context.data.fingerprint)
        context.console.print(f"{folder.name}: finished before{'' if own else f' in {folder.workdir}'}, skipped")


def data_summary(report: dict[str, Any]) -> list[str]:
    """What was read, kept and dropped (with reasons) per source, and the size of every fold."""
    lines = []
    for name, source in report["sources"].items():
        drops = ", ".join(f"{count} {reason}" for reason, count in source["dropped"].items()) or "none"
        lines.append(f"data: {name}: {source['read']} read, {source['kept']} kept; dropped: {drops}")
    sizes = ", ".join(f"{name} {fold['examples']}" for name, fold in report["folds"].items())
    return [*lines, f"data: folds {sizes}"]


def run_stage(context: Context, folder: StageFolder, progress: Progress) -> None:
    match folder.stage:
        case "sft":
            sft.run(context, folder.model, progress)
        case "rm":
            rm.run(context, folder.model, progress)
            if folder.model == "improver":
                gap_gates.measure_heldout(context)
        case "rl":
            rl.run(context, folder.model, progress)
        case "improve":
            improve.run(context, progress)
        case "evaluate":
            evaluate.run(context, progress)
        case "dpo":
            dpo.run(context, progress)
        case "export":
            export.run(context, progress)
        case "paper":
            run_stages(context, [context.folder("dpo", "policy")], progress)
            for name in context.config.paper.ablations:
                own = branch(context, name)
                context.console.print(f"paper: {name}, in {own.config.workdir}", soft_wrap=True)
                run_stages(own, [own.folder(*stage) for stage in ABLATIONS[name].stages], progress)
            paper.run(context, progress)
        case stage:
            raise AssertionError(f"unknown stage {stage}")
