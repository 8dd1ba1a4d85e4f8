"""Every program of every stage lowers for a TPU, from shapes alone: nothing that only a CPU can do creeps in."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from pit_jax.batch import PromptBatch
from pit_jax.config import Config
from pit_jax.data.features import Layout
from pit_jax.inference.engine import Engine
from pit_jax.inference.sampling import Sampling
from pit_jax.inference.texts import TextEngine
from pit_jax.recipes.catalogue import RL_IMPROVER, RL_POLICY, STAGES, catalogue
from pit_jax.run.programs import Program, Shapes
from pit_jax.run.provenance import StageId
from tests.world import StandInTemplate, World

TRAINED = [id for id, stage in catalogue().items() if stage.leaves]
POD: dict[str, Any] = {"dtype": "bfloat16", "remat": "full", "frozen_dtype": "bfloat16"}
ALGORITHMS = ("ppo", "grpo", "rloo", "dr_grpo")
places = pytest.mark.parametrize(
    ("mesh", "pod"), [((1, 1, 1), False), ((2, 2, 2), True)], ids=["a laptop, float32", "eight devices, bfloat16"]
)

MakeShapes = Callable[..., Shapes]


@pytest.fixture(scope="module")
def layout(world: World) -> Layout:
    return world.layout(world.examples(8))


@pytest.fixture(scope="module")
def shapes_on(world: World, layout: Layout, make_mesh: Any) -> MakeShapes:
    """shapes_on(mesh, pod, config): float32 as on the laptop; on a pod, bfloat16 with remat."""

    def make(mesh: tuple[int, int, int], *, pod: bool, config: Config | None = None, **more: Any) -> Shapes:
        transformer = replace(world.config, **{**(POD if pod else {}), **more})
        return Shapes(replace(config or Config(), transformer=transformer), layout, world.vocab, make_mesh(*mesh))

    return make


def check(shapes: Shapes, program: Program) -> str:
    """Lower the program; its text, which carries its mesh."""
    text: str = program.lower(shapes.mesh).as_text()
    assert text.startswith("module @jit_"), program.name
    if shapes.mesh.size > 1:
        assert '"fsdp"=2' in text and '"tensor"=2' in text, program.name
    return text


@places
@pytest.mark.parametrize("id", TRAINED, ids=str)
def test_every_program_of_a_stage(shapes_on: MakeShapes, id: StageId, mesh: tuple[int, int, int], pod: bool) -> None:
    shapes = shapes_on(mesh, pod=pod)
    texts = {program.name: check(shapes, program) for program in STAGES[str(id)].programs(shapes)}
    assert ("bf16" in texts["update"]) == pod


@places
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_programs_of_every_algorithm(
    shapes_on: MakeShapes, algorithm: str, mesh: tuple[int, int, int], pod: bool
) -> None:
    """Beside a second gap model, whose lower score counts; what is drawn is drawn as for any other."""
    base = Config()
    monitors = replace(base.rl.monitors, worst_case=True)
    rl = replace(base.rl, improver_algorithm=algorithm, monitors=monitors)
    shapes = shapes_on(mesh, pod=pod, config=replace(base, rl=rl, rm=replace(base.rm, second_gap_steps=5)))
    programs = {program.name: program for program in STAGES[str(RL_IMPROVER)].programs(shapes)}
    for name in ("score", "update"):
        check(shapes, programs[name])


@pytest.mark.parametrize("remat", ["none", "dots", "offload"])
def test_what_is_computed_again(shapes_on: MakeShapes, remat: str) -> None:
    """A product that waits on the host is moved there and back; otherwise nothing is."""
    shapes = shapes_on((2, 2, 2), pod=True, remat=remat)
    (update,) = STAGES["sft-policy"].programs(shapes)
    assert ("annotate_device_placement" in check(shapes, update)) == (remat == "offload")


def test_updates_in_parts(shapes_on: MakeShapes) -> None:
    base = Config()
    config = replace(base, sft=replace(base.sft, accumulate=2))
    shapes = shapes_on((2, 2, 2), pod=False, config=config)
    (program,) = STAGES["sft-improver"].programs(shapes)
    assert "while" in check(shapes, program), "a loop over the parts"


@pytest.mark.parametrize("reward", [{"reward": "difference"}, {"gap": "plain"}, {"gap": "both-orders"}])
def test_the_other_rewards(shapes_on: MakeShapes, reward: dict[str, Any]) -> None:
    base = Config()
    shapes = shapes_on((2, 2, 2), pod=True, config=replace(base, rl=replace(base.rl, **reward)))
    programs = {program.name: program for program in STAGES[str(RL_IMPROVER)].programs(shapes)}
    check(shapes, programs["score"])


def test_the_programs_of_the_references_are_those_of_the_curriculum(shapes_on: MakeShapes) -> None:
    """128 rollouts: 64 prompts twice, or 128 once; a rewrite is a draw behind the improver's prompt."""

    def names(*references: str, **rl: Any) -> list[str]:
        base = Config()
        curriculum = replace(base.rl.curriculum, references=references, rounds=(1,) * len(references))
        config = replace(base, rl=replace(base.rl, curriculum=curriculum, **rl))
        found = STAGES[str(RL_IMPROVER)].programs(shapes_on((1, 1, 1), pod=False, config=config))
        return [program.name for program in found if program.name not in ("to_decode", "draw", "score", "update")]

    assert names("rejected+chosen") == names("policy-rl") == ["improver prompts of 128", "references of 128"]
    assert names("rejected", "chosen+policy-sft") == [
        "improver prompts of 128",
        "references of 64",
        "references of 128",
    ]
    assert names("chosen+improver") == [
        "improver prompts of 64",
        "improver prompts of 128",
        "references of 64",
        "references of 64, rewritten",
        "references of 128",
    ]
    assert names("policy-rl", improver_samples=4) == [
        "draw, held-out",
        "improver prompts of 32",
        "improver prompts of 128",
        "references of 32",
        "references of 128",
    ]


