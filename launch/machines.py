"""What can be asked of Cloud TPU: generations, their sizes, and a slice as a checked value."""

import math
import re
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from pit_jax.errors import UserError, did_you_mean

NAME = re.compile(r"[a-z]([-a-z0-9]{0,46}[a-z0-9])?")
ZONE = re.compile(r"[a-z]+-[a-z]+[0-9]+-[a-z]")
ON_GKE_ALONE = ("tpu7x", "v7x", "ironwood")


@dataclass(frozen=True)
class Generation:
    """How a generation counts and is divided; sources: cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,runtimes}."""

    runtime: str  # docs/runtimes: "TPU software versions" for JAX
    cores: int  # what an accelerator type counts a chip as: v4-8 has 4 chips, v5litepod-8 has 8
    single: int  # the largest slice, in chips, that is one worker; larger ones have 4 chips a worker
    dimensions: int  # of its topologies


GENERATIONS = {
    "v2": Generation("tpu-ubuntu2204-base", 2, 4, 2),
    "v3": Generation("tpu-ubuntu2204-base", 2, 4, 2),
    "v4": Generation("tpu-ubuntu2204-base", 2, 4, 3),
    "v5litepod": Generation("v2-alpha-tpuv5-lite", 1, 8, 2),
    "v5p": Generation("v2-alpha-tpuv5", 2, 4, 3),
    "v6e": Generation("v2-alpha-tpuv6e", 1, 8, 2),
}
CHIPS_A_WORKER = 4
GA_TYPES = ("v2", "v3", "v4")  # --type of `gcloud compute tpus queued-resources create`, 528.0.0; alpha has the others


@dataclass(frozen=True, kw_only=True)
class Target:
    """A queued resource, and how gcloud gets to it."""

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]
    """Of the queued resource; its slices are NAME, or NAME-0, NAME-1, ... where there are several."""
    zone: str
    """Such as us-west4-a."""
    project: str = ""
    """The Google Cloud project; the one that gcloud is set to where it is empty."""
    internal_ip: bool = False
    """ssh to internal addresses: from a VM in the same network."""
    tunnel_through_iap: bool = False
    """ssh through the Identity-Aware Proxy: to workers without external addresses, from anywhere."""
    dry_run: bool = False
    """Print the exact commands and run none."""

    def check(self) -> None:
        """UserError for names that gcloud would refuse, or misread."""
        if not NAME.fullmatch(self.name):
            raise UserError(
                f"{self.name!r}: asked for the name of a queued resource, which has lower-case letters, digits and "
                "dashes, begins with a letter and has at most 48 of them"
            )
        if not ZONE.fullmatch(self.zone):
            raise UserError(f"--zone={self.zone}: asked for a zone such as us-west4-a, with its last letter")
        if self.internal_ip and self.tunnel_through_iap:
            raise UserError("--internal-ip and --tunnel-through-iap: two ways to the workers; drop one of the flags")


