"""Systems as values: names for people and for files that tell all of them apart, and what their answers measure."""

import itertools
import json
from dataclasses import asdict
from typing import get_args

import msgspec
import numpy as np
import pytest

from pit_jax.batch import Answer
from pit_jax.config import Config
from pit_jax.evaluation.controls import CONTROLS
from pit_jax.evaluation.systems import (
    CHOSEN,
    DPO,
    LABELS,
    POLICY,
    POLICY_SFT,
    SFT_IMPROVER,
    Kind,
    Output,
    SystemId,
    describe,
    pit,
)
from pit_jax.recipes.comparison.ablations import ABLATIONS

ROUNDS = range(1, 6)
PAPER = [
    *(POLICY, POLICY_SFT, CHOSEN, DPO, SystemId("one-line"), SystemId("given")),
    *(SystemId(kind, round) for kind in ("pit", "sft-improver", "self-refine", "best-of-n") for round in ROUNDS),
    *(ablation.system for ablation in ABLATIONS.values()),
    *(SystemId("control", source=control.name) for control in CONTROLS),
]


def output(*texts: str, reference: Output | None = None) -> Output:
    """Answers of as many tokens as words and EOS; an empty one did not end."""
    answers = [Answer(text, (*range(len(text.split())), 1), ended=text != "") for text in texts]
    drawn_N = np.array([len(answer.ids) for answer in answers])
    return Output(answers, [f"k{i}" for i in range(len(answers))], drawn_N, reference=reference)


def test_every_system_of_a_run_has_a_name_and_a_stem_of_its_own() -> None:
    assert len(set(PAPER)) == len({str(system) for system in PAPER}) == len({system.stem for system in PAPER}) > 35


def test_the_names_that_people_know() -> None:
    told = {system: str(system) for system in PAPER}
    assert (told[pit(1)], told[SFT_IMPROVER], told[POLICY_SFT]) == ("PIT x1", "SFT improver x1", "policy SFT")
    assert (told[SystemId("self-refine", 4)], told[SystemId("best-of-n", 2)]) == ("Self-Refine x4", "best of 2")
    branches = [told[ABLATIONS[name].system] for name in ("first-only", "direct-rlhf", "score-difference")]
    assert branches == ["first-only x1", "direct-rlhf", "score-difference x1"]
    assert told[SystemId("control", source="longest")] == "longest"


def test_a_stem_is_a_name_of_a_file_everywhere() -> None:
    assert pit(1).stem == "pit-x1" and ABLATIONS["first-only"].system.stem == "branch-improver-first-only-x1"
    for system in PAPER:
        assert set(system.stem) <= set("abcdefghijklmnopqrstuvwxyz0123456789-"), system


def test_the_rounds_of_one_system_share_a_trail() -> None:
    """Trails hold all rounds, and no two systems share one."""
    assert {pit(round).trail for round in ROUNDS} == {SystemId("pit")}
    trails = {system.trail for system in PAPER if system.improves}
    branches = sum(ablation.system.improves for ablation in ABLATIONS.values())
    assert len({trail.stem for trail in trails}) == len(trails) == 2 + branches


def test_every_kind_has_a_label() -> None:
    assert set(get_args(Kind)) == set(LABELS)


@pytest.mark.parametrize("system", PAPER, ids=str)
def test_json_gives_the_same_value_back(system: SystemId) -> None:
    assert msgspec.convert(json.loads(json.dumps(asdict(system))), SystemId) == system


def test_a_kind_that_nobody_knows_is_an_error() -> None:
    with pytest.raises(msgspec.ValidationError, match=r"Invalid enum value 'pitt' - at `\$.kind`"):
        msgspec.convert({"kind": "pitt", "round": 1, "source": ""}, SystemId)


def test_systems_have_an_order() -> None:
    assert sorted(PAPER) == sorted(reversed(PAPER)) and pit(1) < pit(2)
    assert all(left != right for left, right in itertools.combinations(PAPER, 2))


def test_who_improves_and_who_is_prompted() -> None:
    assert {system.kind for system in PAPER if system.improves} == {"pit", "sft-improver", "branch-improver"}
    assert {system.kind for system in PAPER if system.prompted} == {"self-refine", "one-line"}
    assert Config().paper.rounds == max(ROUNDS)


def test_a_system_is_described_against_what_it_improved() -> None:
    """Lengths 4, 3, 1: mean 8 / 3. One of three copies. Edits: 0, 1 of 2 words, 1 of 1: mean 0.5. Scores 1, 2, 6."""
    before = output("7 8 9", "7 8", "7")
    after = output("7 8 9", "7 9", "", reference=before)
    row = describe(pit(1), 0.8, after, np.array([1.0, 2.0, 6.0]))
    assert (row.system, row.name, row.temperature) == (pit(1), "PIT x1", 0.8)
    numbers = [row.length_mean, row.eos_rate, row.copy_rate, row.edit_distance, row.score_mean, row.score_std]
    assert numbers == pytest.approx([8 / 3, 2 / 3, 1 / 3, 0.5, 3.0, np.std([1, 2, 6])])
    alone = describe(POLICY, 0.8, before, None)
    assert alone.edit_distance is alone.copy_rate is alone.score_mean is alone.score_std is None
    assert alone.tokens_mean == 3.0
