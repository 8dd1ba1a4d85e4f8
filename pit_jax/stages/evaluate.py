"""Compare the systems at matched temperature: win, lose and delta with n, ties and a 95% interval."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import jax
import numpy as np
from rich.progress import Progress

from pit_jax.data import notes
from pit_jax.evaluation import report
from pit_jax.evaluation.comparison import compare
from pit_jax.evaluation.judges import Judge, PairJudge, PointwiseJudge
from pit_jax.generation.sampling import Sampling
from pit_jax.improvement.pit import Answers
from pit_jax.stages.context import Context
from pit_jax.stages.systems import GapScorer, Systems
from pit_jax.stages.workspace import write_json

POLICY, POLICY_SFT, IMPROVER_SFT = "policy", "policy SFT", "SFT improver x1"


@dataclass(frozen=True)
class Output:
    """What one system answered at one temperature."""

    texts: list[str]
    tokens_NT: np.ndarray
    mask_NT: np.ndarray
    reference: "Output | None" = None


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

    def output(answers: Answers, round: int, reference: Output | None) -> Output:
        tokens_NT = np.asarray(answers.tokens_BT[round])
        return Output(systems.texts(tokens_NT), tokens_NT, np.asarray(answers.mask_BT[round]), reference)

    trail = systems.trail(params["rl-policy"], params["rl-improver"], temperature, key, advance, rounds=rounds)
    outputs = {POLICY: output(trail, 0, None)}
    for round in range(1, len(trail.tokens_BT)):
        before = outputs[POLICY if round == 1 else pit_name(round - 1)]
        outputs[pit_name(round)] = output(trail, round, before)
    sft_trail = systems.trail(params["rl-policy"], params["sft-improver"], temperature, key, advance, rounds=1)
    outputs[IMPROVER_SFT] = output(sft_trail, 1, outputs[POLICY])
    sft = systems.answers(params["sft-policy"], temperature, jax.random.fold_in(key, 99))
    outputs[POLICY_SFT] = output(sft, 0, None)
    return outputs


def pairs_of(rounds: int) -> list[tuple[str, str]]:
    """(left, right) of the delta table."""
    trail = [(pit_name(k), POLICY) for k in range(1, rounds + 1)]
    return [*trail, (IMPROVER_SFT, POLICY), (pit_name(1), IMPROVER_SFT), (POLICY, POLICY_SFT)]


def describe(name: str, temperature: float, output: Output, eos_id: int, scores: np.ndarray | None) -> dict[str, Any]:
    """One row of the systems table. The copy rate is the share of exact copies of the answer that was improved."""
    ended = np.any((output.tokens_NT == eos_id) & output.mask_NT, axis=1)
    row: dict[str, Any] = {
        "name": name,
        "temperature": temperature,
        "length_mean": float(output.mask_NT.sum(axis=1).mean()),
        "eos_rate": float(ended.mean()),
        "copy_rate": None,
        "score_mean": None,
        "score_std": None,
    }
    if output.reference is not None:
        same = [a == b for a, b in zip(output.texts, output.reference.texts, strict=True)]
        row["copy_rate"] = float(np.mean(same))
    if scores is not None:
        row |= {"score_mean": float(scores.mean()), "score_std": float(scores.std())}
    return row


def run(context: Context, progress: Progress) -> None:
    """Write results.json."""
    config, folder = context.config.evaluate, context.folder("evaluate", "")
    rounds = context.config.improve.rounds
    lineage = folder.begin(context.config, data_fingerprint=context.data.fingerprint)
    prompts = [triple.prompt for triple in context.data.triples("heldout")][: config.prompts]
    params = {
        f"{stage}-{model}": context.load(stage, model) for stage in ("sft", "rl") for model in ("policy", "improver")
    }
    size = context.config.improve.batch_size
    sampling = Sampling(top_k=context.config.improve.top_k, top_p=context.config.improve.top_p)
    systems = Systems(context, prompts, batch_size=size, sampling=sampling)
    judges: list[Judge] = [PairJudge("gap", GapScorer(context, context.load("rm", "improver"), batch_size=size))]
    if (truth := context.truth) is not None:
        judges.insert(
            0, PointwiseJudge("rubric", lambda xs, ys: np.asarray([truth(x, y) for x, y in zip(xs, ys, strict=True)]))
        )
    bar = progress.add_task(folder.name, total=2 * len(prompts) * len(config.temperatures), note="")
    rows, described = [], []
    for temperature in config.temperatures:
        outputs = generate_outputs(
            context, systems, params, temperature, lambda done: progress.advance(bar, done), rounds
        )
        for name, output in outputs.items():
            scores = (
                None
                if truth is None
                else np.asarray([truth(*both) for both in zip(prompts, output.texts, strict=True)])
            )
            described.append(describe(name, temperature, output, context.data.tokenizer.eos_id, scores))
        for judge in judges:
            for left, right in pairs_of(rounds):
                margins = judge.ask(prompts, outputs[left].texts, outputs[right].texts).scores_N
                found = compare(
                    margins,
                    np.zeros_like(margins),
                    tie_margin=config.tie_margin,
                    resamples=config.resamples,
                    seed=context.config.seed,
                )
                rows.append(
                    {"temperature": temperature, "judge": judge.name, "left": left, "right": right} | asdict(found)
                )
    results = {
        "judge_names": [judge.name for judge in judges],
        "headline_temperature": context.config.improve.temperature,
        "rows": rows,
        "systems": described,
        "max_score": None if truth is None else notes.MAX_SCORE,
    }
    write_json(folder.path / "results.json", results)
    folder.finish(round=rounds, digest=lineage["config"])


def show(context: Context) -> None:
    """The table of a finished evaluation, and the report page built from whatever the workdir holds."""
    folder = context.folder("evaluate", "")
    results = json.loads((folder.path / "results.json").read_text(encoding="utf-8"))
    context.console.print(report.summary_table(results))
    context.console.print(f"report: {report.build(folder.workdir)}", soft_wrap=True)
