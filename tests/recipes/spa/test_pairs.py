"""An iteration's pairs: drawn once, whatever cut them off; the best and the worst; in files and in rows."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from pit_jax.batch import Answer, Triple
from pit_jax.config import Config, DataConfig, TokenizerConfig
from pit_jax.data.store import Prepared, prepare
from pit_jax.errors import UserError
from pit_jax.evaluation.answers import AnswerRow
from pit_jax.evaluation.systems import spa
from pit_jax.files import read_jsonl, write_jsonl
from pit_jax.inference.texts import TextEngine
from pit_jax.recipes.spa.labels import Bench, Labels
from pit_jax.recipes.spa.pairs import SAME, Sampler, labelled, line_of, training_rows, triples_of
from pit_jax.run.context import Context
from pit_jax.run.provenance import StageId
from pit_jax.run.screen import Bar
from tests.world import MakeContext, World

SPA = StageId("spa", "policy")
PROMPTS = [f"{6 + i} {7 + i}" for i in range(10)]
FILE = "spa-x1@0.7.jsonl"


def lengths(bench: Bench, prompts: Any, answers: Any) -> np.ndarray:
    """Longer answers are better."""
    return np.array([len(answer.ids) for answer in answers], np.float32)


LONGER = Labels("longer", lengths, ())


def drafts(*texts: str, prompt: str = "7") -> AnswerRow:
    return AnswerRow(0, prompt, "", [Answer(text, ()) for text in texts])


def test_the_best_and_the_worst_make_the_pair(make_bench: Callable[..., Bench]) -> None:
    """Of three, and of two; a prompt keeps the spaces that it has."""
    rows = [drafts("8 9", "10", "11 12 13", prompt=" 7 8"), drafts("8", "9 10")]
    found, dropped = labelled(rows, make_bench(), LONGER)
    assert found == [Triple(" 7 8", "11 12 13", "10"), Triple("7", "9 10", "8")] and not dropped


def test_prompts_without_a_pair_are_counted(make_bench: Callable[..., Bench]) -> None:
    """All answers the same, the same but for space around them, the worst one empty, or all."""
    rows = [drafts("8", "8"), drafts("8", "8 "), drafts("8", ""), drafts("8 9", "8", "8 9"), drafts("", "")]
    found, dropped = labelled(rows, make_bench(), LONGER)
    assert found == [Triple("7", "8 9", "8")]
    assert dropped == {SAME: 2, "chosen and rejected are the same text": 1, "rejected is empty": 1}
    assert labelled([], make_bench(), LONGER) == ([], {})


def test_pairs_on_disk_are_what_was_labelled(tmp_path: Path) -> None:
    triples = [Triple(" x\n", "ünïcode", "b"), Triple("y", "{}", '"')]
    write_jsonl(tmp_path / "pairs.jsonl", map(line_of, triples))
    assert triples_of(read_jsonl(tmp_path / "pairs.jsonl")) == triples
    assert line_of(Triple("x", "a", "b", margin=2.0)) == {"prompt": "x", "chosen": "a", "rejected": "b", "margin": 2.0}


class Draw:
    """Draws the samples of an iteration in a folder, and knows for which chunks the model was asked."""

    def __init__(self, context: Context, bench: Bench, weights: Any, monkeypatch: pytest.MonkeyPatch):
        self.context, self.bench, self.weights = context, bench, weights
        self.chunks: list[int] = []
        answer = TextEngine.answer

        def noted(texts: TextEngine, params: Any, chunk: Any, *args: Any, **how: Any) -> list[Answer]:
            self.chunks.append(chunk.index)
            return answer(texts, params, chunk, *args, **how)

        monkeypatch.setattr(TextEngine, "answer", noted)

    def __call__(self, folder: Path, *, made_by: str = "m", seed: int = 0, **knobs: Any) -> list[AnswerRow]:
        self.chunks.clear()
        context = replace(self.context, config=replace(self.context.config, **knobs))
        sampler = Sampler(context, self.bench, self.weights, made_by, jax.random.key(seed))
        quiet: Bar = context.screen.bar("answers", len(PROMPTS))
        return sampler.samples(PROMPTS, folder, spa(1), quiet)


@pytest.fixture
def draw(world: World, place: MakeContext, make_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch) -> Draw:
    bench, weights = make_bench(), world.draw(world.language, 0)
    return Draw(place(Config(), SPA), bench, bench.texts.engine.to_decode(weights), monkeypatch)


def test_samples_are_drawn_once_and_differ(draw: Draw, tmp_path: Path) -> None:
    """Two for each prompt, four prompts at a time; other keys draw others."""
    rows = draw(tmp_path)
    assert draw.chunks == [0, 1, 2]
    assert [row.prompt for row in rows] == PROMPTS and {len(row.drafts) for row in rows} == {2}
    assert sum(row.drafts[0].text != row.drafts[1].text for row in rows) > 7
    assert draw(tmp_path) == rows and draw.chunks == []
    other = draw(tmp_path / "other", seed=1)
    assert sum(a.drafts != b.drafts for a, b in zip(rows, other, strict=True)) > 7


@pytest.mark.parametrize(("kept", "drawn"), [(0, [0, 1, 2]), (4, [1, 2]), (6, [1, 2]), (8, [2])])
def test_samples_that_were_cut_off_are_drawn_again_alike(
    draw: Draw, tmp_path: Path, kept: int, drawn: list[int]
) -> None:
    """Whole lines, and half of the next: chunks of which a row is gone are drawn again, the others are not."""
    rows = draw(tmp_path)
    whole = (tmp_path / FILE).read_bytes()
    lines = whole.splitlines(keepends=True)
    (tmp_path / FILE).write_bytes(b"".join(lines[:kept]) + lines[kept][: len(lines[kept]) // 2])
    assert draw(tmp_path) == rows
    assert draw.chunks == drawn and (tmp_path / FILE).read_bytes() == whole


def test_samples_of_another_model_or_with_other_settings_are_refused(draw: Draw, tmp_path: Path) -> None:
    draw(tmp_path)
    config = Config()
    for how in ({"made_by": "another"}, {"spa": replace(config.spa, samples=3)}):
        with pytest.raises(UserError, match="holds answers to other prompts, or of other models or settings"):
            draw(tmp_path, **how)


DATA = DataConfig(world_pairs=120, heldout_fraction=0.2, prompt_length=64, response_length=96, buckets=2)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("spa") / "run" / "data"
    return prepare(DATA, TokenizerConfig(vocab_size=512), folder, say=lambda text: None)


def test_training_rows_are_those_of_prepared_data(prepared: Prepared) -> None:
    """Of the pairs of a fold the tokens of that fold, in slots no wider than they need; one pair without a difference
    is left out."""
    context: Any = SimpleNamespace(data=prepared, config=Config(data=DATA))
    triples = prepared.triples("rm")
    same = Triple("x", "yes", "yes")
    rows, kept = training_rows(context, [triples[0], same, *triples[1:]], Path("here"))
    assert kept.tolist() == [0, *range(2, len(triples) + 1)]
    expected = prepared.rows("rm", "reward")
    everything = np.arange(len(triples))
    for name, array in expected.built(everything, prepared.layout).items():
        found = rows.built(everything, prepared.layout)[name]
        np.testing.assert_array_equal(found, np.zeros_like(array) if name == "margin_B" else array, err_msg=name)
    widths, whole = rows.layout.widths("reward"), rows.whole()
    longest = max(whole[f"{side}_segments_BL"].sum(axis=1).max() for side in ("chosen", "rejected"))
    assert len(widths) == 2 and widths[-1] == -(-longest // 8) * 8
    assert rows.batch(np.arange(4))["chosen_BL"].shape[1] in widths


def test_no_pair_to_train_on_is_refused(prepared: Prepared) -> None:
    context: Any = SimpleNamespace(data=prepared, config=Config(data=DATA))
    with pytest.raises(UserError) as error:
        training_rows(context, [Triple("x", "yes", "yes")] * 3, Path("here"))
    assert str(error.value) == "here: none of 3 pairs can be trained on; raise --spa.temperature"


def test_the_file_of_samples_says_what_they_were_drawn_from(draw: Draw, tmp_path: Path) -> None:
    draw(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / FILE).read_text().splitlines()]
    assert [line["prompt"] for line in lines] == PROMPTS and len({line["key"] for line in lines}) == len(PROMPTS)
