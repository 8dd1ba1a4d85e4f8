"""THE list of stages: their order, parents and knobs. --stage, --help, `all`, lineage, report and costs follow from it.

A recipe is imported when a stage is checked or run, not when it is listed.
"""

from collections.abc import Mapping

from pit_jax.config import Config
from pit_jax.errors import UserError, did_you_mean
from pit_jax.recipes.facts import WORD_MODEL, chosen, compared, has_second_gap, has_word_model, knobs, of, spa_phases
from pit_jax.run.provenance import SHARED, StageId, section
from pit_jax.run.stage import Recipe, Stage, built_in, in_order, never
from pit_jax.table import Table

SFT_POLICY, SFT_IMPROVER = StageId("sft", "policy"), StageId("sft", "improver")
REWARD, GAP = StageId("rm", "policy"), StageId("rm", "improver")
RL_POLICY, RL_IMPROVER = StageId("rl", "policy"), StageId("rl", "improver")
DRAWN = (
    *(f"improve.{knob}" for knob in ("rounds", "stop", "stop_threshold", "temperature", "top_k", "top_p")),
    "rm.word_model",
)
OF_GAP = ("second_gap_", "gap_loss", "label_smoothing", "negative", "gates")
OF_IMPROVER_RL = ("improver_", "curriculum", "reward", "gap", "monitors.max_second", "monitors.max_dis")


def _data() -> Recipe:
    from pit_jax.recipes.data import RECIPE

    return RECIPE


def _sft() -> Recipe:
    from pit_jax.recipes.sft import RECIPE

    return RECIPE


def _reward() -> Recipe:
    from pit_jax.recipes.reward import RECIPE

    return RECIPE


def _gap() -> Recipe:
    from pit_jax.recipes.gap import RECIPE

    return RECIPE


def _word_model() -> Recipe:
    from pit_jax.recipes.word_model import RECIPE

    return RECIPE


def _rl() -> Recipe:
    from pit_jax.recipes.rl import RECIPE

    return RECIPE


def _dpo() -> Recipe:
    from pit_jax.recipes.dpo import RECIPE

    return RECIPE


def _spa() -> Recipe:
    from pit_jax.recipes.spa.stage import RECIPE

    return RECIPE


def _spa_tables() -> Recipe:
    from pit_jax.recipes.spa.tables import RECIPE

    return RECIPE


def _improve() -> Recipe:
    from pit_jax.recipes.comparison.improve import RECIPE

    return RECIPE


def _answer() -> Recipe:
    from pit_jax.recipes.comparison.evaluate import ANSWER

    return ANSWER


def _judge() -> Recipe:
    from pit_jax.recipes.comparison.evaluate import JUDGE

    return JUDGE


def _evaluate() -> Recipe:
    from pit_jax.recipes.comparison.evaluate import RECIPE

    return RECIPE


def _paper() -> Recipe:
    from pit_jax.recipes.comparison.paper import RECIPE

    return RECIPE


def _export() -> Recipe:
    from pit_jax.recipes.export import RECIPE

    return RECIPE


def _plan() -> Recipe:
    from pit_jax.recipes.plan.stage import RECIPE

    return RECIPE


