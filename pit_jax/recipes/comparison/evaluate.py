"""Compare the systems at matched temperature: answer, judge, count. `answer` and `judge` are its two halves."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from pit_jax.config import Config
from pit_jax.data.sources import known_flaws, largest_truth
from pit_jax.evaluation.judges.builtin import GAP as GAP_JUDGE
from pit_jax.evaluation.judges.builtin import JUDGES, judges_of, truth_scores
from pit_jax.evaluation.results import Results, read_results, write_results
from pit_jax.evaluation.rewrites import RewriteRow, check_gap, count_flaws, rewrite_row
from pit_jax.evaluation.systems import POLICY, POLICY_SFT, SFT_IMPROVER, Output, SystemId, describe, pit
from pit_jax.files import digest_of, read_json, write_json
from pit_jax.inference.stopping import check_stop
from pit_jax.recipes.comparison.draw import Answering, heldout_prompts
from pit_jax.recipes.comparison.judging import Judging, Pair
from pit_jax.recipes.comparison.outputs import GAP, measure_outputs
from pit_jax.recipes.comparison.policies import other_policies, stages_of
from pit_jax.report import page
from pit_jax.report.tables import control_lines, rewrites_table, summary_table
from pit_jax.run.code import package_code
from pit_jax.run.context import Context
from pit_jax.run.provenance import StageId
from pit_jax.run.stage import Batch, Recipe

EVALUATE = StageId("evaluate")
SFT_POLICY_STAGE, SFT_IMPROVER_STAGE = StageId("sft", "policy"), StageId("sft", "improver")


def run(context: Context) -> None:
    """Answers, verdicts, evaluate/results.json, and gap_outputs.json: the gap model on what the models write."""
    answering = begin(context, draws=True)
    measure_gap_on_outputs(context, answering)
    compared(context, answering, Judging(answering))


def answer(context: Context) -> None:
    """Draw the answers that `run` compares."""
    answering = begin(context, draws=True)
    for temperature in context.config.evaluate.temperatures:
        outputs_at(answering, temperature)


def judge(context: Context) -> None:
    """Ask judges of answers that are there, and compare anew; no device is touched."""
    answering = begin(context, draws=False)
    compared(context, answering, Judging(answering, models=False))


def begin(context: Context, *, draws: bool) -> Answering:
    prompts, config = heldout_prompts(context), context.config
    others = sum(len(stage.phases(config)) for stage in map(context.run.stage, stages_of(config)))
    systems = (4 + others) * len(config.evaluate.temperatures)  # the policy, PIT, both SFT models
    bar = context.screen.bar(str(context.stage.id), systems * len(prompts.texts))
    return Answering(context, prompts, bar=bar, draws=draws)


def outputs_at(answering: Answering, temperature: float) -> dict[SystemId, Output]:
    """Every system's answers at a temperature."""
    rounds = answering.context.config.improve.rounds
    trail = answering.trail(temperature, rounds)
    sft, others = answering.source(SFT_IMPROVER_STAGE), other_policies(answering, stages_of(answering.context.config))
    return {
        POLICY: trail[0],
        **{pit(round): trail[round] for round in range(1, rounds + 1)},
        SFT_IMPROVER: answering.improved_by(SFT_IMPROVER, temperature, 1, sft)[1],
        POLICY_SFT: answering.answered_by(POLICY_SFT, temperature, answering.source(SFT_POLICY_STAGE)),
        **{system: answering.answered_by(system, temperature, source) for system, source in others.items()},
    }


def pairs_of(rounds: int, systems: Iterable[SystemId]) -> list[Pair]:
    """(left, right) of the delta table; policies that were trained otherwise are among the systems."""
    more = [(pit(rounds), pit(1))] if rounds > 1 else []
    trail = [(pit(round), POLICY) for round in range(1, rounds + 1)]
    others = [(system, POLICY) for system in systems if system.kind in ("dpo", "dpo-seed", "spa")]
    return [*trail, *more, (SFT_IMPROVER, POLICY), (pit(1), SFT_IMPROVER), (POLICY, POLICY_SFT), *others]


