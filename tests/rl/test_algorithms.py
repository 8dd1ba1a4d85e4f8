"""The RL algorithms against NumPy, written out by hand: advantages, the loss under every mean, and who counts in it."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pit_jax.batch import Experience
from pit_jax.config import RlConfig
from pit_jax.errors import UserError
from pit_jax.rl.algorithms import ALGORITHMS, Algorithm, algorithm_of, check_algorithm, samples_of

NAMES = ("ppo", "grpo", "rloo", "dr_grpo")
GROUPED = NAMES[1:]
USUAL = {"ppo": "tokens", "grpo": "responses", "rloo": "tokens", "dr_grpo": "slots"}
IN_LOSS = ("grpo", "dr_grpo")
MEANS = ("algorithm", "tokens", "responses", "slots")
ROWS, SLOT = 8, 6
CONFIG = RlConfig(clip_eps=0.2, value_clip_eps=0.3, vf_coef=0.7)
KL_COEF = 0.3


def arrays(seed: int = 0, rows: int = ROWS) -> dict[str, np.ndarray]:
    """Responses of 1 to 6 tokens; log-probs far enough from the old ones that clipping happens."""
    rng = np.random.default_rng(seed)
    mask_BT = np.arange(SLOT)[None] < rng.integers(1, SLOT + 1, (rows, 1))
    old_BT, near_BT, anchor_BT, values_BT, old_values_BT, returns_BT, advantages_BT = rng.normal(
        0.0, 0.4, (7, rows, SLOT)
    ).astype(np.float32)
    return {
        "logprobs": old_BT - 2 + near_BT,
        "old": old_BT - 2,
        "anchor": old_BT - 2 + anchor_BT,
        "values": values_BT,
        "old_values": old_values_BT,
        "returns": returns_BT,
        "advantages": advantages_BT,
        "mask": mask_BT,
    }


def batch_of(algorithm: Algorithm, found: dict[str, np.ndarray]) -> Experience:
    """As a rollout leaves it: what an algorithm does not have is not there."""
    rows, slot = found["mask"].shape
    in_loss = algorithm.kl == "loss"
    return Experience(
        tokens_BL=jnp.zeros((rows, slot + 2), jnp.int32),
        segments_BL=jnp.ones((rows, slot + 2), jnp.int32),
        mask_BT=jnp.asarray(found["mask"]),
        old_logprobs_BT=jnp.asarray(found["old"]),
        advantages_BT=jnp.asarray(found["advantages"]),
        scores_B=jnp.zeros(rows),
        old_values_BT=jnp.asarray(found["old_values"]) if algorithm.critic else None,
        returns_BT=jnp.asarray(found["returns"]) if algorithm.critic else None,
        anchor_logprobs_BT=jnp.asarray(found["anchor"]) if in_loss else None,
        kl_coef_B=jnp.full(rows, KL_COEF, jnp.float32) if in_loss else None,
    )


@partial(jax.jit, static_argnames=("name", "mean"))
def evaluated(trained: Any, batch: Experience, *, name: str, mean: Any) -> Any:
    """((loss, metrics), gradient by log-probs and values) of an algorithm."""

    def loss(trained: Any) -> Any:
        logprobs_BT, values_BT = trained
        return ALGORITHMS[name].loss(logprobs_BT, values_BT, batch, config=replace(CONFIG, loss_mean=mean))

    return jax.value_and_grad(loss, has_aux=True)(trained)


def loss_of(name: str, mean: str, found: dict[str, np.ndarray]) -> Any:
    algorithm = ALGORITHMS[name]
    values = jnp.asarray(found["values"]) if algorithm.critic else None
    return evaluated((jnp.asarray(found["logprobs"]), values), batch_of(algorithm, found), name=name, mean=mean)


def plain_loss(name: str, mean: str, found: dict[str, np.ndarray]) -> float:
    """Row by row and token by token, in float64."""
    rows, value_losses = [], []
    for b in range(len(found["mask"])):
        losses = []
        for t in np.flatnonzero(found["mask"][b]):
            x = {key: float(array[b, t]) for key, array in found.items()}
            ratio = np.exp(x["logprobs"] - x["old"])
            clipped = min(max(ratio, 1 - CONFIG.clip_eps), 1 + CONFIG.clip_eps)
            losses.append(max(-x["advantages"] * ratio, -x["advantages"] * clipped))
            if name in IN_LOSS:
                d = x["logprobs"] - x["anchor"]
                losses[-1] += KL_COEF * (np.exp(-d) - 1 + d)
            step = min(max(x["values"] - x["old_values"], -CONFIG.value_clip_eps), CONFIG.value_clip_eps)
            near = x["old_values"] + step
            value_losses.append(0.5 * max((x["values"] - x["returns"]) ** 2, (near - x["returns"]) ** 2))
        rows.append(losses)
    real = [losses for losses in rows if losses]
    tokens = [loss for losses in real for loss in losses]
    total = {
        "tokens": np.mean(tokens),
        "responses": np.mean([np.mean(losses) for losses in real]),
        "slots": np.sum(tokens) / (len(real) * SLOT),
    }[USUAL[name] if mean == "algorithm" else mean]
    return float(total + CONFIG.vf_coef * np.mean(value_losses)) if name == "ppo" else float(total)


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("name", NAMES)
def test_a_loss_equals_the_one_written_out(name: str, mean: str) -> None:
    found = arrays()
    (loss, metrics), gradient = loss_of(name, mean, found)
    np.testing.assert_allclose(loss, plain_loss(name, mean, found), rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"].value, loss, rtol=1e-5)
    assert metrics["policy/clipfrac_avg"].value > 0, "some ratios are clipped"
    assert np.abs(gradient[0]).max() > 1e-3 and (gradient[1] is not None) == (name == "ppo")


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_by_its_own_mean_is_the_default(name: str) -> None:
    means = {mean: float(loss_of(name, mean, arrays())[0][0]) for mean in MEANS}
    assert means["algorithm"] == means[USUAL[name]]
    assert len({means[mean] for mean in MEANS[1:]}) == 3, "the three means differ"


def changed_in_padding(found: dict[str, np.ndarray], value: float) -> dict[str, np.ndarray]:
    return {k: x if k == "mask" else np.where(found["mask"], x, np.float32(value)) for k, x in found.items()}


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("name", NAMES)
def test_padding_that_holds_no_number_changes_nothing(name: str, mean: str) -> None:
    found = arrays()
    clean = loss_of(name, mean, found)
    for junk in (np.nan, np.inf, -np.inf):
        (loss, metrics), gradient = loss_of(name, mean, changed_in_padding(found, junk))
        np.testing.assert_array_equal(loss, clean[0][0])
        for a, b in zip(jax.tree.leaves((metrics, gradient)), jax.tree.leaves((clean[0][1], clean[1])), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("name", NAMES)
def test_rows_without_a_token_are_as_if_dropped(name: str, mean: str) -> None:
    """Rows that fill a batch: masked equals dropped."""
    found = arrays()
    rows = np.arange(ROWS) % 4 > 0
    masked = changed_in_padding({**found, "mask": found["mask"] & rows[:, None]}, np.nan)
    dropped = {name: array[rows] for name, array in found.items()}
    (loss, metrics), _ = loss_of(name, mean, masked)
    (expected, expected_metrics), _ = loss_of(name, mean, dropped)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    for key, value in metrics.items():
        np.testing.assert_allclose(value.value, expected_metrics[key].value, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_slots_beyond_every_response_are_as_if_dropped(name: str) -> None:
    """For means over tokens and responses; the third divides by the slots, and a wider one makes it smaller."""
    found = arrays()
    wide = {key: np.pad(x, ((0, 0), (0, SLOT))) for key, x in found.items()}
    for mean in ("tokens", "responses"):
        np.testing.assert_allclose(loss_of(name, mean, wide)[0][0], loss_of(name, mean, found)[0][0], rtol=1e-6)
    if name != "ppo":  # whose value loss is a mean of tokens under every mean
        np.testing.assert_allclose(
            loss_of(name, "slots", wide)[0][0], loss_of(name, "slots", found)[0][0] / 2, rtol=1e-6
        )


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_in_parts_is_the_batch(name: str) -> None:
    """Gradients weighted by the count of the loss, as minibatches in parts are: the whole batch's gradient.

    Of PPO the two losses have one count, that of tokens, where the mean is over tokens.
    """
    mean = "tokens" if name == "ppo" else "algorithm"
    found = arrays()
    (_, metrics), (whole, _) = loss_of(name, mean, found)
    parts = []
    for rows in (slice(0, 2), slice(2, ROWS)):
        (_, part), (gradient, _) = loss_of(name, mean, {key: x[rows] for key, x in found.items()})
        parts.append((float(part["loss"].count), np.asarray(gradient)))
    total = sum(count for count, _ in parts)
    assert total == float(metrics["loss"].count)
    together = np.concatenate([count * gradient / total for count, gradient in parts])
    np.testing.assert_allclose(together, whole, rtol=1e-5, atol=1e-7)


def plain_advantages(name: str, rewards: list[float]) -> list[float]:
    """Of one group, from the definitions."""
    mean: Any = np.mean(rewards)
    if name == "rloo":
        return [r - (sum(rewards) - r) / (len(rewards) - 1) for r in rewards]
    if name == "dr_grpo":
        return [r - mean for r in rewards]
    return [(r - mean) / (np.std(rewards, ddof=1) + 1e-4) for r in rewards]


@pytest.mark.parametrize("samples", [2, 4])
@pytest.mark.parametrize("name", GROUPED)
def test_a_response_is_compared_within_its_group_alone(name: str, samples: int) -> None:
    """Rows of one (prompt, reference) lie side by side; rewards of its tokens add up, every token gets the same."""
    rng, mask_BT = np.random.default_rng(1), arrays()["mask"]
    rewards_BT = np.where(mask_BT, rng.normal(size=mask_BT.shape), np.nan).astype(np.float32)
    found = ALGORITHMS[name].advantages(
        jnp.asarray(rewards_BT), None, jnp.asarray(mask_BT), samples=samples, config=CONFIG
    )
    assert found.returns_BT is None
    sums = np.nansum(rewards_BT.astype(np.float64), axis=1).reshape(-1, samples)
    expected_B = np.concatenate([plain_advantages(name, group) for group in sums.tolist()])
    np.testing.assert_allclose(found.advantages_BT, np.where(mask_BT, expected_B[:, None], 0.0), rtol=1e-4, atol=1e-5)
    moved_BT = rewards_BT.copy()
    moved_BT[:samples] += 100.0
    again = ALGORITHMS[name].advantages(
        jnp.asarray(moved_BT), None, jnp.asarray(mask_BT), samples=samples, config=CONFIG
    )
    np.testing.assert_array_equal(again.advantages_BT[samples:], found.advantages_BT[samples:])


def test_the_built_in_algorithms_are_records() -> None:
    assert tuple(ALGORITHMS.names()) == NAMES
    facts = {name: (a.critic, a.samples, a.kl) for name, a in ((name, ALGORITHMS[name]) for name in NAMES)}
    assert facts["ppo"] == (True, 1, "reward") and facts["rloo"] == (False, 4, "reward")
    assert facts["grpo"] == facts["dr_grpo"] == (False, 4, "loss")


def test_each_model_has_its_own_algorithm_and_samples() -> None:
    config = RlConfig(policy_algorithm="rloo", improver_samples=2)
    assert [algorithm_of(config, role).name for role in ("policy", "improver")] == ["rloo", "ppo"]
    assert [samples_of(config, role) for role in ("policy", "improver")] == [4, 2]
    assert samples_of(RlConfig(), "policy") == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"improver_algorithm": "gpro"}, "no RL algorithm 'gpro'; did you mean grpo?; known: ppo, grpo, rloo, dr_grpo"),
        ({"improver_algorithm": "grpo", "batch_size": 18}, "--rl.batch-size=18 is no multiple of the 4 responses that"),
        ({"improver_samples": 3, "batch_size": 16}, "or --rl.improver-samples"),
        (
            {"improver_algorithm": "rloo", "improver_samples": 1},
            "--rl.improver-samples=1: rloo compares the responses of a prompt; draw two or more",
        ),
    ],
)
def test_what_cannot_be_trained_is_said_before_it_is_tried(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        check_algorithm(RlConfig(**changes), "improver")
    assert message in str(error.value)
    check_algorithm(RlConfig(), "policy")


def test_several_responses_of_a_prompt_under_ppo_are_rollouts_like_others() -> None:
    check_algorithm(RlConfig(improver_samples=4), "improver")
