"""Compare the systems at matched temperature: win, lose and delta with n, ties and a 95% interval."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import jax
import numpy as np
from rich.progress import Progress

from pit_jax.config import Config
from pit_jax.data import notes
from pit_jax.evaluation import report
from pit_jax.evaluation.comparison import Comparison, compare, outcomes
from pit_jax.evaluation.controls import CONTROLS
from pit_jax.evaluation.judges import Judge, PairJudge, PointwiseJudge, Texts
from pit_jax.evaluation.length_control import control_length
from pit_jax.generation.sampling import Sampling
from pit_jax.stages.context import Context, TruthScore
from pit_jax.stages.gap_outputs import measure_outputs
from pit_jax.stages.models import load
from pit_jax.stages.outputs import Output, describe, drawn_output, trail_outputs, written_output
from pit_jax.stages.systems import GapScorer, Systems
from pit_jax.stages.workspace import write_json

POLICY, POLICY_SFT, IMPROVER_SFT = "policy", "policy SFT", "SFT improver x1"


def pit_name(round: int) -> str:
    return f"PIT x{round}"


def generate_outputs(
    context: Context,
    systems: Systems,
    params: dict[str, Any],
    temperature: float,
    advance: Callable[[int], None],
    rounds: int,
) -> dict[str, Output]:
    """Every system's answers. The trails share keys, so PIT and the SFT improver rewrite the same originals."""
    key = context.key("evaluate", str(temperature))
    trail = systems.trail(params["rl-policy"], params["rl-improver"], temperature, key, advance, rounds=rounds)
    outputs = trail_outputs(context, trail, [POLICY, *(pit_name(k) for k in range(1, rounds + 1))])
    sft_trail = systems.trail(params["rl-policy"], params["sft-improver"], temperature, key, advance, rounds=1)
    outputs[IMPROVER_SFT] = drawn_output(context, sft_trail, 1, outputs[POLICY])
    sft = systems.answers(params["sft-policy"], temperature, jax.random.fold_in(key, 99))
    outputs[POLICY_SFT] = drawn_output(context, sft, 0)
    return outputs


def pairs_of(rounds: int) -> list[tuple[str, str]]:
    """(left, right) of the delta table."""
    trail = [(pit_name(k), POLICY) for k in range(1, rounds + 1)]
    more = [(pit_name(rounds), pit_name(1))] if rounds > 1 else []
    return [*trail, *more, (IMPROVER_SFT, POLICY), (pit_name(1), IMPROVER_SFT), (POLICY, POLICY_SFT)]


def judged(
    config: Config, judge: Judge, prompts: list[str], left: Output, right: Output
) -> tuple[Comparison, dict[str, Any]]:
    """(the comparison, all its numbers for a row of results.json)."""
    judgement, knobs = judge.ask(prompts, left.texts, right.texts), config.evaluate
    scores = judgement.scores_N, np.zeros_like(judgement.scores_N)
    found = compare(*scores, tie_margin=knobs.tie_margin, resamples=knobs.resamples, seed=config.seed)
    lengths = control_length(
        outcomes(*scores, tie_margin=knobs.tie_margin),
        left.lengths_N,
        right.lengths_N,
        resamples=knobs.resamples,
        seed=config.seed,
    )
    return found, asdict(found) | asdict(lengths) | {"flipped": judgement.flipped}


def compared(
    config: Config,
    judges: Sequence[Judge],
    prompts: list[str],
    outputs: Mapping[str, Output],
    pairs: Sequence[tuple[str, str]],
    temperature: float,
) -> list[dict[str, Any]]:
    """Rows of results.json: what every judge says of each (left, right) of the pairs."""
    rows = []
    for judge in judges:
        for left, right in pairs:
            _, numbers = judged(config, judge, prompts, outputs[left], outputs[right])
            rows.append({"temperature": temperature, "judge": judge.name, "left": left, "right": right} | numbers)
    return rows


