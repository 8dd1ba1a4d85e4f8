"""The list of planted faults stays applicable: each stands once where it says, and its tests are there."""

import ast
from pathlib import Path

import pytest

from benchmarks.faults import MUTANTS, Mutant

TESTS = Path(__file__).resolve().parent


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_can_be_planted(mutant: Mutant) -> None:
    source = mutant.path.read_text(encoding="utf-8")
    assert source.count(mutant.old) == 1
    ast.parse(source.replace(mutant.old, mutant.new))
    assert [name for name in mutant.tests.split() if not (TESTS / name).exists()] == []


def test_each_has_a_name_of_its_own() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) > 24
