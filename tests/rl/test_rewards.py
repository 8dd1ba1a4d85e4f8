"""Rewards that are functions of texts: how they add up, what they are asked, and what they may not say."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from pit_jax.batch import Completions, DecodeSpec, RolloutPrompts, Triple
from pit_jax.config import Config, RlConfig
from pit_jax.data.text.word_model import WordModel
from pit_jax.errors import UserError
from pit_jax.parallel.sharding import batch_sharding, put
from pit_jax.recipes.catalogue import GAP, REWARD
from pit_jax.rl import rewards
from pit_jax.rl.rewards import (
    TEXT_REWARDS,
    RewardRow,
    TextReward,
    TextScorer,
    Weighted,
    scorer_of,
    text_rewards_of,
    word_reward,
)
from pit_jax.table import Source, forget
from tests.world import StandInTemplate, World

FORK = Source(Path("mine.py"), "0123456789ab")
ROWS, REAL = 8, 6


def words(prompts: Sequence[str], responses: Sequence[str], rows: Sequence[RewardRow]) -> list[float]:
    return [float(len(response.split())) for response in responses]


def longer(prompts: Sequence[str], responses: Sequence[str], rows: Sequence[RewardRow]) -> Any:
    """By how many words a response is longer than its reference."""
    return np.array([len(y.split()) - len(row.reference.split()) for y, row in zip(responses, rows, strict=True)])


@pytest.fixture
def declared() -> Iterator[None]:
    """The two rewards, as a fork declares them."""
    TEXT_REWARDS.add(TextReward("words", words, weight=0.5), FORK)
    TEXT_REWARDS.add(TextReward("longer", longer), FORK)
    yield
    forget(FORK)


@pytest.fixture(scope="module")
def prompts(world: World) -> RolloutPrompts:
    return world.rollout_prompts(ROWS)


@pytest.fixture(scope="module")
def drawn(world: World, prompts: RolloutPrompts) -> Completions:
    """Responses that nobody sampled: the references of other prompts."""
    other = world.rollout_prompts(ROWS, seed=5)
    tokens_BT: Any = np.where(other.reference_mask_BT, other.reference_BT, world.pad_id)
    logprobs_BT: Any = np.zeros(tokens_BT.shape, np.float32)
    ended_B: Any = np.ones(ROWS, bool)
    return Completions(tokens_BT, other.reference_mask_BT, logprobs_BT, ended_B)


TRIPLES = [Triple(f"{7 + i} 8", "9 10", "11") for i in range(ROWS)]


@pytest.fixture(scope="module")
def read(world: World) -> Callable[[Any], list[str]]:
    template = StandInTemplate(world)
    return lambda tokens_NT: [template.text(row) for row in np.asarray(tokens_NT).tolist()]


def texts_of(read: Any, tokens_BT: Any) -> list[str]:
    found: list[str] = read(tokens_BT)
    return found


def test_rewards_add_up_by_their_weights_and_are_logged_by_name(prompts: Any, drawn: Any, read: Any) -> None:
    """A metric is the reward as it was given, before its weight."""
    scorer = TextScorer([Weighted(TextReward("words", words), 0.5), Weighted(TextReward("longer", longer), -2.0)], read)
    total_N, metrics = scorer(prompts, drawn, TRIPLES)
    lengths = np.array([len(text.split()) for text in texts_of(read, drawn.tokens_BT)], np.float32)
    references = np.array([len(text.split()) for text in texts_of(read, prompts.reference_BT)], np.float32)
    np.testing.assert_allclose(total_N, 0.5 * lengths - 2.0 * (lengths - references), rtol=1e-6)
    assert total_N.dtype == np.float32 and np.abs(total_N).max() > 1
    assert set(metrics) == {"reward/words", "reward/longer"}
    assert metrics["reward/words"].value == pytest.approx(lengths.mean())
    assert metrics["reward/longer"].value == pytest.approx((lengths - references).mean())


def test_a_reward_sees_prompts_responses_and_rows_in_their_order(prompts: Any, drawn: Any, read: Any) -> None:
    asked: list[tuple[Any, ...]] = []

    def noted(prompts: Sequence[str], responses: Sequence[str], rows: Sequence[RewardRow]) -> list[float]:
        asked.append((list(prompts), list(responses), list(rows)))
        return [0.0] * len(prompts)

    TextScorer([Weighted(TextReward("noted", noted), 1.0)], read)(prompts, drawn, TRIPLES)
    ((asked_prompts, responses, rows),) = asked
    assert asked_prompts == [triple.prompt for triple in TRIPLES]
    assert responses == texts_of(read, drawn.tokens_BT)
    references = texts_of(read, prompts.reference_BT)
    assert rows == [
        RewardRow(t.prompt, t.chosen, t.rejected, reference) for t, reference in zip(TRIPLES, references, strict=True)
    ]


def test_rows_that_only_fill_a_batch_are_not_asked_for(prompts: Any, drawn: Any, read: Any) -> None:
    """They earn nothing and count in no mean."""
    sizes: list[int] = []

    def counted(prompts: Sequence[str], responses: Sequence[str], rows: Sequence[RewardRow]) -> list[float]:
        sizes.append(len(responses))
        return [1.0] * len(prompts)

    total_N, metrics = TextScorer([Weighted(TextReward("one", counted), 3.0)], read)(prompts, drawn, TRIPLES[:REAL])
    assert sizes == [REAL] and total_N.tolist() == [3.0] * REAL + [0.0] * (ROWS - REAL)
    assert (float(metrics["reward/one"].sum), float(metrics["reward/one"].count)) == (REAL, REAL)


def test_without_text_rewards_no_text_is_made(prompts: Any, drawn: Any) -> None:
    def never(tokens_NT: Any) -> list[str]:
        raise AssertionError("asked for texts")

    total_N, metrics = TextScorer([], never)(prompts, drawn, TRIPLES)
    assert total_N.tolist() == [0.0] * ROWS and metrics == {}


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 2)])
def test_responses_may_lie_on_any_mesh(make_mesh: Any, shape: Any, prompts: Any, drawn: Any, read: Any) -> None:
    scorer = TextScorer([Weighted(TextReward("longer", longer), 0.25)], read)
    expected_N, expected = scorer(prompts, drawn, TRIPLES[:REAL])
    sharding = batch_sharding(make_mesh(*shape))
    found_N, metrics = scorer(put(prompts, sharding), put(drawn, sharding), TRIPLES[:REAL])
    np.testing.assert_array_equal(found_N, expected_N)
    assert jax.device_get(metrics) == jax.device_get(expected)


@pytest.mark.parametrize("role", ["policy", "improver"])
def test_a_word_model_scores_a_response_and_of_the_improver_what_it_gains(
    role: str, prompts: Any, drawn: Any, read: Any
) -> None:
    """By hand: the score is that of the response; the improver's less that of the reference which its prompt holds."""
    responses, references = texts_of(read, drawn.tokens_BT), texts_of(read, prompts.reference_BT)
    asked = [triple.prompt for triple in TRIPLES]
    model = WordModel.of([Triple(*texts) for texts in zip(asked, responses, references, strict=True)])
    total_N, metrics = TextScorer([word_reward(model, role, 0.5)], read)(prompts, drawn, TRIPLES)
    scores_N = model.scores(asked, responses) - (model.scores(asked, references) if role == "improver" else 0)
    assert np.abs(scores_N).min() > 0.01
    np.testing.assert_allclose(total_N, 0.5 * scores_N, rtol=1e-6)
    assert set(metrics) == {"reward/word-model"}
    assert metrics["reward/word-model"].value == pytest.approx(scores_N.mean(), rel=1e-5)


