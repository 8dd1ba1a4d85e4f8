"""SPA's tables: each iteration against DPO on the gold pairs and on all, and what changes with one thing changed."""

from collections.abc import Iterable

from pit_jax.config import Config
from pit_jax.data.sources import largest_truth
from pit_jax.errors import UserError
from pit_jax.evaluation.judges.builtin import judges_of, truth_scores
from pit_jax.evaluation.judges.judge import Judge
from pit_jax.evaluation.results import Results, read_results, write_results
from pit_jax.evaluation.systems import DPO, DPO_SEED, POLICY_SFT, SystemId, describe, spa
from pit_jax.recipes.comparison.ablations import branched, branches
from pit_jax.recipes.comparison.draw import Answering, Source, heldout_prompts
from pit_jax.recipes.comparison.evaluate import batches, contents
from pit_jax.recipes.comparison.judging import Judging, Pair
from pit_jax.recipes.comparison.policies import other_policies
from pit_jax.recipes.spa.ablations import SPA, ablations_of
from pit_jax.report import page
from pit_jax.report.tables import summary_table
from pit_jax.run.code import package_code
from pit_jax.run.context import Context
from pit_jax.run.provenance import StageId
from pit_jax.run.stage import Recipe

SFT_POLICY, DPO_POLICY = StageId("sft", "policy"), StageId("dpo", "policy")


def run(context: Context) -> None:
    """Write results.json; the branches are trained."""
    config, folder, temperature = context.config, context.folder, context.config.paper.temperature
    lineage = folder.begin(config, data_fingerprint=context.data.fingerprint, package=package_code())
    prompts = heldout_prompts(context)
    systems = 3 + len(config.spa.slices) + len(config.spa.ablations)
    answering = Answering(context, prompts, bar=context.screen.bar(folder.name, systems * len(prompts.texts)))
    outputs = {
        system: answering.answered_by(system, temperature, source) for system, source in sources(answering).items()
    }
    judging = Judging(answering, judges=asked_judges(config))
    results = Results(
        judges=[judge.name for judge in judging.judges],
        headline_temperature=temperature,
        max_score=largest_truth(config.data),
        rows=judging.rows(pairs_of(config), outputs, temperature),
        controls=[],
        systems=[
            describe(system, temperature, output, truth_scores(config, prompts.texts, output.texts))
            for system, output in outputs.items()
        ],
    )
    write_results(folder.path / "results.json", results)
    folder.finish(round=len(config.spa.slices), digest=lineage["config"])


def sources(answering: Answering) -> dict[SystemId, Source]:
    """The models that answer."""
    context = answering.context
    ablated = {
        ablation.system: answering.source(SPA, branched(context, ablation)) for ablation in ablations_of(context.config)
    }
    return {POLICY_SFT: answering.source(SFT_POLICY), **other_policies(answering, (SPA, DPO_POLICY)), **ablated}


def pairs_of(config: Config) -> list[Pair]:
    """(left, right) of the tables, all but the last few against DPO on the gold pairs."""
    iterations = [spa(number) for number in range(1, len(config.spa.slices) + 1)]
    ablated = [ablation.system for ablation in ablations_of(config)]
    last = iterations[-1]
    return [
        *((system, DPO_SEED) for system in (*iterations, DPO, *ablated)),
        (DPO_SEED, POLICY_SFT),
        *((last, system) for system in (DPO, *ablated)),
    ]


def asked_judges(config: Config) -> list[Judge]:
    """Those of --evaluate.judges; else the rubric alone where it applies: no other model is needed then."""
    judges = judges_of(config)
    alone = [judge for judge in judges if not judge.needs]
    return judges if config.evaluate.judges or not alone else alone


def check(config: Config, role: str) -> None:
    """UserError for names that no table can be made with, and for branches of a branch."""
    if ablations_of(config) and config.parent_run:
        raise UserError(
            "--stage=spa-tables makes branches of a run: leave --parent-run out and pass the run as --workdir, or make "
            "no branch with an empty --spa.ablations"
        )
    asked_judges(config)


def parents(config: Config, role: str) -> tuple[StageId, ...]:
    """What answers, and what judges ask."""
    asked = (id for judge in asked_judges(config) for id in judge.needs)
    return tuple(dict.fromkeys((SFT_POLICY, SPA, DPO_POLICY, *asked)))


def all_branches(config: Config) -> Iterable[tuple[Config, StageId]]:
    """What is trained before: SPA and DPO on all pairs in this run, and the ablations."""
    yield config, SPA
    yield config, DPO_POLICY
    yield from branches(config, ablations_of(config))


def show(context: Context) -> None:
    """The table of a finished comparison, and the report page built from whatever the workdir holds."""
    path = page.build(context.run)
    results = read_results(context.folder.path / "results.json", Results)
    if results is not None:
        context.screen.say(summary_table(results))
    context.screen.say(f"report: {path}")


RECIPE = Recipe(
    run=run, check=check, parents=parents, contents=contents, batches=batches, branches=all_branches, show=show
)
