"""Labelled replies to train and to check the faithfulness head on: people's (BEGIN), and what can be made from them without a doubt.

Made rows keep people's labels: texts that have nothing to do with it put beside the right one change nothing, and replies joined are
faithful if each of them is. Answers of a knowledge base with one thing changed are wrong by construction. Trains nothing.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHARE_ALIKE = frozenset({"tc"})
BLOCKS = 20  # folds are made of whole blocks; every fifth block is held out
EDITED_DOCUMENTS = 1200
_VERBS = re.compile(r"\b(is|are|do|does|can|will|has) (not )?")


@dataclass(frozen=True, slots=True)
class Row:
    """`group` is what the row must not be separated from; `block` where its group lies (see BLOCKS)."""

    text: str
    reply: str
    faithful: bool
    source: str
    group: str
    block: int

    @property
    def held_out(self) -> bool:
        return self.block % 5 == 0


def read_begin(data: Path) -> list[Row]:
    """BEGIN's rows; faithful is 'Fully attributable'. Conversations about one text stay in one block."""
    return [
        Row(row["knowledge"], row["response"], bool(row["faithful"]), row["source"], row["group"], _block(row["group"]))
        for row in _lines(data / "judge_faithfulness_begin.jsonl")
    ]


def beside_others(rows: Sequence[Row], chance: random.Random) -> Iterator[Row]:
    """Each row again, its text among one to four of other conversations of its block: what a retriever hands over."""
    for block in _by_block(rows).values():
        for row in block:
            strange = [other.text for other in block if other.group != row.group]
            texts = [row.text, *chance.sample(strange, min(len(strange), chance.randint(1, 4)))]
            chance.shuffle(texts)
            yield Row("\n".join(texts), row.reply, row.faithful, "beside", row.group, row.block)


def joined(rows: Sequence[Row], chance: random.Random) -> Iterator[Row]:
    """Two or three replies of a block as one, all faithful or with one that is not among them; half as many as there are rows."""
    for number, block in _by_block(rows).items():
        true = [row for row in block if row.faithful]
        false = [row for row in block if not row.faithful]
        for place in range(len(block) // 2):
            count = chance.choice([2, 2, 3])
            if len(true) < count or not false:
                continue
            chosen = (
                chance.sample(true, count) if place % 2 else [*chance.sample(true, count - 1), chance.choice(false)]
            )
            chance.shuffle(chosen)
            reply = " ".join(_ended(row.reply) for row in chosen)
            text = " ".join(_ended(row.text) for row in chance.sample(chosen, count))
            yield Row(text, reply, bool(place % 2), "joined", chosen[0].group, number)


def edited(data: Path, chance: random.Random) -> list[Row]:
    """Answers of a knowledge base with one thing changed (a number, a negation), and the same answers as they are.

    BEGIN is extractive and seldom wrong by a single figure; a call centre's worst answer is exactly that.
    """
    documents = _lines(data / "rag_dstc10_kb.jsonl")
    bodies = sorted({document["body"] for document in documents if len(document["body"].split()) > 4})
    chance.shuffle(bodies)
    rows: list[Row] = []
    for body in bodies:
        others = chance.sample(bodies, chance.randint(0, 2))
        wrong = _change(body, others, chance)
        if wrong is None:
            continue
        lead = chance.choice(["", "", "Yes, ", "Of course. ", "Thank you for waiting. "])
        text = " ".join([*others, body])
        rows += [Row(text, lead + reply, reply == body, "edited", body, _block(body)) for reply in (body, wrong)]
        if len(rows) >= 2 * EDITED_DOCUMENTS:
            break
    return rows


def spoken(data: Path) -> Iterator[Row]:
    """What agents said on the strength of a document (DSTC10), beside that document and beside another one of the same place."""
    bodies = {row["doc_key"]: f"{row['title']} {row['body']}" for row in _lines(data / "rag_dstc10_kb.jsonl")}
    of_place = defaultdict(list)
    for key in bodies:
        of_place[key.rpartition("|")[0]].append(key)
    for row in _lines(data / "rag_dstc10_spoken.jsonl"):
        right = [key for key in row["gold_docs"] or () if key in bodies]
        if row["needs_kb"] and row["gold_response"] and right:
            others = [key for key in of_place[right[0].rpartition("|")[0]] if key not in right]
            for keys, faithful in ((right, True), (others[:1], False)):
                text = " ".join(bodies[key] for key in keys)
                if text:
                    yield Row(text, row["gold_response"], faithful, "spoken", row["id"], 0)


def _change(text: str, others: Sequence[str], chance: random.Random) -> str | None:
    """One number raised or taken from a text beside it, else one negation put in or left out."""
    numbers = list(re.finditer(r"\d+", text))
    if numbers:
        one = chance.choice(numbers)
        strange = [number for other in others for number in re.findall(r"\d+", other) if number not in text]
        raised = str(int(one[0]) + chance.choice([1, 2, 5, 10])).zfill(len(one[0]))
        return text[: one.start()] + (chance.choice(strange) if strange else raised) + text[one.end() :]
    match = _VERBS.search(text)
    if match is None:
        return None
    return f"{text[: match.start()]}{match[1]} {'' if match[2] else 'not '}{text[match.end() :]}"


def _ended(text: str) -> str:
    return text.strip() if text.strip().endswith((".", "!", "?")) else f"{text.strip()}."


def _by_block(rows: Sequence[Row]) -> dict[int, list[Row]]:
    blocks = defaultdict(list)
    for row in rows:
        blocks[row.block].append(row)
    return dict(sorted(blocks.items()))


def _block(name: str) -> int:
    return hashlib.sha256(f"faithfulness/{name}".encode()).digest()[0] % BLOCKS


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
