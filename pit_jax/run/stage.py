"""A stage is a value: what it is made from, how it runs, what it compiles and what a person sees of it.

Nothing heavy is imported here: --help lists the stages before jax is needed.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pit_jax.config import Config
from pit_jax.run.provenance import Provenance, StageId

if TYPE_CHECKING:
    from pit_jax.model.flops import Work
    from pit_jax.run.context import Context
    from pit_jax.run.loads import Loads
    from pit_jax.run.programs import Program, Shapes

Batch = tuple[str, int, int]
"""(flag, rows, parts that they are cut into): the mesh must divide every part."""


def always(config: Config) -> bool:
    """Of what does not depend on the config."""
    return True


def never(config: Config) -> bool:
    """Of what does not depend on the config."""
    return False


def nothing_to_check(config: Config) -> None:
    """Of a stage whose knobs cannot be wrong."""


def no_batches(config: Config) -> Iterable[Batch]:
    """Of a stage that puts no batch on the mesh."""
    return ()


def no_branches(config: Config) -> Iterable[tuple[Config, StageId]]:
    """Of a stage that needs no other run."""
    return ()


def no_programs(shapes: "Shapes") -> Iterable["Program"]:
    """Of a stage that compiles nothing of its own."""
    return ()


def no_loads(shapes: "Shapes") -> "Loads":
    """Of a stage that does not say how it uses its programs."""
    return {}


def no_residents(shapes: "Shapes") -> Mapping[str, Any]:
    """Of a stage whose programs are given all that lies in memory."""
    return {}


@dataclass(frozen=True, kw_only=True)
class Stage(Provenance):
    """One entry of the catalogue (recipes/catalogue.py), or a fork's."""

    run: "Callable[[Context], None]"
    """Do it: begin the folder, compute, finish. Is not called where the folder is finished."""
    help: str
    """One line of --help."""
    in_all: Callable[[Config], bool] = always
    """Whether --stage=all runs it."""
    check: Callable[[Config], None] = nothing_to_check
    """UserError for knobs that cannot be right, before data are read or anything compiles."""
    batches: Callable[[Config], Iterable[Batch]] = no_batches
    needs_devices: bool = True
    derived: bool = False
    """Made from what lies on disk: made again, and not refused, where its knobs or its inputs have changed."""
    needs_data: bool = True
    """False for a stage that reads no pairs: none are prepared for it."""
    always_runs: bool = False
    """Looks itself what is missing, and has no folder that could be finished."""
    alone: bool = True
    """Whether it needs its workdir for itself (parallel/lock.py): others must not write there meanwhile."""
    show: "Callable[[Context], None]" = lambda context: None
    """What a command ends with whose last stage this is."""
    branches: Callable[[Config], Iterable[tuple[Config, StageId]]] = no_branches
    """Stages of other runs, branches of this one, that come before it."""
    programs: "Callable[[Shapes], Iterable[Program]]" = no_programs
    """Everything it compiles, from shapes."""
    loads: "Callable[[Shapes], Loads]" = no_loads
    """How it uses those programs."""
    residents: "Callable[[Shapes], Mapping[str, Any]]" = no_residents
    """What lies on the mesh from its first to its last step, by name: shapes of models and optimizers."""
    cost: "Callable[[Shapes], Work] | None" = None
    """Tokens and operations of its training."""
    curves: tuple[str, ...] = ()
    """Held-out metrics that the report draws beside the loss, of a stage that has no section of its own there."""
    config: type[Any] | None = None
    """A dataclass of flags of its own, --<name>.<field>; in the config they are `<name>`."""
    trial: tuple[str, ...] = ()
    """Flags that make it short on configs/micro.py, for `pit_jax.fork check`: a dozen updates are enough."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The functions of a built-in stage, in the file that holds them; those that stages share get the role."""

    run: "Callable[[Context], None]"
    check: Callable[[Config, str], None] = lambda config, role: None
    parents: Callable[[Config, str], tuple[StageId, ...]] = lambda config, role: ()
    contents: Callable[[Config, str], Mapping[str, str]] = lambda config, role: {}
    batches: Callable[[Config, str], Iterable[Batch]] = lambda config, role: ()
    branches: Callable[[Config], Iterable[tuple[Config, StageId]]] = no_branches
    programs: "Callable[[Shapes, str], Iterable[Program]]" = lambda shapes, role: ()
    loads: "Callable[[Shapes, str], Loads]" = lambda shapes, role: {}
    """Of a stage that trains, these are its cost too."""
    residents: "Callable[[Shapes, str], Mapping[str, Any]]" = lambda shapes, role: {}
    show: "Callable[[Context], None]" = lambda context: None


def built_in(load: Callable[[], Recipe], role: str = "", **facts: Any) -> Stage:
    """The stage of a recipe that is imported when one of its functions is called. `facts` are fields of Stage."""
    recipe: dict[str, Any] = {
        "run": lambda context: load().run(context),
        "check": lambda config: load().check(config, role),
        "parents": lambda config: load().parents(config, role),
        "contents": lambda config: load().contents(config, role),
        "batches": lambda config: load().batches(config, role),
        "branches": lambda config: load().branches(config),
        "programs": lambda shapes: load().programs(shapes, role),
        "loads": lambda shapes: load().loads(shapes, role),
        "residents": lambda shapes: load().residents(shapes, role),
        "show": lambda context: load().show(context),
    }
    if facts.get("leaves"):
        recipe["cost"] = lambda shapes: _cost(load(), shapes, role)
    return Stage(role=role, **(recipe | facts))


def in_order(stages: Iterable[Stage], config: Config, known: Iterable[Stage]) -> Iterator[Stage]:
    """Stages behind their parents, those that one of the `known` stands in for left out, otherwise as they come."""
    instead = {stage.replaces: stage for stage in known if stage.replaces}
    waiting = {stage.id: stage for stage in stages if stage.id not in instead}
    done: set[StageId] = set()

    def visit(stage: Stage) -> Iterator[Stage]:
        if stage.id in done:
            return
        done.add(stage.id)
        for parent in stage.parents(config):
            before = instead.get(parent) or waiting.get(parent)
            if before is not None:
                yield from visit(before)
        yield stage

    for stage in stages:
        yield from visit(instead.get(stage.id, stage))


def _cost(recipe: Recipe, shapes: "Shapes", role: str) -> "Work":
    from pit_jax.run.loads import total

    return total(recipe.loads(shapes, role).values())
