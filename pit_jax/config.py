"""Every knob, in frozen dataclasses. A field's docstring is its --help text."""

import hashlib
import json
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal

from pit_jax import ranges
from pit_jax.architecture import AdapterConfig, TransformerConfig
from pit_jax.cluster import Effort as Effort  # part of PlanConfig, whose names are found here
from pit_jax.cluster import HostsConfig, MeshConfig, PlanConfig
from pit_jax.limits import GatesConfig, MonitorsConfig
from pit_jax.preferences import DpoConfig, SpaConfig
from pit_jax.preferences import OptimizerConfig as OptimizerConfig  # found here by whoever trains


@dataclass(frozen=True)
class DataConfig:
    sources: ranges.Names = ("world:notes",)
    """Where pairs come from: world:NAME (embedded), pairs:PATH (prompt, chosen, rejected), hh:PATH, .. (README)."""
    rates: ranges.Rates = (1.0,)
    """Mixing rate of each source; the share of a source's examples seen per pass follows the rates."""
    heldout_fraction: ranges.ShareBetween = 0.05
    """Share of prompts (by hash) kept out of every training fold."""
    max_bad_rows: ranges.Share = 0.0
    """Largest share of a source's rows that may be left out, and counted, because they cannot be pairs."""
    contradictions: Literal["drop", "keep", "refuse"] = "drop"
    """Pairs that also stand there with their answers swapped: leave them all out, counted; train on them; or stop."""
    prompt_length: ranges.CountOrNone = 48
    """Most tokens of a prompt x; longer examples are counted and dropped. 0 = what 99 of 100 examples need."""
    response_length: ranges.CountOrNone = 48
    """Most tokens of an answer, EOS included; longer examples are counted and dropped. 0 = as above."""
    buckets: ranges.Count = 1
    """Most widths that the rows of a training are padded to, each compiled once; 1 = one width, as the longest needs.
    With more, rows of like length meet in a batch."""
    world_pairs: ranges.Count = 40_000
    """Pairs drawn from an embedded world."""
    world_seed: ranges.CountOrNone = 0
    """Seed of an embedded world's pairs."""


@dataclass(frozen=True)
class TokenizerConfig:
    path: str = ""
    """Folder of a Hugging Face fast tokenizer; empty = train one on the data."""
    vocab_size: ranges.Count = 512
    """Most entries of a tokenizer trained on the data."""
    template_arguments: tuple[str, ...] = ()
    """What its chat template is told, as NAME=VALUE: `enable_thinking=false`. It becomes part of the template."""


@dataclass(frozen=True)
class SftConfig:
    policy_steps: ranges.CountOrNone = 800
    """Updates of the policy's SFT; 0 = policy_epochs."""
    improver_steps: ranges.CountOrNone = 1600
    """Updates of the improver's SFT; 0 = improver_epochs."""
    policy_epochs: ranges.Positive = 2.0
    """Passes of the policy over its fold, where its updates are not given."""
    improver_epochs: ranges.Positive = 3.0
    """Passes of the improver over that fold."""
    patience: ranges.CountOrNone = 0
    """Evaluations in a row without a lower held-out loss that end SFT; 0 = it goes on to the last update."""
    batch_size: ranges.Count = 64
    """Rows per update: examples, or with packed_width rows that hold several."""
    packed_width: ranges.CountOrNone = 0
    """Tokens of a row that holds several examples, one behind the other, each seeing itself alone; 0 = a row each."""
    accumulate: ranges.Count = 1
    """Micro-batches per update; the loss is normalised over all tokens of the update."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)


@dataclass(frozen=True)
class RmConfig:
    policy_steps: ranges.CountOrNone = 500
    """Updates of the reward model; 0 = policy_epochs."""
    improver_steps: ranges.CountOrNone = 600
    """Updates of the gap model; 0 = improver_epochs."""
    policy_epochs: ranges.Positive = 2.0
    """Passes of the reward model over its fold, where its updates are not given."""
    improver_epochs: ranges.Positive = 4.0
    """Passes of the gap model over that fold."""
    patience: ranges.CountOrNone = 0
    """Evaluations in a row without a better held-out accuracy that end these trainings; 0 = never."""
    second_gap_steps: ranges.CountOrNone = 0
    """Updates of a second gap model, with its own head and order of pairs, that RL is watched with; 0 = none."""
    pairs: Literal["fold", "all"] = "fold"
    """Pairs that these models train on: those of their own fold, as in the paper, or those of every training fold."""
    batch_size: ranges.Count = 64
    """Pairs per update."""
    accumulate: ranges.Count = 1
    """Micro-batches per update."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    gap_loss: Literal["five", "pair"] = "five"
    """Terms of the gap loss: the five of the paper, or wl > lw alone (an ablation)."""
    label_smoothing: ranges.ShareBelowHalf = 0.0
    """How often the five-term gap loss takes a label to be wrong; 0 = never, the paper's."""
    fit_head: bool = False
    """Fit the heads of reward and gap model to their trunks as they are before the first update, by a logistic
    regression on features (LP-FT, arXiv 2202.10054): for a pretrained base and few pairs. As it is then, the model is
    the first checkpoint to choose from."""
    negatives: ranges.ShareBelowOne = 0.0
    """Share of the gap models' training pairs whose worse answer is made from the better one by a fault; 0 = the
    paper's. Held-out pairs are never made."""
    negative_kinds: ranges.Names = ("repeated", "cut", "shuffled", "another", "noisy", "confused")
    """Faults of those, drawn evenly: a sentence said twice, an end cut off, sentences in another order, what was said
    to another prompt, a word lost, doubled, swapped or foreign, two words of the prompt mixed up."""
    word_model: ranges.NotNegative = 0.0
    """Weight of a logistic regression on counted words beside reward and gap model: in the reward of RL, in the choice
    among drafts and in best-of-n; 0 = none, the paper's. All three say log-odds, it as far as they hold on held-out
    pairs: with 1 they count alike."""
    gates: GatesConfig = field(default_factory=GatesConfig)


