"""The same stages on the same data for each seed, in seed-<s>/ of the workdir, and what the seeds say together."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pit_jax.config import Config
from pit_jax.errors import UserError
from pit_jax.evaluation.results import PaperResults, Results, by_name, read_results
from pit_jax.evaluation.stats.seeds import aggregate
from pit_jax.files import Row, write_json
from pit_jax.parallel import hosts
from pit_jax.parallel.lock import owned
from pit_jax.paths import to_path
from pit_jax.recipes import pipeline
from pit_jax.recipes.catalogue import catalogue
from pit_jax.report import seeds as seeds_page
from pit_jax.run.screen import Screen
from pit_jax.terminal import Terminal

KINDS: dict[str, type[Any]] = {
    "evaluate": Results,
    "paper": PaperResults,
    "spa-tables": Results,
}  # what results.json of a stage holds


def run(config: Config) -> None:
    """Run config.stage for each of config.seeds as an ordinary run, then show mean and spread.

    The data do not depend on the seed: they lie in `data` of the workdir, once. Everything is checked for every seed
    before the first one starts. Writes seeds.json and report/index.html.

    Raises:
        UserError: what a run of one seed raises; a workdir that holds such a run itself; seeds that differ in what
            they compared.
    """
    screen, workdir = Screen(Terminal(quiet=not hosts.is_main())), to_path(config.workdir)
    folders = {seed: workdir / f"seed-{seed}" for seed in config.seeds}
    check_shared(workdir)
    first = config.seeds[0]
    first_config = replace(config, seed=first, workdir=str(folders[first]))
    pipeline.check(first_config, workdir / "data")  # with its seeds, which data refuse
    configs = [replace(config, seed=seed, seeds=(), workdir=str(folder)) for seed, folder in folders.items()]
    for seed_config in configs:
        pipeline.check(seed_config, workdir / "data")
    for number, seed_config in enumerate(configs, start=1):
        screen.say(f"seed {seed_config.seed} ({number} of {len(configs)}): {seed_config.workdir}", style="bold")
        pipeline.run(seed_config, workdir / "data")
    with owned(workdir, screen.say):
        if not hosts.is_main():
            return
        tables = collect(folders, screen)
        write_json(workdir / "seeds.json", {"seeds": list(config.seeds), **tables})
        page = seeds_page.build(workdir, tables, folders)
    if tables:
        screen.say(seeds_page.summary_table(tables, config.seeds))
    screen.say(f"report over {len(configs)} seeds: {page}")


def check_shared(workdir: Path) -> None:
    """UserError when an ordinary run lies beside the seeds: their report would take the place of its own."""
    ids = [id for id, stage in catalogue().items() if not stage.always_runs]
    if existing := [str(id) for id in ids if (workdir / str(id)).exists()]:
        raise UserError(
            f"--seeds needs a workdir of its own, found the run of one seed in {workdir} ({', '.join(existing)}); "
            "pass another --workdir"
        )


def collect(folders: Mapping[int, Path], screen: Screen) -> dict[str, dict[str, list[Row]]]:
    """By stage, the rows over seeds of its results.json; a stage that some seeds have not run is named and left out."""
    tables = {}
    for stage, kind in KINDS.items():
        read = {seed: read_results(folder / stage / "results.json", kind) for seed, folder in folders.items()}
        by_seed = {seed: by_name(results) for seed, results in read.items() if results is not None}
        missing = [str(seed) for seed in folders if seed not in by_seed]
        if missing and by_seed:
            screen.say(f"{stage}: not compared, seed {', '.join(missing)} has not run it yet")
        elif by_seed and (lists := aggregate(by_seed, file=f"{stage}/results.json")):
            tables[stage] = lists
    return tables
