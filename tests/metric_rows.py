"""What a training logs and a repeated one logs again."""

from pathlib import Path

from pit_jax.files import Row, read_jsonl


def repeatable(folder: Path) -> list[Row]:
    """Rows of a training's metrics.jsonl without what depends on how fast it went."""
    rows = [row for row in read_jsonl(folder / "metrics.jsonl") if row["phase"] != "performance"]
    return [{name: value for name, value in row.items() if name != "time"} for row in rows]
