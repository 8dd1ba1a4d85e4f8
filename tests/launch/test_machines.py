"""A slice is checked, and counted, before anything is asked of Google."""

from typing import Any

import pytest

from launch import gcloud
from launch.machines import Machine
from pit_jax.errors import UserError


def machine(**facts: Any) -> Machine:
    checked = Machine(**({"name": "pit", "zone": "us-west4-a"} | facts))
    checked.check()
    return checked


# Chips and workers as the pages of cloud.google.com/tpu/docs have them: v2, v3, v4 and v5p count cores, two to a chip.
@pytest.mark.parametrize(
    ("accelerator_type", "chips", "workers", "image"),
    [
        ("v2-8", 4, 1, "tpu-ubuntu2204-base"),
        ("v3-32", 16, 4, "tpu-ubuntu2204-base"),
        ("v4-8", 4, 1, "tpu-ubuntu2204-base"),
        ("v4-32", 16, 4, "tpu-ubuntu2204-base"),
        ("v5litepod-8", 8, 1, "v2-alpha-tpuv5-lite"),
        ("v5litepod-16", 16, 4, "v2-alpha-tpuv5-lite"),
        ("v5litepod-256", 256, 64, "v2-alpha-tpuv5-lite"),
        ("v5p-64", 32, 8, "v2-alpha-tpuv5"),
        ("v6e-1", 1, 1, "v2-alpha-tpuv6e"),
        ("v6e-64", 64, 16, "v2-alpha-tpuv6e"),
    ],
)
def test_chips_and_workers_of_a_type(accelerator_type: str, chips: int, workers: int, image: str) -> None:
    asked = machine(accelerator_type=accelerator_type)
    assert (asked.chips, asked.workers, asked.image) == (chips, workers, image)


def test_a_topology_is_the_same_slice() -> None:
    by_type, by_shape = machine(accelerator_type="v4-32"), machine(type="v4", topology="2x2x4")
    assert (by_type.chips, by_type.workers) == (by_shape.chips, by_shape.workers)
    assert "--type=v4" in gcloud.create(by_shape) and "--topology=2x2x4" in gcloud.create(by_shape)
    assert gcloud.create(by_shape)[1] == "compute"
    # The released command's --type knows v2, v3 and v4 alone.
    assert gcloud.create(machine(type="v6e", topology="4x4"))[1:3] == ("alpha", "compute")


def test_spot_machines_are_asked_for_by_both_commands() -> None:
    """The alpha one overwrites --spot where no model is given; the released one knows no models."""
    model = "--provisioning-model=spot"
    by_alpha, by_released = (
        machine(type="v6e", topology="4x4", spot=True),
        machine(type="v4", topology="2x2x4", spot=True),
    )
    assert {"--spot", model} <= set(gcloud.create(by_alpha)) and model not in gcloud.create(by_released)
    assert "--spot" in gcloud.create(by_released)
    assert model not in gcloud.create(machine(type="v6e", topology="4x4"))


def test_several_slices_are_numbered_nodes_of_one_resource() -> None:
    asked = machine(accelerator_type="v5litepod-16", node_count=3)
    assert asked.nodes == ("pit-0", "pit-1", "pit-2") and asked.all_workers == 12
    command = gcloud.create(asked)
    assert "--node-count=3" in command and "--node-prefix=pit" in command
    assert not any(word.startswith("--node-id") for word in command)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"name": "Pit", "accelerator_type": "v4-8"}, "asked for the name of a queued resource"),
        ({"zone": "us-west4", "accelerator_type": "v4-8"}, "with its last letter"),
        ({}, "asked for --accelerator-type, or --type and --topology, found neither"),
        ({"accelerator_type": "v4-8", "type": "v4"}, "asked for --accelerator-type, or"),
        ({"type": "v4"}, "asked for --accelerator-type, or --type and --topology, found v4"),
        ({"accelerator_type": "v5e-16"}, "v5e is called v5litepod"),
        ({"accelerator_type": "v5litpod-16"}, "did you mean v5litepod?"),
        ({"accelerator_type": "tpu7x-16"}, "on GKE alone; launch/jobset.yaml"),
        ({"accelerator_type": "v4-9"}, "asked for a number of cores, two to a chip"),
        ({"accelerator_type": "v6e-x"}, "asked for a number of chips"),
        ({"accelerator_type": "v6e-18"}, "18 chips are no whole number of workers"),
        ({"type": "v5p", "topology": "4x4"}, "asked for 3 numbers, such as 2x2x4, for v5p"),
        ({"accelerator_type": "v4-8", "spot": True, "reserved": True}, "--spot and --reserved"),
        ({"accelerator_type": "v4-8", "internal_ip": True, "tunnel_through_iap": True}, "drop one of the flags"),
        ({"accelerator_type": "v4-8", "node_count": 0}, "asked for slices, 1 or more"),
        ({"accelerator_type": "v4-8", "nfs": "share"}, "asked for HOST:/SHARE"),
    ],
)
def test_what_cannot_be_had_is_refused(facts: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        machine(**facts)
    assert message in str(caught.value)


def test_ssh_goes_the_way_that_was_asked_for() -> None:
    tunnel, inside = (
        machine(accelerator_type="v4-8", tunnel_through_iap=True),
        machine(accelerator_type="v4-8", internal_ip=True),
    )
    assert "--tunnel-through-iap" in gcloud.on_workers(tunnel, "ls") and "--internal-ip" in gcloud.on_workers(
        inside, "ls"
    )
    copy = gcloud.to_workers(inside, ("code.tar.gz",), "pit")
    for flag in ("-oConnectTimeout=20", "-oServerAliveInterval=15"):
        assert f"--ssh-flag={flag}" in gcloud.on_workers(tunnel, "ls") and f"--scp-flag={flag}" in copy
    # The released `tpu-vm ssh` knows no proxy.
    assert gcloud.shell(tunnel, "pit", 0)[1] == "alpha" and gcloud.shell(inside, "pit", 0)[1] == "compute"
