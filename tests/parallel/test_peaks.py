"""Peaks by the names of devices: published numbers, and none for what nobody has looked up."""

import jax
import pytest

from pit_jax.parallel.peaks import peak_flops


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("TPU v4", 275e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5p", 459e12),
        ("TPU v5", 459e12),
        ("TPU v6 lite", 918e12),
        ("NVIDIA H100 80GB HBM3", 989.4e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989.4e12),
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("NVIDIA A100 80GB PCIe", 312e12),
    ],
)
def test_a_known_kind_has_its_published_peak(kind: str, peak: float) -> None:
    assert peak_flops(kind) == peak


@pytest.mark.parametrize("kind", ["cpu", "TPU v3", "TPU v4 lite", "TPU7x", "NVIDIA A10G", "NVIDIA GB200", "A100", ""])
def test_an_unknown_kind_has_none(kind: str) -> None:
    """Nor has one that only resembles a known one."""
    assert peak_flops(kind) is None


def test_this_machine_s_cpu_has_none() -> None:
    assert peak_flops(jax.devices("cpu")[0].device_kind) is None