def test_without_a_critic_no_program_takes_a_value_model(shapes_on: MakeShapes) -> None:
    def sizes(algorithm: str) -> dict[str, int]:
        config = replace(Config(), rl=replace(Config().rl, policy_algorithm=algorithm))
        programs = STAGES[str(RL_POLICY)].programs(shapes_on((1, 1, 1), pod=False, config=config))
        return {
            program.name: sum(leaf.size for leaf in jax.tree.leaves(program.args) if hasattr(leaf, "size"))
            for program in programs
        }

    ppo = sizes("ppo")
    for algorithm in ALGORITHMS[1:]:
        found = sizes(algorithm)
        assert found["update"] < 0.6 * ppo["update"] and found["score"] < ppo["score"]
        assert found["draw"] < ppo["draw"] == found["draw, held-out"], "a prompt once for all of its samples"


@pytest.mark.parametrize("truncation", [{}, {"top_k": 5, "top_p": 0.9}], ids=["whole", "truncated"])
def test_what_answers_and_scores_texts(world: World, shapes_on: MakeShapes, truncation: dict[str, Any]) -> None:
    """The programs behind improve, evaluate and paper, which share one engine over texts."""
    shapes, rows = shapes_on((2, 2, 2), pod=True), 8
    template: Any = StandInTemplate(world)
    engine = replace(world, config=shapes.config.transformer).engine
    texts = TextEngine(engine, shapes.scalar_model, template, shapes.mesh, prompt_length=8, batch_size=rows)
    prompts: PromptBatch = shapes.batch("prompts", rows)
    answers, sampling = shapes.responses(rows), Sampling(shapes.scalar(), **truncation)
    policy, scalar = shapes.params(shapes.language_model), shapes.params(shapes.scalar_model)
    longer = shapes.rollout_prompts(rows, shapes.improver_slot)
    drawing = policy, prompts.prompt_BP, prompts.prompt_mask_BP, shapes.key(), sampling, 0
    rewriting = policy, longer.prompt_BP, longer.prompt_mask_BP, shapes.key(), sampling, 0
    turns = Engine(shapes.language_model, replace(shapes.decode_spec, rows=rows))
    for program in (
        Program("answer", texts.engine.complete, drawing),
        Program("two samples in turns", turns.completing(2), drawing),
        Program("rewrite", texts.engine.complete, rewriting),
        Program("improver prompts", texts.engine.improver_prompt, (prompts, answers)),
        Program("gaps", texts._gap, (scalar, prompts, answers, answers)),
        Program("scores", texts._score, (scalar, prompts, answers)),
    ):
        check(shapes, program)


def test_a_program_that_needs_the_cpu_is_refused(shapes_on: MakeShapes) -> None:
    """What lowering is there to notice: here, a call back to the host that the program is built on."""

    @jax.jit
    def chatty(x: jax.Array) -> jax.Array:
        jax.debug.callback(lambda value: None, x)
        return x

    shapes = shapes_on((2, 2, 2), pod=False)
    with pytest.raises(ValueError, match="different from the lowering platform tpu"):
        check(shapes, Program("chatty", chatty, (shapes.array((8,), jnp.float32),)))
