"""The faults that benchmarks/mutants.py plants: signs, masks, orders, seeds, each with the tests that should fail."""

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RL_ROUNDS = "recipes/test_rl_rounds.py recipes/test_rl_states.py recipes/test_rl.py rl"  # the quickest ones first


@dataclass(frozen=True)
class Mutant:
    """One fault: in `file` of pit_jax, `old` (which stands there once) becomes `new`; `tests` should notice."""

    name: str
    file: str
    old: str
    new: str
    tests: str

    @property
    def path(self) -> Path:
        return ROOT / "pit_jax" / self.file


MUTANTS = (
    Mutant("gap: a term turned", "objectives/gap.py", '("ll", "lw"))', '("lw", "ll"))', "objectives/test_gap.py"),
    Mutant(
        "ppo: the smaller of the two surrogates",
        "objectives/ppo.py",
        "losses_BT = jnp.maximum(free_BT, clipped_BT)\n    metrics",
        "losses_BT = jnp.minimum(free_BT, clipped_BT)\n    metrics",
        "objectives/test_ppo.py",
    ),
    Mutant(
        "gae: padding is a step",
        "objectives/returns.py",
        "jnp.where(mask_B, value_B, next_value_B)",
        "value_B",
        "objectives/test_returns.py",
    ),
    Mutant("kl: k3 turned", "objectives/returns.py", "jnp.expm1(-d_BT) + d_BT", "jnp.expm1(d_BT) - d_BT", "objectives"),
    Mutant(
        "rewards: the KL is paid for",
        "objectives/returns.py",
        "is_last_BT) - kl_coef",
        "is_last_BT) + kl_coef",
        "objectives/test_returns.py",
    ),
    Mutant("rloo: the mean of all", "objectives/group.py", "(size / (size - 1))", "1.0", "objectives/test_group.py"),
    Mutant(
        "reward: the margin turned",
        "objectives/reward.py",
        "margin.astype(jnp.float32) - difference_B",
        "-margin.astype(jnp.float32) - difference_B",
        "objectives/test_reward.py",
    ),
    Mutant(
        "dpo: labels swapped", "objectives/dpo.py", "= chosen_B - rejected_B", "= rejected_B - chosen_B", "objectives"
    ),
    Mutant(
        "rows: a token sees other segments",
        "model/rows.py",
        "_causal(rows.segments_BL) & same_BLS &",
        "_causal(rows.segments_BL) &",
        "model/test_rows.py",
    ),
    Mutant(
        "rope: turned the other way", "model/rope.py", "a * cos - b * sin", "a * cos + b * sin", "model/test_rope.py"
    ),
    Mutant(
        "mixing: a softmax's gradient not centred",
        "model/mixing.py",
        "of_weights_BKXS - jnp.sum(products_BKXH, axis=-1, keepdims=True)",
        "of_weights_BKXS",
        "model/test_mixing.py",
    ),
    Mutant(
        "mixing: a band without its own slots",
        "model/mixing.py",
        "key_BKSH[:, :, :end], value_BKSH[:, :, :end]",
        "key_BKSH[:, :, : first + 1], value_BKSH[:, :, : first + 1]",
        "model/test_attention.py",
    ),
    Mutant(
        "gates: a control must win",
        "evaluation/gap_quality.py",
        "told.lose - told.win",
        "told.win - told.lose",
        "evaluation/test_gap_quality.py",
    ),
    Mutant(
        "scoring: values one slot late",
        "model/scoring.py",
        "[:, -slot - 1 : -1]\n\n\ndef end_scores",
        "[:, -slot:]\n\n\ndef end_scores",
        "model/test_scoring.py",
    ),
    Mutant(
        "sampling: what comes before a block is drawn from it",
        "inference/sampling.py",
        "(target_B1[:, 0] - before_B) / weight_B",
        "target_B1[:, 0] / weight_B",
        "inference/test_sampling.py",
    ),
    Mutant(
        "decoding: every step draws with one key",
        "inference/decoding.py",
        "jax.random.fold_in(jax.random.fold_in(self.key, number), token)",
        "jax.random.fold_in(self.key, number)",
        "inference/test_engine.py",
    ),
    Mutant(
        "decoding: a row that begins again sees what the one before has left",
        "inference/decoding.py",
        "positions_BS=put(state.positions_BS, positions_GS)",
        "positions_BS=put(state.positions_BS, positions_GP)",
        "inference/test_engine.py",
    ),
    Mutant(
        "decoding: a row that has ended is written over",
        "inference/decoding.py",
        "jnp.where(live_B[:, None], value_B[:, None], before_B1)",
        "value_B[:, None] + 0 * before_B1",
        "inference/test_engine.py",
    ),
    Mutant(
        "decoding: a draw depends on its row",
        "inference/decoding.py",
        "self.first + part_B + state.request_B",
        "self.first + jnp.arange(len(part_B), dtype=jnp.int32)",
        "inference/test_engine.py",
    ),
    Mutant(
        "packing: a row sees its neighbour",
        "data/packing.py",
        "segment_N = np.arange(len(inner_N)) - first_N + 1",
        "segment_N = np.ones(len(inner_N), int)",
        "data/test_packing.py",
    ),
    Mutant(
        "engine: the reference keeps its EOS",
        "inference/engine.py",
        "reference.mask_BT & (reference.tokens_BT != spec.eos_id)",
        "reference.mask_BT",
        "inference",
    ),
    Mutant(
        "gap: not centred",
        "rl/rewards.py",
        "responses) - plain_score(model, params, prompts, reference)",
        "responses)",
        "rl",
    ),
    Mutant(
        "rollout: an answer without an end may earn",
        "rl/rollout.py",
        "jnp.minimum(score_B, 0.0) - config",
        "score_B - config",
        "rl/test_rollout.py",
    ),
    Mutant(
        "groups: samples of a prompt are apart",
        "rl/references.py",
        "jnp.repeat(x, samples, axis=0)",
        "jnp.tile(x, (samples,) + (1,) * (x.ndim - 1))",
        "rl",
    ),
    Mutant(
        "text rewards: without their weight",
        "rl/rewards.py",
        "np.float32(reward.weight) * values_N",
        "values_N",
        "rl/test_rewards.py",
    ),
    Mutant(
        "rl: stop_kl ends no round",
        "recipes/rl.py",
        "spent = trainer.config.stop_kl > 0 and",
        "spent = trainer.config.stop_kl < 0 and",
        "recipes/test_rl_rounds.py recipes/test_rl.py",
    ),
    Mutant(
        "rl: the curriculum forgets its place",
        "rl/trainer.py",
        "dataclasses.replace(progress, success=success).arrays()",
        "Place().arrays()",
        RL_ROUNDS,
    ),
    Mutant(
        "rl: minibatches of every round alike",
        "rl/trainer.py",
        "default_rng((self.seed, round, epoch))",
        "default_rng((self.seed, epoch))",
        RL_ROUNDS,
    ),
    Mutant(
        "rl: the KL coefficient stands still",
        "rl/trainer.py",
        'extras["kl_coef"] = controller.update(',
        'extras["kl_coef"] = extras["kl_coef"] + 0 * controller.update(',
        RL_ROUNDS,
    ),
    Mutant(
        "rl: the anchor never moves",
        "rl/trainer.py",
        "return progress.phase > Place",
        "return progress.phase < Place",
        RL_ROUNDS,
    ),
    Mutant(
        "rl: every round meets the first rows",
        "rl/supply.py",
        "numbers = self._stream(len(names)).rows(round)",
        "numbers = self._stream(len(names)).rows(0)",
        RL_ROUNDS,
    ),
    Mutant(
        "monitors: disagreement is not watched",
        "rl/monitors.py",
        "now.disagreement > apart",
        "False",
        "rl/test_monitors.py",
    ),
    Mutant(
        "step: accumulated gradients are not weighted",
        "training/step.py",
        'g * metrics["loss"].count, grads)',
        "g, grads)",
        "training/test_step.py",
    ),
    Mutant(
        "session: saved after the batch is drawn",
        "training/session.py",
        "self.start, self.state = restored",
        "self.start, self.state = (restored[0] + 1, restored[1])",
        "training",
    ),
    Mutant(
        "spa: held to the SFT model",
        "recipes/spa/stage.py",
        "task = self.task(number, rows, self.model(models, number - 1))",
        "task = self.task(number, rows, self.model(models, -1))",
        "recipes/spa/test_stage.py",
    ),
    Mutant(
        "spa: judged against the model before",
        "recipes/spa/stage.py",
        "SFT: lambda: self.model(models, -1)",
        "SFT: lambda: self.model(models, number - 2)",
        "recipes/spa/test_stage.py",
    ),
    Mutant(
        "spa: a pair is among the margins that it is held against",
        "recipes/spa/objective.py",
        """        window = Window(**extras["window"])\n""",
        """        window, _ = confidence_window(Window(**extras["window"]), margins_B, share=0.0)\n""",
        "recipes/spa/test_objective.py",
    ),
    Mutant(
        "spa: noise is looked for towards the anchor",
        "objectives/spa.py",
        "return (1 + strength) * policy.astype(jnp.float32) - strength",
        "return (1 - strength) * policy.astype(jnp.float32) + strength",
        "objectives/test_spa.py recipes/spa/test_reading.py",
    ),
    Mutant(
        "spa: samples that are there are added again",
        "recipes/spa/pairs.py",
        "for answer in drawn[len(row.drafts) :]:",
        "for answer in drawn:",
        "recipes/spa/test_pairs.py",
    ),
    Mutant(
        "step: rows come back by micro-batch",
        "training/step.py",
        "jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])",
        "x.reshape(-1, *x.shape[2:])",
        "training/test_step.py",
    ),
    Mutant(
        "stream: one order for all epochs",
        "data/stream.py",
        "default_rng((seed, epoch))",
        "default_rng(seed)",
        "data/test_stream.py",
    ),
    Mutant(
        "stopping: goes on below the threshold",
        "inference/stopping.py",
        "if gap < threshold), len(gaps))",
        "if gap > threshold), len(gaps))",
        "inference/test_stopping.py",
    ),
    Mutant(
        "folders: an ancestor may change",
        "run/folders.py",
        "if digests[name] != before.get(name)",
        "if False",
        "run",
    ),
    Mutant(
        "judges: both orders ask the same",
        "evaluation/judges/judge.py",
        "backward_N = -_asked(judge, bench, prompts, right, left)",
        "backward_N = _asked(judge, bench, prompts, left, right)",
        "evaluation/test_judges.py",
    ),
    Mutant(
        "data: an altered file passes",
        "seal.py",
        "if content_digest(path) != digest else",
        "if not content_digest(path) else",
        "test_seal.py",
    ),
    Mutant(
        "code: a fork's code is not its stage's",
        "fork.py",
        "**STAGES.code(str(stage.id))}",
        "}",
        "test_fork.py",
    ),
    Mutant(
        "trees: a token does not see itself",
        "model/mixing.py",
        "(place_R1S <= own_RQ1)",
        "(place_R1S < own_RQ1)",
        "model/test_tree.py",
    ),
    Mutant(
        "cudnn: gradients go the way of the numbers",
        "model/kernels/cudnn.py",
        "return _moved(slope_BLNH, back_BL, order_BL), None",
        "return _moved(slope_BLNH, order_BL, back_BL), None",
        "model/kernels/test_cudnn.py",
    ),
    Mutant(
        "step: the last block counts slots twice",
        "model/kernels/step.py",
        ">= number * BLOCK)",
        ">= start)",
        "model/kernels/test_step.py",
    ),
    Mutant(
        "rewards: copying earns what the words earn",
        "rl/rewards.py",
        "model.gaps(prompts, responses, [row.reference for row in rows])",
        "model.scores(prompts, responses)",
        "rl/test_rewards.py",
    ),
)
