"""Ideas for the gap model of a finished run on a world: what each one knows of pairs, of faults, and of rewrites.

    python -m benchmarks.gap_ideas --scratch=runs/ideas [--ideas NAME ..] [the flags of the finished run]

Each idea trains a gap model of its own from the run's SFT improver, in --scratch/<idea>, with the flags of IDEAS. Then
it is asked, in both orders, about the answers of the finished run at temperature 1, which no idea has trained on: each
rewrite against the answer that it was made of. By the truth of the world: how often its sign is right where the two
differ, and win - lose over that answer of keeping the rewrite where its gap is above 0. What is finished is only read.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.results import keep, parser_of
from pit_jax.batch import Answer
from pit_jax.config import Config
from pit_jax.data.store import open_data
from pit_jax.evaluation.answers import AnswerFile, AnswerRow
from pit_jax.evaluation.controls import CONTROLS
from pit_jax.evaluation.judges import builtin as judges
from pit_jax.evaluation.judges.judge import Bench, ask
from pit_jax.evaluation.rewrites import check_gap
from pit_jax.evaluation.systems import POLICY, SFT_IMPROVER, SystemId, pit
from pit_jax.files import read_jsonl
from pit_jax.flags import parse
from pit_jax.parallel.host_memory import keep_freed_memory
from pit_jax.parallel.mesh import make_mesh
from pit_jax.recipes import gap
from pit_jax.recipes.catalogue import catalogue
from pit_jax.recipes.comparison.draw import text_engine
from pit_jax.recipes.pipeline import settle
from pit_jax.run.context import Context
from pit_jax.run.folders import Run
from pit_jax.run.params import Models
from pit_jax.run.screen import Screen, make_progress

IDEAS: dict[str, tuple[str, ...]] = {
    "as it is": (),
    "no negatives": ("--rm.negatives=0",),
    "negatives 10%": ("--rm.negatives=0.1",),
    "negatives 33%": ("--rm.negatives=0.33",),
    "negatives 50%": ("--rm.negatives=0.5",),
    "all pairs": ("--rm.pairs=all", "--rm.improver-epochs=1.333"),  # as many updates
    "all pairs longer": ("--rm.pairs=all", "--rm.improver-epochs=2.667"),
    "twice as long": ("--rm.improver-epochs=8",),
    "weight decay": ("--rm.improver-epochs=8", "--rm.optimizer.weight-decay=0.1"),
    "smoothed labels": ("--rm.label-smoothing=0.1",),
}
TEMPERATURE = 1.0
DRAFTS = 3
WIDTH = 200  # of the table, which a terminal may fold
KEPT = ("SFT improver", "PIT, draft 1")
CONTROL_NAMES = [control.name for control in CONTROLS if control.name != "copy"]  # it ties in both orders
Rewrites = tuple[list[str], list[Answer], list[Answer]]  # prompts, rewrites, what they were made of


def rewrites_of(config: Config) -> dict[str, Rewrites]:
    """The drafts of the run's improver and of its SFT improver, each beside the answer before."""
    folder = Path(config.workdir) / "answers"

    def rows(system: SystemId) -> list[AnswerRow]:
        file = AnswerFile(folder, system, TEMPERATURE)
        keys = [(row["prompt"], row["key"]) for row in read_jsonl(file.path)]
        return file.rows(*map(list, zip(*keys, strict=True)))

    policy, sft, trail = rows(POLICY), rows(SFT_IMPROVER.trail), rows(pit(1).trail)
    prompts, originals = [row.prompt for row in policy], [row.drafts[0] for row in policy]
    found = {"SFT improver": (prompts, [row.drafts[0] for row in sft], originals)}
    before = originals
    for draft in range(DRAFTS):
        after = [row.drafts[draft] for row in trail]
        found[f"PIT, draft {draft + 1}"] = (prompts, after, before)
        before = after
    return found


def trained(config: Config, scratch: Path, idea: str, screen: Screen) -> Context:
    """A branch of the run in which the gap model is that of an idea, trained unless it is there."""
    workdir = scratch / idea.replace(" ", "-").replace("%", "")
    branch, _ = settle(replace(config, parent_run=config.workdir, workdir=str(workdir)), None)
    run = Run(branch, catalogue())
    data, devices = open_data(run.data_folder), make_mesh(branch.mesh)
    context = Context(branch, run, catalogue()[gap.GAP], data, devices, screen)
    if not context.folder.done():
        gap.run(context)
    return context


def gaps_of(context: Context, sets: Mapping[str, Rewrites]) -> dict[str, np.ndarray]:
    """What the gap model says of each rewrite over the answer before, in both orders, [N] each."""
    done = context.folder.done()
    assert done is not None, "it was trained just now"
    bench = Bench(text_engine(context), {gap.GAP: Models(context).own(done["round"])})
    return {name: ask(judges.GAP, *rewrites, bench).scores_N for name, rewrites in sets.items()}


def known(config: Config, gaps: Mapping[str, np.ndarray], sets: Mapping[str, Rewrites]) -> list[str]:
    """Of each set the share of right signs; of the first drafts what keeping those above 0 gives."""
    cells = []
    for name, (prompts, after, before) in sets.items():
        after_N, before_N = (
            judges.truth_scores(config, prompts, [answer.text for answer in side]) for side in (after, before)
        )
        assert after_N is not None and before_N is not None, "a world knows the truth"
        check = check_gap(config, gaps[name], after_N - before_N)
        assert check.accuracy is not None, f"{name}: no rewrite differs in truth"
        cells.append(f"{check.accuracy:.3f}")
        if name in KEPT:
            cells.append(f"{check.above_zero.delta:+.1f}")
    return cells


def main(argv: Sequence[str]) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--scratch", type=Path, default=Path("runs/ideas"))
    parser.add_argument("--ideas", nargs="+", default=list(IDEAS), choices=list(IDEAS))
    arguments, flags = parser.parse_known_args(argv)
    keep_freed_memory()
    config = parse(flags)
    sets = rewrites_of(config)
    kept = [heading for name in sets for heading in ([name, "kept above 0"] if name in KEPT else [name])]
    columns = ("pairs", *CONTROL_NAMES, *kept)
    table = Table("idea", *columns, title="gap models, each from the same SFT improver", title_justify="left")
    figures: dict[str, dict[str, str]] = {}
    with jax.set_mesh(make_mesh(config.mesh)), make_progress(Console()) as progress:
        for idea in arguments.ideas:
            context = trained(
                parse([*flags, *IDEAS[idea]]), arguments.scratch, idea, Screen(progress.console, progress)
            )
            quality = gap.read_quality(context)
            assert quality is not None, "training wrote it"
            standings = [quality["controls"][name] for name in CONTROL_NAMES]
            margins = [f"{found['lose'] - found['win']:.2f}" for found in standings]
            accuracy = f"{np.mean(list(quality['accuracies'].values())):.4f}"
            cells = [accuracy, *margins, *known(config, gaps_of(context, sets), sets)]
            table.add_row(idea, *cells)
            figures[idea] = dict(zip(columns, cells, strict=True))
    Console(width=WIDTH).print(table)
    keep(arguments.results, "gap_ideas", {"flags": list(flags), "ideas": figures})


if __name__ == "__main__":
    main(sys.argv[1:])
