"""The gap models' training rows where negatives are asked for."""

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pit_jax.batch import NODE_LL, NODE_WW
from pit_jax.config import Config
from pit_jax.errors import UserError
from pit_jax.recipes import gap
from pit_jax.recipes.catalogue import GAP, catalogue
from pit_jax.run.provenance import StageId
from tests.world import MakeContext

CONFIG = Config()
SECOND = StageId("rm", "second-gap")


def with_negatives(*kinds: str) -> Config:
    return replace(CONFIG, rm=replace(CONFIG.rm, negatives=0.5, negative_kinds=kinds))


def test_negatives_stand_behind_the_pairs(place: MakeContext) -> None:
    """Alike for both gap models, and each time; a line tells how many there are of which kind, and how many are not."""
    lines: list[str] = []
    screen: Any = SimpleNamespace(say=lines.append)
    contexts = [replace(place(with_negatives("repeated", "cut"), stage), screen=screen) for stage in (GAP, GAP, SECOND)]
    found = [gap.training_rows(context) for context in contexts]
    data: Any = contexts[0].data
    made = found[0].picked(np.arange(24, len(found[0]))).whole()
    for rows in found:
        for name, array in data.rows("rm", "gap").whole().items():
            np.testing.assert_array_equal(rows.whole()[name], np.concatenate([array, made[name]]), err_msg=name)
    answers = {text for pair in data.triples("rm") for text in (pair.chosen, pair.rejected)}
    counts = Counter[str]()
    for tokens_L, nodes_L in zip(made["tokens_BL"], made["nodes_BL"], strict=True):
        answer, negative = (data.texts(tokens_L[None, nodes_L == node])[0] for node in (NODE_WW, NODE_LL))
        assert answer in answers
        counts["repeated" if negative == f"{answer} {answer}" else "cut"] += 1
    told = f"{counts['repeated']} repeated, {counts['cut']} cut"
    assert min(counts.values()) > 2
    assert lines[0].startswith(f"rm-improver: {len(found[0]) - 24} negatives beside 24 pairs ({told}); ")
    assert lines[0] == lines[1] == lines[2].replace("second-gap", "improver")


def test_without_negatives_the_rows_are_the_pairs(place: MakeContext) -> None:
    assert len(gap.training_rows(place(CONFIG, GAP))) == 24


def test_pairs_of_every_training_fold(place: MakeContext) -> None:
    """Behind those of the own fold, for both kinds of scores; negatives are made of them all."""
    config = replace(CONFIG, rm=replace(CONFIG.rm, pairs="all"))
    context = place(config, GAP)
    data = context.data
    own, counts = data.rows("rm", "gap"), {name: found["examples"] for name, found in data.report["folds"].items()}
    rows = gap.training_rows(context)
    np.testing.assert_array_equal(rows.numbers[: len(own)], own.numbers)
    assert counts["rm"] < len(rows) <= counts["rm"] + counts["sft"] + counts["rl"]
    assert len(data.pairs("reward", "all")) >= len(rows) and len(set(rows.numbers)) == len(rows)
    faulty = replace(config, rm=replace(config.rm, negatives=0.5, negative_kinds=("cut",)))
    screen: Any = SimpleNamespace(say=lambda _: None)
    assert len(gap.training_rows(replace(place(faulty, GAP), screen=screen))) > len(rows) + counts["rm"], (
        "more than the pairs of one fold"
    )


def test_a_kind_that_nobody_makes_is_named_before_anything_starts() -> None:
    for stage in (GAP, SECOND):
        with pytest.raises(UserError, match=r"no kind of negatives 'nosy'; did you mean noisy\?"):
            catalogue()[stage].check(with_negatives("cut", "nosy"))
