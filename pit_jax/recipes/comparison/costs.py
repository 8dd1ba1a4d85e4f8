"""What the trainings of a run, and one answer of each system, cost."""

from collections.abc import Mapping
from dataclasses import asdict

from pit_jax.data.features import Layout
from pit_jax.evaluation.results import CostRow, Costs
from pit_jax.evaluation.systems import Output, SystemId
from pit_jax.model.flops import Draws, Work, answer_cost
from pit_jax.recipes.comparison.ablations import ablations_of, branched
from pit_jax.run.context import Context
from pit_jax.run.programs import Shapes
from pit_jax.run.stage import Stage


def shapes_of(context: Context) -> Shapes:
    """The shapes of a run's programs, for costs alone."""
    report = context.data.report
    pairs = report["folds"]["rm"]["examples"]
    return Shapes(context.config, Layout(**report["layout"]), context.vocab_size, pairs=pairs)


def costs(context: Context, outputs: Mapping[SystemId, Output]) -> Costs:
    """Of the trainings in the catalogue that this run has finished, of the ablations', and of one answer."""
    training = {str(stage.id): cost for stage, cost in trainings(context)}
    for ablation in ablations_of(context.config):
        ablated = {stage.id: cost for stage, cost in trainings(branched(context, ablation))}
        training |= {f"{ablation.name}: {id}": ablated[id] for id in ablation.stages}
    answers = {str(system): answer_work(context, system, output) for system, output in outputs.items()}
    replied = {str(system) for system, output in outputs.items() if output.replies}
    return Costs(
        training=[CostRow(name, **asdict(work)) for name, work in training.items()],
        answers=[CostRow(name, **asdict(work)) for name, work in answers.items() if name in replied],
    )


def trainings(context: Context) -> list[tuple[Stage, Work]]:
    """The stages that train, with what each costs in this run; those that it has not finished are left out."""
    shapes, finished = shapes_of(context), []
    for stage in context.run.catalogue.values():
        if isinstance(stage, Stage) and stage.cost and context.folder_of(stage.id).done():
            finished.append((stage, stage.cost(shapes)))
    return finished


def answer_work(context: Context, system: SystemId, output: Output) -> Work:
    """What one answer of a system takes, its drafts included."""
    shapes = shapes_of(context)
    passes, prompt, slot = shapes.passes, shapes.layout.prompt_slot, shapes.layout.response_slot
    tokens = float(output.drawn_N.mean())
    if not output.replies:
        return Work()
    if output.reference is None:
        scored = output.replies * passes.score(prompt + slot) if output.replies > 1 else Work()
        return answer_cost(passes, [Draws(output.replies, tokens, prompt)], slot=slot, scored=scored)
    original = output.reference
    while original.reference is not None:
        original = original.reference
    first = float(original.drawn_N.mean())
    later = (context.config.paper.refine_length or prompt) if system.prompted else shapes.improver_slot
    draws = [Draws(1, first, prompt), Draws(output.replies - 1, tokens - first, later)]
    return answer_cost(passes, [draw for draw in draws if draw.replies > 0], slot=slot)