def bad(values: Any) -> Weighted:
    return Weighted(TextReward("mine", lambda prompts, responses, rows: values), 1.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            [0.5, float("nan"), 1.0],
            "text reward mine: found nan for the response 'b [x]' to the prompt 'q'; return a finite number for every "
            "text",
        ),
        ([0.5, 1.0, float("-inf")], "text reward mine: found -inf for the response 'c' to the prompt 'r'; return"),
        (
            [0.5, 1.0],
            "text reward mine: asked for one number for each of 3 responses, found shape (2,), the first for 'a'",
        ),
        ([[0.5], [1.0], [2.0]], "asked for one number for each of 3 responses, found shape (3, 1), the first for 'a'"),
        (0.5, "asked for one number for each of 3 responses, found shape (), the first for 'a'"),
        ([0.5, "good", 1.0], "text reward mine: asked for numbers, found [0.5, 'good', 1.0] (could not convert"),
        ([0.5, [1.0, 2.0], 1.0], "text reward mine: asked for numbers, found [0.5, [1.0, 2.0], 1.0]"),
        ([0.5, None, 1.0], "text reward mine: found nan for the response 'b [x]' to the prompt 'q'"),
        ({"a": 0.5}, "text reward mine: asked for numbers, found {'a': 0.5}"),
    ],
)
def test_what_is_no_finite_number_for_every_text_is_quoted(values: Any, message: str) -> None:
    rows = [RewardRow(prompt, "", "", "") for prompt in "pqr"]
    with pytest.raises(UserError) as error:
        bad(values)(list("pqr"), ["a", "b [x]", "c"], rows)
    assert message in str(error.value)