# A limit on what was trained (rm.gates, rl.ignore_gates) stops a stage and changes none.
STAGES: Table[Stage] = Table(
    "stage",
    built_in(
        _data,
        name="data",
        help="prepare the pairs and show them: drops, lengths, duplicates, overlaps, rows with their loss mask",
        in_all=never,
        needs_devices=False,
        always_runs=True,
    ),
    built_in(
        _sft,
        "policy",
        name="sft",
        help="supervised fine-tuning: x -> y_w",
        knobs=knobs("sft", "improver_", "policy_epochs"),
        leaves="language",
    ),
    built_in(
        _sft,
        "improver",
        name="sft",
        help="supervised fine-tuning: (x, y_l) -> y_w, from the policy's weights on",
        parents=of(SFT_POLICY),
        init_from=SFT_POLICY,
        knobs=knobs("sft", "policy_", "improver_epochs"),
        leaves="language",
    ),
    built_in(
        _reward,
        "policy",
        name="rm",
        help="the reward model: Bradley-Terry",
        parents=of(SFT_POLICY),
        init_from=SFT_POLICY,
        knobs=knobs("rm", "improver_", "policy_epochs", "word_model", *OF_GAP),
        leaves="scalar",
    ),
    built_in(
        _gap,
        "improver",
        name="rm",
        help="the gap model: five terms; then its gates",
        parents=of(SFT_IMPROVER),
        init_from=SFT_IMPROVER,
        knobs=knobs("rm", "policy_", "improver_epochs", "second_gap_", "word_model", "gates"),
        leaves="scalar",
    ),
    built_in(
        _gap,
        "second-gap",
        name="rm",
        help="a second gap model that RL is watched with (rm.second_gap_steps)",
        parents=of(SFT_IMPROVER),
        init_from=SFT_IMPROVER,
        knobs=knobs("rm", "policy_", "improver_", "gap_loss", "fit_head", "word_model", "gates"),
        leaves="scalar",
        in_all=has_second_gap,
        curves=("gap/acc_wl_lw",),
    ),
    built_in(
        _word_model,
        WORD_MODEL.role,
        name="rm",
        help="a second opinion beside both, from counted words (rm.word_model)",
        knobs=(*SHARED, "rm.pairs"),
        in_all=has_word_model,
        needs_devices=False,
        kept=True,
    ),
    built_in(
        _rl,
        "policy",
        name="rl",
        help="RL on the reward model",
        init_from=SFT_POLICY,
        knobs=(*knobs("rl", "ignore_gates", *OF_IMPROVER_RL, "monitors.worst_case"), "rm.word_model"),
        leaves="language",
        part="policy",
    ),
    built_in(
        _rl,
        "improver",
        name="rl",
        help="RL on the gap; references follow the curriculum",
        init_from=SFT_IMPROVER,
        knobs=(*knobs("rl", "ignore_gates", "policy_"), "rm.word_model"),
        leaves="language",
        part="policy",
    ),
    built_in(
        _dpo,
        "policy",
        name="dpo",
        help="direct preference optimisation, a baseline",
        parents=of(SFT_POLICY),
        init_from=SFT_POLICY,
        knobs=knobs("dpo", "epochs"),
        leaves="language",
        in_all=never,
        curves=("accuracy",),
    ),
    built_in(
        _spa,
        "policy",
        name="spa",
        help="self-made preference pairs: DPO on a few gold pairs, then on the model's own (SPA)",
        init_from=SFT_POLICY,
        knobs=knobs("spa", "ablations"),
        leaves="language",
        phases=spa_phases,
        in_all=never,
    ),
    built_in(
        _improve,
        name="improve",
        help="improve the policy's answers, or those of --improve.prompts, K times",
        parents=chosen(RL_POLICY, RL_IMPROVER),
        knobs=(*knobs("improve", "prompts", "batch_size", "queue"), "evaluate.prompts", "rm.word_model"),
    ),
    built_in(
        _answer,
        name="answer",
        help="draw the answers that evaluate compares, where they are not on disk",
        parents=compared(SFT_POLICY, SFT_IMPROVER, RL_POLICY, RL_IMPROVER, GAP),
        in_all=never,
        always_runs=True,
    ),
    built_in(
        _judge,
        name="judge",
        help="judge answers that are on disk (--evaluate.judges) and compare anew; needs no accelerator",
        parents=compared(SFT_POLICY, SFT_IMPROVER, RL_POLICY, RL_IMPROVER, GAP),
        in_all=never,
        needs_devices=False,
        always_runs=True,
    ),
    built_in(
        _evaluate,
        name="evaluate",
        help="answer, judge and compare the systems at matched temperature; write report/index.html",
        parents=compared(SFT_POLICY, SFT_IMPROVER, RL_POLICY, RL_IMPROVER, GAP),
        knobs=(*knobs("evaluate"), *DRAWN),
        derived=True,
    ),
    built_in(
        _paper,
        name="paper",
        help="on a finished run: the paper's tables and figures, with ablations and baselines trained as branches",
        parents=compared(SFT_POLICY, SFT_IMPROVER, REWARD, GAP, RL_POLICY, RL_IMPROVER, StageId("dpo", "policy")),
        knobs=(
            *knobs("paper", "wording"),
            *section("evaluate"),
            *section("rl"),
            *section("rm", without=("policy_epochs", "improver_epochs")),
            *section("dpo", without=("epochs",)),
            *DRAWN,
        ),
        in_all=never,
    ),
    built_in(
        _spa_tables,
        name="spa-tables",
        help="SPA's iterations against DPO on the gold pairs and on all, with ablations trained as branches",
        knobs=(*knobs("spa"), *section("dpo", without=("epochs",)), *section("evaluate"), "paper.temperature"),
        in_all=never,
    ),
    built_in(
        _export,
        name="export",
        help="policy, improver, reward and gap model as Hugging Face folders, beside a --base",
        parents=of(REWARD, GAP, RL_POLICY, RL_IMPROVER),
        knobs=knobs("export"),
        in_all=never,
    ),
    built_in(
        _plan,
        name="plan",
        help="what the stages of --plan.stages need on a TPU that is not there: memory, time, price (--plan.topology)",
        in_all=never,
        needs_devices=False,
        needs_data=False,
        always_runs=True,
        alone=False,
    ),
    key=lambda stage: str(stage.id),
)


def catalogue() -> Mapping[StageId, Stage]:
    """Every stage by its id, those of the loaded forks behind the built-in ones."""
    return {stage.id: stage for stage in STAGES}


def stage_names() -> list[str]:
    """The choices of --stage."""
    return [*dict.fromkeys(stage.name for stage in STAGES), "all"]


def selected(config: Config) -> list[Stage]:
    """The stages that a command runs, each behind its parents.

    Raises UserError for an unknown stage, a model that it does not have, and one that a fork's stage stands in for.
    """
    stages = catalogue()
    if config.stage == "all":
        return list(in_order([stage for stage in stages.values() if stage.in_all(config)], config, stages.values()))
    mine = [stage for stage in stages.values() if stage.name == config.stage]
    if not mine:
        known = ", ".join(stage_names())
        raise UserError(
            f"--stage={config.stage}: no such stage{did_you_mean(config.stage, stage_names())}; known: {known}. A "
            "fork's stages are known with --fork=FILE"
        )
    chosen = stages.get(StageId(config.stage, config.model)) or (mine[0] if len(mine) == 1 else None)
    if chosen is None or (config.model in ("second-gap", WORD_MODEL.role) and chosen.role != config.model):
        roles = ", ".join(stage.role for stage in mine if stage.role)
        raise UserError(f"--stage={config.stage} --model={config.model}: this stage is for {roles or 'no model'} alone")
    if chosen.role == "second-gap" and not has_second_gap(config):
        raise UserError("--model=second-gap is a second gap model: ask for its updates with --rm.second-gap-steps")
    if chosen.id == WORD_MODEL and not has_word_model(config):
        raise UserError("--model=word-model is a second opinion beside the gap: give it a weight, as --rm.word-model=1")
    for other in stages.values():
        if other.replaces == chosen.id:
            raise UserError(f"stage {chosen.id}: {other.id} stands in for it; run {other.id.flags}")
    return [chosen]
