"""RL: the policy on its reward model; the improver on the gap under the curriculum of references (PIT Eqs. 3-5)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from pit_jax.batch import Experience
from pit_jax.config import Config, RlConfig
from pit_jax.data.sources import known_truth
from pit_jax.errors import UserError
from pit_jax.inference.engine import Engine
from pit_jax.inference.sampling import Sampling
from pit_jax.parallel.hosts import whole
from pit_jax.parallel.sharding import batch_sharding, replicated
from pit_jax.recipes.gap import require_gates
from pit_jax.recipes.rl_shapes import batches, programs
from pit_jax.recipes.word_model import word_model_of
from pit_jax.rl.algorithms import ALGORITHMS, algorithm_of, check_algorithm, samples_of
from pit_jax.rl.curriculum import Place, advance, check_curriculum, every_provider, is_settled
from pit_jax.rl.heldout import HeldoutChunk, heldout_chunks, measure
from pit_jax.rl.loads import loads, residents, round_flops
from pit_jax.rl.monitors import STEP, Monitor, Watch, check_monitors, unwatched
from pit_jax.rl.offload import Offload
from pit_jax.rl.references import REFERENCES
from pit_jax.rl.rewards import TEXT_REWARDS, TextScorer, reward_of, scorer_of, text_rewards_of, word_reward
from pit_jax.rl.roles import Roles, curriculum_of, load_roles, parents_of, rounds_of
from pit_jax.rl.rollout import make_loss, make_score
from pit_jax.rl.screen import RlScreen
from pit_jax.rl.supply import Supply
from pit_jax.rl.trainer import Trainer, token_counts
from pit_jax.run.code import package_code
from pit_jax.run.context import Context
from pit_jax.run.params import Models
from pit_jax.run.programs import Shapes
from pit_jax.run.stage import Recipe
from pit_jax.training.optimizer import make_rl_optimizer
from pit_jax.training.session import Session
from pit_jax.training.sharing import SharedJit
from pit_jax.training.state import plan_state
from pit_jax.training.step import Step, compile_step, make_train_step
from pit_jax.training.trace import asked_rounds

RATIO_TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}  # of the first minibatch's mean ratio, which is 1 in theory


def run(context: Context) -> None:
    """Train (or resume) all rounds, then mark the stage finished with the selected checkpoint."""
    config, role = context.config, context.stage.role
    notes = require_gates(context) if scorer_of(config, role).role == "improver" else {}
    fingerprint = context.data.fingerprint
    context.folder.begin(config, data_fingerprint=fingerprint, package=package_code(), notes=notes)
    best, over, ended = train(context, load_roles(Models(context), config, role))
    if best is None:
        raise UserError(
            f"no checkpoint of {context.folder.name} kept its KL under --rl.select-kl={config.rl.select_kl} nats; "
            "raise --rl.kl-coef, lower the learning rate, or raise --rl.select-kl"
        )
    if ended:
        context.screen.say(f"{context.folder.name} ends here: {ended}")
    monitors = [asdict(monitor) for monitor in over]
    context.folder.finish(round=best[0], digest=best[1], monitors=monitors, ended=ended)


def train(context: Context, roles: Roles) -> tuple[tuple[int, str] | None, list[Monitor], str]:
    """From the newest checkpoint, or from the SFT model (and the scorer as value model), to the last round or monitor.

    Returns (round, digest) of the selected checkpoint, the monitors over their limit, and why it ended before its last
    round where no monitor did.
    """
    config, role, mesh = context.config.rl, context.stage.role, context.mesh
    rounds, offload, ended = rounds_of(config, role), Offload.of(config.offload, mesh), ""
    phases = curriculum_of(config, role)
    read, truth = context.data.texts, known_truth(context.config.data)
    optimizer = make_rl_optimizer(config, rounds, critic=roles.value is not None)
    extras = begin_extras(config, role, roles, rounds)
    plan = plan_state(roles.trainable, optimizer, replicated(mesh), seed=context.config.seed, extras=extras)
    algorithm, slot = algorithm_of(config, role), context.decode_spec.response_slot
    loss = make_loss(context.language_model, context.scalar_model, config, algorithm, slot=slot)
    step = compile_step(
        make_train_step(
            loss,
            optimizer,
            accumulate=config.accumulate,
            params_dtype=context.config.transformer.params_dtype,
        ),
        state_sharding=plan.sharding,
        batch_sharding=batch_sharding(mesh),
        frozen=roles.under,
    )
    screen = RlScreen(context.screen, context.folder.name, rounds, config.epochs * config.minibatches)
    watch = Watch(config.monitors, context.folder.name, context.screen.warn)
    session = Session(
        context.folder.path,
        plan.abstract,
        lambda: plan.begin(roles.trainable, extras),
        rounds=rounds,
        keep=context.config.checkpoint.keep,
        log_every=1,
        show=screen.show,
        say=context.screen.say,
        profile=asked_rounds(context.config.profile),
    )
    roles, performance = roles.begun(), session.performance
    del extras  # of which a moving anchor is in the state
    trainer, cost = make_trainer(context, roles), make_cost(context)
    with session:
        screen.begin(session.start)
        watch.resume(session.state.extras["watched"])
        with offload.during_rollout(session):
            chunks, key = list(heldout_prompts(context, trainer)), context.key("heldout", role)
        for done in session.rounds():
            gap, weights = None, trainer.to_decode(session.state)
            if done % config.evaluate_every == 0 or done == rounds or watch.urgent:
                with offload.during_rollout(session):
                    # Without a name, which would hold the weights, and the optimizer's state, to the next evaluation.
                    figures = measure(
                        chunks, partial(trainer.rollout, session.state, weights), key, read=read, truth=truth
                    )
                gap = figures["objective/scores"]
                watch.look(session.state.extras["watched"], done, figures)
                allowed = figures["objective/kl"] <= config.select_kl and not watch.stops
                session.evaluated(done, figures, score=gap if allowed else None)
            progress = advance(phases, Place.read(session.state.extras["curriculum"]), done, gap)
            if done == rounds or watch.stops:
                break
            if is_settled(phases, progress, config.patience):
                ended = f"no better held-out score in {config.patience} evaluations, after {done} of {rounds} rounds"
                break
            session.heed_notice(done)
            screen.rollout()
            anchor = trainer.anchor(session.state, progress)
            with offload.during_rollout(session):
                experience, metrics = trainer.round(session.state, weights, done, progress, anchor, performance.clock)
            del weights  # before the updates, which need the memory
            tokens = token_counts(experience)
            with offload.during_updates(roles):
                updates = learn(session, step, trainer, experience, done, watch, screen)
            performance.ran(*cost(whole(tokens), experience.tokens_BL.size, progress.phase, updates))
            extras, extra_metrics = trainer.next_extras(session.state, progress, anchor, metrics)
            extras["watched"] = watch.stepped(session.totals)
            session.end_round(done, metrics=metrics | extra_metrics, extras=extras)
        return session.best(), watch.over, ended


def learn(
    session: Session,
    step: Step,
    trainer: Trainer,
    experience: Experience,
    round: int,
    watch: Watch,
    screen: RlScreen,
) -> int:
    """epochs x minibatches of updates, fewer once the round's approximate KL to the sampler is spent; how many.

    The first minibatch proves, before any update, that sampler and trainer agree: ratio = 1.
    """
    number = 0
    for number, batch in enumerate(trainer.minibatches(experience, round), 1):
        metrics = session.update(step, batch)
        screen.update(number)
        if number == 1:
            # The update is queued behind the scoring, and the next line waits for it.
            session.performance.clock.lap("score", experience.scores_B)
            ratio, tolerance = metrics["val/ratio"].value, RATIO_TOLERANCE[trainer.dtype]
            assert abs(ratio - 1.0) <= tolerance, (
                f"the first minibatch has ratio {ratio}, not 1: sampler and trainer disagree on log-probs"
            )
        spent = trainer.config.stop_kl > 0 and metrics[STEP].value > trainer.config.stop_kl
        if spent or watch.ends_round(session.totals[STEP]):
            break
    return number


def make_cost(context: Context) -> Callable[[Sequence[Any], int, int, int], tuple[float, float, dict[str, float]]]:
    """cost(counts, slots, phase, updates) -> a round as Performance.ran counts it: tokens, tokens drawn, operations.

    `counts` are token_counts of the round's experience, whose rows have that many slots together.
    """
    config, role = context.config, context.stage.role
    programs = loads(Shapes(config, context.data.layout, context.vocab_size), role)

    def cost(counts: Sequence[Any], slots: int, phase: int, updates: int) -> tuple[float, float, dict[str, float]]:
        tokens, drawn = map(int, counts)
        flops = round_flops(programs, config, role, phase=phase, updates=updates, share=tokens / slots)
        return tokens, drawn, flops

    return cost


def begin_extras(config: RlConfig, role: str, roles: Roles, rounds: int) -> dict[str, Any]:
    """What a state of this stage holds beside parameters and optimizer."""
    evaluations = rounds // config.evaluate_every + 3  # the first, the last, an urgent one
    extras: dict[str, Any] = {
        "kl_coef": np.float32(config.kl_coef),
        "curriculum": Place().arrays(),
        "watched": unwatched(evaluations, second_gap="second-gap" in roles.frozen),
    }
    moving = role == "improver" and config.curriculum.anchor == "previous"
    return extras | ({"anchor": {"policy": roles.policy.trainable}} if moving else {})


def make_trainer(context: Context, roles: Roles) -> Trainer:
    config, role, data = context.config.rl, context.stage.role, context.data
    engine = Engine(context.language_model, context.decode_spec, context.mesh, context.config.mesh.decode)
    algorithm, samples = algorithm_of(config, role), samples_of(config, role)
    model = word_model_of(context)
    words = [] if model is None else [word_reward(model, role, context.config.rm.word_model)]
    score = make_score(
        context.language_model,
        context.scalar_model,
        config,
        algorithm,
        samples=samples,
        reward=reward_of(config, role, context.decode_spec),
    )
    supply = Supply(
        engine=engine,
        sampling=Sampling(config.temperature),
        rows=data.rows("rl", "prompts"),
        mesh=context.mesh,
        seed=context.config.seed,
        batch_size=config.batch_size,
        samples=samples,
        samplers=roles.samplers,
        key=context.key("references"),
    )
    return Trainer(
        config=config,
        role=role,
        dtype=context.config.transformer.dtype,
        seed=context.config.seed,
        mesh=context.mesh,
        engine=engine,
        score=SharedJit(score),
        roles=roles,
        supply=supply,
        triples=data.triples("rl"),
        texts=TextScorer([*text_rewards_of(config, role), *words], data.texts),
        key=context.key("rollout", role),
    )


def heldout_prompts(context: Context, trainer: Trainer) -> Iterator[HeldoutChunk]:
    """The held-out prompts of every evaluation with their references, drawn once."""
    count, data = context.config.rl.heldout_prompts, context.data
    rows = data.rows("heldout", "prompts").first(count)
    triples, key = data.triples("heldout")[:count], context.key("heldout-references")
    return heldout_chunks(trainer.supply, rows, triples, context.mesh, role=trainer.role, key=key)


def check(config: Config, role: str) -> None:
    """UserError for knobs that no rollout can follow."""
    rl = config.rl
    check_algorithm(rl, role)
    check_pieces(rl, role)
    text_rewards_of(rl, role)
    check_monitors(config)
    if role == "improver":
        check_curriculum(rl.curriculum, rl.batch_size // samples_of(rl, role))


def check_pieces(config: RlConfig, role: str) -> None:
    """UserError for pieces that rollouts do not divide into, and for parts of a loss that cannot be summed."""
    if config.score_rows and config.batch_size % config.score_rows:
        raise UserError(
            f"--rl.score-rows={config.score_rows}: 0, or a divisor of --rl.batch-size={config.batch_size}; rollouts "
            "are scored in pieces of one size"
        )
    parts = config.minibatches * config.accumulate
    if config.batch_size % parts:
        raise UserError(
            f"--rl.accumulate={config.accumulate}: --rl.batch-size={config.batch_size} does not divide into "
            f"minibatches x accumulate = {parts} parts; change one of them"
        )
    if config.accumulate > 1 and algorithm_of(config, role).critic and config.loss_mean not in ("algorithm", "tokens"):
        raise UserError(
            f"--rl.accumulate={config.accumulate} with --rl.loss-mean={config.loss_mean}: a critic's loss is a mean "
            "over tokens, and the parts of the two cannot be weighted alike; use --rl.loss-mean=tokens"
        )


def contents(config: Config, role: str) -> Mapping[str, str]:
    """The code of forks' algorithms, rewards and references that this RL uses."""
    rl = config.rl
    code = ALGORITHMS.code(algorithm_of(rl, role).name)
    code |= TEXT_REWARDS.code(*(reward.name for reward in text_rewards_of(rl, role)))
    return code | (REFERENCES.code(*every_provider(rl.curriculum)) if role == "improver" else {})


RECIPE = Recipe(
    run=run,
    check=check,
    parents=parents_of,
    contents=contents,
    batches=batches,
    programs=programs,
    loads=loads,
    residents=residents,
)