@dataclass(frozen=True)
class CurriculumConfig:
    references: ranges.Names = ("rejected+chosen", "policy-rl")
    """References of each phase, in order: rejected, chosen, policy-sft, policy-rl, improver; `+` shares them evenly."""
    rounds: ranges.Counts = (25, 35)
    """Rounds of each phase; a phase that ends sooner leaves its rounds to the last one."""
    switch: Literal["rounds", "plateau", "success"] = "rounds"
    """What else ends a phase: nothing, a held-out gap that stopped rising, or rollouts that beat their reference."""
    patience: ranges.Count = 3
    """plateau: evaluations without a better held-out gap."""
    success: ranges.Share = 0.6
    """success: share of a round's rollouts whose gap is above 0."""
    anchor: Literal["sft", "previous"] = "sft"
    """KL against the SFT improver in every phase, or against the improver as the previous phase left it."""


@dataclass(frozen=True)
class RlConfig:
    policy_rounds: ranges.Count = 30
    """Rounds of the policy's RL."""
    policy_algorithm: ranges.Name = "ppo"
    """RL algorithm of the policy: ppo, grpo, rloo, dr_grpo, or a fork's. Without a critic there is no value model."""
    policy_samples: ranges.CountOrNone = 0
    """Responses drawn side by side for each prompt of the policy's RL; 0 = as many as its algorithm asks for."""
    policy_rewards: tuple[str, ...] = ()
    """Text rewards that are added to the policy's: the names of a fork's functions, as NAME or NAME:WEIGHT."""
    improver_algorithm: ranges.Name = "ppo"
    """RL algorithm of the improver."""
    improver_samples: ranges.CountOrNone = 0
    """Responses drawn for each (prompt, reference) of the improver's RL; 0 = as many as its algorithm asks for."""
    improver_rewards: tuple[str, ...] = ()
    """Text rewards that are added to the improver's, as NAME or NAME:WEIGHT."""
    loss_mean: Literal["algorithm", "tokens", "responses", "slots"] = "algorithm"
    """Mean of the policy loss: over real tokens (ppo, rloo), over responses of their token means (grpo), or all tokens
    summed and divided by the response slots (dr_grpo, arXiv 2503.20783), so that no length is favoured."""
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    batch_size: ranges.Count = 128
    """Rollouts per round."""
    epochs: ranges.Count = 2
    """Passes over a round's rollouts."""
    minibatches: ranges.Count = 4
    """Updates per pass; rollouts are reshuffled every pass."""
    accumulate: ranges.Count = 1
    """Micro-batches per update."""
    offload: Literal["none", "optimizer", "frozen", "both"] = "none"
    """What waits in the host's memory while it has nothing to do: the optimizer's state during rollouts, frozen models
    during updates, or both. It costs two transfers a round."""
    score_rows: ranges.CountOrNone = 0
    """Rollouts that anchor, critic and reward models read at a time; 0 = all of a round."""
    temperature: ranges.Positive = 1.0
    """Sampling temperature of rollouts and references; log-probs are taken at it."""
    kl_coef: ranges.NotNegative = 0.15
    """Weight of the per-token KL against the SFT model (start value if adaptive)."""
    kl_kind: Literal["k1", "k2", "k3"] = "k1"
    """KL estimator inside the reward."""
    kl_target: ranges.NotNegative = 0.0
    """KL per response, in nats, that an adaptive coefficient steers to; 0 = fixed coefficient."""
    kl_horizon: ranges.Count = 10_000
    """Episodes over which the adaptive coefficient moves."""
    clip_eps: ranges.Positive = 0.2
    """PPO ratio clip."""
    value_clip_eps: ranges.Limit = 0.2
    """Clip of the value against the rollout's value."""
    vf_coef: ranges.NotNegative = 1.0
    """Weight of the value loss."""
    gamma: ranges.Share = 1.0
    """Discount."""
    gae_lambda: ranges.Share = 0.95
    """GAE lambda."""
    missing_eos_penalty: ranges.NotNegative = 1.0
    """Subtracted from the score of an answer that did not end, which counts as 0 if it is above."""
    reward: Literal["gap", "difference"] = "gap"
    """The improver's reward, and what chooses among its drafts under improve.stop: the gap model, or r(x, y) -
    r(x, y_ref) of the policy's reward model (an ablation)."""
    gap: Literal["centred", "both-orders", "plain"] = "centred"
    """The gap that is the reward: less r(x, y_ref, y_ref), so that copying the reference earns 0; the mean of both
    orders, (r(x, y, y_ref) - r(x, y_ref, y)) / 2, where it does, too; or r(x, y, y_ref), the paper's."""
    ignore_gates: bool = False
    """Train the improver on a gap model that fails its gates (rm.gates.*); lineage.json says so."""
    stop_kl: ranges.NotNegative = 0.1
    """Stop a round's updates when the approximate KL to the sampler exceeds this; 0 = never."""
    select_kl: ranges.Limit = 10.0
    """Checkpoints whose KL per response (nats) exceeds this are not selected."""
    patience: ranges.CountOrNone = 0
    """Evaluations in a row, of the last phase, without a better held-out score that end RL; 0 = it runs all rounds."""
    evaluate_every: ranges.Count = 5
    """Rounds between evaluations (and checkpoints) on held-out prompts."""
    heldout_prompts: ranges.Count = 256
    """Held-out prompts of such an evaluation."""
    monitors: MonitorsConfig = field(default_factory=MonitorsConfig)
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(
            learning_rate=2e-4, schedule="constant", warmup=0.02, weight_decay=0.0, eps=1e-5
        )
    )
    value_learning_rate: ranges.NotNegative = 5e-4
    """Peak learning rate of the value model; 0 = by width and batch."""


