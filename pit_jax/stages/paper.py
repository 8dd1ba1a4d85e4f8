"""The tables and figures of PIT (arXiv 2310.00898) on a finished run: all systems, sweep, ablations, five rounds."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from itertools import combinations
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import Progress

from pit_jax.batch import RewardBatch
from pit_jax.data import notes
from pit_jax.data.stream import sequential
from pit_jax.evaluation.comparison import outcomes
from pit_jax.evaluation.gap_quality import measure
from pit_jax.evaluation.judges import Judge
from pit_jax.generation.sampling import Sampling
from pit_jax.improvement.best_of_n import n_for_budget
from pit_jax.improvement.self_refine import ROUNDS, Refined, load_wording, reflect, self_refine
from pit_jax.stages.ablations import ABLATIONS, branch, trained
from pit_jax.stages.context import Context
from pit_jax.stages.evaluate import IMPROVER_SFT, POLICY, judged, judges_of, pit_name
from pit_jax.stages.gap_gates import HELDOUT_PAIRS, known_differences, read_quality
from pit_jax.stages.outputs import Output, describe, drawn_output, trail_outputs, written_output
from pit_jax.stages.rm import sequence_scores
from pit_jax.stages.systems import Systems
from pit_jax.stages.workspace import write_json
from pit_jax.stages.writer import Writer

CHOSEN, REFINE, ONE_LINE, DIRECT, DPO = "chosen", "Self-Refine", "one-line", "direct RLHF", "DPO"
Outputs = dict[str, Output]


def ablation_name(name: str) -> str:
    """The system of an ablated improver."""
    return f"{name} x1"


def refine_name(round: int) -> str:
    return f"{REFINE} x{round}"


class Answering:
    """Every system on the same held-out prompts. All trails of a temperature share their key, so their originals."""

    def __init__(self, context: Context, prompts: list[str], chosen: list[str]):
        config = context.config
        self._context, self._prompts, self._chosen = context, prompts, chosen
        self._policy, self._improver = context.load("rl", "policy"), context.load("rl", "improver")
        self._sampling = Sampling(top_k=config.improve.top_k, top_p=config.improve.top_p)
        self._systems = Systems(context, prompts, batch_size=config.improve.batch_size, sampling=self._sampling)

    def trail(self, temperature: float, rounds: int, advance: Callable[[int], None]) -> Outputs:
        """The policy's answers and PIT's improvements of them."""
        key = self._key(temperature)
        trail = self._systems.trail(self._policy, self._improver, temperature, key, advance, rounds=rounds)
        return trail_outputs(self._context, trail, [POLICY, *(pit_name(k) for k in range(1, rounds + 1))])

    def improved_by(self, improver: Any, temperature: float, original: Output) -> Output:
        """One improvement of the policy's answers by another improver."""
        key = self._key(temperature)
        trail = self._systems.trail(self._policy, improver, temperature, key, lambda done: None, rounds=1)
        return drawn_output(self._context, trail, 1, original)

    def answered_by(self, policy: Any, temperature: float) -> Output:
        return drawn_output(self._context, self._systems.answers(policy, temperature, self._key(temperature)), 0)

    def chosen(self) -> Output:
        return written_output(self._context, self._chosen)

    def best_of_n(self, temperature: float, rival: Output, original: Output) -> tuple[str, Output]:
        """The policy's best of as many answers as fit the tokens that the rival drew."""
        n = n_for_budget(int(rival.drawn_N.sum()), int(original.drawn_N.sum()))
        reward = self._context.load("rm", "policy")
        best = self._systems.best(self._policy, reward, temperature, self._key(temperature), n=n)
        found = drawn_output(self._context, best.answers, 0)
        return f"best of {n}", Output(found.texts, found.lengths_N, found.ended_N, np.asarray(best.tokens_B)[0])

    def refined(self, temperature: float, rounds: int, original: Output) -> list[Output]:
        """Self-Refine by the policy itself: what it has after 1, 2, .. rounds at most."""
        return self._prompted(partial(self_refine, rounds=rounds), temperature, rounds, original)

    def reflected(self, temperature: float, original: Output) -> Output:
        """The one-line form, once."""
        return self._prompted(partial(reflect, rounds=1), temperature, 1, original)[0]

    def _prompted(
        self, method: Callable[..., list[Refined]], temperature: float, rounds: int, original: Output
    ) -> list[Output]:
        config = self._context.config
        writer = Writer(
            self._context,
            self._policy,
            batch_size=config.improve.batch_size,
            sampling=Sampling(jnp.float32(temperature), self._sampling.top_k, self._sampling.top_p),
            key=jax.random.fold_in(self._key(temperature), 7),
            longest=config.paper.refine_length or config.data.prompt_length,
        )
        rows = method(self._prompts, original.texts, writer, writer.count, limit=writer.limit, wording=load_wording())
        return [self._after(rows, round, writer.count, original) for round in range(1, rounds + 1)]

    def _after(self, rows: Sequence[Refined], round: int, count: Callable[[str], int], original: Output) -> Output:
        texts = [row.answers[: round + 1][-1] for row in rows]
        drawn_N = [sum(map(count, [*row.answers[1 : round + 1], *row.reviews[:round]])) for row in rows]
        kept = written_output(self._context, texts)
        return Output(kept.texts, kept.lengths_N, kept.ended_N, original.drawn_N + np.asarray(drawn_N), original)

    def _key(self, temperature: float) -> jax.Array:
        return self._context.key("paper", str(temperature))


