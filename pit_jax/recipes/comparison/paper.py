"""The tables and figures of PIT (arXiv 2310.00898) on a finished run: all systems, sweep, ablations, five rounds."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations

import jax
import numpy as np

from pit_jax.batch import RewardBatch
from pit_jax.config import Config
from pit_jax.data.sources import largest_truth
from pit_jax.data.stream import sequential
from pit_jax.errors import UserError
from pit_jax.evaluation.failures import Failure, worst
from pit_jax.evaluation.gap_quality import GapQuality, measure, restore
from pit_jax.evaluation.judges.builtin import JUDGES, truth_scores
from pit_jax.evaluation.judges.judge import grades
from pit_jax.evaluation.results import (
    ComparisonRow,
    GapLossRow,
    PaperResults,
    RatingRow,
    read_results,
    write_results,
)
from pit_jax.evaluation.stats.comparison import outcomes
from pit_jax.evaluation.stats.ratings import games_of, rate_prompts, shuffled_elo
from pit_jax.evaluation.systems import CHOSEN, POLICY, SFT_IMPROVER, Output, SystemId, describe, pit
from pit_jax.inference.best_of_n import n_for_budget
from pit_jax.inference.self_refine import ROUNDS
from pit_jax.model.scoring import end_scores
from pit_jax.parallel.hosts import whole
from pit_jax.parallel.sharding import put_rows
from pit_jax.recipes.comparison.ablations import ABLATIONS, ablations_of, branched, branches
from pit_jax.recipes.comparison.costs import costs
from pit_jax.recipes.comparison.draw import REWARD, Answering, heldout_prompts
from pit_jax.recipes.comparison.judging import Judging
from pit_jax.recipes.comparison.policies import OTHERS, other_policies, stages_of
from pit_jax.recipes.comparison.refine import Refining, wording_digest, wording_of
from pit_jax.recipes.gap import HELDOUT_PAIRS, known_differences, read_quality
from pit_jax.report import page
from pit_jax.report.tables import paper_table
from pit_jax.run.code import package_code
from pit_jax.run.context import Context
from pit_jax.run.params import Models
from pit_jax.run.provenance import StageId
from pit_jax.run.stage import Batch, Recipe

Outputs = dict[SystemId, Output]
ELO_K, ELO_START, SHUFFLES = 4.0, 1000.0, 100  # ours: the paper names none; so small a K hardly depends on the order
RATING_SCALE, RATING_BASE = 400, 10  # of Elo: ten to one at a difference of 400
REFINED = SystemId("self-refine", ROUNDS)
ONE_LINE = SystemId("one-line")


def run(context: Context) -> None:
    """Write results.json; the ablations and the DPO policy are trained."""
    config, knobs, folder = context.config, context.config.paper, context.folder
    lineage = folder.begin(config, data_fingerprint=context.data.fingerprint, package=package_code())
    prompts, temperature = heldout_prompts(context), knobs.temperature
    answering = Answering(context, prompts)
    judging, refining = Judging(answering), Refining(answering)
    outputs = every_system(context, answering, refining)
    systems = [system for system in outputs if system.kind != "self-refine" or system == REFINED]
    improvers = [SFT_IMPROVER, *(one.system for one in ablations_of(config) if one.system.improves)]
    ablated = [(pit(1), system) for system in improvers]
    pairs = [*((system, POLICY) for system in systems if system != POLICY), *ablated]
    rows = judging.rows(pairs, outputs, temperature)
    curriculum = {(system, POLICY) for system in (pit(1), *improvers)} | set(ablated)
    results = PaperResults(
        judges=[judge.name for judge in judging.judges],
        headline_temperature=temperature,
        max_score=largest_truth(config.data),
        prompts=len(prompts.texts),
        systems=[
            describe(system, temperature, outputs[system], truth_scores(config, prompts.texts, outputs[system].texts))
            for system in systems
        ],
        table=[row for row in rows if row.right == POLICY],
        curriculum=[row for row in rows if (row.left, row.right) in curriculum],
        sweep=sweep(answering, judging, refining),
        ratings=ratings(context, judging, outputs),
        gap_losses=gap_losses(context),
        costs=costs(context, {system: outputs[system] for system in systems}),
        failures=failures(judging, prompts.texts, outputs, temperature),
    )
    write_results(folder.path / "results.json", results)
    folder.finish(round=knobs.rounds, digest=lineage["config"])


def check(config: Config, role: str) -> None:
    """UserError for knobs that no table can be made with."""
    if config.parent_run:
        raise UserError("--stage=paper makes branches of a run: leave --parent-run out and pass the run as --workdir")
    ablations_of(config)
    stages_of(config)
    wording_of(config)


def all_branches(config: Config) -> Iterable[tuple[Config, StageId]]:
    """What is trained before: the DPO policy in this run, and the ablations."""
    yield config, OTHERS["dpo"]
    yield from branches(config, ablations_of(config))


def every_system(context: Context, answering: Answering, refining: Refining) -> Outputs:
    """Table 1 and Table 3: all systems at the headline temperature."""
    knobs, temperature = context.config.paper, context.config.paper.temperature
    trail = answering.trail(temperature, knobs.rounds)
    outputs: Outputs = {POLICY: trail[0], **{pit(round): trail[round] for round in range(1, knobs.rounds + 1)}}
    outputs[CHOSEN] = answering.chosen(
        [triple.chosen for triple in context.data.triples("heldout")[: len(trail[0].answers)]]
    )
    sft = answering.source(StageId("sft", "improver"))
    outputs[SFT_IMPROVER] = answering.improved_by(SFT_IMPROVER, temperature, 1, sft)[1]
    for ablation in ablations_of(context.config):
        system, source = ablation.system, answering.source(ablation.stages[-1], branched(context, ablation))
        if system.improves:
            outputs[system] = answering.improved_by(system, temperature, 1, source)[1]
        else:
            outputs[system] = answering.answered_by(system, temperature, source)
    others = other_policies(answering, (OTHERS["dpo"], *stages_of(context.config)))
    outputs |= {system: answering.answered_by(system, temperature, source) for system, source in others.items()}
    n = n_for_budget(int(trail[1].drawn_N.sum()), int(trail[0].drawn_N.sum()))
    best = SystemId("best-of-n", n)
    outputs[best] = answering.best_of_n(best, temperature)
    for round, output in enumerate(refining.refined(temperature, max(ROUNDS, knobs.rounds)), 1):
        if round <= knobs.rounds or round == ROUNDS:
            outputs[SystemId("self-refine", round)] = output
    outputs[ONE_LINE] = refining.reflected(temperature)
    return outputs


def ratings(context: Context, judging: Judging, outputs: Outputs) -> dict[str, list[RatingRow]]:
    """Table 3, by every judge: Bradley-Terry over resampled prompts, and Elo over shuffled games."""
    config, seed = context.config, context.config.seed
    rounds = range(1, config.paper.rounds + 1)
    rated = [POLICY, *map(pit, rounds), *(SystemId("self-refine", round) for round in rounds)]
    by_judge = {}
    for judge in judging.judges:
        games = {}
        for pair in combinations(rated, 2):
            scores_N = judging.judgement(judge, pair, outputs, config.paper.temperature).scores_N
            names = str(pair[0]), str(pair[1])
            games[names] = outcomes(scores_N, np.zeros_like(scores_N), tie_margin=config.evaluate.tie_margin)
        try:
            strengths = rate_prompts(
                games, scale=RATING_SCALE, base=RATING_BASE, resamples=config.evaluate.resamples, seed=seed
            )
        except UserError as error:  # no finite ratings: too few prompts, or a system that always wins
            context.screen.say(f"ratings by {judge.name}: {error}")
            continue
        elo = shuffled_elo(games_of(games), k=ELO_K, initial=ELO_START, shuffles=SHUFFLES, seed=seed)
        rows = []
        for system in rated:
            strength, other = strengths[str(system)], elo[str(system)]
            rows.append(
                RatingRow(system, strength.rating, strength.low, strength.high, other.rating, other.low, other.high)
            )
        by_judge[judge.name] = sorted(rows, key=lambda row: -row.rating)
    return by_judge


def sweep(answering: Answering, judging: Judging, refining: Refining) -> list[ComparisonRow]:
    """Fig. 3: one improvement by PIT, and Self-Refine, at every temperature."""
    rows: list[ComparisonRow] = []
    most = max(ROUNDS, answering.context.config.paper.rounds)  # as in Table 1, whose answers are read again
    for temperature in answering.context.config.paper.temperatures:
        trail = answering.trail(temperature, 1)
        outputs = {POLICY: trail[0], pit(1): trail[1], REFINED: refining.refined(temperature, most)[ROUNDS - 1]}
        rows += judging.rows([(pit(1), POLICY), (REFINED, POLICY), (pit(1), REFINED)], outputs, temperature)
    return rows


def failures(judging: Judging, prompts: Sequence[str], outputs: Outputs, temperature: float) -> list[Failure]:
    """The improvements that the first judge likes least."""
    judge, before, after = judging.judges[0], outputs[POLICY], outputs[pit(1)]
    gains_N = judging.judgement(judge, (pit(1), POLICY), outputs, temperature).scores_N
    known = judge.kind == "grade" and not judge.needs
    pair = (grades(judge, prompts, before.answers), grades(judge, prompts, after.answers)) if known else None
    return worst(prompts, before.texts, after.texts, gains_N, judge=judge.name, grades=pair)


def gap_losses(context: Context) -> list[GapLossRow]:
    """The gap model, its ablation, and the difference of two scores of the reward model, on held-out pairs."""
    five = read_quality(context)
    rows = [GapLossRow("five terms", restore(five) if five else None, pit(1))]
    if "pair-gap" in context.config.paper.ablations:
        pair = read_quality(branched(context, ABLATIONS["pair-gap"]))
        system = ABLATIONS["pair-gap"].system
        rows.append(GapLossRow("wl over lw alone", restore(pair) if pair else None, system))
    difference = ABLATIONS["score-difference"].system
    return [*rows, GapLossRow("difference of two scores", score_difference(context), difference)]


def score_difference(context: Context) -> GapQuality:
    """Of r(x, y) - r(x, y_ref): equal texts always tie."""
    params, network = Models(context).load(REWARD), context.scalar_model

    def difference(params: object, batch: RewardBatch) -> jax.Array:
        chosen_B = end_scores(network, params, batch.chosen_BL, batch.chosen_segments_BL)
        return chosen_B - end_scores(network, params, batch.rejected_BL, batch.rejected_segments_BL)

    compiled = jax.jit(difference)
    rows = context.data.rows("heldout", "reward").first(HELDOUT_PAIRS)
    pieces = [
        whole(compiled(params, put_rows(context.mesh, RewardBatch, batch)))[:real]
        for batch, real in sequential(rows, context.config.rm.batch_size)
    ]
    wl_N = np.concatenate(pieces)
    gaps = {"wl": wl_N, "ww": 0 * wl_N, "ll": 0 * wl_N, "lw": -wl_N}
    return measure(gaps, *known_differences(context, len(wl_N)))


def show(context: Context) -> None:
    """Table 1 of a finished comparison, and the report page built from whatever the workdir holds."""
    path = page.build(context.run)
    results = read_results(context.folder.path / "results.json", PaperResults)
    if results is not None:
        context.screen.say(paper_table(results))
    context.screen.say(f"report: {path}")


def contents(config: Config, role: str) -> Mapping[str, str]:
    """The code of forks' judges, and the wording of Self-Refine."""
    return JUDGES.code(*config.evaluate.judges) | {"contents of paper.wording": wording_digest(wording_of(config))}


def batches(config: Config, role: str) -> Iterator[Batch]:
    yield "--improve.batch-size", config.improve.batch_size, 1


RECIPE = Recipe(run=run, check=check, contents=contents, batches=batches, branches=all_branches, show=show)
