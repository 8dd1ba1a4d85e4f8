"""--stage=plan: what stages need on a TPU that is not there, and the flags of the cheapest way that fits."""

from dataclasses import asdict, replace
from functools import partial

from pit_jax.config import Config
from pit_jax.errors import UserError
from pit_jax.files import write_json
from pit_jax.parallel.topologies import Topology, has_tpu_compiler, topology_of
from pit_jax.paths import to_path
from pit_jax.recipes.plan.search import Search
from pit_jax.recipes.plan.walk import machine_of, plan_of, stages_of, with_model
from pit_jax.report import plan as plan_page
from pit_jax.run.context import Context
from pit_jax.run.plan import Plan, cheapest_first
from pit_jax.run.stage import Recipe

NO_COMPILER = (
    "libtpu is not installed (the extra `tpu` brings it): arguments, residents and collectives are those of programs "
    "compiled for as many simulated CPU devices; temporaries, and so whether a program fits, are not known"
)
WIDEST = "Hours count every row at its widest width."
LEAST = "compiled with the least effort: a run's updates and scoring may take up to a third more memory"


def run(context: Context) -> None:
    """Write plan/plan.json and plan/index.html in the workdir, and say what they hold."""
    config, say = with_model(context.config), context.screen.say
    folder = to_path(config.workdir) / "plan"
    if not has_tpu_compiler():
        say(NO_COMPILER, style="yellow")
    elif config.plan.effort == "least":
        say(LEAST, style="yellow")
    machine = machine_of(topology(config), config.plan.effort)

    make = partial(plan_of, workdir=folder, data=context.run.data_folder, say=say)
    plan, plans = None, list[Plan]()
    if config.plan.search:
        quick = replace(machine, effort="least")
        search = Search(
            lambda config, flags: make(config, quick, flags=flags, to_the_end=False), config.plan.tries, say
        )
        search.run(config, machine.topology)
        plans = search.plans
        if not plans:
            raise UserError(f"--plan.search: no mesh takes the batches; the last said {search.refused[-1]}")
        found = (make(search.configs[place], machine, flags=plans[place].flags) for place in cheapest_first(plans))
        plan = next((plan for plan in found if plan.fits), None)
        if plan is None:
            none = f"none of {len(plans)} plans fits; raise --plan.tries, or name a larger --plan.topology"
            say(none, style="red")
            plan = make(search.configs[search.closest], machine, flags=plans[search.closest].flags)
    plan = plan or make(config, machine)
    write_json(folder / "plan.json", asdict(plan))
    say(plan_page.table(plan))
    for planned in plan.stages:
        say(f"{planned.id}: {plan_page.verdict(planned, plan)}")
    remark = WIDEST if config.data.buckets > 1 else ""
    if remark:
        say(remark)
    if plan.flags:
        say(f"flags: {' '.join(plan.flags)}")
    target, compiler = folder / "index.html", has_tpu_compiler()
    page = plan_page.build(plan, plans, target, compiler=compiler, note=NO_COMPILER, remark=remark)
    say(f"plan: {page}")


def topology(config: Config) -> Topology:
    """The machine that is planned for."""
    return topology_of(config.plan.topology, config.mesh.slices)


def check(config: Config, role: str) -> None:
    """UserError for a machine or a stage that cannot be."""
    topology(config)
    stages_of(config)
    if config.seeds:
        raise UserError("--stage=plan with --seeds: a plan does not depend on a seed; leave it out")


RECIPE = Recipe(run=run, check=check)
