"""Sets of replies that people judged, read from any judge_*.jsonl of a folder: known by their fields, named after their file.

A file `judge_<kind>_<name>.jsonl` is the set `<name>`. FaithBench's and JudgeBench's own records are read too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.judges.overlap import content_overlap

HARD = 0.7  # content overlap from which counting words no longer tells
Record = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """`text` is what the reply may rely on, "" where there is none; `message` the question; `other` the second reply of a pair."""

    set: str
    text: str
    message: str
    reply: str
    other: str | None
    human: bool
    cluster: str
    part: str = ""


def read(folder: Path) -> list[Row]:
    """All rows there are. A file of no known shape is named and left out."""
    rows: list[Row] = []
    for path in sorted(folder.glob("judge_*.json*")):
        records = list(_records(path))
        shape = next((make for fields, make in SHAPES if records and fields <= records[0].keys()), None)
        if shape is None:
            print(f"{path.name}: left out, its fields are those of no known set")
            continue
        found = [shape(record, _name(path)) for record in records]
        rows += [row for row in found if row is not None]
    return rows


def sets_of(rows: list[Row]) -> dict[str, Callable[[Row], bool]]:
    """The sets and their telling parts, in order; the four named ones always."""
    names = {"begin": "", "begin_hard": "", "halueval": "", "llmbar": ""} | {row.set: "" for row in rows}
    parts = {f"{row.set}_{row.part}": "" for row in rows if row.part}
    return {name: _chooser(name) for name in names | parts}


def _chooser(name: str) -> Callable[[Row], bool]:
    return lambda row: name in (row.set, f"{row.set}_{row.part}")


def _records(path: Path) -> Iterator[Record]:
    text = path.read_text(encoding="utf-8")
    if text.startswith("{\n"):
        yield from json.loads(text).get("samples", [])
    else:
        yield from (json.loads(line) for line in text.splitlines() if line.strip())


def _name(path: Path) -> str:
    words = path.stem.removesuffix("_general").split("_")
    return "_".join(words[2:] or words[-1:])


def _grounded(record: Record, name: str) -> Row:
    hard = content_overlap(record["knowledge"], record["response"]) >= HARD
    return Row(
        name, record["knowledge"], record.get("message", ""), record["response"], None, bool(record["faithful"]),
        str(record.get("group", record["knowledge"])), "hard" if hard else "",
    )  # fmt: skip


def _ungrounded(record: Record, name: str) -> Row:
    cluster = str(record.get("group", record["prompt"]))
    return Row(
        name,
        record.get("knowledge", ""),
        record["prompt"],
        record["response"],
        None,
        not record["hallucination"],
        cluster,
    )


def _summary(record: Record, name: str) -> Row | None:
    """FaithBench: the worst label of a summary's spans; what annotators only wondered about is neither."""
    said = json.dumps([note["label"] for note in record.get("annotations", [])] or record.get("label", []))
    if "Unwanted" not in said and "Questionable" in said:
        return None
    human = bool(record["faithful"]) if "faithful" in record else "Unwanted" not in said
    return Row(name, record["source"], "", record["summary"], None, human, record["source"])


def _pair(record: Record, name: str) -> Row:
    part = "adversarial" if str(record.get("subset", "")).startswith("adv_") else str(record.get("subset", ""))
    part = part if part in ("natural", "adversarial") else "majority" if part else ""
    cluster = str(record.get("id", record["prompt"]))
    return Row(name, "", record["prompt"], record["output_1"], record["output_2"], record["label"] == 1, cluster, part)


def _ranked_pair(record: Record, name: str) -> Row:
    return Row(
        name, "", record["question"], record["response_A"], record["response_B"], record["label"] == "A>B",
        str(record.get("pair_id", record["question"])),
    )  # fmt: skip


SHAPES: tuple[tuple[frozenset[str], Callable[[Record, str], Row | None]], ...] = (
    (frozenset({"knowledge", "response", "faithful"}), _grounded),
    (frozenset({"prompt", "response", "hallucination"}), _ungrounded),
    (frozenset({"source", "summary"}), _summary),
    (frozenset({"prompt", "output_1", "output_2", "label"}), _pair),
    (frozenset({"question", "response_A", "response_B", "label"}), _ranked_pair),
)
