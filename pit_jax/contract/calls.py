"""The part of the contract that needs no run: a fork's functions called on small inputs (trials.py has the others)."""

import random
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from pit_jax.batch import Answer, Experience
from pit_jax.config import RlConfig
from pit_jax.data.layouts import LAYOUTS, Layout
from pit_jax.data.text.row import Row, Unusable
from pit_jax.data.worlds.notes import NOTES
from pit_jax.data.worlds.world import World, pairs
from pit_jax.errors import UserError
from pit_jax.evaluation.judges.judge import Judge, ask
from pit_jax.rl.algorithms import Algorithm
from pit_jax.rl.rewards import RewardRow, TextReward, Weighted

Check = tuple[str, Callable[[], object]]
ROWS, SLOTS = 8, 6  # of the arrays that an algorithm is tried with
NEEDED = ("loss", "policy/approxkl_avg", "val/ratio")  # metrics that RL reads of every algorithm's loss


def check_text_reward(reward: TextReward) -> Iterator[Check]:
    """One finite number a text, and the same ones again."""
    triples = pairs(NOTES, 4, 0)
    rows = [RewardRow(t.prompt, t.chosen, t.rejected, t.rejected) for t in triples]
    prompts, weighted = [row.prompt for row in rows], Weighted(reward, reward.weight)

    def again() -> None:
        texts = [row.chosen for row in rows]
        if not np.array_equal(weighted(prompts, texts, rows), weighted(prompts, texts, rows)):
            raise UserError("two calls with the same texts differ; a resumed run would be another run")

    name = f"text reward {reward.name}"
    yield f"{name}: a finite number a text", lambda: weighted(prompts, [row.chosen for row in rows], rows)
    yield f"{name}: also of one text, and of an empty one", lambda: weighted(prompts[:1], [""], rows[:1])
    yield f"{name}: the same texts get the same numbers", again


def check_judge(judge: Judge) -> Iterator[Check]:
    """A number a prompt, opposite when the sides change, 0 for a copy. Of judges without models."""
    if judge.needs:
        return
    triples = pairs(NOTES, 4, 0)
    prompts = [t.prompt for t in triples]
    left, right = [Answer(t.chosen, ()) for t in triples], [Answer(t.rejected, ()) for t in triples]

    def opposite() -> None:
        scores_N, turned = ask(judge, prompts, left, right).scores_N, ask(judge, prompts, right, left).scores_N
        if not np.allclose(scores_N, -turned):
            raise UserError(f"{scores_N.tolist()} one way and {turned.tolist()} the other")

    def copies() -> None:
        scores_N = ask(judge, prompts, left, left).scores_N
        if np.any(scores_N != 0):
            raise UserError(f"equal answers get {scores_N.tolist()}; ask for the same number every time")

    yield f"judge {judge.name}: a number a prompt", lambda: ask(judge, prompts, left, right)
    yield f"judge {judge.name}: the opposite when the answers change places", opposite
    yield f"judge {judge.name}: equal answers tie", copies


def check_layout(layout: Layout) -> Iterator[Check]:
    """A pair of every example row, and a reason for any other."""

    def strange() -> None:
        rows: tuple[Row, ...] = ({}, {"prompt": 3}, {"prompt": None, "chosen": [], "rejected": {}}, {"\0": "\ud800"})
        for row in rows:
            try:
                layout.parse(dict(row))
            except Unusable:
                continue
            except Exception as error:
                raise UserError(f"{row!r} raises {type(error).__name__} ({error}); raise Unusable(reason)") from error

    def examples() -> None:
        if not layout.examples:
            raise UserError("it names no example rows; give its Layout `examples`")
        for row in layout.examples:
            triple = layout.parse(dict(row))
            if not (triple.prompt.strip() and triple.chosen != triple.rejected):
                raise UserError(f"{row!r} gives {triple!r}, which is no pair")

    yield f"layout {layout.name}: its example rows are pairs", examples
    yield f"layout {layout.name}: any other row is unusable, with a reason", strange


def check_world(world: World) -> Iterator[Check]:
    """Ideal answers are the best, faults cost, any text has a score, and everything follows from the seed."""
    name = f"world {world.name}"

    def ideals() -> None:
        if world.name in LAYOUTS:
            raise UserError("it has the name of a layout, so that no source could name its files; give it another")
        for prompt, ideal, _ in _corrupted(world, 0):
            if (score := world.score(prompt, ideal)) != world.max_score:
                raise UserError(f"{ideal!r} is worth {score:g} of {world.max_score:g} as an answer to {prompt!r}")

    def faults() -> None:
        means = [np.mean([world.score(prompt, text) for prompt, _, text in _corrupted(world, n)]) for n in (0, 1, 3)]
        if not means[0] > means[1] > means[2]:
            raise UserError(f"0, 1 and 3 faults leave mean scores of {', '.join(f'{mean:.2f}' for mean in means)}")

    def texts() -> None:
        prompt = world.prompt(random.Random(0))
        for text in ("", " ", "any text", "\0\ud800 .,", "x" * 10_000):
            if not 0 <= world.score(prompt, text) <= world.max_score:
                raise UserError(f"{text[:20]!r} is worth {world.score(prompt, text)}, not 0 to {world.max_score:g}")

    def strangers() -> None:
        try:
            world.score("a prompt that is none of any world", "")
        except UserError:
            return
        raise UserError("it has a score for answers to a prompt of another world; raise UserError")

    def again() -> None:
        if pairs(world, 20, 1) != pairs(world, 20, 1) or pairs(world, 20, 1) == pairs(world, 20, 2):
            raise UserError("pairs do not follow from the seed; draw from `rng` alone")

    yield f"{name}: ideal answers have the largest score", ideals
    yield f"{name}: faults cost", faults
    yield f"{name}: any text has a score in range", texts
    yield f"{name}: a prompt of another world is a UserError", strangers
    yield f"{name}: pairs follow from the seed", again


