"""`callgate redact`: personal data out of files, standard input and transcripts, by the policy that the gateway uses.

Tokens are numbered within a file, or within a conversation of a JSONL file; nothing is kept to undo them. A text that could not be checked is not
written. It reads and writes files only: the gateway does the same for requests.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from guardrails.actions import load_own_recognizers
from guardrails.policy import PolicyError, load_policy
from guardrails.redaction import RedactionSettings, Redactor, build_redactor
from guardrails.types import PersonalDataBlocked, RedactionUnavailable, Segment

SHIPPED = Path(__file__).parent / "policies" / "call-centre"
CALLERS = {"user", "customer", "caller", "client", "human", "member"}
BLOCK = re.compile(r"(\n\s*\n)")  # an address may run over lines, never over an empty one
AT_ONCE = 32  # conversations in work


def redact(
    files: Annotated[list[Path] | None, typer.Argument(help="Files; none or - reads standard input.")] = None,
    policy: Annotated[
        Path, typer.Option(help="Folder of a policy; its redaction part says what happens to a kind.")
    ] = SHIPPED,
    actions: Annotated[
        Path | None, typer.Option(help="Trusted folder of Python recognisers that the policy names under actions.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the redacted files; else standard output.")] = None,
    jsonl: Annotated[
        bool, typer.Option("--jsonl", help="A JSON document a line, also where a name does not end so.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option(help="Where the counts go as JSON; else a line on standard error.")
    ] = None,
) -> None:
    """Take personal data out of texts and transcripts. Example: callgate redact calls.jsonl --out clean

    In JSONL a line is a conversation ("messages" or "turns" with role and content, or speaker and text), or any document.
    """
    try:
        loaded = load_policy(policy, actions)
        settings = RedactionSettings.model_validate(loaded.redaction)
        redactor = build_redactor(settings, recognizers=load_own_recognizers(loaded.actions))
        counts = asyncio.run(_run(redactor, _sources(files or [], out), jsonl))
    except (PolicyError, RedactionUnavailable, PersonalDataBlocked, ValueError, OSError) as error:
        print(f"callgate redact: {error}", file=sys.stderr)
        raise typer.Exit(3) from None
    told = {
        "texts": counts.pop("texts", 0),
        "not_checked": counts.pop("not checked", 0),
        "found": dict(counts.most_common()),
    }
    if report is not None:
        report.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    else:
        print(json.dumps(told), file=sys.stderr)
    raise typer.Exit(4 if told["not_checked"] else 0)


def _sources(files: Sequence[Path], out: Path | None) -> list[tuple[Path | None, Path | None]]:
    """What is read and where it goes; None is a standard stream. Raises: ValueError."""
    names = [None if file == Path("-") else file for file in files] or [None]
    missing = [str(file) for file in names if file is not None and not file.is_file()]
    if missing:
        raise ValueError(f"no such file: {', '.join(missing)}")
    if out is None:
        return [(file, None) for file in names]
    out.mkdir(parents=True, exist_ok=True)
    targets = [out / (file.name if file is not None else "stdin.txt") for file in names]
    if len(set(targets)) < len(targets) or any(
        file is not None and file.resolve() == target.resolve() for file, target in zip(names, targets, strict=True)
    ):
        raise ValueError("two files would be written to one place; give another --out")
    return list(zip(names, targets, strict=True))


async def _run(redactor: Redactor, sources: Sequence[tuple[Path | None, Path | None]], jsonl: bool) -> Counter[str]:
    counts: Counter[str] = Counter()
    try:
        await redactor.ready()
        for source, target in sources:
            raw = await asyncio.to_thread(sys.stdin.buffer.read if source is None else source.read_bytes)
            text = raw.decode("utf-8", "replace")
            lines = jsonl or (source is not None and source.suffix in (".jsonl", ".ndjson"))
            done = await _documents(redactor, text, counts) if lines else await _plain(redactor, text, counts)
            if target is None:
                sys.stdout.write(done)
            else:
                target.write_text(done, encoding="utf-8")
    finally:
        await redactor.aclose()
    return counts


async def _plain(redactor: Redactor, text: str, counts: Counter[str]) -> str:
    return "".join(await _redacted(redactor, [Segment(part) for part in BLOCK.split(text)], counts))


async def _documents(redactor: Redactor, text: str, counts: Counter[str]) -> str:
    lines, done = text.split("\n"), []
    with typer.progressbar(length=len(lines), file=sys.stderr, hidden=not sys.stderr.isatty()) as progress:
        for place in range(0, len(lines), AT_ONCE):
            block = lines[place : place + AT_ONCE]
            done += await asyncio.gather(*(_document(redactor, line, counts) for line in block))
            progress.update(len(block))
    return "\n".join(done)


async def _document(redactor: Redactor, line: str, counts: Counter[str]) -> str:
    if not line.strip():
        return line
    try:
        document = json.loads(line)
    except ValueError:
        return (await _redacted(redactor, [Segment(line)], counts))[0]
    turns = list(_turns(document))
    said = [Segment(turn[name], role) for turn, name, role in turns]
    for turn, name, _ in turns:
        turn[name] = ""  # what is left holds names of participants, ids, or everything where there are no turns
    rest = Segment(json.dumps(document, ensure_ascii=False), form="json")
    *texts, others = await _redacted(redactor, [*said, rest], counts)
    whole = json.loads(others)
    for (turn, name, _), text in zip(_turns(whole), texts, strict=True):
        turn[name] = text
    return json.dumps(whole, ensure_ascii=False)


def _turns(document: Any) -> Iterator[tuple[dict[str, Any], str, str]]:
    """The turns of a conversation: the object, the name of its text, and its role."""
    if not isinstance(document, dict):
        return
    for key in ("messages", "turns"):
        for turn in document[key] if isinstance(document.get(key), list) else ():
            if not isinstance(turn, dict):
                continue
            who = str(turn.get("role", turn.get("speaker", "user"))).lower()
            role = "user" if who in CALLERS else who if who in ("system", "tool", "developer") else "assistant"
            for name in ("content", "text"):
                if isinstance(turn.get(name), str):
                    yield turn, name, role


async def _redacted(redactor: Redactor, segments: Sequence[Segment], counts: Counter[str]) -> tuple[str, ...]:
    redaction = await redactor.redact(segments, one_way=True)
    counts.update(redaction.counts)
    counts["texts"] += len(segments)
    counts["not checked"] += len(segments) if redaction.not_checked else 0
    return redaction.texts
