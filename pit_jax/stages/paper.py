"""The tables and figures of PIT (arXiv 2310.00898) on a finished run: all systems, sweep, ablations, five rounds."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import jax
import numpy as np
from rich.progress import Progress

from pit_jax.batch import RewardBatch
from pit_jax.data import notes
from pit_jax.data.stream import sequential
from pit_jax.evaluation import report
from pit_jax.evaluation.comparison import outcomes
from pit_jax.evaluation.costs import Draws, Network, Work, answer_cost, improver_slot, training_costs
from pit_jax.evaluation.failures import worst
from pit_jax.evaluation.gap_quality import measure
from pit_jax.evaluation.judges import Judge
from pit_jax.evaluation.ratings import games_of, rate_prompts, shuffled_elo
from pit_jax.improvement.self_refine import ROUNDS
from pit_jax.stages.ablations import ABLATIONS, branch, trained
from pit_jax.stages.answering import Answering, Outputs
from pit_jax.stages.context import Context
from pit_jax.stages.evaluate import IMPROVER_SFT, POLICY, compared, judges_of, pit_name
from pit_jax.stages.gap_gates import HELDOUT_PAIRS, known_differences, read_quality
from pit_jax.stages.models import load
from pit_jax.stages.outputs import Output, describe
from pit_jax.stages.rm import sequence_scores
from pit_jax.stages.workspace import write_json

CHOSEN, REFINE, ONE_LINE, DIRECT, DPO = "chosen", "Self-Refine", "one-line", "direct RLHF", "DPO"
ELO_K, ELO_START, SHUFFLES = 4.0, 1000.0, 100


def ablation_name(name: str) -> str:
    """The system of an ablated improver."""
    return f"{name} x1"


def refine_name(round: int) -> str:
    return f"{REFINE} x{round}"


def every_system(context: Context, answering: Answering, advance: Callable[[int], None]) -> Outputs:
    """Table 1 and Table 3: all systems at the headline temperature."""
    knobs = context.config.paper
    at = knobs.temperature
    outputs = answering.trail(at, knobs.rounds, advance)
    original = outputs[POLICY]
    outputs[CHOSEN] = answering.chosen()
    outputs[IMPROVER_SFT] = answering.improved_by(load(context, "sft", "improver"), at, original)
    for name in knobs.ablations:
        if ABLATIONS[name].stages[-1] == ("rl", "improver"):
            outputs[ablation_name(name)] = answering.improved_by(trained(context, name), at, original)
        else:
            outputs[DIRECT] = answering.answered_by(trained(context, name), at)
    outputs[DPO] = answering.answered_by(load(context, "dpo", "policy"), at)
    name, best = answering.best_of_n(at, outputs[pit_name(1)], original)
    outputs[name] = best
    refined = answering.refined(at, max(ROUNDS, knobs.rounds), original)
    outputs[REFINE] = refined[ROUNDS - 1]
    outputs |= {refine_name(k): refined[k - 1] for k in range(1, knobs.rounds + 1)}
    outputs[ONE_LINE] = answering.reflected(at, original)
    return outputs


def rated(rounds: int) -> list[str]:
    """The systems of Table 3."""
    return [POLICY, *(name(k) for name in (pit_name, refine_name) for k in range(1, rounds + 1))]


def games_between(
    context: Context, judge: Judge, prompts: list[str], outputs: Outputs, names: Sequence[str]
) -> dict[tuple[str, str], np.ndarray]:
    """{(left, right): [N] of 1, 0.5 and 0 for left} of all pairs of the named systems."""
    games, margin = {}, context.config.evaluate.tie_margin
    for left, right in combinations(names, 2):
        scores_N = judge.ask(prompts, outputs[left].texts, outputs[right].texts).scores_N
        games[left, right] = outcomes(scores_N, np.zeros_like(scores_N), tie_margin=margin)
    return games


def ratings(
    context: Context, judges: Sequence[Judge], prompts: list[str], outputs: Outputs
) -> dict[str, list[dict[str, Any]]]:
    """Table 3, by every judge: Bradley-Terry over resampled prompts, and Elo over shuffled games."""
    found, resamples, seed = {}, context.config.evaluate.resamples, context.config.seed
    for judge in judges:
        games = games_between(context, judge, prompts, outputs, rated(context.config.paper.rounds))
        try:
            strengths = rate_prompts(games, scale=400, base=10, resamples=resamples, seed=seed)
        except ValueError as error:  # no finite ratings: too few prompts, or a system that always wins
            context.console.print(f"ratings by {judge.name}: {error}", soft_wrap=True)
            continue
        elo = shuffled_elo(games_of(games), k=ELO_K, initial=ELO_START, shuffles=SHUFFLES, seed=seed)
        rows = [
            {"name": name, **asdict(spread)}
            | {"elo": elo[name].rating, "elo_low": elo[name].low, "elo_high": elo[name].high}
            for name, spread in strengths.items()
        ]
        found[judge.name] = sorted(rows, key=lambda row: -row["rating"])
    return found


def costs(context: Context, outputs: Outputs) -> dict[str, list[dict[str, Any]]]:
    """Tokens and operations of every training, and of one answer of every system."""
    config, layout = context.config, context.data.report["layout"]
    vocab_size = context.vocab_size
    network = Network(config.transformer, vocab_size)
    training = training_costs(config, layout, vocab_size)
    pair = 2 * network.read(layout["row_lengths"]["reward"], logits=layout["row_lengths"]["reward"])
    training["dpo-policy"] = config.dpo.steps * config.dpo.batch_size * (pair.trained() + pair)
    for name in config.paper.ablations:
        own = training_costs(branch(context, name).config, layout, vocab_size)
        training |= {f"{name}: {stage}-{model}": own[f"{stage}-{model}"] for stage, model in ABLATIONS[name].stages}
    answers = {name: answer_work(context, network, name, output) for name, output in outputs.items() if output.replies}
    return {
        "training": [{"name": name, **asdict(work)} for name, work in training.items()],
        "answers": [{"name": name, **asdict(work)} for name, work in answers.items()],
    }


def answer_work(context: Context, network: Network, name: str, output: Output) -> Work:
    """What one answer of a system takes, its drafts included."""
    layout = context.data.report["layout"]
    prompt, slot, tokens = layout["prompt_slot"], layout["response_slot"], float(output.drawn_N.mean())
    if output.reference is None:
        scored = output.replies * network.score(prompt + slot) if output.replies > 1 else Work(0.0, 0.0)
        return answer_cost(network, [Draws(output.replies, tokens, prompt)], slot=slot, scored=scored)
    original = output.reference
    while original.reference is not None:
        original = original.reference
    first = float(original.drawn_N.mean())
    prompted = name.startswith((REFINE, ONE_LINE))
    later = context.config.paper.refine_length or prompt if prompted else improver_slot(layout)
    draws = [Draws(1, first, prompt), Draws(output.replies - 1, tokens - first, later)]
    return answer_cost(network, [draw for draw in draws if draw.replies > 0], slot=slot)


def sweep(
    context: Context, answering: Answering, judges: Sequence[Judge], prompts: list[str], advance: Callable[[int], None]
) -> list[dict[str, Any]]:
    """Fig. 3: one improvement by PIT, and Self-Refine, at every temperature."""
    rows: list[dict[str, Any]] = []
    for temperature in context.config.paper.temperatures:
        outputs = answering.trail(temperature, 1, advance)
        outputs[REFINE] = answering.refined(temperature, ROUNDS, outputs[POLICY])[-1]
        pairs = [(pit_name(1), POLICY), (REFINE, POLICY), (pit_name(1), REFINE)]
        rows += compared(context.config, judges, prompts, outputs, pairs, temperature)
    return rows


def gap_losses(context: Context) -> list[dict[str, Any]]:
    """The gap model, its ablation, and the difference of two scores of the reward model, on held-out pairs."""
    found = [{"name": "five terms", "quality": read_quality(context)}]
    if "pair-gap" in context.config.paper.ablations:
        found.append({"name": "wl over lw alone", "quality": read_quality(branch(context, "pair-gap"))})
    return [*found, {"name": "difference of two scores", "quality": asdict(score_difference(context))}]


def score_difference(context: Context) -> Any:
    """GapQuality of r(x, y) - r(x, y_ref): equal texts always tie."""
    params, network = load(context, "rm", "policy"), context.scalar_model

    def difference(params: Any, batch: RewardBatch) -> jax.Array:
        chosen_B = sequence_scores(network, params, batch.chosen_BL, batch.chosen_segments_BL)
        return chosen_B - sequence_scores(network, params, batch.rejected_BL, batch.rejected_segments_BL)

    compiled = jax.jit(difference)
    arrays = {name: column[:HELDOUT_PAIRS] for name, column in context.data.arrays("heldout", "reward").items()}
    pieces = [
        np.asarray(compiled(params, context.put_rows(RewardBatch, batch)))[:real]
        for batch, real in sequential(arrays, context.config.rm.batch_size)
    ]
    wl_N = np.concatenate(pieces)
    gaps = {"wl": wl_N, "ww": 0 * wl_N, "ll": 0 * wl_N, "lw": -wl_N}
    return measure(gaps, *known_differences(context, len(wl_N)))


def run(context: Context, progress: Progress) -> None:
    """Write results.json; the ablations and the DPO policy are trained."""
    config, folder = context.config.paper, context.folder("paper", "")
    lineage = folder.begin(context.config, data_fingerprint=context.data.fingerprint)
    triples = context.data.triples("heldout")[: config.prompts]
    prompts = [triple.prompt for triple in triples]
    truth, judges = judges_of(context)
    answering = Answering(context, prompts, [triple.chosen for triple in triples])
    bar = progress.add_task(folder.name, total=len(prompts) * (1 + len(config.temperatures)), note="")

    def advance(done: int) -> None:
        progress.advance(bar, done)

    outputs = every_system(context, answering, advance)
    at, names = config.temperature, [name for name in outputs if name not in map(refine_name, range(1, 100))]
    improvers = [IMPROVER_SFT, *(ablation_name(name) for name in config.ablations if ablation_name(name) in outputs)]
    ablated = [(pit_name(1), name) for name in improvers]
    pairs = [*((name, POLICY) for name in names if name != POLICY), *ablated]
    rows = compared(context.config, judges, prompts, outputs, pairs, at)
    curriculum = {(name, POLICY) for name in (pit_name(1), *improvers)} | set(ablated)
    results = {
        "judge_names": [judge.name for judge in judges],
        "headline_temperature": at,
        "max_score": None if truth is None else notes.MAX_SCORE,
        "prompts": len(prompts),
        "systems": [
            describe(name, at, outputs[name], None if truth is None else truth.score(prompts, outputs[name].texts))
            for name in names
        ],
        "table": [row for row in rows if row["right"] == POLICY],
        "curriculum": [row for row in rows if (row["left"], row["right"]) in curriculum],
        "sweep": sweep(context, answering, judges, prompts, advance),
        "ratings": ratings(context, judges, prompts, outputs),
        "gap_losses": gap_losses(context),
        "costs": costs(context, {name: outputs[name] for name in names}),
        "failures": worst(prompts, outputs[POLICY].texts, outputs[pit_name(1)].texts, judges[0]),
    }
    write_json(folder.path / "results.json", results)
    folder.finish(round=config.rounds, digest=lineage["config"])


def show(context: Context) -> None:
    """Table 1 of a finished comparison, and the report page built from whatever the workdir holds."""
    folder = context.folder("paper", "")
    page = report.build(folder.workdir, context.places())
    results = json.loads((folder.path / "results.json").read_text(encoding="utf-8"))
    context.console.print(report.paper_table(results))
    context.console.print(f"report: {page}", soft_wrap=True)
