"""When a phase of the curriculum ends, and that the place survives a checkpoint."""

from dataclasses import replace
from typing import Any, Literal

import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pit_jax.config import CurriculumConfig
from pit_jax.errors import UserError
from pit_jax.rl.curriculum import Place, advance, check_curriculum, every_provider, is_settled, providers_of

THREE = CurriculumConfig(references=("rejected+chosen", "policy-sft", "policy-rl"), rounds=(2, 3, 4))


def phases(config: CurriculumConfig, rounds: int, gaps: dict[int, float], success: list[float]) -> list[int]:
    """The phase of every round; `gaps` are the held-out gaps of the rounds that have an evaluation before them."""
    place, found = Place(), []
    for round in range(rounds):
        place = advance(config, place, round, gaps.get(round))
        found.append(place.phase)
        place = replace(place, success=success[round])
    return found


def test_a_phase_lasts_its_rounds_and_the_last_one_to_the_end() -> None:
    assert phases(THREE, 9, {}, [0.9] * 9) == [0, 0, 1, 1, 1, 2, 2, 2, 2]


def test_a_phase_of_no_rounds_is_skipped() -> None:
    assert phases(replace(THREE, rounds=(0, 0, 4)), 4, {}, [0.0] * 4) == [2] * 4


def test_a_plateau_is_patience_evaluations_without_a_better_gap_of_the_same_phase() -> None:
    """Rounds 0, 2, 4.. are evaluated. Best 0.5 before round 2, then 0.4 and 0.5: stale twice before round 6. Phase 1
    starts afresh: 0.1 is its best, 0.1 and 0.0 are stale, so phase 2 begins before round 12."""
    config = replace(THREE, rounds=(50, 50, 50), switch="plateau", patience=2)
    gaps = {0: 0.2, 2: 0.5, 4: 0.4, 6: 0.5, 8: 0.1, 10: 0.1, 12: 0.0, 14: -1.0, 16: -1.0, 18: -1.0}
    assert phases(config, 20, gaps, [0.0] * 20) == [0] * 6 + [1] * 6 + [2] * 8


def test_success_ends_a_phase_after_the_round_that_had_it() -> None:
    """A new phase forgets the success of the one before: it plays a round of its own first."""
    config = replace(THREE, rounds=(50, 50, 50), switch="success", success=0.6)
    assert phases(config, 6, {}, [0.1, 0.6, 0.59, 0.7, 0.9, 0.9]) == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("switch", ["plateau", "success"])
def test_rounds_bound_every_rule(switch: Literal["plateau", "success"]) -> None:
    config = replace(THREE, switch=switch)
    gaps = {round: float(round) for round in range(9)}
    assert phases(config, 9, gaps, [0.0] * 9) == [0, 0, 1, 1, 1, 2, 2, 2, 2]


@given(
    st.integers(0, 5),
    st.integers(0, 1000),
    st.floats(-10, 10, width=32),
    st.integers(0, 9),
    st.floats(0, 1, width=32),
)
def test_a_place_survives_a_checkpoint(phase: int, entered: int, best: float, stale: int, success: float) -> None:
    place = Place(phase, entered, best, stale, success)
    arrays = {name: jnp.asarray(x) for name, x in place.arrays().items()}
    assert Place.read(arrays) == place
    assert {str(x.dtype) for x in arrays.values()} == {"int32", "float32"}


def test_the_first_place_is_finite() -> None:
    assert all(bool(jnp.isfinite(x)) for x in Place().arrays().values())


def test_the_default_is_the_papers_two_phases() -> None:
    assert [providers_of(r) for r in CurriculumConfig().references] == [("rejected", "chosen"), ("policy-rl",)]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"references": ("chosen",)}, "found 1 references ('chosen',) and 3 rounds (2, 3, 4)"),
        ({"rounds": (0, 0, 0)}, "--rl.curriculum.rounds=(0, 0, 0): ask for at least 1 in all"),
        ({"references": ("chosen", "policy", "improver")}, "found 'policy'; join different names of rejected, chosen,"),
        ({"references": ("chosen+chosen", "chosen", "improver")}, "found 'chosen+chosen'; join different names"),
        (
            {"references": ("rejected+chosen+improver", "chosen", "improver")},
            "its 8 (prompt, reference) pairs cannot be shared by the 3 references",
        ),
    ],
)
def test_what_cannot_be_trained_is_said_before_it_is_tried(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError) as error:
        check_curriculum(replace(THREE, **changes), 8)
    assert text in str(error.value)


def test_groups_are_what_providers_share() -> None:
    """8 rollouts of 4 responses each are 2 (prompt, reference) pairs: enough for two providers, not for three."""
    check_curriculum(THREE, 2)
    three = replace(THREE, references=("rejected+chosen+policy-sft", "chosen", "improver"))
    check_curriculum(three, 6)
    with pytest.raises(UserError, match=r"its 2 \(prompt, reference\) pairs cannot be shared by the 3 references"):
        check_curriculum(three, 2)


def test_every_provider_is_named_once_in_the_order_in_which_it_is_met() -> None:
    config = replace(THREE, references=("rejected+chosen", "policy-rl+rejected", "chosen"))
    assert every_provider(config) == ("rejected", "chosen", "policy-rl")


def test_a_curriculum_is_settled_in_its_last_phase_alone() -> None:
    """After two evaluations that are not better, of which those of an earlier phase do not count."""
    assert not is_settled(THREE, Place(phase=1, stale=9), 2)
    assert [is_settled(THREE, Place(phase=2, stale=stale), 2) for stale in (1, 2, 3)] == [False, True, True]
    assert not is_settled(THREE, Place(phase=2, stale=9), 0), "without patience never"
