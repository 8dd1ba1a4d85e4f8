"""The phases of SPA: how long each is, and how its knobs follow from its number."""

from dataclasses import replace

import pytest

from pit_jax.config import Config
from pit_jax.recipes.catalogue import catalogue
from pit_jax.recipes.spa.schedule import iteration, phase_of
from pit_jax.run.provenance import StageId

SPA = replace(Config().spa, batch_size=32)


@pytest.mark.parametrize(("pairs", "steps"), [(1999, 188), (2000, 63)])
def test_few_gold_pairs_are_read_three_times(pairs: int, steps: int) -> None:
    """3 * 1,999 / 32 is 187.4; from 2,000 on they are read once, 62.5 batches."""
    assert phase_of(SPA, 0, pairs).steps == steps
    assert phase_of(replace(SPA, seed_epochs=2), 0, pairs).steps == 125, "a number that is asked for counts"


def test_an_iteration_reads_its_pairs_as_often_as_asked() -> None:
    assert phase_of(SPA, 1, 100).steps == 4, "once, however few they are"
    assert phase_of(replace(SPA, epochs=3), 1, 100).steps == 10


def test_what_changes_from_phase_to_phase() -> None:
    """beta and the rate of the first iteration are those of the config; gold labels are never taken for noise."""
    config = replace(SPA, beta=0.2, beta_decay=0.5, rate_decay=0.1, strengths=(0.5, 0.25, 0.0), noise_share=0.1)
    config = replace(config, optimizer=replace(config.optimizer, learning_rate=1e-3))
    phases = [phase_of(config, number, 64) for number in range(4)]
    assert [phase.beta for phase in phases] == pytest.approx([0.2, 0.2, 0.1, 0.05])
    assert [phase.optimizer.learning_rate for phase in phases] == pytest.approx([1e-3, 1e-4, 1e-5, 1e-6])
    assert [phase.strength for phase in phases] == [0.0, 0.5, 0.25, 0.0]
    assert [phase.noise_share for phase in phases] == [0.0, 0.1, 0.1, 0.1]


@pytest.mark.parametrize(("after", "pairs"), [(0.0, 0), (0.2, 64), (0.5, 160), (1.0, 320)])
def test_labels_are_trusted_for_a_share_of_the_updates(after: float, pairs: int) -> None:
    """Ten updates of 32 pairs."""
    phase = phase_of(replace(SPA, noise_after=after), 1, 320)
    assert (phase.steps, phase.pairs_before_noise) == (10, pairs)


def test_phases_are_the_folders_that_the_catalogue_names() -> None:
    """Without importing what a phase is."""
    phases = catalogue()[StageId("spa", "policy")].phases(Config())
    assert phases == tuple(iteration(number) for number in range(4))
    assert phase_of(SPA, 2, 8).name == phases[2] == "iteration-2"
