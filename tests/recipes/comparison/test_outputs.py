"""The gap model on outputs: which texts are drawn, how they are labelled, and what needs no label."""

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from pit_jax.batch import Answer
from pit_jax.config import CurriculumConfig
from pit_jax.evaluation.gap_quality import agreement
from pit_jax.recipes.comparison.outputs import GAP, Pairs, drawn_pairs, measure_outputs, output_figures
from pit_jax.run.context import Context
from pit_jax.run.params import Models
from tests.recipes.comparison.conftest import CONFIG, shared_texts
from tests.world import MakeContext

SETS = {
    f"{writer} rewriting {references}": size
    for references, size in (("rejected+chosen", 48), ("policy-rl", 24))
    for writer in ("SFT improver", "PIT")
} | {"policy against chosen": 24}
Place = Callable[..., tuple[Context, Any]]


@pytest.fixture
def placed(ready: MakeContext, mesh: Any) -> Place:
    """placed(config, truth=False) -> a context and its engine over texts."""

    def make(config: Any = CONFIG, *, truth: bool = False) -> tuple[Context, Any]:
        context = ready(config, truth=truth)
        return context, shared_texts(context.mesh, 4, context.config.data.prompt_length)

    return make


def pairs_of(context: Context, texts: Any) -> dict[str, Pairs]:
    return dict(drawn_pairs(context, texts, Models(context)))


def answers(*texts: str) -> list[Answer]:
    return [Answer(text, (*map(int, text.split()), 1)) for text in texts]


def said(side: Any) -> list[str]:
    return [answer.text for answer in side]


def test_outputs_without_a_truth_are_checked_for_agreement(placed: Place) -> None:
    found = measure_outputs(*placed())
    assert {name: figures["pairs"] for name, figures in found.items()} == SETS
    for figures in found.values():
        assert figures["quality"] is None
        assert figures["agreement"]["antisymmetry"] > 0 and figures["agreement"]["tie"] > 0
        assert 0.0 <= figures["copies"] <= 1.0 and np.isfinite(figures["gap"])


def test_outputs_meet_the_references_of_every_phase_of_the_curriculum(placed: Place) -> None:
    """Row by row: the data's rejected and chosen answers first, then what the policy wrote for the same prompts."""
    context, texts = placed()
    found = pairs_of(context, texts)
    triples = context.data.triples("heldout")
    prompts, chosen, rejected = ([getattr(t, name) for t in triples] for name in ("prompt", "chosen", "rejected"))
    for writer in ("SFT improver", "PIT"):
        easy, hard = (found[f"{writer} rewriting {references}"] for references in ("rejected+chosen", "policy-rl"))
        assert (easy.prompts, said(easy.references)) == (prompts * 2, rejected + chosen)
        assert all(answer.ended for answer in easy.references)
        assert (hard.prompts, hard.references) == (prompts, found["policy against chosen"].candidates)
        assert len({*said(easy.candidates), *said(hard.candidates)}) > 48
    assert found["SFT improver rewriting policy-rl"].candidates != found["PIT rewriting policy-rl"].candidates
    policy = found["policy against chosen"]
    assert (policy.prompts, said(policy.references)) == (prompts, chosen)


def test_a_curriculum_of_ones_own_answers(placed: Place) -> None:
    """The improver as provider: each improver rewrites its own rewrites, drawn with another key."""
    own = CurriculumConfig(references=("improver",), rounds=(3,))
    found = pairs_of(*placed(replace(CONFIG, rl=replace(CONFIG.rl, curriculum=own))))
    assert set(found) == {"SFT improver rewriting improver", "PIT rewriting improver", "policy against chosen"}
    pairs = found["PIT rewriting improver"]
    assert pairs.references != found["SFT improver rewriting improver"].references
    assert sum(a.text == b.text for a, b in zip(pairs.candidates, pairs.references, strict=True)) < 12


def test_outputs_are_labelled_by_the_truth(placed: Place) -> None:
    """Accuracy: the sign of the symmetrised gap against that of the true difference, over pairs that differ in it."""
    context, texts = placed(truth=True)
    params, prompts = Models(context).load(GAP), ["7", "8 9", "10", "11"]
    a, b = answers("7 8", "7 9 9", "12", ""), answers("9", "30 9 9 8", "13", "14 14")
    figures = output_figures(context, texts, params, Pairs(prompts, a, b))
    forward, backward = texts.gaps(params, prompts, a, b), texts.gaps(params, prompts, b, a)
    truth = np.array([1, -1, 0, -2])
    right = np.sign(forward - backward)[truth != 0] == np.sign(truth)[truth != 0]
    assert figures["quality"]["pairs"] == 3
    assert figures["quality"]["accuracies"]["wl_lw"] == pytest.approx(right.mean())
    lengths = [(row["label"], row["pairs"]) for row in figures["quality"]["by_length"]]
    assert lengths == [("better answer longer", 3)]  # this truth is the length
    same = {"ww": texts.gaps(params, prompts, a, a), "ll": texts.gaps(params, prompts, b, b)}
    alone = {"wl": forward, **same, "lw": backward}
    assert figures["agreement"] == asdict(agreement(alone))
    assert figures["gap"] == pytest.approx(float(np.mean(forward - alone["ll"])))


def test_copies_are_counted_and_have_no_better_text(placed: Place) -> None:
    context, texts = placed(truth=True)
    same = answers("9 9", "10")
    figures = output_figures(context, texts, Models(context).load(GAP), Pairs(["7", "8"], same, same))
    assert (figures["copies"], figures["gap"], figures["quality"]) == (1.0, 0.0, None)
    assert figures["agreement"] == {"tie": 0.0, "antisymmetry": 0.0}
