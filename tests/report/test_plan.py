"""Bars of memory, and what a plan says in a line."""

from pathlib import Path

import pytest

from pit_jax.report.plan import GIB, Bar, build, table, verdict
from tests.recipes.plan.conftest import MakeProgram, plan_with, program

__all__ = ["program"]


def test_a_bar_ends_at_the_chip_or_at_what_is_needed(program: MakeProgram) -> None:
    """4 of 16 GiB: one beside, one of arguments, two temporaries. Of 32 GiB the chip's 16 are half the bar."""
    bar = Bar(program(memory=4.0, limit=16.0))
    assert [(name, share) for name, _, share in bar.pieces] == [
        ("models beside it", 6.25),
        ("arguments", 6.25),
        ("temporaries", 12.5),
    ]
    assert (bar.limit, bar.tone) == (100.0, "good")
    over = Bar(program(memory=32.0, limit=16.0))
    assert (over.limit, over.tone) == (50.0, "bad") and sum(share for _, _, share in over.pieces) == pytest.approx(
        100, abs=0.1
    )
    assert over.pieces[-1][:2] == ("needed, not laid out", 30 * GIB)


def test_a_stage_in_words(program: MakeProgram) -> None:
    """3,600 calls of a second on 8 chips at 2."""
    plan = plan_with(("sft-policy", [program()]))
    assert verdict(plan.stages[0], plan) == "fits, at least 1.00 h, 16.00 at 2 a chip-hour"
    assert table(plan).row_count == 2, "the stage and its program"


def test_the_page_of_a_plan_that_does_not_fit(program: MakeProgram, tmp_path: Path) -> None:
    plan = plan_with(("rl-policy", [program("draw", memory=32.0)]), flags=("--mesh.fsdp=8",))
    page = build(plan, [plan], tmp_path / "index.html", compiler=True, note="none").read_text()
    assert "does not fit" in page and "--mesh.fsdp=8" in page and "32.00 of 15.75 GiB" in page
