"""`make bench-cache`: how often a near match of the cache would be the wrong answer, by threshold, on labelled questions of callers.

Questions of $CALLGATE_DATA_DIR's topic_banking77, topic_clinc150 and topic_nlupp (banking) come one after another to an empty cache, as the gateway
compares them (sentence vectors, cosine, questions with other numbers apart). A hit is false when the question that it answers had another intent.
Labels are coarser than answers (two questions of one intent may need two answers) and finer (two intents may need one), so both are estimates.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from gateway.cache import figures_of
from serving.embedding.minilm import MiniLM

THRESHOLDS = (0.80, 0.85, 0.90, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99)
SETS = ("banking77", "clinc150", "nlupp")
QUICK = bool(os.environ.get("QUICK"))
SEED = 7


def main() -> int:
    folder = os.environ.get("CALLGATE_DATA_DIR")
    if not folder:
        print("set CALLGATE_DATA_DIR to a folder with topic_*.jsonl", file=sys.stderr)
        return 3
    model = MiniLM(1)
    figures: dict[str, float | None] = {}
    table = Table("set", "threshold", "hits of 100", "false hits of 100 hits", "false of 100 questions")
    for name in SETS:
        rows = list(questions(Path(folder) / f"topic_{name}.jsonl"))
        random.Random(SEED).shuffle(rows)
        rows = rows[: 300 if QUICK else 2_000]
        if not rows:
            figures |= {f"{name}.hits_at_{t:.2f}": None for t in THRESHOLDS}
            continue
        vectors = np.concatenate([model.embed([text]) for text, _ in rows])
        for threshold in THRESHOLDS:
            hits, false = replay(rows, vectors, threshold)
            share = false / hits if hits else None
            figures[f"{name}.hits_at_{threshold:.2f}"] = round(hits / len(rows), 4)
            figures[f"{name}.false_hits_at_{threshold:.2f}"] = None if share is None else round(share, 4)
            shown = "-" if share is None else f"{100 * share:.1f}"
            table.add_row(
                name, f"{threshold:.2f}", f"{100 * hits / len(rows):.1f}", shown, f"{100 * false / len(rows):.2f}"
            )
    Console().print(table)
    print(json.dumps(figures))
    return 0


def questions(file: Path) -> Iterator[tuple[str, str]]:
    """Text and label; a question without a label of its own (out of scope) cannot be judged and is left out."""
    if not file.exists():
        return
    for line in file.read_text(encoding="utf-8").splitlines():
        row: dict[str, Any] = json.loads(line)
        if row.get("domain") in ("oos", "hotels"):
            continue
        label = row.get("intent") or "+".join(sorted(row.get("intents") or ()))
        if label:
            yield row["text"], label


def replay(rows: list[tuple[str, str]], vectors: Any, threshold: float) -> tuple[int, int]:
    """Hits and false hits, the questions coming in order; a question that was not answered from the cache is stored."""
    stored: dict[str, list[int]] = {}
    hits = false = 0
    for index, (text, label) in enumerate(rows):
        alike = stored.setdefault(figures_of(text), [])
        if alike:
            nearness = vectors[alike] @ vectors[index]
            best = int(nearness.argmax())
            if nearness[best] >= threshold:
                hits += 1
                false += rows[alike[best]][1] != label
                continue
        alike.append(index)
    return hits, false


if __name__ == "__main__":
    sys.exit(main())
