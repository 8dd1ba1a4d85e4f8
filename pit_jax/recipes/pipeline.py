"""One command: check everything that can be checked, prepare the data, run the stages that were asked for."""

import contextlib
import math
from dataclasses import replace
from pathlib import Path

import jax

from pit_jax.config import Config
from pit_jax.data.store import Prepared, prepare, read_report
from pit_jax.errors import UserError
from pit_jax.files import check_writable
from pit_jax.parallel import hosts, preemption
from pit_jax.parallel.lock import owned
from pit_jax.parallel.mesh import check_batch, make_mesh
from pit_jax.paths import resolved, to_path
from pit_jax.ranges import check_ranges, flag_of
from pit_jax.recipes.catalogue import catalogue, selected
from pit_jax.recipes.choices import Choice, check_rules, open_knobs, settled
from pit_jax.run.context import Context
from pit_jax.run.folders import Run
from pit_jax.run.params import check_adapters
from pit_jax.run.record import write_record
from pit_jax.run.screen import Screen, make_progress
from pit_jax.run.stage import Stage
from pit_jax.terminal import Terminal
from pit_jax.training.trace import asked_rounds


def run(config: Config, data: Path | None = None) -> None:
    """Run config.stage in config.workdir, on the data in the folder `data` (default: that of the run or its parent).

    Raises UserError for everything the user can mend.
    """
    assert not config.seeds, "recipes/seeds.py runs several seeds, one config each"
    screen = Screen(Terminal(quiet=not hosts.is_main()))
    stages = check(config, data)
    if not any(stage.alone for stage in stages):
        run_stages(config, stages, data, screen)
        return
    with owned(to_path(config.workdir), screen.say) as waited:
        run_stages(config, check(config, data) if waited else stages, data, screen)


def run_stages(config: Config, stages: list[Stage], data: Path | None, screen: Screen) -> None:
    """Prepare the data where a stage needs them, and run the stages in the workdir that is this command's own."""
    this, prepared = Run(config, catalogue()), None
    if any(stage.needs_data for stage in stages):
        # Runs of other seeds may prepare the same data now.
        alone = owned(data.parent, screen.say, patience=math.inf) if data else contextlib.nullcontext()
        with alone, hosts.main_first("data"):
            prepared = prepare(config.data, config.tokenizer, data or this.data_folder, say=screen.say)
    config, choices = settle(config, data)
    this = Run(config, catalogue())
    write_record(config)
    for choice in choices:
        screen.say(f"{choice.knob} = {choice.value:g}: {choice.reason}")
    if prepared is not None and any(stage.name != "data" for stage in stages):
        for line in data_summary(prepared):
            screen.say(line)
    mesh = make_mesh(config.mesh) if any(stage.needs_devices for stage in stages) else None
    with make_progress(screen.console) as progress:
        for stage in stages:
            devices, shown = mesh if stage.needs_devices else None, Screen(screen.console, progress)
            context = Context(config, this, stage, prepared, devices, shown)
            run_stage(context, stage)
    if hosts.is_main():
        stages[-1].show(Context(config, this, stages[-1], prepared, mesh, screen))


def settle(config: Config, data: Path | None) -> tuple[Config, list[Choice]]:
    """The config with what the pairs decide, where they are prepared, and what they decided; `data` as `run`."""
    report = read_report(data or Run(config, catalogue()).data_folder) if open_knobs(config) else None
    return (config, []) if report is None else settled(config, report)


