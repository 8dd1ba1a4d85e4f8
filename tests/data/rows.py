"""Rows for the tests of this folder, and files that hold them."""

import gzip
import json
from pathlib import Path
from typing import Any

PAIR: dict[str, Any] = {"prompt": "say hi", "chosen": "hi", "rejected": "no"}


def write(path: Path, *lines: Any) -> Path:
    """JSON objects, or raw bytes where a line is bytes; gzipped where the name says so."""
    raw = b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def turns(*contents: str) -> list[dict[str, str]]:
    """Messages of a user and an assistant in turn."""
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]
