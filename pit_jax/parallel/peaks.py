"""What devices can compute at best, by the names that JAX knows them by."""

from pit_jax.parallel.topologies import CHIPS

# Names of TPUs as in jax/_src/pallas/mosaic/tpu_info.py.
TPUS = {
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
    "TPU v6 lite": "v6e",
    "TPU v6e": "v6e",
}
# Beginnings of the names that NVIDIA's driver tells; the first that fits counts. Dense bf16: what is published with
# sparsity is twice as much. Sources: "NVIDIA H100 Tensor Core GPU Architecture" (989.4 SXM5, 756 PCIe); data sheets of
# the H100 NVL, the H200 NVL (1,671 with sparsity) and the H200 (1,979 with sparsity); "NVIDIA A100 Tensor Core GPU
# Architecture" (312).
GPUS = {
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835.5e12,
    "NVIDIA H100": 989.4e12,
    "NVIDIA H200 NVL": 835.5e12,
    "NVIDIA H200": 989.4e12,
    "NVIDIA A100": 312e12,
}


def peak_flops(device_kind: str) -> float | None:
    """Dense bf16 operations a second of one device of a kind; None for a kind that no table here knows, as CPUs."""
    if device_kind in TPUS:
        return CHIPS[TPUS[device_kind]].flops
    return next((peak for name, peak in GPUS.items() if device_kind.startswith(name)), None)
