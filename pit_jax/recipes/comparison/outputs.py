"""The gap model on what the models write, whose distribution is not that of the pairs it was trained on."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import jax
import numpy as np

from pit_jax.batch import Answer, PromptBatch
from pit_jax.data.sources import known_truth
from pit_jax.data.stream import sequential
from pit_jax.evaluation.gap_quality import agreement, measure, oriented
from pit_jax.inference.sampling import Sampling
from pit_jax.inference.texts import TextEngine, written
from pit_jax.model.networks import Params
from pit_jax.parallel.sharding import put_rows
from pit_jax.rl.curriculum import every_provider, providers_of
from pit_jax.rl.references import REFERENCES, Draw, models_needed
from pit_jax.run.context import Context
from pit_jax.run.params import Models
from pit_jax.run.provenance import StageId

GAP = StageId("rm", "improver")
WRITERS = {"SFT improver": StageId("sft", "improver"), "PIT": StageId("rl", "improver")}
POLICY = "policy-rl"


@dataclass(frozen=True)
class Pairs:
    """Candidates against references, a prompt each."""

    prompts: Sequence[str]
    candidates: Sequence[Answer]
    references: Sequence[Answer]


def measure_outputs(context: Context, texts: TextEngine) -> dict[str, dict[str, Any]]:
    """The gap model's figures on sets of outputs for held-out prompts, sampled at the temperature of RL.

    For every phase of the curriculum the rewrites of its references by the improver before and after RL; and the
    policy's answers against the chosen ones. Each set holds `quality`, all figures over the pairs whose true scores
    differ, the truly better text as w (None without a truth), and what needs no label: `agreement`, the mean centred
    `gap`, the share of `copies`.
    """
    models = Models(context)
    params, measured = models.load(GAP), {}
    for name, pairs in drawn_pairs(context, texts, models):
        measured[name] = figures = output_figures(context, texts, params, pairs)
        right = figures["quality"] and figures["quality"]["accuracies"]["wl_lw"]
        accuracy = "" if right is None else f", right {right:.3f} of {figures['quality']['pairs']} that differ in truth"
        antisymmetry = f"antisymmetry {figures['agreement']['antisymmetry']:.3f}"
        context.screen.say(f"gap model on outputs: {name}: {antisymmetry}{accuracy}")
    return measured


def drawn_pairs(context: Context, texts: TextEngine, models: Models) -> Iterator[tuple[str, Pairs]]:
    """The sets of pairs by name: what RL met in each phase of its curriculum, before and after it, and the policy."""
    config = context.config.rl
    triples = context.data.triples("heldout")[: config.heldout_prompts]
    prompts = [triple.prompt for triple in triples]
    drawn = {
        name: rewrites(context, texts, models, texts.engine.to_decode(models.load(stage)))
        for name, stage in WRITERS.items()
    }
    for references in dict.fromkeys(config.curriculum.references):
        providers = providers_of(references)
        for name, sides in drawn.items():
            before, after = ([answer for provider in providers for answer in sides[provider][i]] for i in (0, 1))
            yield f"{name} rewriting {references}", Pairs(prompts * len(providers), after, before)
    chosen = [written(context.data.template, triple.chosen) for triple in triples]
    yield "policy against chosen", Pairs(prompts, drawn["PIT"][POLICY][0], chosen)


def rewrites(
    context: Context, texts: TextEngine, models: Models, improver: Params
) -> dict[str, tuple[list[Answer], list[Answer]]]:
    """(references, rewrites) of each provider, an answer for every held-out prompt."""
    config, sampling = context.config.rl, Sampling(context.config.rl.temperature)
    names = list(dict.fromkeys([*every_provider(config.curriculum), POLICY]))
    rewritten: dict[str, tuple[list[Answer], list[Answer]]] = {name: ([], []) for name in names}
    samplers = {stage: texts.engine.to_decode(models.load(stage)) for stage in models_needed(names)}
    prompts = context.data.rows("heldout", "prompts").first(config.heldout_prompts)
    for i, (batch, real) in enumerate(sequential(prompts, config.batch_size)):
        rows, key = put_rows(context.mesh, PromptBatch, batch), jax.random.fold_in(context.key("outputs"), i)
        for name, sides in rewritten.items():
            draw = Draw(rows, jax.random.fold_in(key, 0), texts.engine, sampling, samplers, improver)
            before = REFERENCES[name].draw(draw)
            after = texts.engine.rewrite(improver, rows, before, jax.random.fold_in(key, 1), sampling)
            for answers, responses in zip(sides, (before, after.responses), strict=True):
                answers += texts.read(responses, real)
    return rewritten


def output_figures(context: Context, texts: TextEngine, params: Params, pairs: Pairs) -> dict[str, Any]:
    """The gap model over one set of pairs."""
    prompts, a, b = pairs.prompts, pairs.candidates, pairs.references
    gaps_N = {"wl": texts.gaps(params, prompts, a, b), "ww": texts.gaps(params, prompts, a, a)}
    gaps_N |= {"ll": texts.gaps(params, prompts, b, b), "lw": texts.gaps(params, prompts, b, a)}
    figures: dict[str, Any] = {
        "pairs": len(prompts),
        "copies": float(np.mean([x.text == y.text for x, y in zip(a, b, strict=True)])),
        "gap": float(np.mean(gaps_N["wl"] - gaps_N["ll"])),
        "agreement": asdict(agreement(gaps_N)),
        "quality": None,
    }
    truth = known_truth(context.config.data)
    if truth is None:
        return figures
    better_N = np.array([truth(x, y.text) - truth(x, z.text) for x, y, z in zip(prompts, a, b, strict=True)])
    length_N = np.array([len(y.ids) - len(z.ids) for y, z in zip(a, b, strict=True)])
    differ_N = better_N != 0
    if differ_N.any():
        length_N = (length_N * np.sign(better_N))[differ_N]
        figures["quality"] = asdict(measure(oriented(gaps_N, better_N), length_N, np.abs(better_N)[differ_N]))
    return figures
