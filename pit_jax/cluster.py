"""Knobs of where a run lives, which change no result: mesh, hosts, and the machine to plan for."""

from dataclasses import dataclass
from typing import Literal

from pit_jax.ranges import Count, CountOrNone, CountOrRest, Name, Names, NotNegative


@dataclass(frozen=True)
class MeshConfig:
    data: CountOrRest = -1
    """Devices on the data axis; -1 = all that the other axes leave."""
    fsdp: Count = 1
    """Devices over which parameters and batches are both split."""
    tensor: Count = 1
    """Devices over which heads and feed-forward are split."""
    slices: Count = 1
    """Slices of TPU that the data axis is split over; parameters are never split between slices."""
    decode: CountOrNone = 0
    """Devices of the fsdp axis that share one copy of the weights while answers are drawn; 0 = as few as hold it."""
    simulate: CountOrNone = 0
    """Simulate this many CPU devices (0 = use the real ones)."""


@dataclass(frozen=True)
class HostsConfig:
    coordinator: str = ""
    """HOST:PORT of host 0; empty = found out where a TPU lists several workers or SLURM runs several tasks."""
    count: CountOrNone = 0
    """Hosts, which all run the same command."""
    index: CountOrRest = -1
    """This host's number, from 0; host 0 is the one that writes and prints."""
    start_timeout: Count = 300
    """Seconds within which all hosts must have come; else those that have end with code 75, to be run again."""
    heartbeat: Count = 100
    """Seconds after which a host that is not heard of any more ends the others."""


Effort = Literal["full", "least"]


@dataclass(frozen=True)
class PlanConfig:
    topology: Name = "v5e-256"
    """Machine to plan for: an accelerator type (v5e-256, v5p-64), or a shape in chips (v5p:4x4x4)."""
    stages: Names = ("sft", "rm", "rl")
    """Stages to plan, by name (all their models), or one model of them: rl-improver."""
    model: Literal["", "gemma-2b", "llama-3-8b", "llama-3-70b"] = ""
    """Architecture to plan with; empty = that of --base, or the transformer's knobs."""
    vocab_size: CountOrNone = 0
    """Rows of the embedding; 0 = the model's, the prepared data's, or at most tokenizer.vocab_size."""
    suffix_tokens: Count = 16
    """Tokens between a reference and its answer, where no prepared data tell."""
    price: NotNegative = 0.0
    """Price of a chip-hour, in any currency; 0 = hours alone."""
    search: bool = False
    """Try meshes and the knobs that trade time for memory, and propose the cheapest plan that fits."""
    tries: Count = 24
    """Most plans that a search compiles, likeliest first."""
    effort: Effort = "full"
    """The TPU compiler's. least = in an eighth of the time, as tries are; memory is not quite that of a run."""
