"""The same stages on the same data for each seed, in seed-<s>/ of the workdir, and what the seeds say together."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from pit_jax.config import Config
from pit_jax.evaluation import records, seeds_report
from pit_jax.evaluation.records import Row
from pit_jax.evaluation.seeds import aggregate
from pit_jax.stages import pipeline
from pit_jax.stages.workspace import PARENTS, StageFolder, write_json


def run(config: Config) -> None:
    """Run config.stage for each of config.seeds as an ordinary run, then show mean and spread.

    The data do not depend on the seed: they lie in `data` of the workdir, once. Everything is checked for every seed
    before the first one starts. Writes seeds.json and report/index.html.

    Raises:
        ValueError: what a run of one seed raises; a workdir that holds such a run itself; seeds that differ in what
            they compared.
    """
    if config.stage == "data":
        given = ",".join(map(str, config.seeds))
        raise ValueError(f"--stage=data with --seeds={given}: data do not depend on a seed; leave it out")
    console, workdir = Console(), Path(config.workdir)
    folders = {seed: workdir / f"seed-{seed}" for seed in config.seeds}
    configs = [replace(config, seed=seed, seeds=(), workdir=str(folder)) for seed, folder in folders.items()]
    check_shared(workdir)
    for one in configs:
        pipeline.check(one)
    for place, one in enumerate(configs, start=1):
        console.print(f"seed {one.seed} ({place} of {len(configs)}): {one.workdir}", style="bold", soft_wrap=True)
        pipeline.run(one, workdir / "data")
    tables = collect(folders, console)
    write_json(workdir / "seeds.json", {"seeds": list(config.seeds), **tables})
    page = seeds_report.build(workdir, tables, folders)
    if tables:
        console.print(seeds_report.summary_table(tables, config.seeds))
    console.print(f"report over {len(configs)} seeds: {page}", soft_wrap=True)


def check_shared(workdir: Path) -> None:
    """ValueError when an ordinary run lies beside the seeds: their report would take the place of its own."""
    found = [folder.name for folder in (StageFolder(workdir, *names) for names in PARENTS) if folder.path.exists()]
    if found:
        raise ValueError(
            f"--seeds needs a workdir of its own, found the run of one seed in {workdir} ({', '.join(found)}); "
            "pass another --workdir"
        )


def collect(folders: Mapping[int, Path], console: Console) -> dict[str, dict[str, list[Row]]]:
    """By stage, the rows over seeds of its results.json; a stage that some seeds have not run is named and left out."""
    results: dict[str, dict[int, Any]] = {}
    for seed, folder in folders.items():
        for path in sorted(folder.glob("*/results.json")):
            results.setdefault(path.parent.name, {})[seed] = records.read_json(path)
    tables = {}
    for stage, found in results.items():
        if missing := [str(seed) for seed in folders if seed not in found]:
            console.print(f"{stage}: not compared, seed {', '.join(missing)} has not run it yet", soft_wrap=True)
        elif lists := aggregate(found, file=f"{stage}/results.json"):
            tables[stage] = lists
    return tables