@dataclass(frozen=True, kw_only=True)
class Machine(Target):
    """A queued resource as it is to be made."""

    accelerator_type: str = ""
    """Such as v5litepod-16, v6e-64, v4-8 or v5p-64; or --type and --topology in its place."""
    type: str = ""
    """Generation: v2, v3, v4, v5litepod, v5p or v6e."""
    topology: str = ""
    """Chips along each axis, such as 4x4 or 2x2x4."""
    runtime_version: str = ""
    """The VM's image; that of the generation where it is empty."""
    node_count: Annotated[int, tyro.conf.arg(metavar="SLICES")] = 1
    """Slices, joined by the data centre's network."""
    spot: bool = False
    """Spot VMs: cheaper, and taken away at any time."""
    reserved: bool = False
    """From your reservation."""
    internal_ips: bool = False
    """Workers without external addresses; they need Cloud NAT to install packages."""
    network: str = ""
    """VPC network; the default one where it is empty."""
    subnetwork: str = ""
    """Of the network."""
    service_account: str = ""
    """Whom the workers act as; the project's default where it is empty."""
    valid_until_duration: str = ""
    """How long to queue, such as 6h; without end where it is empty."""
    nfs: str = ""
    """HOST:/SHARE to mount at /mnt/pit on every worker: where a workdir outlives the machines."""
    labels: dict[str, str] = field(default_factory=dict)
    """Pairs of KEY VALUE on the bill."""

    def check(self) -> None:
        """UserError for what cannot be had, before anything is asked of Google."""
        super().check()
        if self.node_count < 1:
            raise UserError(f"--node-count={self.node_count}: asked for slices, 1 or more")
        if self.spot and self.reserved:
            raise UserError("--spot and --reserved: a reservation's machines are no spot VMs; drop one of the flags")
        if self.nfs and not re.fullmatch(r"[\w.-]+:/[\w./-]*", self.nfs):
            raise UserError(f"--nfs={self.nfs}: asked for HOST:/SHARE, such as 10.0.0.2:/share")
        if self.chips % self.workers:
            raise UserError(f"{self.kind}: {self.chips} chips are no whole number of workers of {CHIPS_A_WORKER} chips")

    @property
    def kind(self) -> str:
        """As it was asked for, for messages."""
        return self.accelerator_type or f"{self.type} {self.topology}".strip()

    @property
    def generation(self) -> str:
        """The key into GENERATIONS. UserError for an unknown one, and where both or neither form was given."""
        both = bool(self.accelerator_type) and bool(self.type or self.topology)
        if both or not (self.accelerator_type or (self.type and self.topology)):
            raise UserError(
                f"asked for --accelerator-type, or --type and --topology, found {self.kind or 'neither'}; "
                "write --accelerator-type=v5litepod-16 or --type=v4 --topology=2x2x4"
            )
        word = (self.accelerator_type.rpartition("-")[0] if self.accelerator_type else self.type).lower()
        if word in ON_GKE_ALONE or self.kind.lower().startswith(ON_GKE_ALONE):
            raise UserError(f"{self.kind}: TPU7x is to be had on GKE alone; launch/jobset.yaml runs there")
        if word not in GENERATIONS:
            hint = "; v5e is called v5litepod" if word == "v5e" else did_you_mean(word, GENERATIONS)
            raise UserError(f"{self.kind}: unknown generation {word!r}{hint}; known: {', '.join(GENERATIONS)}")
        return word

    @property
    def chips(self) -> int:
        """Of one slice. UserError where the size or the topology is none."""
        generation = GENERATIONS[self.generation]
        if self.accelerator_type:
            size = self.accelerator_type.rpartition("-")[2]
            if not size.isdigit() or int(size) < 1 or int(size) % generation.cores:
                counted = "cores, two to a chip" if generation.cores == 2 else "chips"
                raise UserError(f"--accelerator-type={self.accelerator_type}: asked for a number of {counted}")
            return int(size) // generation.cores
        if not re.fullmatch("x".join([r"[1-9]\d*"] * generation.dimensions), self.topology):
            example = {2: "4x4", 3: "2x2x4"}[generation.dimensions]
            raise UserError(
                f"--topology={self.topology}: asked for {generation.dimensions} numbers, such as {example}, "
                f"for {self.type}"
            )
        return math.prod(map(int, self.topology.split("x")))

    @property
    def workers(self) -> int:
        """Virtual machines of one slice."""
        return 1 if self.chips <= GENERATIONS[self.generation].single else max(self.chips // CHIPS_A_WORKER, 1)

    @property
    def all_workers(self) -> int:
        """Virtual machines of all slices: processes of the run."""
        return self.workers * self.node_count

    @property
    def image(self) -> str:
        """The runtime version."""
        return self.runtime_version or GENERATIONS[self.generation].runtime

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of the slices: the API numbers them from 0 behind the prefix."""
        return (self.name,) if self.node_count == 1 else tuple(f"{self.name}-{i}" for i in range(self.node_count))
