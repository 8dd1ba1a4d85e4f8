"""Memory of the improver's RL with adapters and without: peak resident memory of the stage, bytes of its checkpoint.

    python -m benchmarks.adapter_memory --scratch=runs/adapter-memory --rank=8 [--width=512 --layers=8]

Both runs are made here, on the embedded set, from the same random weights: a few updates of every stage, since memory
does not depend on what is learned. On a CPU the weights are resident memory too, so one figure holds all of it.
"""

import subprocess
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.command import BEFORE_IMPROVER_RL, execute
from benchmarks.results import keep, parser_of

QUICK = (
    *("--data.world-pairs=4000", "--sft.policy-steps=2", "--sft.improver-steps=2", "--sft.batch-size=16"),
    *("--rm.policy-steps=2", "--rm.improver-steps=2", "--rm.batch-size=16", "--rl.policy-rounds=1"),
    *("--rl.curriculum.rounds", "1", "1", "--rl.batch-size=16", "--rl.heldout-prompts=16", "--rl.ignore-gates"),
    *("--rl.select-kl=1e9", "--rl.monitors.action=warn", "--checkpoint.keep=1"),
)


def measure(workdir: Path, flags: list[str]) -> tuple[int, int]:
    """(peak resident bytes, bytes of a checkpoint) of the improver's RL in `workdir`, after whatever it needs."""
    common = [f"--workdir={workdir}", *QUICK, *flags]
    for stage, model in BEFORE_IMPROVER_RL:
        execute([f"--stage={stage}", f"--model={model}", *common], stdout=subprocess.DEVNULL)
    resident = execute(["--stage=rl", *common], stdout=subprocess.DEVNULL).resident
    newest = max((workdir / "rl-improver" / "checkpoints").glob("[0-9]*"), key=lambda path: int(path.name))
    return resident, sum(path.stat().st_size for path in newest.rglob("*") if path.is_file())


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--scratch", type=Path, required=True)
    for name, default in (("rank", 8), ("width", 512), ("layers", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    size = [
        *(f"--transformer.width={given.width}", f"--transformer.layers={given.layers}"),
        *(f"--transformer.head-size={given.width // 4}", f"--transformer.ffn={3 * given.width}"),
    ]
    table = Table(title=f"RL of the improver, width {given.width}, {given.layers} layers", title_justify="left")
    for column in ("trained", "peak resident, MiB", "checkpoint, MiB"):
        table.add_column(column, justify="right")
    figures = {}
    for name, rank in (("all weights", 0), (f"adapters of rank {given.rank}", given.rank)):
        resident, checkpoint = measure(given.scratch / f"rank-{rank}", [*size, f"--adapter.rank={rank}"])
        table.add_row(name, f"{resident / 2**20:,.0f}", f"{checkpoint / 2**20:,.1f}")
        figures[name] = {"MiB resident": resident >> 20, "MiB of checkpoint": round(checkpoint / 2**20, 1)}
    Console().print(table)
    keep(given.results, "adapter_memory", {"width": given.width, "layers": given.layers, **figures})


if __name__ == "__main__":
    main()
