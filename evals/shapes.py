"""Public sets of judged answers, dialogues and passages, turned into cases and labelled answers of ours.

A set is known by the fields of its first record, never by the name of its file. A group (one source text, one dialogue) lies whole in the training
part or in the validation part, by digest, so the split is the same for everybody and for ever. Judges nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from evals.datasets import load_dataset
from evals.drift import load_anchors
from evals.errors import DatasetError

Row = Mapping[str, Any]
Part = Literal["train", "validation"]
ROLES = {"customer": "user", "agent": "assistant"}


def _faithfulness_cases(row: Row) -> Iterator[dict[str, Any]]:
    right = {"reference": row["response"]} if row["faithful"] else {}
    yield _case(
        row["id"], row["group"], row["source"], [("user", row["message"])], contexts=[row["knowledge"]], **right
    )


def _faithfulness_labels(row: Row) -> Iterator[dict[str, Any]]:
    yield _label(row["message"], row["response"], bool(row["faithful"]), contexts=[row["knowledge"]])


def _hallucination_labels(row: Row) -> Iterator[dict[str, Any]]:
    yield _label(row["prompt"], row["response"], not row["hallucination"])


def _pairwise_cases(row: Row) -> Iterator[dict[str, Any]]:
    better = row["output_1"] if row["label"] == 1 else row["output_2"]
    yield _case(row["id"], row["group"], row["subset"], [("user", row["prompt"])], reference=better)


def _pairwise_labels(row: Row) -> Iterator[dict[str, Any]]:
    """The better one passes, the worse one does not: in this set it departs from what was asked."""
    for number in (1, 2):
        yield _label(row["prompt"], row[f"output_{number}"], row["label"] == number)


def _dialogue_cases(row: Row) -> Iterator[dict[str, Any]]:
    """A case for every answer of the agent: what was said before it, and the answer as the reference."""
    yield from _answers_in(row["id"], row["group"], row["services"][0], [(t["speaker"], t["text"]) for t in row["turns"]])  # fmt: skip


def _recorded_call_cases(row: Row) -> Iterator[dict[str, Any]]:
    turns = [(speaker, text) for speaker, text in row["original"] if speaker in ROLES]
    yield from _answers_in(f"call-{row['convo_id']}", f"call-{row['convo_id']}", row["scenario"]["flow"], turns)


def _spoken_cases(row: Row) -> Iterator[dict[str, Any]]:
    if row["needs_kb"] and row["gold_response"]:
        turns = [(ROLES[turn["speaker"]], turn["text"]) for turn in row["turns"]]
        yield _case(row["id"], row["group"], row["gold_docs"][0].partition("|")[0], turns, reference=row["gold_response"])  # fmt: skip


def _question_cases(row: Row) -> Iterator[dict[str, Any]]:
    yield _case(
        row["id"], row["group"], row["title"], [("user", row["question"])],
        contexts=[row["context"]], facts=[row["answers"]], reference=row["answers"][0],
    )  # fmt: skip


def _passage_cases(row: Row) -> Iterator[dict[str, Any]]:
    if row["title"].endswith("?"):
        yield _case(row["doc_key"], f"{row['domain']}|{row['entity_id']}", row["domain"], [("user", row["title"])], contexts=[row["body"]], reference=row["body"])  # fmt: skip


def _sentiment_labels(row: Row) -> Iterator[dict[str, Any]]:
    """What a reader felt in a text, as a label of tone; neutral and mixed texts say nothing."""
    if row["sentiment"] in ("pos", "neg"):
        yield _label("(any)", row["text"], row["sentiment"] == "pos")


@dataclass(frozen=True, slots=True)
class Shape:
    """`cases` and `labels` yield what one record holds of each; None where the set has none."""

    name: str
    fields: frozenset[str]
    group: Callable[[Row], str]
    cases: Callable[[Row], Iterator[dict[str, Any]]] | None = None
    labels: Callable[[Row], Iterator[dict[str, Any]]] | None = None


def _of(field: str) -> Callable[[Row], str]:
    return lambda row: str(row[field])


SHAPES = (
    Shape("faithfulness (BEGIN)", frozenset({"knowledge", "message", "response", "faithful"}), _of("group"), _faithfulness_cases, _faithfulness_labels),
    Shape("hallucination (HaluEval)", frozenset({"prompt", "response", "hallucination"}), _of("group"), None, _hallucination_labels),
    Shape("pairwise (LLMBar)", frozenset({"prompt", "output_1", "output_2", "label"}), _of("group"), _pairwise_cases, _pairwise_labels),
    Shape("spoken dialogue with knowledge (DSTC10)", frozenset({"turns", "needs_kb", "gold_response"}), _of("group"), _spoken_cases),
    Shape("dialogue (SGD)", frozenset({"turns", "services"}), _of("group"), _dialogue_cases),
    Shape("recorded calls (ABCD)", frozenset({"convo_id", "original", "scenario"}), _of("convo_id"), _recorded_call_cases),
    Shape("questions on a text (XQuAD)", frozenset({"question", "answers", "context"}), _of("group"), _question_cases),
    Shape("passages that answer (DSTC10)", frozenset({"doc_key", "domain", "entity_id", "title", "body"}), _of("entity_id"), _passage_cases),
    Shape("sentiment (GoEmotions)", frozenset({"text", "sentiment", "emotions"}), _of("group"), None, _sentiment_labels),
)  # fmt: skip


def import_cases(source: Path, target: Path, *, part: Part | None = None, most: int | None = None) -> str:
    """Cases of `source` as a dataset of ours in `target`. Returns a line on it. Raises DatasetError where there are none."""
    shape, rows = _read(source)
    if shape.cases is None:
        raise DatasetError(f"{source}: {shape.name}: it has labelled answers (--labels METRIC) and no cases")
    made = (case for row in rows if _is_in(shape, row, part) for case in shape.cases(row))
    count = _write(target, islice(made, most))
    return f"{shape.name}: {count} cases in {target}, {load_dataset(target).digest}"


def import_labels(source: Path, target: Path, metric: str, *, part: Part | None = None, most: int | None = None) -> str:
    """Labelled answers of `source` as anchors of `metric` in `target`, for a suite's `anchors` and `callgate eval lock`."""
    shape, rows = _read(source)
    if shape.labels is None:
        raise DatasetError(f"{source}: {shape.name}: it has cases and no labelled answers")
    made = ({"metric": metric, **label} for row in rows if _is_in(shape, row, part) for label in shape.labels(row))
    count = _write(target, islice(made, most))
    load_anchors(target)
    return f"{shape.name}: {count} labelled answers in {target}"


