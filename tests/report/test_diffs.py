"""Trails for people: what each improvement changed, word by word, and where a trail ends."""

from hypothesis import given
from hypothesis import strategies as st

from pit_jax.report.diffs import Change, changes, sample, trail


def test_words_that_changed() -> None:
    assert changes("bring a cake .", "please bring two cakes .") == [
        Change("added", "please "),
        Change("same", "bring "),
        Change("removed", "a cake "),
        Change("added", "two cakes "),
        Change("same", "."),
    ]


@given(st.text("ab \n", max_size=30), st.text("ab \n", max_size=30))
def test_what_stays_and_what_is_added_is_the_new_text(before: str, after: str) -> None:
    found = changes(before, after)
    assert "".join(change.text for change in found if change.kind != "removed") == after


def test_a_trail_pairs_scores_and_gaps_with_answers() -> None:
    row = {"prompt": "x", "answers": ["a b", "a c", "a c"], "scores": [1.0, 2.0, 3.0], "gaps": [0.5, 0.0]}
    steps = trail(row).steps
    assert [(step.label, step.score, step.gap, step.copied) for step in steps] == [
        ("original", 1.0, None, False),
        ("1", 2.0, 0.5, False),
        ("2", 3.0, 0.0, True),
    ]
    bare = trail({"prompt": "x", "answers": ["a", "b"], "scores": None, "gaps": None})
    assert [(step.score, step.gap) for step in bare.steps] == [(None, None), (None, None)]


def test_a_trail_ends_where_its_prompt_stopped_and_marks_what_was_chosen() -> None:
    """Two rounds of three: the draft of the second gained too little, so nothing was drawn in the third."""
    spent = {"gaps": [0.5, -0.2], "tokens": [2, 2, 3], "chosen": 1}
    row = {"prompt": "x", "answers": ["a", "b", "c"], **spent}
    steps = trail(row).steps
    assert [(step.label, step.gap, step.copied, step.chosen) for step in steps] == [
        ("original", None, False, False),
        ("1", 0.5, False, True),
        ("2", -0.2, False, False),
    ]
    assert [step.chosen for step in trail(row | {"chosen": 0}).steps] == [True, False, False]


def test_the_sample_is_spread_and_small() -> None:
    rows = [{"prompt": str(i), "answers": ["a"], "scores": None, "gaps": []} for i in range(100)]
    assert [trail.prompt for trail in sample(rows, 4)] == ["0", "25", "50", "75"]
    assert len(sample(rows[:3], 8)) == 3
