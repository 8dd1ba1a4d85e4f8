"""What a stage depends on: its knobs and nothing else, by name."""

from dataclasses import replace
from typing import Any

import pytest

from pit_jax.config import Config, config_hash, flatten
from pit_jax.recipes.catalogue import GAP, REWARD, RL_IMPROVER, RL_POLICY, SFT_IMPROVER, SFT_POLICY, catalogue
from pit_jax.recipes.facts import WORD_MODEL
from pit_jax.run.provenance import SHARED, Provenance, StageId, section

CONFIG = Config()
SECOND = StageId("rm", "second-gap")
MODELS = (SFT_POLICY, SFT_IMPROVER, REWARD, GAP, SECOND, RL_POLICY, RL_IMPROVER, StageId("dpo", "policy"))


def hash_of(config: Config, id: StageId) -> str:
    return config_hash(catalogue()[id].depends_on(config))


def changed_by(config: Config) -> set[StageId]:
    """The trained stages whose hash is another one under this config."""
    return {id for id in MODELS if hash_of(config, id) != hash_of(CONFIG, id)}


def test_an_id_names_a_folder_and_a_command() -> None:
    assert (str(RL_IMPROVER), RL_IMPROVER.flags) == ("rl-improver", "--stage=rl --model=improver")
    assert (str(StageId("evaluate")), StageId("evaluate").flags) == ("evaluate", "--stage=evaluate")


def test_a_knob_is_a_name_or_all_below_it() -> None:
    def named(*knobs: str) -> set[str]:
        return set(Provenance(name="a", knobs=knobs).depends_on(CONFIG))

    assert named("seed") == {"seed"} and named("see") == set()
    assert named("rl.curriculum") == {name for name in flatten(CONFIG) if name.startswith("rl.curriculum.")}
    assert "rl.kl_kind" not in named("rl.kl") and "rl.kl_coef" not in named("rl.kl")


def test_a_section_can_be_named_without_some_of_it() -> None:
    whole, part = section("sft"), section("sft", without=("policy_", "optimizer."))
    assert set(part) == {name for name in whole if "policy_" not in name and "optimizer" not in name}
    assert section("transformer", without=("remat", "unroll", "logits_bytes")) == tuple(
        k for k in SHARED if "transformer" in k
    )


def test_contents_stand_beside_knobs() -> None:
    stage = Provenance(name="a", knobs=("seed",), contents=lambda config: {"code of reward short": "0123"})
    assert stage.depends_on(CONFIG) == {"seed": 0, "code of reward short": "0123"}


@pytest.mark.parametrize("id", [id for id, stage in catalogue().items() if stage.knobs], ids=str)
def test_every_stage_depends_on_seed_data_tokenizer_model_and_its_own_section(id: StageId) -> None:
    knobs = {name.split(".")[0] for name in catalogue()[id].depends_on(CONFIG)}
    assert {"seed", "data", "tokenizer", "transformer", "adapter", id.name.partition("-")[0]} <= knobs
    assert not knobs & {"mesh", "checkpoint", "workdir", "stage", "parent_run", "forks", "base"}


def test_the_improver_s_reward_is_no_matter_of_the_policy() -> None:
    assert changed_by(replace(CONFIG, rl=replace(CONFIG.rl, reward="difference"))) == {RL_IMPROVER}


def test_the_steps_of_a_second_gap_model_are_its_own() -> None:
    """It can be added to a finished run."""
    watched = replace(CONFIG, rm=replace(CONFIG.rm, second_gap_steps=5))
    assert changed_by(watched) == {SECOND}
    assert catalogue()[SECOND].depends_on(watched)["rm.second_gap_steps"] == 5


def test_a_second_gap_model_serves_a_gap_model_with_another_loss() -> None:
    assert changed_by(replace(CONFIG, rm=replace(CONFIG.rm, gap_loss="pair"))) == {GAP}


def test_a_word_model_is_a_matter_of_rl_and_of_whoever_chooses_drafts() -> None:
    """Its weight is not what it is fitted to: another one fits nothing anew, and needs no other reward or gap model."""
    worded = replace(CONFIG, rm=replace(CONFIG.rm, word_model=0.5))
    assert changed_by(worded) == {RL_POLICY, RL_IMPROVER}
    assert hash_of(worded, WORD_MODEL) == hash_of(CONFIG, WORD_MODEL)
    assert hash_of(replace(CONFIG, rm=replace(CONFIG.rm, pairs="all")), WORD_MODEL) != hash_of(CONFIG, WORD_MODEL)
    for name in ("improve", "evaluate", "paper"):
        assert hash_of(worded, StageId(name)) != hash_of(CONFIG, StageId(name))
        assert WORD_MODEL in catalogue()[StageId(name)].parents(worded)
        assert WORD_MODEL not in catalogue()[StageId(name)].parents(CONFIG)


def test_negatives_are_a_matter_of_both_gap_models() -> None:
    for knobs in (replace(CONFIG.rm, negatives=0.3), replace(CONFIG.rm, negative_kinds=("cut",))):
        assert changed_by(replace(CONFIG, rm=knobs)) == {GAP, SECOND}


def test_the_limits_of_gates_may_change_without_training_again() -> None:
    gates = replace(CONFIG.rm.gates, min_accuracy=0.1)
    changed = replace(CONFIG, rm=replace(CONFIG.rm, gates=gates), rl=replace(CONFIG.rl, ignore_gates=True))
    assert changed_by(changed) == set()


def test_a_model_does_not_depend_on_the_knobs_of_the_other() -> None:
    for stage in ("sft", "rm", "rl"):
        policy, improver = (
            set(catalogue()[StageId(stage, role)].depends_on(CONFIG)) for role in ("policy", "improver")
        )
        assert any(name.startswith(f"{stage}.policy_") for name in policy - improver)
        assert not any("policy_" in name for name in improver)
        assert not any(".improver_" in name or ".curriculum." in name for name in policy)
    assert "rl.curriculum.rounds" in catalogue()[RL_IMPROVER].depends_on(CONFIG)


@pytest.mark.parametrize(("role", "id"), [("policy", RL_POLICY), ("improver", RL_IMPROVER)])
def test_an_algorithm_is_the_choice_of_one_model(role: str, id: StageId) -> None:
    """Its responses a prompt too, and its text rewards by name."""
    for knob, value in ((f"{role}_algorithm", "rloo"), (f"{role}_samples", 2)):
        change: dict[str, Any] = {knob: value}
        assert changed_by(replace(CONFIG, rl=replace(CONFIG.rl, **change))) == {id}


def test_the_mean_of_the_loss_is_a_matter_of_both() -> None:
    assert changed_by(replace(CONFIG, rl=replace(CONFIG.rl, loss_mean="slots"))) == {RL_POLICY, RL_IMPROVER}