def control_rows(
    context: Context, judges: list[Judge], prompts: list[str], original: list[str]
) -> list[dict[str, Any]]:
    """What every judge says of the controls against the original answers."""
    source = written_output(context, original)
    made = [(control, written_output(context, [control.answer(text) for text in original])) for control in CONTROLS]
    rows = []
    for judge in judges:
        for control, answers in made:
            found, numbers = judged(context.config, judge, prompts, answers, source)
            names = {"judge": judge.name, "left": control.name, "right": POLICY}
            rows.append(names | numbers | {"expected": control.expected, "holds": control.holds(found)})
    return rows


def run(context: Context, progress: Progress) -> None:
    """Write results.json, and gap_outputs.json: the gap model on what the models write."""
    config, folder = context.config.evaluate, context.folder("evaluate", "")
    rounds = context.config.improve.rounds
    lineage = folder.begin(context.config, data_fingerprint=context.data.fingerprint)
    prompts = [triple.prompt for triple in context.data.triples("heldout")][: config.prompts]
    params = {
        f"{stage}-{model}": load(context, stage, model) for stage in ("sft", "rl") for model in ("policy", "improver")
    }
    size, headline = context.config.improve.batch_size, headline_temperature(context.config)
    sampling = Sampling(top_k=context.config.improve.top_k, top_p=context.config.improve.top_p)
    systems = Systems(context, prompts, batch_size=size, sampling=sampling)
    truth, judges = judges_of(context)
    bar = progress.add_task(folder.name, total=2 * len(prompts) * len(config.temperatures), note="")
    rows: list[dict[str, Any]] = []
    described, controls = [], []
    for temperature in config.temperatures:
        outputs = generate_outputs(
            context, systems, params, temperature, lambda done: progress.advance(bar, done), rounds
        )
        for name, output in outputs.items():
            scores = None if truth is None else truth.score(prompts, output.texts)
            described.append(describe(name, temperature, output, scores))
        rows += compared(context.config, judges, prompts, outputs, pairs_of(rounds), temperature)
        if temperature == headline:
            controls = control_rows(context, judges, prompts, outputs[POLICY].texts)
    results = {
        "judge_names": [judge.name for judge in judges],
        "headline_temperature": headline,
        "rows": rows,
        "controls": controls,
        "systems": described,
        "max_score": None if truth is None else notes.MAX_SCORE,
    }
    write_json(folder.path / "gap_outputs.json", measure_outputs(context))
    write_json(folder.path / "results.json", results)
    folder.finish(round=rounds, digest=lineage["config"])


def judges_of(context: Context) -> tuple[PointwiseJudge | None, list[Judge]]:
    """(the rubric where a truth is known, all judges: the rubric first, then the gap model)."""
    scorer = GapScorer(context, load(context, "rm", "improver"), batch_size=context.config.improve.batch_size)
    gap = PairJudge("gap", scorer)
    if context.truth is None:
        return None, [gap]
    truth = PointwiseJudge("rubric", over_texts(context.truth))
    return truth, [truth, gap]


def headline_temperature(config: Config) -> float:
    """The temperature of --stage=improve where it is evaluated, else the first that is."""
    wanted = config.improve.temperature
    return min(config.evaluate.temperatures, key=lambda found: found != wanted, default=wanted)


def over_texts(truth: TruthScore) -> Callable[[Texts, Texts], np.ndarray]:
    """A score of one answer, as a score of many."""
    return lambda prompts, answers: np.asarray([truth(*both) for both in zip(prompts, answers, strict=True)])


def show(context: Context) -> None:
    """The table of a finished evaluation, and the report page built from whatever the workdir holds."""
    folder = context.folder("evaluate", "")
    page = report.build(folder.workdir, context.places())
    results = json.loads((folder.path / "results.json").read_text(encoding="utf-8"))
    context.console.print(report.summary_table(results))
    context.console.print(report.control_lines(results), soft_wrap=True)
    context.console.print(f"report: {page}", soft_wrap=True)
