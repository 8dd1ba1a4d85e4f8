"""Every system of the comparison on the same prompts: PIT, its rivals, and the baselines that only prompt."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pit_jax.config import Config
from pit_jax.generation.sampling import Sampling
from pit_jax.improvement.best_of_n import n_for_budget
from pit_jax.improvement.self_refine import PROMPTS, Refined, Wording, load_wording, reflect, self_refine
from pit_jax.stages.context import Context
from pit_jax.stages.evaluate import POLICY, pit_name
from pit_jax.stages.models import load
from pit_jax.stages.outputs import Output, drawn_output, trail_outputs, written_output
from pit_jax.stages.systems import Systems, quiet
from pit_jax.stages.writer import Writer

Outputs = dict[str, Output]


def wording_of(config: Config) -> Wording:
    """The prompts of Self-Refine. ValueError names the file of --paper.wording that does not serve."""
    return load_wording(Path(config.paper.wording) if config.paper.wording else PROMPTS)


class Answering:
    """Every system on the same held-out prompts. All trails of a temperature share their key, so their originals."""

    def __init__(self, context: Context, prompts: list[str], chosen: list[str]):
        config = context.config
        self._context, self._prompts, self._chosen = context, prompts, chosen
        self._policy, self._improver = load(context, "rl", "policy"), load(context, "rl", "improver")
        self._sampling = Sampling(top_k=config.improve.top_k, top_p=config.improve.top_p)
        self._systems = Systems(context, prompts, batch_size=config.improve.batch_size, sampling=self._sampling)

    def trail(self, temperature: float, rounds: int, advance: Callable[[int], None]) -> Outputs:
        """The policy's answers and PIT's improvements of them."""
        key = self._key(temperature)
        trail = self._systems.trail(self._policy, self._improver, temperature, key, advance, rounds=rounds)
        return trail_outputs(self._context, trail, [POLICY, *(pit_name(k) for k in range(1, rounds + 1))])

    def improved_by(self, improver: Any, temperature: float, original: Output) -> Output:
        """One improvement of the policy's answers by another improver."""
        key = self._key(temperature)
        trail = self._systems.trail(self._policy, improver, temperature, key, quiet, rounds=1)
        return drawn_output(self._context, trail, 1, original)

    def answered_by(self, policy: Any, temperature: float) -> Output:
        return drawn_output(self._context, self._systems.answers(policy, temperature, self._key(temperature)), 0)

    def chosen(self) -> Output:
        return written_output(self._context, self._chosen)

    def best_of_n(self, temperature: float, rival: Output, original: Output) -> tuple[str, Output]:
        """The policy's best of as many answers as fit the tokens that the rival drew."""
        n = n_for_budget(int(rival.drawn_N.sum()), int(original.drawn_N.sum()))
        reward = load(self._context, "rm", "policy")
        best = self._systems.best(self._policy, reward, temperature, self._key(temperature), n=n)
        found = drawn_output(self._context, best.answers, 0)
        return f"best of {n}", replace(found, drawn_N=np.asarray(best.tokens_B)[0], replies=float(n))

    def refined(self, temperature: float, rounds: int, original: Output) -> list[Output]:
        """Self-Refine by the policy itself: what it has after 1, 2, .. rounds at most."""
        return self._prompted(partial(self_refine, rounds=rounds), temperature, rounds, original)

    def reflected(self, temperature: float, original: Output) -> Output:
        """The one-line form, once."""
        return self._prompted(partial(reflect, rounds=1), temperature, 1, original)[0]

    def _prompted(
        self, method: partial[list[Refined]], temperature: float, rounds: int, original: Output
    ) -> list[Output]:
        config = self._context.config
        writer = Writer(
            self._context,
            self._policy,
            batch_size=config.improve.batch_size,
            sampling=Sampling(jnp.float32(temperature), self._sampling.top_k, self._sampling.top_p),
            key=jax.random.fold_in(self._key(temperature), 7),
            longest=config.paper.refine_length or config.data.prompt_length,
        )
        ask = partial(method, limit=writer.limit, wording=wording_of(config))
        rows = ask(self._prompts, original.texts, writer, writer.count)
        if over := sum(row.stopped == "length" for row in rows):
            self._context.console.print(
                f"{method.func.__name__} at temperature {temperature:g}: {over} of {len(rows)} prompts would take over "
                f"{writer.limit} tokens and keep their answers; --paper.refine-length gives room",
                soft_wrap=True,
            )
        return [self._after(rows, round, writer.count, original) for round in range(1, rounds + 1)]

    def _after(self, rows: Sequence[Refined], round: int, count: Callable[[str], int], original: Output) -> Output:
        """What is there after so many rounds at most: y_0, round rewrites and as many reviews."""
        kept = written_output(self._context, [row.answers[: round + 1][-1] for row in rows])
        written = [[*row.answers[1 : round + 1], *row.reviews[:round]] for row in rows]
        return replace(
            kept,
            drawn_N=original.drawn_N + np.asarray([sum(map(count, texts)) for texts in written]),
            replies=1.0 + float(np.mean([len(texts) for texts in written])),
            reference=original,
        )

    def _key(self, temperature: float) -> jax.Array:
        return self._context.key("paper", str(temperature))