def every_system(context: Context, answering: Answering, advance: Callable[[int], None]) -> Outputs:
    """Table 1 and Table 3: all systems at the headline temperature."""
    knobs = context.config.paper
    at = knobs.temperature
    outputs = answering.trail(at, knobs.rounds, advance)
    original = outputs[POLICY]
    outputs[CHOSEN] = answering.chosen()
    outputs[IMPROVER_SFT] = answering.improved_by(context.load("sft", "improver"), at, original)
    for name in knobs.ablations:
        if ABLATIONS[name].stages[-1] == ("rl", "improver"):
            outputs[ablation_name(name)] = answering.improved_by(trained(context, name), at, original)
        else:
            outputs[DIRECT] = answering.answered_by(trained(context, name), at)
    outputs[DPO] = answering.answered_by(context.load("dpo", "policy"), at)
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


class Table:
    """Rows of results.json: what every judge says of one system against another."""

    def __init__(self, context: Context, judges: Sequence[Judge], prompts: list[str]):
        self._context, self._judges, self._prompts = context, judges, prompts

    def rows(self, outputs: Outputs, pairs: Sequence[tuple[str, str]], temperature: float) -> list[dict[str, Any]]:
        found = []
        for judge in self._judges:
            for left, right in pairs:
                numbers = judged(self._context.config, judge, self._prompts, outputs[left], outputs[right])[1]
                names = {"temperature": temperature, "judge": judge.name, "left": left, "right": right}
                found.append(names | numbers)
        return found

    def games(self, outputs: Outputs, names: Sequence[str]) -> dict[str, dict[tuple[str, str], np.ndarray]]:
        """{judge: {(left, right): [N] of 1, 0.5 and 0 for left}} of all pairs of the named systems."""
        margin = self._context.config.evaluate.tie_margin
        games: dict[str, dict[tuple[str, str], np.ndarray]] = {}
        for judge in self._judges:
            games[judge.name] = {}
            for left, right in combinations(names, 2):
                scores_N = judge.ask(self._prompts, outputs[left].texts, outputs[right].texts).scores_N
                games[judge.name][left, right] = outcomes(scores_N, np.zeros_like(scores_N), tie_margin=margin)
        return games


def sweep(context: Context, answering: Answering, table: Table, advance: Callable[[int], None]) -> list[dict[str, Any]]:
    """Fig. 3: one improvement by PIT, and Self-Refine, at every temperature."""
    rows = []
    for temperature in context.config.paper.temperatures:
        outputs = answering.trail(temperature, 1, advance)
        outputs[REFINE] = answering.refined(temperature, ROUNDS, outputs[POLICY])[-1]
        pairs = [(pit_name(1), POLICY), (REFINE, POLICY), (pit_name(1), REFINE)]
        rows += table.rows(outputs, pairs, temperature)
    return rows


def gap_losses(context: Context) -> list[dict[str, Any]]:
    """The gap model, its ablation, and the difference of two scores of the reward model, on held-out pairs."""
    found = [{"name": "five terms", "quality": read_quality(context)}]
    if "pair-gap" in context.config.paper.ablations:
        found.append({"name": "wl over lw alone", "quality": read_quality(branch(context, "pair-gap"))})
    return [*found, {"name": "difference of two scores", "quality": asdict(score_difference(context))}]


def score_difference(context: Context) -> Any:
    """GapQuality of r(x, y) - r(x, y_ref): equal texts always tie."""
    params, network = context.load("rm", "policy"), context.scalar_model

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
    table = Table(context, judges, prompts)
    bar = progress.add_task(folder.name, total=len(prompts) * (1 + len(config.temperatures)), note="")

    def advance(done: int) -> None:
        progress.advance(bar, done)

    outputs = every_system(context, answering, advance)
    at, compared = config.temperature, [name for name in outputs if name not in map(refine_name, range(1, 100))]
    improvers = [IMPROVER_SFT, *(ablation_name(name) for name in config.ablations if ablation_name(name) in outputs)]
    versus_policy = [(name, POLICY) for name in (pit_name(1), *improvers)]
    results = {
        "judge_names": [judge.name for judge in judges],
        "headline_temperature": at,
        "max_score": None if truth is None else notes.MAX_SCORE,
        "prompts": len(prompts),
        "systems": [
            describe(name, at, outputs[name], None if truth is None else truth.score(prompts, outputs[name].texts))
            for name in compared
        ],
        "table": table.rows(outputs, [(name, POLICY) for name in compared if name != POLICY], at),
        "curriculum": table.rows(outputs, [*versus_policy, *((pit_name(1), name) for name in improvers)], at),
        "sweep": sweep(context, answering, table, advance),
        "gap_losses": gap_losses(context),
    }
    write_json(folder.path / "results.json", results)
    folder.finish(round=config.rounds, digest=lineage["config"])
