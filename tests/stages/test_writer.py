"""The policy as a text function, and Self-Refine over it: a tiny network that reviews and rewrites in numbers."""

from string import Template
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from pit_jax.config import Config
from pit_jax.inference.sampling import Sampling
from pit_jax.inference.self_refine import Refined, Wording, reflect, self_refine
from pit_jax.stages.context import Context
from pit_jax.stages.systems import Systems
from pit_jax.stages.writer import Writer

PROMPTS = ["7 8 9", "10", "11 12 13 14 15 16 17", "18 19", "20", "21 22"]
WORDING = Wording(
    feedback=Template("$prompt 30 $answer"),
    refine=Template("$prompt 31 $history"),
    history=Template("32 $answer 33 $feedback"),
    one_line=Template("$prompt 34 $answer"),
)
BATCH, SAMPLING = 4, Sampling(jnp.float32(0.8))


@pytest.fixture
def tiny_context(context: Any, make_mesh: Any) -> Context:
    return context(Config(), make_mesh(1, 1, 1))


@pytest.fixture
def writer(world: Any, tiny_context: Context) -> Writer:
    key, params = jax.random.key(5), world.draw(world.language, 0)
    longest = tiny_context.config.data.prompt_length
    return Writer(tiny_context, params, batch_size=BATCH, sampling=SAMPLING, key=key, longest=longest)


def ids(text: str) -> list[int]:
    return [int(word) for word in text.split()]


def test_a_reply_is_the_models_answer_to_the_text(world: Any, tiny_context: Context, writer: Writer) -> None:
    """Two batches; the first call draws from fold_in(key, 0), the second from another key."""
    systems = Systems(tiny_context, PROMPTS, batch_size=BATCH, sampling=SAMPLING)
    with jax.set_mesh(tiny_context.mesh):
        answers = systems.answers(world.draw(world.language, 0), 0.8, jax.random.fold_in(jax.random.key(5), 0))
        found, again = writer(PROMPTS), writer(PROMPTS)
    assert found == tiny_context.texts(answers.tokens_BT[0])
    assert again != found


def test_the_longest_text(tiny_context: Context, writer: Writer) -> None:
    """As many tokens as a prompt may have, and one more."""
    text = " ".join(["7"] * tiny_context.config.data.prompt_length)
    assert writer.count("7 8 9") == 4 and writer.count(text) == writer.limit
    with jax.set_mesh(tiny_context.mesh):
        assert len(writer([text])) == 1
        with pytest.raises(ValueError, match="prompt 1 has 49 tokens, the models were trained on at most 48"):
            writer([text + " 7"])


def test_more_tokens_than_in_training_if_asked_for(world: Any, tiny_context: Context) -> None:
    params = world.draw(world.language, 0)
    wide = Writer(tiny_context, params, batch_size=BATCH, sampling=SAMPLING, key=jax.random.key(5), longest=60)
    text = " ".join(["7"] * 60)
    assert wide.count(text) == wide.limit
    with jax.set_mesh(tiny_context.mesh):
        assert len(wide([text, "8"])) == 2
        with pytest.raises(ValueError, match="prompt 1 has 61 tokens"):
            wide([text + " 7"])


def test_self_refine_with_a_tiny_network(tiny_context: Context, writer: Writer) -> None:
    """No review of numbers holds a total score, so all four rounds run, and the last histories outgrow 48 tokens."""
    originals = ["7 8", "", "9 10 11", "12", "13 14", "15"]
    with jax.set_mesh(tiny_context.mesh):
        rows = self_refine(PROMPTS, originals, writer, writer.count, limit=writer.limit, wording=WORDING)
    for row, prompt, original in zip(rows, PROMPTS, originals, strict=True):
        assert (row.prompt, row.answers[0], row.stopped) == (prompt, original, "rounds")
        assert len(row.answers) == 5 and len(row.reviews) == 4
        assert row.tokens == sum(len(ids(text)) + 1 for text in row.answers + row.reviews)
        assert row.dropped == dropped(row, tiny_context.config.data.prompt_length)
    assert sum(row.dropped for row in rows) > 0
    assert len({tuple(row.answers[1:]) for row in rows}) > 1
    assert writer._reply._cache_size() == 1, "one compiled program, whatever the prompts"


def dropped(row: Refined, longest: int) -> int:
    """Reviewed answers that did not fit, in plain arithmetic: x, a separator, and 2 + |y_t| + |fb_t| for each."""
    sizes = [2 + len(ids(y)) + len(ids(review)) for y, review in zip(row.answers, row.reviews, strict=False)]
    total = 0
    for t in range(1, len(sizes) + 1):
        kept = max(k for k in range(t + 1) if len(ids(row.prompt)) + 1 + sum(sizes[t - k : t]) <= longest)
        total += t - kept
    return total


def test_one_line_with_a_tiny_network(tiny_context: Context, writer: Writer) -> None:
    with jax.set_mesh(tiny_context.mesh):
        rows = reflect(
            PROMPTS, ["7"] * len(PROMPTS), writer, writer.count, limit=writer.limit, wording=WORDING, rounds=2
        )
    assert all(len(row.answers) == 3 and not row.reviews and row.stopped == "rounds" for row in rows)
    assert all(row.tokens == sum(len(ids(text)) + 1 for text in row.answers) for row in rows)
