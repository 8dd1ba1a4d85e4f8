"""Whole updates of SFT and of a reward model against torch and transformers, or of SFT against tunix, in turns.

    python -m benchmarks.training_steps [--shapes 1.8M 10M 40M] [--steps sft reward] [--times 9]
    python -m benchmarks.training_steps --by tunix --steps sft    # in JAX; made in .venv-tunix
    python -m benchmarks.training_steps --shapes 1B --steps sft --dtype bfloat16 --rows 4 --length 2048   # on a GPU

Rows are full: 8 of 256 tokens for SFT, 8 pairs of them for the reward model. An update is the loss, its gradient,
clipping by the global norm, and AdamW, with float32 weights. Beside the ratio stands the floor: the matrix products of
the update (pit_jax/model/flops.py) at the rate at which this machine multiplies two large matrices.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console

from benchmarks.limits import Limits, seconds
from benchmarks.peers import Peer, Turns, environment, table_of
from benchmarks.results import keep
from benchmarks.shapes import VOCABULARY, peer_job, shape_of, shapes_parser, torch_peer
from pit_jax.architecture import TransformerConfig
from pit_jax.batch import RewardBatch, SftBatch
from pit_jax.config import OptimizerConfig
from pit_jax.model.flops import Passes
from pit_jax.model.networks import LanguageModel, ScalarModel
from pit_jax.parallel.host_memory import keep_freed_memory
from pit_jax.recipes import reward, sft
from pit_jax.training.optimizer import make_optimizer
from pit_jax.training.state import create_state
from pit_jax.training.step import Loss, make_train_step


def sft_work(shape: TransformerConfig, count: int, length: int) -> tuple[Any, Loss, Any, float]:
    """(parameters, loss, batch, operations of an update)."""
    model = LanguageModel(shape, VOCABULARY)
    tokens_BL = jax.random.randint(jax.random.key(1), (count, length), 5, VOCABULARY)
    places_BL = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), tokens_BL.shape)
    ones_BL = jnp.ones_like(tokens_BL)
    batch = SftBatch(tokens_BL, tokens_BL, ones_BL > 0, places_BL, ones_BL)
    row = Passes(shape, VOCABULARY).read(length, logits=length)
    return (
        jax.jit(model.init)(jax.random.key(0)),
        sft.make_loss(model, slots=length),
        batch,
        count * row.trained().flops,
    )


def reward_work(shape: TransformerConfig, count: int, length: int) -> tuple[Any, Loss, Any, float]:
    """The same of half as many pairs."""
    model = ScalarModel(shape, VOCABULARY)
    chosen_BL, rejected_BL = jax.random.randint(jax.random.key(1), (2, count // 2, length), 5, VOCABULARY)
    ones_BL = jnp.ones_like(chosen_BL)
    batch = RewardBatch(chosen_BL, rejected_BL, ones_BL, ones_BL, jnp.zeros(count // 2))
    row = Passes(shape, VOCABULARY).score(length)
    return jax.jit(model.init)(jax.random.key(0)), reward.make_loss(model), batch, count * row.trained().flops


def tunix_peer(step: str, shape: TransformerConfig, **sizes: Any) -> Peer:
    return Peer("tunix_peer", {**peer_job(step, shape), **sizes}, environment("tunix", "google-tunix==0.1.7"))


PEERS: dict[str, Callable[..., Peer]] = {"torch": torch_peer, "tunix": tunix_peer}
WORK = {"sft": sft_work, "reward": reward_work}


def updates(params: Any, loss: Loss, batches: Callable[[], Iterable[Any]]) -> Callable[[], float]:
    """Seconds of an update by each of the batches, every time that it is called."""
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1e-4), 1)
    step = jax.jit(make_train_step(loss, optimizer, accumulate=1), donate_argnums=0)
    state = create_state(params, optimizer, seed=0, extras={})

    def work() -> Any:
        nonlocal state
        for batch in batches():
            state, metrics = step(state, batch)
        return state.params, metrics

    return lambda: seconds(work)


def main() -> None:
    parser = shapes_parser(__doc__, ["1.8M", "10M", "40M"], 9, "updates")
    parser.add_argument("--steps", nargs="+", default=list(WORK), choices=list(WORK))
    parser.add_argument("--by", default="torch", choices=list(PEERS), help="whose updates ours are beside")
    parser.add_argument("--rows", type=int, default=8, help="of SFT; as many pairs of the reward model")
    parser.add_argument("--length", type=int, default=256, help="tokens of a row")
    given = parser.parse_args()
    if given.by == "tunix" and (given.steps != ["sft"] or given.dtype != "float32"):
        parser.error("beside tunix there is SFT in float32 alone; ask for --steps sft")
    keep_freed_memory()
    versions, limits, turned = {}, Limits.measured(given.dtype), {}
    for step in given.steps:
        for name in given.shapes:
            rows, shape = given.rows * (1 + (step == "reward")), shape_of(name, given.dtype)
            params, loss, batch, flops = WORK[step](shape, rows, given.length)
            with PEERS[given.by](step, shape, rows=rows, length=given.length) as peer:
                versions = peer.ready
                turns = Turns.of(updates(params, loss, partial(iter, (batch,))), peer.seconds, given.times)
            turned[f"{step} {name}"] = turns.figures(tokens=rows * given.length, floor=limits.floor(flops))
    Console().print(table_of(f"updates in turns, n = {given.times}", turned))
    of = {"dtype": given.dtype, "rows": given.rows, "length": given.length}
    keep(given.results, "training_steps", {**limits.kept(), **versions, "by": given.by, **of, **turned})


if __name__ == "__main__":
    main()
