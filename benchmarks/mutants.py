"""Do the tests notice? Faults planted by hand (signs, masks, orders, seeds), each with the tests that should fail.

    python -m benchmarks.mutants [--only=NAME]

Every mutant replaces one piece of one source in a copy of the checkout and runs the tests named beside it. The table
says which were caught; a fault that passes asks for a test, not for another list. tests/test_mutants.py keeps the list
applicable.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.faults import MUTANTS, ROOT, Mutant
from benchmarks.results import keep, parser_of

COPIED = ("pit_jax", "configs", "launch", "tests", "examples", "benchmarks", "docs", "pyproject.toml", "setup.py")


def is_caught(mutant: Mutant, checkout: Path) -> bool:
    """Whether a test fails with the fault in a copy of the checkout, which is mended afterwards."""
    path = checkout / "pit_jax" / mutant.file
    source = path.read_text(encoding="utf-8")
    assert source.count(mutant.old) == 1, f"{mutant.name}: {mutant.old!r} stands {source.count(mutant.old)} times"
    path.write_text(source.replace(mutant.old, mutant.new), encoding="utf-8")
    tests = [f"tests/{name}" for name in mutant.tests.split()]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(command, cwd=checkout, capture_output=True, text=True)
    finally:
        path.write_text(source, encoding="utf-8")
    assert done.returncode in (0, 1), done.stdout[-2000:] + done.stderr[-2000:]
    return done.returncode == 1


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--only", default="", help="the mutants whose name holds this")
    given = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if given.only in mutant.name]
    with tempfile.TemporaryDirectory(prefix="pit_jax-mutants-") as folder:
        checkout = Path(folder)
        for name in COPIED:
            source = ROOT / name
            copy = shutil.copytree if source.is_dir() else shutil.copy
            copy(source, checkout / name)
        caught = {mutant.name: is_caught(mutant, checkout) for mutant in track(chosen, console=Console(stderr=True))}
    table = Table(title=f"{sum(caught.values())} of {len(caught)} faults caught", title_justify="left")
    for column in ("fault", "file", ""):
        table.add_column(column)
    for mutant in chosen:
        table.add_row(mutant.name, mutant.file, "caught" if caught[mutant.name] else "[red]PASSED[/]")
    Console().print(table)
    if not given.only:
        passed = [name for name, noticed in caught.items() if not noticed]
        keep(given.results, "mutants", {"mutants": len(caught), "caught": sum(caught.values()), "passed": passed})


if __name__ == "__main__":
    main()
