"""The nouns that travel between folders, and the one dimension key.

Dimension key (suffix of every array name):
  B batch          L whole sequence   P prompt slot      R reference slot   T response slot
  V vocabulary     D width            F feed-forward     N query heads      K key/value heads
  H head size      S cache            U layers           C candidates of a prompt
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax


@dataclass(frozen=True)
class Triple:
    """One preference pair as text: `chosen` (y_w) is preferred to `rejected` (y_l) for `prompt` (x)."""

    prompt: str
    chosen: str
    rejected: str
    margin: float = 0.0  # how far apart the reward model should score them (arXiv 2307.09288)


@dataclass(frozen=True)
class Answer:
    """One answer on the host, as the model wrote it: `ids` are its tokens, EOS included where it `ended` by itself."""

    text: str
    ids: tuple[int, ...]
    ended: bool = True


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SftBatch:
    """Next-token rows of one sequence each, or of several one behind the other, right-padded: targets_BL[b, i] is the
    token after tokens_BL[b, i]."""

    tokens_BL: jax.Array  # int32
    targets_BL: jax.Array  # int32
    mask_BL: jax.Array  # bool, True where the target counts in the loss
    positions_BL: jax.Array  # int32, from 0 in every sequence
    segments_BL: jax.Array  # int32, which sequence of the row; 0 = padding


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RewardBatch:
    """Two right-padded rows [prompt | y EOS] a pair; the scalar is read at the last real token."""

    chosen_BL: jax.Array  # int32
    chosen_segments_BL: jax.Array  # int32, 1 = real, 0 = padding
    rejected_BL: jax.Array  # int32
    rejected_segments_BL: jax.Array  # int32
    margin_B: jax.Array  # f32, by how much the scalars should differ


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DpoBatch:
    """The two rows of RewardBatch with what the frozen anchor thinks of them."""

    chosen_BL: jax.Array  # int32
    chosen_segments_BL: jax.Array  # int32
    rejected_BL: jax.Array  # int32
    rejected_segments_BL: jax.Array  # int32
    anchor_chosen_B: jax.Array  # f32, summed log-probs
    anchor_rejected_B: jax.Array  # f32


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SpaBatch:
    """The two rows of RewardBatch, labelled by a model, with what is known of the label, which no loss sees."""

    chosen_BL: jax.Array  # int32
    chosen_segments_BL: jax.Array  # int32
    rejected_BL: jax.Array  # int32
    rejected_segments_BL: jax.Array  # int32
    wrong_B: jax.Array  # bool, the truth prefers the rejected answer; False where no truth is known


TREE_COUNTS = (1, 2, 4)  # nodes of each depth of a gap tree: the trunk, two references, two candidates behind each


class TreeSlots(NamedTuple):
    """The most tokens of the nodes of a gap tree."""

    trunk: int
    reference: int  # with the suffix behind it
    candidate: int  # with its EOS


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class GapBatch:
    """The four (candidate, reference) combinations of a pair as one tree in one row.

    Row layout: trunk (improver prefix of x), then per reference r in (chosen, rejected): r + improver suffix,
    then the two candidates (chosen EOS, rejected EOS) that continue it. `nodes_BL` names the branch of every
    token (NODE_* below); a token sees earlier tokens of its own node and of its ancestors only.
    `end_ab_B` is the row index of the EOS of candidate a given reference b (w = chosen, l = rejected).
    """

    tokens_BL: jax.Array  # int32
    positions_BL: jax.Array  # int32, depth of the token in its own sequence
    nodes_BL: jax.Array  # int32
    end_wl_B: jax.Array  # int32
    end_ww_B: jax.Array  # int32
    end_ll_B: jax.Array  # int32
    end_lw_B: jax.Array  # int32


# Branches of the gap tree. 0 is padding. The second letter is the reference, as in r(candidate, reference).
NODE_TRUNK, NODE_REF_W, NODE_REF_L, NODE_WW, NODE_LW, NODE_WL, NODE_LL = 1, 2, 3, 4, 5, 6, 7
# NODE_PARENTS[n] lists the nodes that node n may look at, itself included.
NODE_PARENTS = {
    NODE_TRUNK: (NODE_TRUNK,),
    NODE_REF_W: (NODE_TRUNK, NODE_REF_W),
    NODE_REF_L: (NODE_TRUNK, NODE_REF_L),
    NODE_WW: (NODE_TRUNK, NODE_REF_W, NODE_WW),
    NODE_LW: (NODE_TRUNK, NODE_REF_W, NODE_LW),
    NODE_WL: (NODE_TRUNK, NODE_REF_L, NODE_WL),
    NODE_LL: (NODE_TRUNK, NODE_REF_L, NODE_LL),
}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PromptBatch:
    """Prompts to generate from. Prompt slots are left-padded, reference slots right-padded (no EOS).

    The improver prompt is assembled on the device: prefix(x) + reference + the template's constant suffix.
    """

    prompt_BP: jax.Array  # int32, policy prompt(x)
    prompt_mask_BP: jax.Array  # bool
    prefix_BP: jax.Array  # int32, improver prompt up to the reference
    prefix_mask_BP: jax.Array  # bool
    chosen_BR: jax.Array  # int32
    chosen_mask_BR: jax.Array  # bool
    rejected_BR: jax.Array  # int32
    rejected_mask_BR: jax.Array  # bool


@dataclass(frozen=True)
class DecodeSpec:
    """The constants of every decode of a run: tokens a response, special tokens, what follows a reference."""

    response_slot: int  # T
    eos_id: int
    pad_id: int
    suffix: tuple[int, ...]  # between the reference and the improver's response
    rows: int = 0  # responses that are decoded side by side at most, the others in turn; 0: all


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Responses:
    """Answers or references in their slot, with leading axes as needed: real tokens up to and including EOS."""

    tokens_BT: jax.Array  # int32
    mask_BT: jax.Array  # bool


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Completions:
    """Sampled responses: real tokens up to and including EOS, then PAD."""

    tokens_BT: jax.Array  # int32
    mask_BT: jax.Array  # bool
    logprobs_BT: jax.Array  # f32 at the sampling temperature, untruncated distribution; 0 in padding
    ended_B: jax.Array  # bool, False where the slot was full before EOS

    @property
    def responses(self) -> Responses:
        """Tokens and mask alone."""
        return Responses(self.tokens_BT, self.mask_BT)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RolloutPrompts:
    """What a rollout starts from: left-padded prompts and the references they hold (empty for the policy's own RL)."""

    prompt_BP: jax.Array  # int32, prompt(x) or prompt(x, y_ref)
    prompt_mask_BP: jax.Array  # bool
    plain_BP: jax.Array  # int32, prompt(x) in either case
    plain_mask_BP: jax.Array  # bool
    prefix_BP: jax.Array  # int32, prompt(x, y_ref) up to the reference; prompt(x) where it holds none
    prefix_mask_BP: jax.Array  # bool
    reference_BT: jax.Array  # int32, right-padded, its EOS included
    reference_mask_BT: jax.Array  # bool


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Experience:
    """A scored rollout: rows [prompt slot P, left-padded | response slot T, right-padded], L = P + T."""

    tokens_BL: jax.Array  # int32
    segments_BL: jax.Array  # int32, 1 = real, 0 = padding
    mask_BT: jax.Array  # bool, response tokens up to and including EOS
    old_logprobs_BT: jax.Array  # f32, of the sampler, at the sampling temperature
    advantages_BT: jax.Array  # f32
    scores_B: jax.Array  # f32, of the reward or gap model, without what text rewards add
    old_values_BT: jax.Array | None = None  # f32, of the critic, where the algorithm has one
    returns_BT: jax.Array | None = None  # f32, what the critic learns
    anchor_logprobs_BT: jax.Array | None = None  # f32, where the KL to the anchor is part of the loss
    kl_coef_B: jax.Array | None = None  # f32, its weight, the same in every row
