"""Where preference pairs come from: the embedded `notes`, a user's own JSONL, HH-RLHF transcripts."""

import difflib
import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pit_jax.batch import Triple
from pit_jax.config import DataConfig
from pit_jax.data.transcripts import SPEAKERS, TURN, Message, transcript

KINDS = ("notes", "jsonl", "hh")


def read_source(spec: str, data: DataConfig) -> tuple[list[Triple], Counter[str]]:
    """Triples of one source and the rows left out of it, counted by reason.

    `spec` is `notes`, `jsonl:PATH` or `hh:PATH`. Raises ValueError for an unknown kind or a file that cannot be used.
    """
    kind, colon, path = spec.partition(":")
    if kind not in KINDS:
        nearest = difflib.get_close_matches(kind, KINDS, n=1, cutoff=0.0)[0]
        raise ValueError(
            f"data source {spec!r}: unknown kind {kind!r}; did you mean {nearest!r}? "
            "Sources are notes, jsonl:PATH (prompt, chosen, rejected) and hh:PATH (transcripts)"
        )
    if kind == "notes":
        if colon:
            raise ValueError(f"data source {spec!r}: notes is embedded and takes no path; write 'notes'")
        from pit_jax.data import notes

        return notes.pairs(data.notes_pairs, data.notes_seed), Counter()
    if not path:
        raise ValueError(f"data source {spec!r} names no file; write '{kind}:PATH'")
    if kind == "jsonl":
        return read_jsonl(Path(path)), Counter()
    return _read_transcripts(Path(path))


def read_jsonl(path: str | Path) -> list[Triple]:
    """Triples of a .jsonl or .jsonl.gz file with the columns prompt, chosen, rejected; other columns are ignored.

    Each column is a string or a list of {role, content} messages. Without a `prompt` column, `chosen` and `rejected`
    must be message lists that differ in their last (assistant) message only; what they share is the prompt. Message
    prompts are rendered as a transcript: "\\n\\nHuman: ...\\n\\nAssistant:".
    Raises ValueError, naming the line, for anything that is not a usable pair.
    """
    triples = []
    for where, row in _rows(Path(path)):
        triple = _pair(where, row)
        for column in ("prompt", "chosen", "rejected"):
            if not getattr(triple, column).strip():
                raise ValueError(f"{where}: {column} is empty; every pair needs a prompt and two answers")
        if triple.chosen.strip() == triple.rejected.strip():
            raise ValueError(f"{where}: chosen and rejected are the same text; a pair needs two different answers")
        triples.append(triple)
    return triples


def read_hh(path: str | Path) -> list[Triple]:
    """Triples of an HH-RLHF file (.jsonl or .jsonl.gz): whole dialogues `chosen` and `rejected` that share a prefix.

    The prompt is everything up to and including the last "\\n\\nAssistant:"; the answers are what follows, stripped.
    Rows without a shared prompt, with an empty answer or with equal answers are left out (`read_source` counts them).
    Raises ValueError for a file that cannot be read or rows that are not two strings.
    """
    return _read_transcripts(Path(path))[0]