@dataclass(frozen=True)
class ImproveConfig:
    rounds: ranges.Count = 3
    """Improvements K after the first answer."""
    stop: Literal["rounds", "threshold", "best"] = "rounds"
    """Answer returned, and compared as PIT's: the last of K; the last before a gap below stop_threshold; the
    best by chained gaps, which is the original where no gap is above 0."""
    stop_threshold: ranges.Threshold = 0.0
    """Least gap over the answer before, asked in both orders, with which a row goes on; only under stop=threshold."""
    temperature: ranges.NotNegative = 0.8
    """Sampling temperature of the answer and of every improvement; 0 = greedy."""
    top_k: ranges.CountOrNone = 0
    """Sample among the k likeliest tokens; 0 = all."""
    top_p: ranges.ShareAboveNone = 1.0
    """Sample among the likeliest tokens that hold this probability."""
    batch_size: ranges.Count = 256
    """Answers that are drawn side by side."""
    queue: ranges.Count = 4
    """Batches of prompts that are asked for at once: the next ones begin as soon as enough answers have ended."""
    prompts: str = ""
    """File of rows with a `prompt`, and an `answer` where there is one to improve; empty = held-out prompts."""
    limit: ranges.CountOrNone = 0
    """Most rows of that file to improve; 0 = all. Of held-out prompts there are evaluate.prompts."""


