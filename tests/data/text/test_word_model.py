"""Word models: what they count, what they are fitted to, how they score, and their file."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.label_noise import flipped as with_flipped_labels
from pit_jax.batch import Triple
from pit_jax.data.text.word_model import (
    BUCKETS,
    WordModel,
    calibration,
    columns,
    counted,
    differences,
    features,
    fitted,
)
from pit_jax.data.worlds.builtin import WORLDS
from pit_jax.data.worlds.world import pairs
from pit_jax.errors import UserError

CURE = "fit it again"


@pytest.fixture(scope="module")
def model() -> WordModel:
    return WordModel.of(pairs(WORLDS["notes"], 400, 0))


def test_what_is_counted() -> None:
    """The prompt's `a b` is said again; `c` is left out; `x` is added, and said twice in a row."""
    counts = Counter(features("a B c", "A b x x"))
    assert counts["word x"] == 2 and counts["neighbours a b"] == counts["phrase"] == 1
    assert counts["again"] == counts["added"] == 2 and counts["again b"] == counts["left out c"] == 1
    assert counts["left out"] == counts["doubled x"] == 1 and counts["repeats"] == 0
    assert Counter(features("", "a b a b"))["repeats"] == 1
    assert list(features("", "")) == []


def test_words_that_belong_to_others_in_the_prompt_are_apart() -> None:
    """Two of the prompt's words that an answer says within four of each other, in either order; a word with itself is
    no two words, and one that the prompt does not have is nobody's."""
    prompt = "ann at nine , the gym with a friend ; bob at ten"
    right, wrong = (Counter(features(prompt, text)) for text in ("nine ann", "ten ann"))
    assert right["together"] == right["together ann"] == right["together nine"] == right["together nine ann"] == 1
    assert wrong["apart"] == wrong["apart ann"] == wrong["apart ten"] == wrong["apart ten ann"] == 1
    assert "apart" not in right and "together" not in wrong
    far, own = (Counter(features(prompt, text)) for text in ("ten so so so so ann", "ann ann"))
    assert "apart" not in far and "together" not in own


def test_differences_are_of_chosen_less_rejected() -> None:
    rows_NF = differences([Triple("p", "a b", "a c"), Triple("p", "a", "a"), Triple("p", "a c", "a b")])
    assert rows_NF.shape == (3, BUCKETS) and rows_NF[1].nnz == 0
    assert (rows_NF[0] + rows_NF[2]).count_nonzero() == 0 and rows_NF[0].nnz == 6


def test_a_fit_prefers_what_is_chosen() -> None:
    """Nine of ten answers with b are chosen over those with c; features that are never seen have no weight."""
    triples = [Triple("p", "b", "c")] * 90 + [Triple("p", "c", "b")] * 10
    weights_F = fitted(differences(triples))
    score = float((differences([Triple("q", "b", "c")]) @ weights_F)[0])
    assert score == pytest.approx(np.log(9), rel=0.05), "the log of the odds, but for the ridge"
    assert np.count_nonzero(weights_F) <= 8


def test_an_answer_has_a_score_of_its_own_and_two_answers_a_gap(model: WordModel) -> None:
    """Whatever stands beside it; a copy gains 0, and two that change places the opposite."""
    asked = pairs(WORLDS["notes"], 40, 1)
    prompts, chosen, rejected = columns(asked)
    gaps_N = model.gaps(prompts, chosen, rejected)
    np.testing.assert_array_equal(gaps_N, -model.gaps(prompts, rejected, chosen))
    np.testing.assert_array_equal(model.gaps(prompts, chosen, chosen), 0)
    np.testing.assert_array_equal(model.scores(prompts, chosen)[7:9], model.scores(prompts[7:9], chosen[7:9]))
    np.testing.assert_allclose(gaps_N, differences(asked) @ model.weights_F.astype(float), atol=1e-9)
    assert np.mean(gaps_N > 0) > 0.8, "fitted to 400 other pairs, with no word of theirs in common but the kind"
    assert model.scores([], []).shape == (0,)


@pytest.mark.parametrize(
    ("gaps", "share"),
    [
        ([2, 2, 2, -2], np.log(3) / 2),  # right on three of four: odds of 3
        ([9, 9, 9, -9], np.log(3) / 9),
        ([0.5, 0.5, 0.5, -0.5], 1.0),  # less sure than it might be
        ([3, 1, 2], 1.0),  # always right
        ([3, -3], 0.0),
        ([-3, -1, 1], 0.0),
        ([0, 0], 0.0),
    ],
)
def test_so_much_of_a_gap_holds_on_held_out_pairs(gaps: list[float], share: float) -> None:
    assert calibration(np.array(gaps, float)) == pytest.approx(share)


def test_a_share_of_a_model_is_that_share_of_its_scores(model: WordModel) -> None:
    texts = ["ann at nine"], ["ann at nine , the gym"]
    np.testing.assert_allclose(model.scaled(0.25).scores(*texts), model.scores(*texts) / 4, rtol=1e-6)
    assert model.scaled(1.0).digest == model.digest != model.scaled(0.5).digest


def test_what_knows_nothing_counts_for_nothing() -> None:
    """Of labels that are drawn by lot little is left: fitted to 300 pairs, it is sure of what it has not seen."""
    triples = with_flipped_labels(pairs(WORLDS["notes"], 600, 0), 0.5)
    model, asked = WordModel.of(triples[:300]), triples[300:]
    gaps_N = model.gaps(*columns(asked))
    assert gaps_N.std() > 1 and calibration(gaps_N) < 0.2


def test_the_same_pairs_are_the_same_model(model: WordModel) -> None:
    again, other = (WordModel.of(pairs(WORLDS["notes"], 400, seed)) for seed in (0, 2))
    assert again.digest == model.digest != other.digest
    np.testing.assert_array_equal(again.weights_F, model.weights_F)


def test_what_was_written_is_read(model: WordModel, tmp_path: Path) -> None:
    model.write(tmp_path / "weights.json")
    found = WordModel.read(tmp_path / "weights.json", cure=CURE)
    assert found.digest == model.digest and found.weights_F.dtype == np.float32
    np.testing.assert_array_equal(found.weights_F, model.weights_F)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is gone; fit it again"),
        ("{", "asked for JSON, found"),
        ({"buckets": [1]}, "asked for what a stage writes, found Object missing required field `weights`"),
        ({"buckets": [1, 2], "weights": [0.5]}, "asked for as many weights as buckets below 262144, found others"),
        ({"buckets": [BUCKETS], "weights": [0.5]}, "found others; fit it again"),
        ({"buckets": [-1], "weights": [0.5]}, "found others; fit it again"),
        ({"buckets": [1], "weights": [1e39]}, "found others; fit it again"),
    ],
)
def test_a_damaged_file_is_refused(content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.json"
    if content is not None:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UserError) as error:
        WordModel.read(path, cure=CURE)
    assert message in str(error.value) and str(path) in str(error.value)


def test_buckets_that_two_features_share_count_both() -> None:
    """Every feature is counted somewhere: a row sums to their number."""
    rows_NF = counted(["a b c"] * 2, ["a b x x", "the whole of a long answer, with many words of its own. " * 40])
    sums_N = [
        len(list(features("a b c", text)))
        for text in ("a b x x", "the whole of a long answer, with many words of its own. " * 40)
    ]
    assert rows_NF.sum(axis=1).A1.tolist() == sums_N
