"""The proxy on held-out prompts, always against answers of the policy, and the truth where one is known."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from pit_jax.batch import PromptBatch, RolloutPrompts, Triple
from pit_jax.data.rows import Rows
from pit_jax.data.stream import sequential
from pit_jax.data.worlds.world import Score
from pit_jax.masked import Mean
from pit_jax.parallel.hosts import whole
from pit_jax.parallel.sharding import put_rows
from pit_jax.rl.references import improver_prompts, policy_prompts
from pit_jax.rl.supply import Supply


@dataclass(frozen=True)
class HeldoutChunk:
    """Prompts with their references, as a rollout takes them; the first `len(triples)` are real."""

    index: int
    prompts: RolloutPrompts
    triples: Sequence[Triple]


def heldout_chunks(
    supply: Supply,
    rows: Rows | Mapping[str, np.ndarray],
    triples: Sequence[Triple],
    mesh: Mesh,
    *,
    role: str,
    key: jax.Array,
) -> Iterator[HeldoutChunk]:
    """Held-out prompts in batches of a round's size; the improver's with answers of the policy as references.

    Rows that fill up the last one hold no prompt, and count nowhere.
    """
    for index, (columns, real) in enumerate(sequential(rows, supply.batch_size)):
        real_B1 = np.arange(supply.batch_size)[:, None] < real
        live = {name: np.array(columns[name]) & real_B1 for name in ("prompt_mask_BP", "prefix_mask_BP")}
        batch = put_rows(mesh, PromptBatch, columns | live)
        if role == "policy":
            prompts = policy_prompts(batch)
        else:
            reference = supply.reference("policy-rl", batch, None, jax.random.fold_in(key, index))
            prompts = improver_prompts(supply.engine, batch, [reference])
        first = index * supply.batch_size
        yield HeldoutChunk(index, prompts, triples[first : first + real])


def measure(
    chunks: Sequence[HeldoutChunk],
    rollout: Callable[..., Any],
    key: jax.Array,
    *,
    read: Callable[[Any], list[str]],
    truth: Score | None,
) -> dict[str, float]:
    """Means over the held-out prompts of what a rollout gives, and of `truth/score`.

    rollout(prompts, triples, key) -> (completions, experience, metrics).
    """
    totals: dict[str, Mean] = {}
    scores: list[float] = []
    for chunk in chunks:
        drawn, _, metrics = rollout(chunk.prompts, chunk.triples, jax.random.fold_in(key, chunk.index))
        totals = metrics if not totals else {name: totals[name] + metrics[name] for name in metrics}
        if truth is not None:
            texts = read(whole(drawn.tokens_BT)[: len(chunk.triples)])
            scores += [truth(triple.prompt, text) for triple, text in zip(chunk.triples, texts, strict=True)]
    return {
        **{name: mean.value for name, mean in totals.items()},
        **({"truth/score": float(np.mean(scores))} if scores else {}),
    }