@dataclass(frozen=True)
class EvaluateConfig:
    prompts: ranges.Count = 1024
    """Held-out prompts of every comparison, here and in the paper's tables."""
    judges: tuple[str, ...] = ()
    """Who compares: rubric (where the data has a known truth), gap, or a fork's judge; empty = the first two."""
    policies: tuple[str, ...] = ()
    """Policies that were trained otherwise, and are compared too: dpo, spa (after each of its iterations)."""
    temperatures: ranges.NotNegatives = (0.4, 0.8, 1.0)
    """Matched temperatures: originals and improvements are sampled at the same one."""
    tie_margin: ranges.NotNegative = 0.0
    """Scores that differ by no more than this are a tie."""
    resamples: ranges.Count = 2000
    """Bootstrap resamples of an interval."""


@dataclass(frozen=True)
class PaperConfig:
    ablations: tuple[str, ...] = ("first-only", "second-only", "direct-rlhf", "pair-gap", "score-difference")
    """Runs that branch off this one (recipes/comparison/ablations.py): one phase alone, more RLHF, other rewards."""
    temperatures: ranges.NotNegatives = (0.2, 0.4, 0.6, 0.8, 1.0)
    """Temperatures of the sweep."""
    temperature: ranges.NotNegative = 1.0
    """Temperature of every other table."""
    rounds: ranges.Count = 5
    """Improvements in a row."""
    wording: str = ""
    """Folder with feedback.txt, refine.txt, history.txt and one_line.txt of Self-Refine; empty = the built-in ones."""
    refine_length: ranges.CountOrNone = 0
    """Most tokens of a Self-Refine prompt; 0 = data.prompt_length. Rows with a longer one keep their answer."""


@dataclass(frozen=True)
class ExportConfig:
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of exported weights."""
    adapters: Literal["merged", "peft"] = "merged"
    """Adapters inside whole models, or by themselves in PEFT's format beside the weights that they update."""


@dataclass(frozen=True)
class CheckpointConfig:
    every: ranges.CountOrNone = 200
    """Updates between checkpoints of SFT and reward models, which are evaluated then; 0 = ten in the longest."""
    keep: ranges.Count = 2
    """Latest checkpoints kept, beside the best."""


@dataclass(frozen=True)
class Config:
    stage: ranges.Name = "all"
    """What to run, of the list above; `all` runs what stands before it there, and skips what is finished."""
    model: Literal["policy", "improver", "second-gap", "word-model"] = "improver"
    """Which of the two pipelines, where a stage has both; rm has two more: a second gap model, a word model."""
    workdir: ranges.Name = "runs/tiny"
    """Folder that holds everything the run writes, on a disk or in an object store: gs://BUCKET/NAME."""
    parent_run: str = ""
    """Workdir of a run that this one branches off: its data are used, and its stages that the same knobs made."""
    forks: tuple[str, ...] = ()
    """Files, or names of installed forks, whose stages, algorithms, rewards, .. are added: --fork=FILE, repeatable."""
    base: str = ""
    """Folder, gs:// too, of a Hugging Face checkpoint whose architecture, weights and tokenizer the run starts from."""
    seed: ranges.Seed = 0
    """Seed of initialisation, data order and sampling."""
    seeds: ranges.Seeds = ()
    """Run the stages once for each of these seeds, in seed-<s>/ of the workdir, and show mean and spread: 0,1,2."""
    profile: str = ""
    """START:STOP: write a trace for XProf of these rounds of RL, or updates of other trainings, to <stage>/profile."""
    data: DataConfig = field(default_factory=DataConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    hosts: HostsConfig = field(default_factory=HostsConfig)
    sft: SftConfig = field(default_factory=SftConfig)
    rm: RmConfig = field(default_factory=RmConfig)
    rl: RlConfig = field(default_factory=RlConfig)
    dpo: DpoConfig = field(default_factory=DpoConfig)
    spa: SpaConfig = field(default_factory=SpaConfig)
    improve: ImproveConfig = field(default_factory=ImproveConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    paper: PaperConfig = field(default_factory=PaperConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    plan: PlanConfig = field(default_factory=PlanConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Leaf fields as {"rl.kl_coef": 0.15, ...}."""
    flat: dict[str, Any] = {}
    for f in fields(config):
        value, name = getattr(config, f.name), prefix + f.name
        leaf = {name: list(value) if isinstance(value, tuple) else value}
        flat |= flatten(value, f"{name}.") if is_dataclass(value) else leaf
    return flat


def config_hash(flat: dict[str, Any]) -> str:
    """Twelve hex digits that name a set of knobs."""
    return hashlib.sha256(json.dumps(flat, sort_keys=True).encode()).hexdigest()[:12]