def _read_transcripts(path: Path) -> tuple[list[Triple], Counter[str]]:
    triples, drops = [], Counter[str]()
    for where, row in _rows(path):
        _need_columns(where, row, ("chosen", "rejected"))
        texts = [_text(where, name, row[name]) for name in ("chosen", "rejected")]
        (prompt, turn, chosen), (other, _, rejected) = (text.rpartition(TURN) for text in texts)
        chosen, rejected = chosen.strip(), rejected.strip()
        if not turn or not prompt.strip():
            drops["no prompt before the last assistant turn"] += 1
        elif prompt != other:
            drops["dialogues differ before the last assistant turn"] += 1
        elif not chosen or not rejected:
            drops["empty answer"] += 1
        elif chosen == rejected:
            drops["chosen equals rejected"] += 1
        else:
            triples.append(Triple(prompt + turn, chosen, rejected))
    return triples, drops


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, row) of every line that is not blank; `where` names file and line for messages."""
    if not path.exists():
        raise ValueError(f"{path}: no such file; check the path after the colon of the data source")
    if path.is_dir():
        raise ValueError(f"{path}: is a folder, not a file; name one .jsonl or .jsonl.gz file")
    found = False
    for number, raw in _lines(path):
        where = f"{path}, line {number}"
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            at = f"{error.reason} at byte {error.start}"
            raise ValueError(f"{where}: not valid UTF-8 ({at}); save the file as UTF-8") from error
        if not line:
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"{where}: not valid JSON ({error}); every line must hold one JSON object") from error
        if not isinstance(row, dict):
            raise ValueError(f"{where}: found a JSON {type(row).__name__}, every line must hold one JSON object")
        found = True
        yield where, row
    if not found:
        raise ValueError(f"{path}: the file is empty; it must hold one JSON object a line")


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            yield from enumerate(file, 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: not a complete gzip file ({error})") from error
    except PermissionError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from error


def _need_columns(where: str, row: dict[str, Any], columns: tuple[str, ...]) -> None:
    missing = [name for name in columns if name not in row]
    if missing:
        raise ValueError(
            f"{where}: missing column{'s' * (len(missing) > 1)} {', '.join(missing)}; "
            f"found {', '.join(sorted(row)) or 'none'}; needed {', '.join(columns)}"
        )


def _text(where: str, name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{where}: {name} must be a string, found {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where}: {name} holds half a surrogate pair, which is not valid Unicode") from error
    return value


def _messages(where: str, name: str, value: list[Any]) -> list[Message]:
    """(role, content) of a message list; raises ValueError for a wrong shape or an unknown role."""
    messages = []
    for message in value:
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise ValueError(f"{where}: every message of {name} needs role and content, found {str(message)[:80]}")
        role = message["role"]
        if role not in SPEAKERS:
            raise ValueError(f"{where}: {name} has the unknown role {role!r}; roles are {', '.join(SPEAKERS)}")
        messages.append((role, _text(where, f"content of {name}", message["content"])))
    return messages


def _pair(where: str, row: dict[str, Any]) -> Triple:
    conversational = isinstance(row.get("chosen"), list) and isinstance(row.get("rejected"), list)
    _need_columns(where, row, ("chosen", "rejected") if conversational else ("prompt", "chosen", "rejected"))
    heads, answers = [], []
    for name in ("chosen", "rejected"):
        head, answer = _split_answer(where, name, row[name])
        heads.append(head)
        answers.append(answer)
    prompt = row.get("prompt")
    if prompt is None:
        if heads[0] != heads[1]:
            raise ValueError(f"{where}: without a prompt, chosen and rejected must share all messages but the last")
        text = _transcript(where, heads[0])
    else:
        if isinstance(prompt, list):
            turns = _messages(where, "prompt", prompt)
            text = _transcript(where, turns)
        else:
            text = _text(where, "prompt", prompt)
            turns = [("user", text)]
        for name, head in zip(("chosen", "rejected"), heads, strict=True):
            if head and head != turns:
                raise ValueError(f"{where}: the messages of {name} before its answer differ from the prompt")
    return Triple(text, answers[0], answers[1])


def _split_answer(where: str, name: str, value: Any) -> tuple[list[Message], str]:
    """Messages before the answer (none for a plain string) and the answer."""
    if isinstance(value, str):
        return [], _text(where, name, value)
    if not isinstance(value, list):
        kind = type(value).__name__
        raise ValueError(f"{where}: {name} must be a string or a list of {{role, content}}, found {kind}")
    messages = _messages(where, name, value)
    if not messages or messages[-1][0] != "assistant":
        raise ValueError(f"{where}: {name} must end with an assistant message")
    return messages[:-1], messages[-1][1]


def _transcript(where: str, messages: list[Message]) -> str:
    if not messages or messages[-1][0] != "user":
        raise ValueError(f"{where}: the prompt must end with a user message")
    if not messages[-1][1].strip():
        raise ValueError(f"{where}: prompt is empty; every pair needs a prompt and two answers")
    try:
        return transcript(messages)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
