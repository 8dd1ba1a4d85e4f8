"""The gap model on what the models write, whose distribution is not that of the pairs it was trained on."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import jax
import numpy as np

from pit_jax.batch import PromptBatch
from pit_jax.data.stream import sequential
from pit_jax.evaluation.gap_quality import agreement, measure, oriented
from pit_jax.stages.context import Context
from pit_jax.stages.curriculum import every_provider, providers_of
from pit_jax.stages.models import load
from pit_jax.stages.references import Supply, prompt_arrays
from pit_jax.stages.systems import GapScorer

WRITERS = {"SFT improver": ("sft", "improver"), "PIT": ("rl", "improver")}


@dataclass(frozen=True)
class Pairs:
    """Candidates against references, as texts, a prompt each."""

    prompts: list[str]
    candidates: list[str]
    references: list[str]


def measure_outputs(context: Context) -> dict[str, dict[str, Any]]:
    """The gap model's figures on sets of outputs for held-out prompts, sampled at the temperature of RL.

    For every stage of the curriculum the rewrites of its references by the improver before and after RL; and the
    policy's answers against the chosen ones. Each set holds `quality`, all figures over the pairs whose true scores
    differ, the truly better text as w (None without a truth), and what needs no label: `agreement`, the mean centred
    `gap`, the share of `copies`.
    """
    scorer = GapScorer(context, load(context, "rm", "improver"), batch_size=context.config.rl.batch_size)
    found = {name: output_figures(context, scorer, pairs) for name, pairs in drawn_pairs(context)}
    for name, figures in found.items():
        right = figures["quality"] and figures["quality"]["accuracies"]["wl_lw"]
        accuracy = "" if right is None else f", right {right:.3f} of {figures['quality']['pairs']} that differ in truth"
        antisymmetry = f"antisymmetry {figures['agreement']['antisymmetry']:.3f}"
        context.console.print(f"gap model on outputs: {name}: {antisymmetry}{accuracy}", soft_wrap=True)
    return found


def drawn_pairs(context: Context) -> Iterator[tuple[str, Pairs]]:
    """The sets of pairs by name: what RL met in each stage of its curriculum, before and after it, and the policy."""
    config = context.config.rl
    triples = context.data.triples("heldout")[: config.heldout_prompts]
    prompts, chosen = [t.prompt for t in triples], [t.chosen for t in triples]
    samplers = {f"policy-{stage}": load(context, stage, "policy") for stage in ("sft", "rl")}
    drawn = {name: rewrites(context, samplers, load(context, *place)) for name, place in WRITERS.items()}
    for references in dict.fromkeys(config.curriculum.references):
        providers = providers_of(references)
        for name, texts in drawn.items():
            before, after = ([text for provider in providers for text in texts[provider][side]] for side in (0, 1))
            yield f"{name} rewriting {references}", Pairs(prompts * len(providers), after, before)
    yield "policy against chosen", Pairs(prompts, drawn["PIT"]["policy-rl"][0], chosen)


def rewrites(context: Context, samplers: dict[str, Any], improver: Any) -> dict[str, tuple[list[str], list[str]]]:
    """(references, rewrites) of each provider, a text for every held-out prompt."""
    config, supply = context.config.rl, Supply(context, samplers)
    asked = dict.fromkeys([*every_provider(config.curriculum), "policy-rl"])
    found: dict[str, tuple[list[str], list[str]]] = {name: ([], []) for name in asked}
    arrays = {name: column[: config.heldout_prompts] for name, column in prompt_arrays(context, "heldout").items()}
    for i, (batch, real) in enumerate(sequential(arrays, config.batch_size)):
        rows, key = context.put_rows(PromptBatch, batch), jax.random.fold_in(context.key("outputs"), i)
        for name, sides in found.items():
            before = supply.references(name, rows, improver, jax.random.fold_in(key, 0))
            after = supply.programs["rewrite"](improver, rows, before, jax.random.fold_in(key, 1))
            for texts, answers in zip(sides, (before, after), strict=True):
                texts += context.texts(np.asarray(answers.tokens_BT)[:real])
    return found


def output_figures(context: Context, scorer: GapScorer, pairs: Pairs) -> dict[str, Any]:
    """The gap model over one set of pairs."""
    prompts, a, b = pairs.prompts, pairs.candidates, pairs.references
    gaps_N = {"wl": scorer(prompts, a, b), "ww": scorer(prompts, a, a)}
    gaps_N |= {"ll": scorer(prompts, b, b), "lw": scorer(prompts, b, a)}
    figures: dict[str, Any] = {
        "pairs": len(prompts),
        "copies": float(np.mean([x == y for x, y in zip(a, b, strict=True)])),
        "gap": float(np.mean(gaps_N["wl"] - gaps_N["ll"])),
        "agreement": asdict(agreement(gaps_N)),
        "quality": None,
    }
    if context.truth is None:
        return figures
    tokens = context.data.template.response
    better_N = np.array([context.truth(x, y) - context.truth(x, z) for x, y, z in zip(prompts, a, b, strict=True)])
    length_N = np.array([len(tokens(y)) - len(tokens(z)) for y, z in zip(a, b, strict=True)])
    differ_N = better_N != 0
    if differ_N.any():
        length_N = (length_N * np.sign(better_N))[differ_N]
        figures["quality"] = asdict(measure(oriented(gaps_N, better_N), length_N, np.abs(better_N)[differ_N]))
    return figures
