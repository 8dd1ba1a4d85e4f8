"""objectives/group.py: advantages by hand, against numpy, and what holds for every group."""

from random import Random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pit_jax.errors import UserError
from pit_jax.objectives.group import GROUP_KINDS, STD_EPS, advantages

KINDS = pytest.mark.parametrize("kind", GROUP_KINDS)
GROUPS = st.tuples(st.integers(0, 10_000), st.integers(2, 7), st.sampled_from([0.01, 1.0, 50.0]))


def groups(seed: int, size: int, scale: float) -> np.ndarray:
    """Four groups, each about an offset of its own."""
    rng = np.random.default_rng(seed)
    return (scale * (rng.normal(size=(4, size)) + 5 * rng.normal(size=(4, 1)))).astype(np.float32)


def plain(rewards: list[float], kind: str) -> list[float]:
    """One group in float64, straight from the definitions: rloo by the mean of the others."""
    size, mean = len(rewards), float(np.mean(rewards))
    if kind == "rloo":
        return [r - (sum(rewards) - r) / (size - 1) for r in rewards]
    divisor = float(np.std(rewards, ddof=1)) + STD_EPS if kind == "grpo" else 1.0
    return [(r - mean) / divisor for r in rewards]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("grpo", np.array([-2.0, -1.0, 3.0]) / (np.sqrt(7.0) + 1e-4)),
        ("rloo", [-3.0, -1.5, 4.5]),
        ("dr_grpo", [-2.0, -1.0, 3.0]),
    ],
)
def test_by_hand(kind: str, expected: list[float]) -> None:
    """Rewards 1, 2, 6: mean 3, unbiased variance (4 + 1 + 9) / 2 = 7; the others of each have means 4, 3.5 and 1.5."""
    np.testing.assert_allclose(advantages(jnp.array([[1.0, 2.0, 6.0]]), kind=kind), [expected], rtol=1e-6)


def test_two_responses_are_compared_with_each_other() -> None:
    """Rewards 0 and 4: differences -2 and 2, their std sqrt(8); rloo takes the other one as the baseline."""
    rewards_BK = jnp.array([[0.0, 4.0]])
    np.testing.assert_allclose(advantages(rewards_BK, kind="rloo"), [[-4.0, 4.0]])
    np.testing.assert_allclose(advantages(rewards_BK, kind="dr_grpo"), [[-2.0, 2.0]])
    np.testing.assert_allclose(advantages(rewards_BK, kind="grpo"), [[-(0.5**0.5), 0.5**0.5]], rtol=1e-4)


@KINDS
@settings(max_examples=20, deadline=None)
@given(GROUPS)
def test_against_numpy(kind: str, drawn: tuple[int, int, float]) -> None:
    rewards_BK = groups(*drawn)
    expected = [plain(row, kind) for row in rewards_BK.astype(np.float64).tolist()]
    found_BK = advantages(jnp.asarray(rewards_BK), kind=kind)
    np.testing.assert_allclose(found_BK, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@KINDS
@settings(max_examples=20, deadline=None)
@given(GROUPS)
def test_a_group_adds_up_to_nothing(kind: str, drawn: tuple[int, int, float]) -> None:
    found_BK = np.asarray(advantages(jnp.asarray(groups(*drawn)), kind=kind))
    np.testing.assert_allclose(found_BK.sum(axis=1), np.zeros(4), atol=1e-5 * np.abs(found_BK).max() * drawn[1])


@KINDS
@settings(max_examples=20, deadline=None)
@given(GROUPS, st.randoms())
def test_the_order_inside_a_group_does_not_matter(kind: str, drawn: tuple[int, int, float], random: Random) -> None:
    rewards_BK, order = groups(*drawn), list(range(drawn[1]))
    random.shuffle(order)
    found_BK = np.asarray(advantages(jnp.asarray(rewards_BK), kind=kind))
    shuffled_BK = advantages(jnp.asarray(rewards_BK[:, order]), kind=kind)
    np.testing.assert_allclose(shuffled_BK, found_BK[:, order], rtol=1e-4, atol=1e-5 * np.abs(found_BK).max())


@KINDS
def test_groups_do_not_see_each_other(kind: str) -> None:
    rewards_BK = groups(1, 5, 1.0)
    found_BK = np.asarray(advantages(jnp.asarray(rewards_BK), kind=kind))
    for row in range(4):
        alone_BK = advantages(jnp.asarray(rewards_BK[row : row + 1]), kind=kind)
        np.testing.assert_allclose(alone_BK, found_BK[row : row + 1], rtol=1e-6)
    rewards_BK[1] = np.nan
    dirty_BK = np.asarray(advantages(jnp.asarray(rewards_BK), kind=kind))
    np.testing.assert_array_equal(dirty_BK[[0, 2, 3]], found_BK[[0, 2, 3]])


@KINDS
def test_an_offset_changes_nothing_and_a_scale_what_it_should(kind: str) -> None:
    """Hard and easy prompts: grpo counts them alike, the two others keep the scale."""
    rewards_BK = jnp.asarray(groups(2, 4, 1.0))
    found_BK = advantages(rewards_BK, kind=kind)
    np.testing.assert_allclose(advantages(rewards_BK + 3.0, kind=kind), found_BK, atol=1e-5)
    np.testing.assert_allclose(
        advantages(8.0 * rewards_BK, kind=kind), found_BK * (1.0 if kind == "grpo" else 8.0), rtol=1e-3
    )


@KINDS
@settings(max_examples=30, deadline=None)
@given(st.floats(-1e6, 1e6, width=32), st.integers(2, 12))
def test_equal_rewards_teach_exactly_nothing(kind: str, reward: float, size: int) -> None:
    """Whatever they are: a mean that rounds must not be taken for a difference."""
    rewards_BK = jnp.full((2, size), reward, jnp.float32)
    np.testing.assert_array_equal(advantages(rewards_BK, kind=kind), np.zeros((2, size)))


@KINDS
def test_half_precision_is_widened_first(kind: str) -> None:
    narrow_BK = jnp.asarray(groups(3, 6, 1.0)).astype(jnp.bfloat16)
    found_BK = advantages(narrow_BK, kind=kind)
    assert found_BK.dtype == jnp.float32
    np.testing.assert_array_equal(found_BK, advantages(narrow_BK.astype(jnp.float32), kind=kind))


@KINDS
def test_rows_over_devices_are_rows(kind: str) -> None:
    """Groups lie whole on a device; eight devices give what one gives."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    rewards_BK = np.concatenate([groups(seed, 4, 1.0) for seed in range(2)])
    program = jax.jit(advantages, static_argnames="kind")
    spread_BK = program(jax.device_put(rewards_BK, place), kind=kind)
    assert len(spread_BK.sharding.device_set) == 8
    np.testing.assert_allclose(spread_BK, advantages(jnp.asarray(rewards_BK), kind=kind), rtol=1e-6, atol=1e-7)


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(UserError, match="unknown group advantage 'gae'; choose one of grpo, rloo, dr_grpo"):
        advantages(jnp.zeros((2, 3)), kind="gae")
    with pytest.raises(UserError, match="rloo compares the responses of a group, found 1; draw two or more"):
        advantages(jnp.zeros((2, 1)), kind="rloo")
    with pytest.raises(ValueError, match=r"rewards_BK needs 2 axes \['B', 'K'\], found shape \(3,\)"):
        advantages(jnp.zeros(3), kind="grpo")
    with pytest.raises(ValueError, match="rewards_BK needs a floating dtype, found int32"):
        advantages(jnp.zeros((2, 3), jnp.int32), kind="grpo")
