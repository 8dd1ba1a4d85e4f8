"""What calls an answer better: every source of labels by hand, one answer after the other, without padding."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pit_jax.batch import Answer
from pit_jax.config import Config
from pit_jax.errors import UserError
from pit_jax.evaluation.answers import AnswerRow
from pit_jax.inference.texts import written
from pit_jax.model.rows import Sequences
from pit_jax.recipes.spa.labels import LABELS, Bench
from pit_jax.recipes.spa.pairs import labelled
from tests.world import EOS, World

PROMPTS = ["7 8 9", "10", "11 12", "13 14 15 16", "17", "18 19"]
ANSWERS = ["20", "21 22 23", "24 25", "26 27 28 29 30", "31 32", "33"]


@pytest.fixture(scope="module")
def models(world: World) -> dict[str, Any]:
    drawn = {name: world.draw(world.language, seed) for seed, name in enumerate(("model", "sft", "previous"))}
    return drawn | {"reward": world.draw(world.scalar, 3)}


@pytest.fixture(scope="module")
def bench(models: Any, make_bench: Callable[..., Bench]) -> Bench:
    return make_bench(**models)


def answers_of(bench: Bench, texts: list[str]) -> list[Answer]:
    return [written(bench.texts.template, text) for text in texts]


@pytest.fixture(scope="module")
def by_hand(world: World, models: Any) -> dict[str, np.ndarray]:
    """Of each model what it says of each answer with its end: summed log-probs, or the score at the last token."""
    found: dict[str, list[float]] = {name: [] for name in models}
    for prompt, answer in zip(PROMPTS, ANSWERS, strict=True):
        ids, start = [int(word) for word in f"{prompt} {answer}".split()] + [EOS], len(prompt.split())
        tokens_BL = jnp.asarray([ids], jnp.int32)
        rows = Sequences.alone(jnp.ones_like(tokens_BL))
        for name in ("model", "sft", "previous"):
            logits_BLV = world.language.logits(models[name], world.language.hidden(models[name], tokens_BL, rows))
            logprobs_LV = jax.nn.log_softmax(logits_BLV[0])
            found[name].append(sum(float(logprobs_LV[i - 1, ids[i]]) for i in range(start, len(ids))))
        found["reward"].append(float(world.scalar.scalars(models["reward"], tokens_BL, rows)[0, -1]))
    return {name: np.array(values) for name, values in found.items()}


@pytest.mark.parametrize("name", [labels.name for labels in LABELS])
def test_every_label_by_hand(bench: Bench, by_hand: Any, name: str) -> None:
    """Of the model in training against the SFT model (SPA Eq. 7) or the one before, of itself, or a reward."""
    expected = {
        "sft": by_hand["model"] - by_hand["sft"],
        "previous": by_hand["model"] - by_hand["previous"],
        "likelihood": by_hand["model"],
        "reward": by_hand["reward"],
    }[name]
    found_N = LABELS[name].score(bench, PROMPTS, answers_of(bench, ANSWERS))
    np.testing.assert_allclose(found_N, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [labels.name for labels in LABELS])
def test_a_label_asks_for_the_models_that_it_names(
    models: Any, make_bench: Callable[..., Bench], bench: Bench, name: str
) -> None:
    """And for no other: a bench with these alone gives the same."""
    labels, answers = LABELS[name], answers_of(bench, ANSWERS)
    alone = make_bench(**{part: models[part] for part in labels.parts})
    np.testing.assert_array_equal(labels.score(alone, PROMPTS, answers), labels.score(bench, PROMPTS, answers))
    for part in labels.parts:
        with pytest.raises(KeyError, match=part):
            labels.score(make_bench(**{other: models[other] for other in models if other != part}), PROMPTS, answers)


def rows(*drafts: list[str]) -> list[AnswerRow]:
    return [
        AnswerRow(index, prompt, "", [Answer(text, ()) for text in texts])
        for index, (prompt, texts) in enumerate(zip(PROMPTS, drafts, strict=False))
    ]


def test_labels_follow_the_answers_and_turn_with_the_models(
    models: Any, bench: Bench, make_bench: Callable[..., Bench]
) -> None:
    """Answers in another order make the same pairs; with the two models of the ratio exchanged all of them turn."""
    drafts = [[ANSWERS[i], ANSWERS[(i + 1) % 6]] for i in range(6)]
    found, dropped = labelled(rows(*drafts), bench, LABELS["sft"])
    assert len(found) == 6 and not dropped
    swapped, _ = labelled(rows(*(texts[::-1] for texts in drafts)), bench, LABELS["sft"])
    assert swapped == found
    turned, _ = labelled(rows(*drafts), make_bench(model=models["sft"], sft=models["model"]), LABELS["sft"])
    assert [(t.chosen, t.rejected) for t in turned] == [(t.rejected, t.chosen) for t in found]
    assert len({t.chosen == texts[0] for t, texts in zip(found, drafts, strict=True)}) == 2, "both sides win"


def test_an_unknown_source_of_labels_is_refused() -> None:
    with pytest.raises(UserError, match="no source of labels 'stf'; did you mean sft\\?; known: sft, previous, like"):
        LABELS["stf"]
    assert Config().spa.labels in LABELS