def test_a_long_text_is_quoted_in_part() -> None:
    with pytest.raises(UserError) as error:
        bad([float("nan")])(["p" * 999], ["a" * 999], [RewardRow("", "", "", "")])
    assert len(str(error.value)) < 600


def test_a_run_names_its_rewards_and_their_weights(declared: None) -> None:
    config = RlConfig(improver_rewards=("words", "longer:-0.25"), policy_rewards=("longer:2",))
    found = {role: [(r.name, r.weight) for r in text_rewards_of(config, role)] for role in ("policy", "improver")}
    assert found == {"policy": [("longer", 2.0)], "improver": [("words", 0.5), ("longer", -0.25)]}
    assert text_rewards_of(RlConfig(), "policy") == []


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("word",), "no text reward 'word'; did you mean words?; known: words, longer"),
        (("words", "words:2"), "--rl.improver-rewards words words:2: name each text reward once"),
        (("words:heavy",), "--rl.improver-rewards words:heavy: the weight must be a number, as in words:0.5"),
        (("words:",), "--rl.improver-rewards words:: the weight must be a number"),
        (("words:nan",), "--rl.improver-rewards words:nan: the weight must be finite"),
        (("words:inf",), "--rl.improver-rewards words:inf: the weight must be finite"),
    ],
)
def test_rewards_that_cannot_be(declared: None, asked: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError) as error:
        text_rewards_of(RlConfig(improver_rewards=asked), "improver")
    assert message in str(error.value)


def test_what_rewards_a_rollout() -> None:
    """The gap model the improver, centred unless the run says otherwise; the reward model the policy."""
    base, spec = Config(), DecodeSpec(8, 1, 0, (4,))
    knobs: tuple[dict[str, Any], ...] = ({}, {"reward": "difference"}, {"gap": "plain"})
    configs = [replace(base, rl=replace(base.rl, **changes)) for changes in knobs]
    difference = configs[1]
    found = [rewards.reward_of(config.rl, role, spec) for config in configs for role in ("policy", "improver")]
    both = rewards.plain_score, rewards.centered_gap
    assert found == [*both, rewards.plain_score, rewards.score_difference, rewards.plain_score, rewards.plain_score]
    assert [scorer_of(base, "policy"), scorer_of(base, "improver")] == [REWARD, GAP]
    assert scorer_of(difference, "improver") == REWARD
