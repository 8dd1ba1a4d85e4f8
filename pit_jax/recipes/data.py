"""--stage=data: the prepared pairs, shown before anything is trained on them."""

from pit_jax.config import Config
from pit_jax.errors import UserError
from pit_jax.report import data as data_page
from pit_jax.run.context import Context
from pit_jax.run.stage import Recipe


def run(context: Context) -> None:
    """The pairs were prepared before; show them."""
    data_page.build(context.config, context.data, context.screen)


def check(config: Config, role: str) -> None:
    """UserError for a seed: data do not depend on one."""
    if config.seeds:
        given = ",".join(map(str, config.seeds))
        raise UserError(f"--stage=data with --seeds={given}: data do not depend on a seed; leave it out")


RECIPE = Recipe(run=run, check=check)
