"""The stage that fits a word model, and what a run makes of it."""

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pit_jax.config import Config
from pit_jax.data.text.word_model import WordModel, calibration, columns
from pit_jax.errors import UserError
from pit_jax.recipes import word_model
from pit_jax.recipes.facts import WORD_MODEL
from pit_jax.recipes.word_model import WEIGHTS, pairs_read, word_model_of
from pit_jax.run.context import Context
from tests.world import MakeContext, StandInData


def config_of(weight: float = 1.0, **rm: Any) -> Config:
    return replace(Config(), rm=replace(Config().rm, word_model=weight, **rm))


def finished(place: MakeContext) -> tuple[Context, list[str]]:
    """A run whose word model is fitted, and what was said."""
    lines: list[str] = []
    screen: Any = SimpleNamespace(say=lines.append)
    context = replace(place(config_of(), WORD_MODEL), screen=screen)
    word_model.run(context)
    return context, lines


def test_it_is_fitted_asked_and_kept(place: MakeContext) -> None:
    context, lines = finished(place)
    done, model = context.folder.done(), word_model_of(context)
    assert done is not None and model is not None
    heldout, read = context.data.triples("heldout"), list(pairs_read(context))
    fitted = WordModel.of(read)
    gaps_N = fitted.gaps(*columns(heldout))
    right, share = float(np.mean(np.where(gaps_N == 0, 0.5, gaps_N > 0))), calibration(gaps_N)
    counts = {"read": 24, "heldout": len(heldout), "right": pytest.approx(right), "share": share}
    assert done == {"round": 0, "digest": model.digest, **counts}
    np.testing.assert_array_equal(model.weights_F, fitted.scaled(share).weights_F)
    asked = f"right on {right:.1%} of {len(heldout)} held-out ones, where {share:.2f} of its log-odds hold"
    assert lines == [f"rm-word-model: read 24 pairs; {asked}: so much of it counts"]


def test_it_reads_the_pairs_that_the_run_names_in_the_order_of_its_seed(place: MakeContext) -> None:
    """Of the fold rm, or of every training fold; another seed, another order."""
    contexts = [place(config_of(pairs=pairs), WORD_MODEL) for pairs in ("fold", "all")]
    contexts.append(replace(contexts[0], config=replace(contexts[0].config, seed=1)))
    own, every, other = ([pair.prompt + pair.chosen for pair in pairs_read(context)] for context in contexts)
    data = contexts[0].data
    assert sorted(own) == sorted(other) == sorted(pair.prompt + pair.chosen for pair in data.triples("rm"))
    assert own != other and len(every) == sum(len(data.triples(fold)) for fold in ("sft", "rm", "rl"))


@pytest.mark.parametrize(("pairs", "words", "read"), [(5, 10**6, 5), (100, 1, 1), (100, 0, 1)])
def test_it_reads_so_much_and_no_more(
    place: MakeContext, monkeypatch: pytest.MonkeyPatch, pairs: int, words: int, read: int
) -> None:
    monkeypatch.setattr(word_model, "MOST_READ", pairs)
    monkeypatch.setattr(word_model, "MOST_WORDS", words)
    assert len(list(pairs_read(place(config_of(), WORD_MODEL)))) == read


@pytest.mark.parametrize("fold", ["rm", "heldout"])
def test_an_empty_fold_ends_it_before_anything_is_written(
    place: MakeContext, monkeypatch: pytest.MonkeyPatch, fold: str
) -> None:
    def rows(data: StandInData, name: str, kind: str) -> None:
        if name == fold:
            raise UserError(f"fold {name} is empty")

    context = place(config_of(), WORD_MODEL)
    monkeypatch.setattr(StandInData, "rows", rows)
    with pytest.raises(UserError, match=f"fold {fold} is empty"):
        word_model.run(context)
    assert not context.folder.begun()


def test_a_run_without_one_has_none(place: MakeContext) -> None:
    assert word_model_of(place(config_of(0.0), WORD_MODEL)) is None


def test_weights_that_have_changed_are_refused(place: MakeContext) -> None:
    context, _ = finished(place)
    path = context.folder.path / WEIGHTS
    content = json.loads(path.read_text())
    content["buckets"], content["weights"] = [*content["buckets"], 7], [*content["weights"], 1.0]
    path.write_text(json.dumps(content))
    with pytest.raises(
        UserError, match=r"weights.json has changed since it was written \(.*\); delete .* to fit it again"
    ):
        word_model_of(context)
