"""Host memory of reading a checkpoint: peak resident memory beyond the weights themselves.

    python -m benchmarks.load_memory --scratch=runs/load-memory [--layers=16]

A random Llama of about a billion weights (16 layers) is written to --scratch in bfloat16, in files of at most 512 MiB,
and read in float32 onto the devices of this machine. On a CPU the weights are resident too: they are subtracted. Pages
of the mapped files are counted apart, since the system takes them back when it needs them.
"""

import json
import threading
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import transformers
from rich.console import Console
from safetensors.numpy import save_file

from benchmarks.results import keep, parser_of
from pit_jax.config import MeshConfig
from pit_jax.model.networks import LanguageModel
from pit_jax.model.pretrained import weights
from pit_jax.model.pretrained.families import FAMILIES, architecture
from pit_jax.parallel.host_memory import keep_freed_memory
from pit_jax.parallel.mesh import make_mesh

FILE_BYTES = 512 << 20


class Watch(threading.Thread):
    """The largest anonymous and file-backed resident memory, in bytes, seen every few milliseconds."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.anonymous, self.mapped, self._over = 0, 0, threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.005):
            self.look()

    def look(self) -> None:
        rows = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
        sizes = {row[0]: int(row[1]) * 1024 for row in rows if row[0] in ("RssAnon:", "RssFile:")}
        self.anonymous = max(self.anonymous, sizes["RssAnon:"])
        self.mapped = max(self.mapped, sizes["RssFile:"])

    def end(self) -> None:
        self._over.set()
        self.join()


def write(folder: Path, config: transformers.LlamaConfig) -> None:
    """A checkpoint of random weights, tensor by tensor."""
    folder.mkdir(parents=True)
    config.save_pretrained(folder)
    ours = architecture(config.to_dict())
    shapes = jax.eval_shape(LanguageModel(ours, ours.vocab_rows).init, jax.random.key(0))
    rng, entries = np.random.default_rng(0), FAMILIES["llama"].entries(ours)
    group: dict[str, Any] = {}
    placed: dict[str, str] = {}

    def flush() -> None:
        name = f"model-{len(set(placed.values())):05d}.safetensors"
        save_file(group, folder / name)
        placed.update(dict.fromkeys(group, name))
        group.clear()

    for name, shape in weights.tensor_shapes(entries, shapes):
        group[name] = (rng.standard_normal(shape, np.float32) * 0.02).astype(jnp.bfloat16)
        if sum(array.nbytes for array in group.values()) > FILE_BYTES:
            flush()
    flush()
    (folder / weights.INDEX).write_text(json.dumps({"weight_map": placed}))


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=16)
    given = parser.parse_args()
    config = transformers.LlamaConfig(
        vocab_size=32_000,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=given.layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        tie_word_embeddings=True,
    )
    folder = given.scratch / f"llama-{given.layers}"
    if not folder.exists():
        write(folder, config)
    keep_freed_memory()
    ours = architecture(config.to_dict())
    shapes = jax.eval_shape(LanguageModel(ours, ours.vocab_rows).init, jax.random.key(0))
    before = Watch()
    before.look()
    watch = Watch()
    watch.start()
    entries = FAMILIES["llama"].entries(ours)
    params = jax.block_until_ready(weights.load(folder, entries, shapes, make_mesh(MeshConfig())))
    watch.end()
    bytes_of = sum(x.nbytes for x in jax.tree.leaves(params))
    largest = max(4 * int(np.prod(shape)) for _, shape in weights.tensor_shapes(entries, shapes))
    line = {
        "weights": sum(x.size for x in jax.tree.leaves(params)),
        "MiB of them": bytes_of >> 20,
        "largest tensor, MiB": largest >> 20,
        "MiB beyond them and the start": (watch.anonymous - before.anonymous - bytes_of) >> 20,
        "MiB at the start": before.anonymous >> 20,
        "MiB of mapped files": watch.mapped >> 20,
    }
    Console().print(line)
    keep(given.results, "load_memory", line)


if __name__ == "__main__":
    main()