def check(config: Config, data: Path | None = None) -> list[Stage]:
    """Everything that can be wrong before data are read or anything compiles. Returns the stages to run."""
    check_ranges(config)
    config, _ = settle(config, data)
    stages, this = selected(config), Run(config, catalogue())
    check_open(config, stages)
    check_parent_run(this)
    check_adapters(this)
    asked_rounds(config.profile)
    for stage in stages:
        stage.check(config)
        if not stage.always_runs and not stage.derived:
            this.folder(stage.id).check_config(config)
        before = {id for branch, id in stage.branches(config) if branch.workdir == config.workdir}
        this.folder(stage.id).check_parents(config, but={stage.id for stage in stages} | before)
    if any(stage.needs_devices for stage in stages):
        mesh = make_mesh(config.mesh)
        for flag, rows, parts in dict.fromkeys(batch for stage in stages for batch in stage.batches(config)):
            check_batch(flag, rows, parts, mesh)
    check_writable(this.workdir)
    return stages


def check_open(config: Config, stages: list[Stage]) -> None:
    """UserError for what no pairs can decide: those of a stage that reads none, and what no rule covers."""
    if (left_open := open_knobs(config)) and not any(stage.needs_data for stage in stages):
        asked = ", ".join(map(flag_of, left_open))
        raise UserError(
            f"--stage={config.stage} reads no pairs, which would decide {asked}; prepare them first, with --stage=data "
            "in this workdir, or give the numbers"
        )
    check_rules(config)


def check_parent_run(run: Run) -> None:
    """UserError for a parent run that is no run, or is the run itself."""
    parent = run.config.parent_run
    if not parent:
        return
    if not run.data_folder.is_dir():
        raise UserError(f"--parent-run={parent}: asked for the workdir of a run, found no prepared data in it")
    if resolved(to_path(parent)) == resolved(run.workdir):
        raise UserError(f"--parent-run={parent} is the workdir itself; a branch needs a workdir of its own")


def run_stage(context: Context, stage: Stage) -> None:
    """Run a stage, and before it those of other runs that it needs; what is finished from these inputs is skipped."""
    config, folder, stages = context.config, context.folder, catalogue()
    hosts.barrier(str(stage.id))  # so that every host finds the same stages finished
    preemption.check(f"what stands before {stage.id} is saved")
    for other, id in stage.branches(config):
        first = stages[id]
        if elsewhere := other.workdir != config.workdir:
            context.screen.say(f"{stage.id}: {id}, in {other.workdir}")
        branch = replace(context, config=other, run=Run(other, stages), stage=first)
        with owned(to_path(other.workdir), context.screen.say) if elsewhere else contextlib.nullcontext():
            run_stage(branch, first)
    if not stage.always_runs and folder.done() is not None and not is_stale(context, stage):
        same_workdir = folder.run.workdir == context.run.workdir
        context.screen.say(
            f"{folder.name}: finished before{'' if same_workdir else f' in {folder.run.workdir}'}, skipped"
        )
        return
    devices: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
    if context.devices is not None:
        devices = jax.set_mesh(context.devices)
    with devices:
        stage.run(context)
    hosts.barrier(f"{stage.id} done")
    if not stage.always_runs:
        assert context.folder.done() is not None, f"stage {stage.id} did not finish its folder"


def is_stale(context: Context, stage: Stage) -> bool:
    """Whether a finished stage must be made again. Of one that is not derived, UserError where its inputs changed."""
    folder, config = context.folder, context.config
    own = folder.run.workdir == context.run.workdir
    if own and not stage.derived:
        folder.check_config(config)
    lineage = folder.lineage_now(config, data_fingerprint=context.data.fingerprint)
    if stage.derived:
        return bool(folder.changed(config) or folder.changed_inputs(lineage))
    if own:
        folder.check_lineage(lineage)
    return False


def data_summary(data: Prepared) -> list[str]:
    """What was read, kept and dropped (with reasons) per source, and the size of every fold."""
    lines = []
    for name, source in data.report["sources"].items():
        drops = ", ".join(f"{count} {reason}" for reason, count in source["dropped"].items()) or "none"
        lines.append(f"data: {name}: {source['read']} read, {source['kept']} kept; dropped: {drops}")
    sizes = ", ".join(f"{name} {fold['examples']}" for name, fold in data.report["folds"].items())
    return [*lines, f"data: folds {sizes}"]
