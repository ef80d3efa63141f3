"""What looking for added personal data costs an answer that is streamed: CPU a delta, and what it adds before the first text leaves.

Answers are what assistants say in SGD's dialogues, in deltas of one word with its space, as models stream. Times are of the finder alone, warm, every
answer a new channel; output rails and restoring come on top (bench-gateway).
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import numpy as np

from guardrails.added import AddedData, Known
from guardrails.redaction import Redactor

ANSWERS = 2_000
NOTHING = Known(())
WORD = re.compile(r"\s*\S+|\s+")


def figures(redactor: Redactor, folder: Path) -> dict[str, float | int | None]:
    """``added.us_per_chunk``, ``added.first_token_ms`` (mean, p99), characters held, and answers changed in 100 (SGD's assistants tell phones)."""
    added = redactor.added
    answers = assistants(folder)
    if added is None or not answers:
        return {}
    for text in answers[:200]:
        spoken(added, text)
    rows = [spoken(added, text) for text in answers]
    chunks = sum(row[0] for row in rows)
    first = [row[2] * 1000 for row in rows]
    return {
        "added.answers": len(answers),
        "added.horizon_chars": added.horizon,
        "added.us_per_chunk": round(sum(row[1] for row in rows) / chunks * 1e6, 2),
        "added.first_token_ms": round(float(np.mean(first)), 4),
        "added.first_token_ms_p99": round(float(np.quantile(first, 0.99)), 4),
        "added.first_text_at_chunk": round(float(np.mean([row[3] for row in rows])), 2),
        "added.held_chars_mean": round(float(np.mean([row[4] for row in rows])), 1),
        "added.changed_per_100": round(100 * sum(row[5] for row in rows) / len(rows), 2),
    }


def assistants(folder: Path) -> list[str]:
    file = folder / "dialogues_sgd.jsonl"
    if not file.is_file():
        return []
    texts: list[str] = []
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            texts += [turn["text"] for turn in json.loads(line)["turns"] if turn["speaker"] == "agent"]
            if len(texts) >= ANSWERS:
                break
    return texts[:ANSWERS]


def spoken(added: AddedData, text: str) -> tuple[int, float, float, int, int, bool]:
    """Deltas, CPU seconds of them all, CPU seconds up to the first text that left, which delta that was, characters held at most, whether it was changed."""
    channel = added.channel(lambda: NOTHING)
    deltas = WORD.findall(text)
    out, first_s, first = "", 0.0, 0
    begun = time.process_time()
    for place, delta in enumerate(deltas, 1):
        out += channel.feed(delta)
        if out and not first:
            first_s, first = time.process_time() - begun, place
    out += channel.flush()
    spent_s = time.process_time() - begun
    return len(deltas), spent_s, first_s or spent_s, first or len(deltas), channel.held_chars, out != text
