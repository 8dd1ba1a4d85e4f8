"""Facts of stages that follow from the config, as the catalogue states them: parents, knobs, phases."""

from collections.abc import Callable

from pit_jax.config import Config
from pit_jax.recipes.spa.schedule import iteration
from pit_jax.run.provenance import SHARED, StageId, section

WORD_MODEL = StageId("rm", "word-model")


def of(*parents: StageId) -> Callable[[Config], tuple[StageId, ...]]:
    """Parents that do not depend on the config."""
    return lambda config: parents


def scored(*parents: StageId) -> Callable[[Config], tuple[StageId, ...]]:
    """These parents, and the word model where a run has one."""
    return lambda config: (*parents, *((WORD_MODEL,) if has_word_model(config) else ()))


def chosen(*parents: StageId) -> Callable[[Config], tuple[StageId, ...]]:
    """As `scored`, and the model that rewards the improver, which chooses among its drafts too."""

    def all_parents(config: Config) -> tuple[StageId, ...]:
        from pit_jax.rl.rewards import scorer_of

        return scored(*parents, scorer_of(config, "improver"))(config)

    return all_parents


def compared(*parents: StageId) -> Callable[[Config], tuple[StageId, ...]]:
    """As `scored`, and the policies of --evaluate.policies."""

    def all_parents(config: Config) -> tuple[StageId, ...]:
        from pit_jax.recipes.comparison.policies import stages_of

        return (*scored(*parents)(config), *(id for id in stages_of(config) if id not in parents))

    return all_parents


def knobs(name: str, *without: str) -> tuple[str, ...]:
    """What every stage depends on, and a section but for what belongs to another model or changes no result."""
    return (*SHARED, *section(name, without=without))


def spa_phases(config: Config) -> tuple[str, ...]:
    """The gold pairs, and an iteration for each slice of the other prompts."""
    return tuple(iteration(number) for number in range(len(config.spa.slices) + 1))


def has_second_gap(config: Config) -> bool:
    return config.rm.second_gap_steps > 0


def has_word_model(config: Config) -> bool:
    return config.rm.word_model > 0
