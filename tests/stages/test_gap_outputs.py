"""The gap model on outputs: which texts are drawn, how they are labelled, and what needs no label."""

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from pit_jax.config import Config, CurriculumConfig
from pit_jax.evaluation.gap_quality import agreement
from pit_jax.stages import gap_outputs
from pit_jax.stages.models import load
from pit_jax.stages.systems import GapScorer

SETS = {
    f"{writer} rewriting {references}": size
    for references, size in (("rejected+chosen", 48), ("policy-rl", 24))
    for writer in ("SFT improver", "PIT")
} | {"policy against chosen": 24}


def test_outputs_without_a_truth_are_checked_for_agreement(place: Any) -> None:
    found = gap_outputs.measure_outputs(place())
    assert {name: figures["pairs"] for name, figures in found.items()} == SETS
    for figures in found.values():
        assert figures["quality"] is None
        assert figures["agreement"]["antisymmetry"] > 0 and figures["agreement"]["tie"] > 0
        assert 0.0 <= figures["copies"] <= 1.0 and np.isfinite(figures["gap"])


def test_outputs_meet_the_references_of_every_stage_of_the_curriculum(place: Any) -> None:
    """Row by row: the data's rejected and chosen answers first, then what the policy wrote for the same prompts."""
    context = place()
    found = dict(gap_outputs.drawn_pairs(context))
    triples = context.data.triples("heldout")
    prompts, chosen, rejected = ([getattr(t, name) for t in triples] for name in ("prompt", "chosen", "rejected"))
    for writer in ("SFT improver", "PIT"):
        easy, hard = (found[f"{writer} rewriting {references}"] for references in ("rejected+chosen", "policy-rl"))
        assert (easy.prompts, easy.references) == (prompts * 2, rejected + chosen)
        assert (hard.prompts, hard.references) == (prompts, found["policy against chosen"].candidates)
        assert len({*easy.candidates, *hard.candidates}) > 48
    assert found["SFT improver rewriting policy-rl"].candidates != found["PIT rewriting policy-rl"].candidates
    assert (found["policy against chosen"].prompts, found["policy against chosen"].references) == (prompts, chosen)


def test_a_curriculum_of_ones_own_answers(place: Any) -> None:
    """The improver as provider: each improver rewrites its own rewrites, drawn with another key."""
    config: Config = place().config
    own = CurriculumConfig(references=("improver",), rounds=(3,))
    found = dict(gap_outputs.drawn_pairs(place(replace(config, rl=replace(config.rl, curriculum=own)))))
    assert set(found) == {"SFT improver rewriting improver", "PIT rewriting improver", "policy against chosen"}
    pairs = found["PIT rewriting improver"]
    assert pairs.references != found["SFT improver rewriting improver"].references
    assert sum(a == b for a, b in zip(pairs.candidates, pairs.references, strict=True)) < 12


def test_outputs_are_labelled_by_the_truth(place: Any) -> None:
    """Accuracy: the sign of the symmetrised gap against that of the true difference, over pairs that differ in it."""
    context = place(truth=True)
    prompts = ["7", "8 9", "10", "11"]
    pairs = gap_outputs.Pairs(prompts, ["7 8", "7 9 9", "12", ""], ["9", "30 9 9 8", "13", "14 14"])
    scorer = GapScorer(context, load(context, "rm", "improver"), batch_size=2)
    figures = gap_outputs.output_figures(context, scorer, pairs)
    forward = scorer(prompts, pairs.candidates, pairs.references)
    backward = scorer(prompts, pairs.references, pairs.candidates)
    truth = np.array([1, -1, 0, -2])
    right = np.sign(forward - backward)[truth != 0] == np.sign(truth)[truth != 0]
    assert figures["quality"]["pairs"] == 3
    assert figures["quality"]["accuracies"]["wl_lw"] == pytest.approx(right.mean())
    lengths = [(row["label"], row["pairs"]) for row in figures["quality"]["by_length"]]
    assert lengths == [("better answer longer", 3)]  # this truth is the length
    alone = {
        "wl": forward,
        "ww": scorer(prompts, pairs.candidates, pairs.candidates),
        "ll": scorer(prompts, pairs.references, pairs.references),
        "lw": backward,
    }
    assert figures["agreement"] == asdict(agreement(alone))
    assert figures["gap"] == pytest.approx(float(np.mean(forward - alone["ll"])))


def test_copies_are_counted_and_have_no_better_text(place: Any) -> None:
    context = place(truth=True)
    scorer = GapScorer(context, load(context, "rm", "improver"), batch_size=2)
    figures = gap_outputs.output_figures(context, scorer, gap_outputs.Pairs(["7", "8"], ["9 9", "10"], ["9 9", "10"]))
    assert (figures["copies"], figures["gap"], figures["quality"]) == (1.0, 0.0, None)
    assert figures["agreement"] == {"tie": 0.0, "antisymmetry": 0.0}
