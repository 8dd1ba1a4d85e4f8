"""What a round of RL costs, program by program, and what lies in memory meanwhile, from shapes alone."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from pit_jax.config import Config, RlConfig
from pit_jax.inference.engine import Engine
from pit_jax.model.flops import Work
from pit_jax.parallel.sharding import abstract
from pit_jax.rl.algorithms import algorithm_of, samples_of
from pit_jax.rl.curriculum import every_provider, providers_of
from pit_jax.rl.references import POLICY_RL, REFERENCES, models_needed
from pit_jax.rl.roles import abstract_roles, rounds_of
from pit_jax.run.frozen import trained_share
from pit_jax.run.loads import Load, Loads
from pit_jax.run.programs import Shapes
from pit_jax.run.provenance import StageId
from pit_jax.training.optimizer import make_rl_optimizer

SAMPLER, DECODE = "sampler", "decode"


def loads(shapes: Shapes, role: str) -> Loads:
    """rounds * [references + draw + score + epochs * minibatches * update], and evaluations on held-out prompts.

    All T slots are decoded: a batch goes on until its longest answer has ended. The anchor reads all rows, and so do
    the scorer, twice unless the gap is plain, twice without the reference for a difference of scores; a second gap
    model as often as it; and a critic. A reference is drawn once for all responses to it. A round that stops on
    rl.stop_kl and a run that a monitor ends cost less than is counted here; a phase that is over early leaves its
    rounds to the last, whose references may cost more.
    """
    config, passes, layout = shapes.config.rl, shapes.passes, shapes.layout
    rows, slot = config.batch_size, layout.response_slot
    prompt = layout.prompt_slot if role == "policy" else shapes.improver_slot
    critic, rounds = algorithm_of(config, role).critic, rounds_of(config, role)
    chunks = math.ceil(config.heldout_prompts / rows)
    checks = chunks * (rounds // config.evaluate_every + 1 + (rounds % config.evaluate_every > 0))
    anchor, value = passes.read(prompt + slot, logits=slot), float(critic) * passes.score(prompt + slot)
    learned = (rows // config.minibatches) * (anchor + value).trained()
    found = {
        "to_decode": Load(rounds, Work(), 1, holds=("policy",)),
        "draw": Load(
            rounds,
            rows * passes.draw(prompt, slot, slot),
            checks,
            decoded=slot,
            rows=rows,
            cached=prompt + slot,
            holds=(DECODE,),
        ),
        "score": Load(
            rounds,
            rows * (anchor + value + _scored(shapes, role)),
            checks,
            holds=("value", "anchor", "scorer", "second-gap"),  # the policy's log-probabilities come with its draw
        ),
        "update": Load(rounds * config.epochs * config.minibatches, learned, holds=("policy", "value", "optimizer")),
    }
    found |= dict(_references(shapes, rounds, chunks)) if role == "improver" else {}
    return {name: replace(load, away=_away(config, name)) for name, load in found.items()}


def round_flops(loads: Loads, config: Config, role: str, *, phase: int, updates: int, share: float) -> dict[str, float]:
    """Operations of a round in a phase of the curriculum, by phase of the round, if `share` of its slots are real.

    The rows that references are drawn in are taken to be as full as those of the round itself.
    """
    rollout = loads["draw"].work
    if role == "improver":
        names = providers_of(config.rl.curriculum.references[phase])
        part = config.rl.batch_size // samples_of(config.rl, role) // len(names)
        for rewrite in (rewrite for name in names for rewrite in REFERENCES[name].drawn):
            rollout += loads[_reference(part, rewrite)].work
    update = trained_share(config, str(StageId("rl", role))) * updates * loads["update"].work
    work = {"rollout": rollout, "score": loads["score"].work, "update": update}
    return {name: share * done.flops for name, done in work.items()}


def _reference(rows: int, rewrite: bool) -> str:
    """The name of the program that draws references of so many rows, from prompts or by rewriting an answer."""
    return f"references of {rows}{', rewritten' if rewrite else ''}"


def _away(config: RlConfig, program: str) -> tuple[str, ...]:
    """The residents that are freed, or that rl.offload has on the host, while a program runs (rl/offload.py)."""
    if program == "to_decode":
        return (DECODE,)
    if program != "update":
        return ("optimizer",) if config.offload in ("optimizer", "both") else ()
    frozen = "anchor", "scorer", "second-gap", *_samplers(config)
    return (DECODE, *(frozen if config.offload in ("frozen", "both") else ()))


def _samplers(config: RlConfig) -> dict[str, StageId]:
    """The models that references are drawn from, by the names of residents; the first draws held-out ones too."""
    others = dict.fromkeys((POLICY_RL, *models_needed(every_provider(config.curriculum))))
    return {SAMPLER if id == POLICY_RL else f"{SAMPLER} {id}": id for id in others}


def _scored(shapes: Shapes, role: str) -> Work:
    """One response, read by the reward model, or the gap models."""
    config, passes, layout = shapes.config.rl, shapes.passes, shapes.layout
    plain = passes.score(layout.prompt_slot + layout.response_slot)
    if role == "policy":
        return plain
    gap = (1 if config.gap == "plain" else 2) * passes.score(shapes.improver_slot + layout.response_slot)
    both = 1 + (shapes.config.rm.second_gap_steps > 0)
    return both * (2 * plain if config.reward == "difference" else gap)


def _references(shapes: Shapes, rounds: int, chunks: int) -> Iterator[tuple[str, Load]]:
    """Of the programs that draw references and put them into prompts, in the names of recipes/rl_shapes.py."""
    config, slot = shapes.config.rl, shapes.layout.response_slot
    drawn: dict[tuple[int, bool], float] = {(config.batch_size, False): 0.0}
    prompts: dict[int, float] = {config.batch_size: 0.0}
    groups = config.batch_size // samples_of(config, "improver")
    for names, count in _phases(config):
        part = groups // len(names)
        prompts[groups] = prompts.get(groups, 0.0) + count
        for rewrite in (rewrite for name in names for rewrite in REFERENCES[name].drawn):
            drawn[part, rewrite] = drawn.get((part, rewrite), 0.0) + count
            if rewrite:
                prompts[part] = prompts.get(part, 0.0) + count
    for rows, calls in prompts.items():
        yield f"improver prompts of {rows}", Load(calls, Work(), chunks * (rows == config.batch_size))
    for (rows, rewrite), calls in drawn.items():
        prompt = shapes.improver_slot if rewrite else shapes.layout.prompt_slot
        checks = chunks * (rows == config.batch_size and not rewrite)  # held-out references are drawn once
        yield (
            _reference(rows, rewrite),
            Load(
                calls,
                rows * shapes.passes.draw(prompt, slot, slot),
                checks,
                decoded=slot,
                rows=rows,
                cached=prompt + slot,
                holds=(DECODE,) if rewrite else (),  # a sampler's own weights for decoding are no resident
            ),
        )


def _phases(config: RlConfig) -> Iterator[tuple[tuple[str, ...], int]]:
    for references, rounds in zip(config.curriculum.references, config.curriculum.rounds, strict=True):
        yield providers_of(references), rounds


def residents(shapes: Shapes, role: str) -> Mapping[str, Any]:
    """The models of rl/roles.py and the optimizer of those that learn, as shapes; what they share is one object."""
    config, roles = shapes.config.rl, abstract_roles(shapes, role)
    optimizer = make_rl_optimizer(config, 1, critic=roles.value is not None)
    engine = Engine(shapes.language_model, shapes.decode_spec, shapes.mesh, shapes.config.mesh.decode)
    found: dict[str, Any] = {
        **roles.whole(roles.trainable),
        **roles.frozen,
        "optimizer": shapes.state(roles.trainable, optimizer).opt_state,
        DECODE: engine.weights,
    }
    if role == "policy":
        return found
    if config.curriculum.anchor == "previous":
        found["moving"] = abstract(roles.policy.trainable)
    return found | {name: shapes.frozen(shapes.language_model, str(id)) for name, id in _samplers(config).items()}
