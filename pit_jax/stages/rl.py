"""PPO: the policy on its reward model; the improver on the gap under the curriculum of references (PIT Eqs. 3-5)."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import Progress

from pit_jax.batch import Experience, PromptBatch, RolloutPrompts
from pit_jax.config import RlConfig
from pit_jax.data.stream import sequential
from pit_jax.masked import Mean
from pit_jax.objectives.ppo import AdaptiveKL
from pit_jax.parallel.sharding import batch_sharding, param_sharding, replicated
from pit_jax.stages.actors import Actors, load_actors, score_of
from pit_jax.stages.context import Context
from pit_jax.stages.curriculum import Place, advance, providers_of
from pit_jax.stages.gap_gates import require_gates
from pit_jax.stages.guards import STEP, Alarm, Watch, unwatched
from pit_jax.stages.references import Supply, prompt_arrays
from pit_jax.stages.rollout import (
    Metrics,
    Rollout,
    make_ppo_loss,
    make_rollout,
    provider_metrics,
)
from pit_jax.stages.supervised import summary_line
from pit_jax.stages.workspace import judged_by
from pit_jax.training.checkpoint import Checkpoints
from pit_jax.training.loop import run as run_loop
from pit_jax.training.metrics import MetricsLog
from pit_jax.training.optimizer import make_actor_critic_optimizer
from pit_jax.training.state import TrainState, abstract_state, place_state
from pit_jax.training.step import compile_step, make_train_step

RATIO_TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}


def rounds_of(config: RlConfig, model: str) -> int:
    return config.policy_rounds if model == "policy" else sum(config.curriculum.rounds)


def start_extras(config: RlConfig, model: str, actors: Actors) -> dict[str, Any]:
    """What a state of this stage holds beside parameters and optimizer."""
    evaluations = rounds_of(config, model) // config.evaluate_every + 3  # the first, the last, an urgent one
    extras: dict[str, Any] = {
        "kl_coef": np.float32(config.kl_coef),
        "position": np.int32(0),
        "curriculum": Place().arrays(),
        "watched": unwatched(evaluations, guarded="guard" in actors.frozen),
    }
    moving = model == "improver" and config.curriculum.anchor == "previous"
    return extras | ({"anchor": {"policy": actors.policy.trained}} if moving else {})


def run(context: Context, model: str, progress: Progress) -> None:
    """Train (or resume) all rounds, then mark the stage finished with the selected checkpoint."""
    folder = context.folder("rl", model)
    notes = require_gates(context) if judged_by(context.config, model) == "improver" else {}
    folder.begin(context.config, data_fingerprint=context.data.fingerprint, notes=notes)
    keep, say = context.config.checkpoint.keep, context.console.print
    with Checkpoints(folder.path / "checkpoints", keep=keep, say=say) as checkpoints:
        actors = load_actors(context, model)
        alarms = train(context, model, actors, checkpoints, progress)
        checkpoints.wait()
        best = checkpoints.best_round()
        if best is None:
            raise ValueError(
                f"no checkpoint of {folder.name} kept its KL under --rl.select-kl={context.config.rl.select_kl} nats; "
                "raise --rl.kl-coef, lower the learning rate, or raise --rl.select-kl"
            )
        folder.finish(round=best, digest=checkpoints.digest(best), alarms=[asdict(alarm) for alarm in alarms])


def train(context: Context, model: str, actors: Actors, checkpoints: Checkpoints, progress: Progress) -> list[Alarm]:
    """From the newest checkpoint, or from the SFT model with the scorer as value model, to the last round or an alarm.

    Returns the alarms of the whole stage.
    """
    config, mesh, folder = context.config.rl, context.mesh, context.folder("rl", model)
    rounds = rounds_of(config, model)
    optimizer = make_actor_critic_optimizer(
        config.optimizer, rounds * config.epochs * config.minibatches, value_learning_rate=config.value_learning_rate
    )
    fresh, sharding = place_state(
        actors.trained,
        optimizer,
        param_sharding(actors.trained, mesh),
        replicated(mesh),
        seed=context.config.seed,
        extras=start_extras(config, model, actors),
    )
    checkpoints.check_space(fresh)
    restored = checkpoints.restore_latest(abstract_state(fresh))
    start, state = restored if restored is not None else (0, fresh)
    bars = Bars(progress, folder.name, rounds, start, config.epochs * config.minibatches)
    log = MetricsLog(folder.path, every=1, resume_round=start, on_row=bars.show)
    policy, scalar, slot = context.language_model, context.scalar_model, context.data.response_slot
    rollout = jax.jit(
        make_rollout(
            policy,
            scalar,
            config,
            slot=slot,
            eos_id=context.data.tokenizer.eos_id,
            pad_id=context.data.tokenizer.pad_id,
            score=score_of(config, model),
        )
    )
    step = compile_step(
        make_train_step(make_ppo_loss(policy, scalar, config, slot=slot), optimizer, accumulate=1),
        state_sharding=sharding,
        batch_sharding=batch_sharding(mesh),
        frozen=actors.under,
    )
    watch = Watch(config.guards, folder.name, context.console.print)
    trainer = Rounds(context, config, model, actors, rollout, bars, watch)
    heldout = Heldout(context, config, model, actors, rollout)

    def evaluate(state: TrainState, round: int) -> dict[str, float] | None:
        trainer.heldout_gap = None
        if round % config.evaluate_every and round != rounds and not watch.urgent:
            return None
        metrics = heldout.measure(state)
        trainer.heldout_gap = metrics["objective/scores"]
        log.eval(round, metrics)
        watch.look(state.extras["watched"], round, metrics)
        return metrics

    def save(state: TrainState, round: int, metrics: dict[str, float] | None) -> None:
        if metrics is not None:
            allowed = metrics["objective/kl"] <= config.select_kl and not watch.stops
            checkpoints.save(round, state, score=metrics["objective/scores"] if allowed else None)

    run_loop(
        state,
        step,
        trainer.supply,
        evaluate=evaluate,
        save=save,
        log=log.train,
        num_rounds=rounds,
        stop_round=trainer.stop,
        finish_round=trainer.finish,
        stop=lambda: watch.stops,
    )
    log.close()
    return watch.alarms


class Bars:
    """Nested progress: rounds of the stage, and inside a round the rollout and the updates."""

    def __init__(self, progress: Progress, name: str, rounds: int, start: int, updates: int):
        self._progress, self._name = progress, name
        self._round = progress.add_task(name, total=rounds, completed=start, note="")
        self._phase = progress.add_task("  rollout", total=updates, note="", visible=False)

    def rollout(self) -> None:
        self._progress.update(self._phase, description="  rollout", completed=0, visible=True)

    def update(self, done: int) -> None:
        self._progress.update(self._phase, description="  updates", completed=done)

    def show(self, row: dict[str, Any]) -> None:
        if row["phase"] == "train":
            note = f"score {row['objective/scores']:+.2f} kl {row['objective/kl']:.2f}"
            self._progress.update(self._round, completed=row["step"], note=note)
        self._progress.update(self._phase, visible=False)
        if row["phase"] == "eval":
            names = ("objective/scores", "guard/scores", "objective/kl", "truth/score", "val/eos_rate")
            shown = {name: row[name] for name in ("step", "phase", "time", *names) if name in row}
            self._progress.console.print(summary_line(self._name, shown), soft_wrap=True)


class Rounds:
    """One round of PPO: roll out with the state's parameters, then epochs x minibatches over the rollout."""

    def __init__(
        self,
        context: Context,
        config: RlConfig,
        model: str,
        actors: Actors,
        rollout: Rollout,
        bars: Bars,
        watch: Watch,
    ):
        self._context, self._config, self._model, self._bars, self._watch = context, config, model, bars, watch
        self._actors, self._rollout = actors, rollout
        self._supply = Supply(context, actors.samplers)
        self._key = context.key("rollout", model)
        self._providers = jax.jit(provider_metrics, static_argnames="names")
        self._place, self._anchor = Place(), actors.policy.trained
        self.heldout_gap: float | None = None  # of the evaluation before the coming round, if there was one
        sharding = batch_sharding(context.mesh)
        self._take = jax.jit(lambda rows, tree: jax.tree.map(lambda x: x[rows], tree), out_shardings=sharding)
        self._metrics: Metrics = {}
        self._done, self._moved = 0, Mean.of(jnp.zeros(1))

    def supply(self, state: TrainState) -> Iterator[Experience]:
        config, round = self._config, int(state.round)
        self._done = 0
        self._bars.rollout()
        prompts = self._supply.own(round) if self._model == "policy" else self._draw(state, round)
        experience, self._metrics = self._rollout(
            self._actors.whole(state.params),
            {**self._actors.frozen, "anchor": self._actors.policy.whole(self._anchor)},
            prompts,
            jax.random.fold_in(self._key, round),
            state.extras["kl_coef"],
        )
        if self._model == "improver":
            names = providers_of(config.curriculum.references[self._place.stage])
            self._metrics |= self._providers(experience.scores_B, names=names)
        size = config.batch_size // config.minibatches
        for epoch in range(config.epochs):
            order = np.random.default_rng((self._context.config.seed, round, epoch)).permutation(config.batch_size)
            for i in range(config.minibatches):
                rows = self._context.put_replicated(order[i * size : (i + 1) * size])
                yield self._take(rows, experience)

    def _draw(self, state: TrainState, round: int) -> RolloutPrompts:
        """Prompts of the curriculum stage that begins or goes on; a moving anchor follows when one begins."""
        before = Place.read(state.extras["curriculum"])
        self._place = advance(self._config.curriculum, before, round, self.heldout_gap)
        if "anchor" in state.extras:
            moved = self._place.stage > before.stage
            source = state.params["policy"] if moved else state.extras["anchor"]["policy"]
            self._anchor = jax.tree.map(jnp.copy, source)  # the step donates the state
        return self._supply.prompts(round, self._place.stage, self._actors.policy.whole(state.params["policy"]))

    def stop(self, metrics: Metrics) -> bool:
        """True once the round's approximate KL to the sampler is spent, or raises an alarm that ends the stage.

        Also proves ratio = 1 before any update.
        """
        self._done += 1
        self._bars.update(self._done)
        if self._done == 1:
            ratio = metrics["val/ratio"].value
            tolerance = RATIO_TOLERANCE[self._context.config.transformer.dtype]
            assert abs(ratio - 1.0) <= tolerance, (
                f"the first minibatch has ratio {ratio}, not 1: sampler and trainer disagree on log-probs"
            )
        moved = metrics[STEP]
        self._moved = moved if self._done == 1 else self._moved + moved
        spent = self._config.stop_kl > 0 and moved.value > self._config.stop_kl
        return spent or self._watch.ends_round(self._moved.value)

    def finish(self, state: TrainState, totals: Metrics) -> tuple[TrainState, Metrics]:
        """Move the KL coefficient, keep curriculum, prompts drawn and evaluations, and add the rollout's metrics."""
        config, extras = self._config, dict(state.extras)
        one = jnp.ones((), jnp.float32)
        own = {
            "kl_coef": Mean(state.extras["kl_coef"], one),
            "curriculum/stage": Mean(jnp.float32(self._place.stage), one),
        }
        if config.kl_target > 0:
            controller = AdaptiveKL(target=config.kl_target, horizon=config.kl_horizon)
            kl = self._metrics["objective/kl"].value
            updated = controller.update(state.extras["kl_coef"], jnp.float32(kl), config.batch_size)
            extras["kl_coef"] = updated
        shared = 1 if self._model == "policy" else len(providers_of(config.curriculum.references[self._place.stage]))
        extras["position"] = np.int32(int(extras["position"]) + config.batch_size // shared)
        success = float(self._metrics["objective/success"].value)
        extras["curriculum"] = dataclasses.replace(self._place, success=success).arrays()
        extras["watched"] = self._watch.stepped(totals)
        if "anchor" in extras:
            extras["anchor"] = {"policy": self._anchor}
        return dataclasses.replace(state, extras=extras), {**totals, **self._metrics, **own}


class Heldout:
    """The proxy on held-out prompts, always against answers of the policy, and the truth where one is known."""

    def __init__(self, context: Context, config: RlConfig, model: str, actors: Actors, rollout: Rollout):
        self._context, self._actors, self._rollout = context, actors, rollout
        self._key = context.key("heldout", model)
        supply = Supply(context, actors.samplers)
        arrays = {k: v[: config.heldout_prompts] for k, v in prompt_arrays(context, "heldout").items()}
        self._chunks: list[tuple[RolloutPrompts, int]] = []
        for i, (rows, real) in enumerate(sequential(arrays, config.batch_size)):
            batch = context.put_rows(PromptBatch, rows)
            key = jax.random.fold_in(context.key("heldout-references"), i)
            prompts = supply.programs["own"](batch) if model == "policy" else supply.heldout(batch, key)
            self._chunks.append((prompts, real))
        self._texts = [triple.prompt for triple in context.data.triples("heldout")[: config.heldout_prompts]]

    def measure(self, state: TrainState) -> dict[str, float]:
        totals: dict[str, Mean] = {}
        scores: list[float] = []
        for i, (prompts, real) in enumerate(self._chunks):
            experience, metrics = self._rollout(
                self._actors.whole(state.params),
                self._actors.frozen,
                prompts,
                jax.random.fold_in(self._key, i),
                state.extras["kl_coef"],
            )
            totals = metrics if not totals else {name: totals[name] + metrics[name] for name in metrics}
            if self._context.truth is not None:
                scores += self._true_scores(experience, len(scores), real, self._context.truth)
        values = {name: mean.value for name, mean in totals.items()}
        return values | ({"truth/score": float(np.mean(scores))} if scores else {})

    def _true_scores(
        self, experience: Experience, first: int, real: int, truth: Callable[[str, str], float]
    ) -> list[float]:
        slot = self._context.data.response_slot
        texts = self._context.texts(jax.device_get(experience.tokens_BL[:, -slot:])[:real])
        return [truth(prompt, text) for prompt, text in zip(self._texts[first : first + real], texts, strict=True)]