def _read(path: Path) -> tuple[Shape, list[Row]]:
    """Records of a JSONL file or of a JSON array, and what they are."""
    try:
        text = path.read_text(encoding="utf-8")
        rows = (
            json.loads(text)
            if text.lstrip().startswith("[")
            else [json.loads(x) for x in text.splitlines() if x.strip()]
        )
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read as UTF-8 text ({type(error).__name__})") from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: neither one JSON object a line nor a JSON array") from error
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise DatasetError(f"{path}: no records in it")
    shape = next((shape for shape in SHAPES if shape.fields <= rows[0].keys()), None)
    if shape is None:
        known = ", ".join(shape.name for shape in SHAPES)
        raise DatasetError(
            f"{path}: a set with the fields {', '.join(sorted(rows[0]))} is not known; known are: {known}"
        )
    return shape, rows


def _is_in(shape: Shape, row: Row, part: Part | None) -> bool:
    """A fifth of the groups is the validation part."""
    held_out = hashlib.sha256(shape.group(row).encode()).digest()[0] < 256 / 5
    return part is None or held_out == (part == "validation")


def _write(path: Path, rows: Iterator[dict[str, Any]]) -> int:
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")
    return len(lines)


def _answers_in(name: str, group: str, place: str, turns: list[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    said: list[tuple[str, str]] = []
    for number, (speaker, text) in enumerate(turns):
        if speaker == "agent" and said and said[-1][0] == "user" and text.strip():
            yield _case(f"{name}-{number}", group, place, said, reference=text)
        if text.strip():
            said.append((ROLES[speaker], text))


def _case(name: str, group: str, place: str, turns: list[tuple[str, str]], **expect: Any) -> dict[str, Any]:
    messages = [{"role": role, "content": text} for role, text in turns if text.strip()]
    return {"id": name, "conversation": group, "slice": place, "messages": messages or [{"role": "user", "content": "(nothing said)"}], "expect": expect}  # fmt: skip


def _label(question: str, answer: str, human: bool, contexts: list[str] | None = None) -> dict[str, Any]:
    messages = [{"role": "user", "content": question.strip() or "(nothing said)"}]
    return {"messages": messages, "contexts": contexts or [], "answer": answer.strip() or "(nothing)", "human": human}
