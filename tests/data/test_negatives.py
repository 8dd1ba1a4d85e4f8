"""Answers made worse: every outcome of a kind by hand, how many there are of which answers, and what they depend on."""

import random
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pit_jax.batch import Triple
from pit_jax.config import Config
from pit_jax.data.negatives import NEGATIVES, another, confused, cut, negative_pairs, noisy, repeated, shuffled
from pit_jax.errors import UserError

KINDS = NEGATIVES.names()
MANY = [Triple(f"is it {i}?", f"Yes {i} is. So it ends!\nOf course {i}.", f"No {i} is not. Why?") for i in range(2000)]


@pytest.mark.parametrize(
    ("make", "answer", "outcomes"),
    [
        (repeated, "a b. c!", {"a b. a b. c!", "c! a b. c!", "a b. c! c!", "a b. c! a b."}),
        (repeated, "a b", {"a b a b"}),
        (repeated, "日本。語", {"日本。日本。語", "語日本。語", "日本。語語", "日本。語日本。"}),
        (repeated, "日本", {"日本日本"}),
        (repeated, "3.5 x\n\ny", {"3.5 x\n\n3.5 x\n\ny", "3.5 x\n\ny\n\ny", "y\n\n3.5 x\n\ny", "3.5 x\n\ny\n\n3.5 x"}),
        (cut, "a b. c\n d e", {"a", "a b.", "a b. c", "a b. c\n d"}),
        (cut, "日本語", {"日", "日本"}),
        (cut, "x 日本", {"x", "x 日"}),
        (cut, "a", {"a"}),
        (shuffled, "a. b?", {"b? a."}),
        (shuffled, "a.\n\n- b", {"- b\n\na."}),
        (shuffled, "a b  c", {"a c  b", "b a  c", "b c  a", "c a  b", "c b  a"}),
        (shuffled, "日本", {"本日"}),
        (shuffled, "日。本。", {"本。日。"}),
        (shuffled, "a a", {"a a"}),
        (another, "a b.", {"z"}),
        (noisy, "a b", {"a", "b", "a a b", "a b b", "b a", "z b", "a z"}),
        (noisy, "a.\nb", {"\nb", "a. a.\nb", "a.\nb", "z\nb", "a.\n", "a.\nb b", "a.\nz"}),
        (confused, "x p, q.\nr", {"x q, q.\nr", "x p, p.\nr", "x r, q.\nr", "x p, r.\nr", "x p, q.\np", "x p, q.\nq"}),
        (confused, "x p. p, s-", {"x p. p, s-"}),
    ],
)
def test_every_outcome_of_a_kind(
    make: Callable[[str, str, str, random.Random], str], answer: str, outcomes: set[str]
) -> None:
    """The prompt has the words p, q and r."""
    assert {make("- p r q?", answer, "z", random.Random(seed)) for seed in range(300)} == outcomes


def test_without_another_answer_nothing_is_taken_from_it() -> None:
    assert another("", "a", "", random.Random(0)) == "a"
    assert {noisy("", "a b", "", random.Random(seed)) for seed in range(300)} == {
        *("a", "b", "a a b", "a b b", "b a", "b b", "a a", "a b")
    }


def test_a_cut_takes_a_tenth_to_nine_tenths() -> None:
    words = " ".join(map(str, range(100)))
    kept = [len(cut("", words, "", random.Random(seed)).split()) for seed in range(1000)]
    assert 10 <= min(kept) < 14 and 86 < max(kept) <= 90 and 47 < sum(kept) / len(kept) < 53


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_the_share_the_kinds_and_the_sides(share: float) -> None:
    """Within four standard deviations, more than one a row too."""
    found = negative_pairs(MANY, share=share, kinds=KINDS, seed=0)
    expected = len(MANY) * share / (1 - share)
    assert abs(len(found) - expected) < 4 * (len(MANY) / 4) ** 0.5
    kinds, chosen = Counter(kind for kind, _ in found), sum(pair.chosen.startswith("Yes") for _, pair in found)
    assert set(kinds) == set(KINDS)
    each = expected / len(KINDS)
    assert max(abs(count - each) for count in kinds.values()) < 4 * (expected * 0.16 + len(MANY) / 4) ** 0.5
    assert abs(chosen - len(found) / 2) < 4 * (len(found) / 4) ** 0.5


def test_no_share_is_no_negative() -> None:
    assert negative_pairs(MANY, share=0.0, kinds=KINDS, seed=0) == []


def test_another_answer_is_of_the_same_side() -> None:
    found = [pair for _, pair in negative_pairs(MANY, share=0.3, kinds=["another"], seed=0)]
    assert {pair.chosen.split()[0] + pair.rejected.split()[0] for pair in found} == {"YesYes", "NoNo"}
    assert negative_pairs([Triple("x", f"a {i}", "b") for i in range(9)], share=0.5, kinds=["another"], seed=0) == []


def test_negatives_depend_on_the_seed_and_their_own_row() -> None:
    """But for what is taken from another one: rows in the place of the others change nothing."""
    own = ["repeated", "cut", "shuffled"]
    found = negative_pairs(MANY, share=0.4, kinds=own, seed=3)
    assert (
        found
        == negative_pairs(MANY, share=0.4, kinds=own, seed=3)
        != negative_pairs(MANY, share=0.4, kinds=own, seed=4)
    )
    others = [pair if i % 7 == 0 else Triple("p", f"{i}", "q r") for i, pair in enumerate(MANY)]
    mine = {pair.prompt for pair in MANY[::7]}
    changed = negative_pairs(others, share=0.4, kinds=own, seed=3)
    assert [row for row in found if row[1].prompt in mine] == [row for row in changed if row[1].prompt in mine]


texts = st.text(alphabet="ab.! \n日", max_size=12)
triples = st.lists(st.builds(Triple, st.sampled_from("xyz"), texts, texts), max_size=5)


@given(triples, st.lists(st.sampled_from(KINDS), min_size=1), st.integers(0, 9))
def test_a_negative_is_a_text_that_its_row_does_not_have(
    triples: Sequence[Triple], kinds: list[str], seed: int
) -> None:
    found = negative_pairs(triples, share=0.7, kinds=kinds, seed=seed)
    assert found == negative_pairs(triples, share=0.7, kinds=kinds, seed=seed)
    answers = {(row.prompt, text): row for row in triples for text in (row.chosen, row.rejected)}
    for kind, pair in found:
        assert kind in kinds and (pair.prompt, pair.chosen) in answers
        assert pair.rejected.strip() and pair.rejected.strip() != pair.chosen.strip()
        before, _, after = pair.chosen.partition(pair.chosen.strip())
        assert pair.rejected == before + pair.rejected.strip() + after


def test_a_negative_never_is_the_other_answer() -> None:
    """A word lost from `a a b` would turn the label of the pair around."""
    rows = [Triple("x", "a b", "a a b")] * 400
    found = {pair.rejected for _, pair in negative_pairs(rows, share=0.5, kinds=["noisy"], seed=0)}
    assert not found & {"a b", "a a b"} and {"a a", "a", "b"} <= found


def test_the_kinds_of_the_config_are_all_there_are() -> None:
    assert list(Config().rm.negative_kinds) == KINDS
    with pytest.raises(
        UserError, match=r"no kind of negatives 'repeted'; did you mean repeated\?; known: repeated, cut"
    ):
        negative_pairs(MANY, share=0.5, kinds=["repeted"], seed=0)