def compared(context: Context, answering: Answering, judging: Judging) -> None:
    """evaluate/results.json from answers and verdicts."""
    config, folder = context.config, context.folder_of(EVALUATE)
    lineage = folder.begin(config, data_fingerprint=context.data.fingerprint, package=package_code(), derived=True)
    headline, rounds = headline_temperature(config), config.improve.rounds
    rows, controls, described, rewrites = [], [], [], []
    for temperature in config.evaluate.temperatures:
        outputs = outputs_at(answering, temperature)
        truths = {
            system: truth_scores(config, answering.prompts.texts, output.texts) for system, output in outputs.items()
        }
        for system, output in outputs.items():
            described.append(describe(system, temperature, output, truths[system]))
            if system.improves:
                rewrites.append(rewritten(answering, judging, system, outputs, truths, temperature))
        rows += judging.rows(pairs_of(rounds, outputs), outputs, temperature)
        if temperature == headline:
            controls = judging.controls(POLICY, outputs, temperature)
    results = Results(
        judges=[judge.name for judge in judging.judges],
        headline_temperature=headline,
        max_score=largest_truth(config.data),
        rows=rows,
        controls=controls,
        systems=described,
        rewrites=rewrites,
    )
    write_results(folder.path / "results.json", results)
    folder.finish(round=rounds, digest=lineage["config"])


def rewritten(
    answering: Answering,
    judging: Judging,
    system: SystemId,
    outputs: Mapping[SystemId, Output],
    truths: Mapping[SystemId, np.ndarray | None],
    temperature: float,
) -> RewriteRow:
    """What an improver did to the policy's answers, by all that this run can tell of it; `truths` are true scores."""
    config, prompts = answering.context.config, answering.prompts.texts
    after, before = outputs[system].texts, outputs[POLICY].texts
    flaws, gap, truth_N, before_N = known_flaws(config.data), None, truths[system], truths[POLICY]
    if truth_N is not None and before_N is not None and GAP_JUDGE in judging.judges:
        gaps_N = judging.judgement(GAP_JUDGE, (system, POLICY), outputs, temperature).scores_N
        gap = check_gap(config, gaps_N, truth_N - before_N)
    counted = flaws and count_flaws(flaws, prompts, after, before)
    return rewrite_row(config, system, temperature, after, before, flaws=counted, gap=gap)


def measure_gap_on_outputs(context: Context, answering: Answering) -> None:
    """gap_outputs.json, unless it is there, of these models and prompts."""
    path = context.folder_of(EVALUATE).path / "gap_outputs.json"
    stages = (GAP, SFT_IMPROVER_STAGE, StageId("rl", "improver"), StageId("rl", "policy"), SFT_POLICY_STAGE)
    key = digest_of(str(context.config.rl.heldout_prompts), *(answering.source(id).digest for id in stages))
    known = read_json(path)
    if known is None or known.get("key") != key:
        write_json(path, {"key": key, "sets": measure_outputs(context, answering.texts)})


def headline_temperature(config: Config) -> float:
    """The temperature of --stage=improve where it is evaluated, else the first that is."""
    wanted = config.improve.temperature
    return min(config.evaluate.temperatures, key=lambda temperature: temperature != wanted, default=wanted)


def show(context: Context) -> None:
    """The table of a finished evaluation, and the report page built from whatever the workdir holds."""
    path: Path = page.build(context.run)
    results = read_results(context.folder_of(EVALUATE).path / "results.json", Results)
    if results is not None:
        if (stop := context.config.improve.stop) != "rounds":
            context.screen.say(f"PIT's answers are those that --improve.stop={stop} chooses among drafts and original")
        context.screen.say(summary_table(results))
        if results.rewrites:
            context.screen.say(rewrites_table(results))
        context.screen.say(control_lines(results))
    context.screen.say(f"report: {path}")


def check(config: Config, role: str) -> None:
    """UserError for judges and policies that nobody knows, and a threshold that the rule does not read."""
    check_stop(config.improve.stop, config.improve.stop_threshold)
    judges_of(config)
    stages_of(config)


def contents(config: Config, role: str) -> Mapping[str, str]:
    """The code of forks' judges."""
    return JUDGES.code(*config.evaluate.judges)


def batches(config: Config, role: str) -> Iterator[Batch]:
    yield "--improve.batch-size", config.improve.batch_size, 1


RECIPE = Recipe(run=run, check=check, contents=contents, batches=batches, show=show)
ANSWER = Recipe(run=answer, check=check, batches=batches)
JUDGE = Recipe(run=judge, check=check, show=show)