def _corrupted(world: World, faults: int) -> Iterator[tuple[str, str, str]]:
    """(prompt, ideal answer, the answer with so many faults), of 100 draws."""
    for seed in range(100):
        rng = random.Random(seed)
        prompt = world.prompt(rng)
        ideal = world.ideal(prompt, rng)
        yield prompt, ideal, world.corrupt(prompt, ideal, faults, rng)


def check_algorithm(algorithm: Algorithm) -> Iterator[Check]:
    """Shapes, what padding may hold, gradients, and the metrics that RL reads."""
    name = f"RL algorithm {algorithm.name}"
    yield f"{name}: one finite advantage a slot, 0 in padding", lambda: advantages_fit(algorithm)
    yield f"{name}: NaN in padding reaches no advantage", lambda: padding_is_nothing(algorithm)
    yield f"{name}: a finite loss, its gradients and {', '.join(NEEDED)}", lambda: loss_fits(algorithm)
    yield f"{name}: NaN in padding reaches neither loss nor gradient", lambda: loss_fits(algorithm, junk=np.nan)


def _arrays(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(rewards, values, mask) of ROWS responses of different lengths."""
    rng = np.random.default_rng(seed)
    rewards_BT, values_BT = rng.normal(size=(2, ROWS, SLOTS)).astype(np.float32)
    return rewards_BT, values_BT, np.arange(SLOTS)[None] < rng.integers(1, SLOTS + 1, (ROWS, 1))


def _advantages(algorithm: Algorithm, rewards_BT: np.ndarray, values_BT: np.ndarray, mask_BT: np.ndarray) -> jax.Array:
    values = jnp.asarray(values_BT) if algorithm.critic else None
    samples = algorithm.samples if ROWS % algorithm.samples == 0 else ROWS
    advantages = algorithm.advantages(
        jnp.asarray(rewards_BT), values, jnp.asarray(mask_BT), samples=samples, config=RlConfig()
    )
    if algorithm.critic and advantages.returns_BT is None:
        raise UserError("it has a critic and gives it no returns")
    return advantages.advantages_BT


def advantages_fit(algorithm: Algorithm) -> None:
    rewards_BT, values_BT, mask_BT = _arrays()
    advantages_BT = np.asarray(_advantages(algorithm, rewards_BT, values_BT, mask_BT))
    if (
        advantages_BT.shape != mask_BT.shape
        or not np.isfinite(advantages_BT).all()
        or np.any(advantages_BT[~mask_BT] != 0)
    ):
        raise UserError(
            f"shape {advantages_BT.shape} for {mask_BT.shape}, finite {np.isfinite(advantages_BT).all()}, padding not 0"
        )


def padding_is_nothing(algorithm: Algorithm) -> None:
    rewards_BT, values_BT, mask_BT = _arrays()
    clean = np.asarray(_advantages(algorithm, rewards_BT * mask_BT, values_BT * mask_BT, mask_BT))
    rewards_BT, values_BT = (np.where(mask_BT, x, np.nan).astype(np.float32) for x in (rewards_BT, values_BT))
    if not np.array_equal(clean, np.asarray(_advantages(algorithm, rewards_BT, values_BT, mask_BT))):
        raise UserError("advantages change with what padded slots hold")


def loss_fits(algorithm: Algorithm, *, junk: float = 0.0) -> None:
    """UserError unless loss and gradients are finite, whatever padding holds, and the metrics are there."""
    rewards_BT, values_BT, mask_BT = _arrays(1)
    advantages_BT = _advantages(algorithm, np.where(mask_BT, rewards_BT, 0), np.where(mask_BT, values_BT, 0), mask_BT)

    def padded(x_BT: np.ndarray) -> jax.Array:
        return jnp.asarray(np.where(mask_BT, x_BT, junk), jnp.float32)

    in_loss = algorithm.kl == "loss"
    tokens_BL = jnp.zeros((ROWS, SLOTS), jnp.int32)
    batch = Experience(
        tokens_BL=tokens_BL,
        segments_BL=tokens_BL,
        mask_BT=jnp.asarray(mask_BT),
        old_logprobs_BT=padded(rewards_BT - 3),
        advantages_BT=padded(np.asarray(advantages_BT)),
        scores_B=jnp.zeros(ROWS),
        old_values_BT=padded(values_BT) if algorithm.critic else None,
        returns_BT=padded(values_BT + 1) if algorithm.critic else None,
        anchor_logprobs_BT=padded(rewards_BT - 2.9) if in_loss else None,
        kl_coef_B=jnp.full(ROWS, 0.1) if in_loss else None,
    )

    def loss(logprobs_BT: jax.Array, values_BT: jax.Array) -> tuple[jax.Array, dict]:
        values = values_BT if algorithm.critic else None
        return algorithm.loss(logprobs_BT, values, batch, config=RlConfig())

    where = jnp.asarray(np.where(mask_BT, rewards_BT - 3.1, 0.0), jnp.float32), jnp.asarray(values_BT)
    (value, metrics), gradients = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(*where)
    if missing := [name for name in NEEDED if name not in metrics]:
        raise UserError(f"its loss does not report {', '.join(missing)}")
    if not all(np.isfinite(np.asarray(x)).all() for x in (value, *gradients)):
        raise UserError("the loss or its gradient is not finite")
    if np.any(np.asarray(gradients[0])[~mask_BT] != 0):
        raise UserError("the loss has a gradient in padded slots")
