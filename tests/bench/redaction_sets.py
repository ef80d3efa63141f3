"""What `make bench-redaction` measures on: labelled sets read into one shape, generated SSN and IBAN rows, and how a hit is counted.

A finding is (kind, start, end). Kinds of the sets, of Callgate and of Presidio are mapped to one list of core kinds. Works on any folder with files
named and shaped as those of $CALLGATE_DATA_DIR. Runs no finder.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guardrails.detectors.checks import IBAN_LENGTHS, is_ssn
from guardrails.train.data import is_validation
from guardrails.train.ner_data import text_digest, true_names

Span = tuple[str, int, int]
CORE = {
    "PERSON": "PERSON",
    "GPE": "LOCATION",
    "LOCATION": "LOCATION",
    "STREET_ADDRESS": "LOCATION",
    "POSTAL_CODE": "LOCATION",
    "ZIP_CODE": "LOCATION",
    "PHONE_NUMBER": "PHONE_NUMBER",
    "EMAIL_ADDRESS": "EMAIL_ADDRESS",
    "CREDIT_CARD": "CREDIT_CARD",
    "IBAN_CODE": "IBAN_CODE",
    "US_SSN": "US_SSN",
    "DRIVER_LICENSE": "DRIVER_LICENSE",
    "US_DRIVER_LICENSE": "DRIVER_LICENSE",
    "DOMAIN_NAME": "URL",
    "URL": "URL",
    "URL_CREDENTIALS": "URL",
    "IP_ADDRESS": "IP_ADDRESS",
}
NOT_FALSE = {"DATE_TIME", "LOCATION", "ORGANIZATION", "NRP"}  # in an ordinary turn
SGD_PEOPLE = ("contact_name", "doctor_name", "therapist_name", "receiver", "recipient_name", "recipient_account_name")
GENERATED = 200  # rows each of SSN and IBAN


@dataclass(slots=True)
class Row:
    """A text and its gold spans; ``part`` tells rows apart that are also reported alone."""

    text: str
    spans: list[Span] = field(default_factory=list)
    part: str = ""


def rows(path: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line
    ]  # a text may hold other line ends


def synth(folder: Path) -> list[Row]:
    """Rows of presidio-research's synthetic set; ``part`` is the template's number."""
    return [
        Row(row["text"], [(s["type"], s["start"], s["end"]) for s in row["spans"]], str(row["template_id"]))
        for row in rows(folder / "pii_presidio_synth.jsonl")
    ]


def sgd(folder: Path) -> list[Row]:
    """Turns with a phone, a street address or the name of a person: only slot values are annotated there."""
    out = []
    for row in rows(folder / "pii_sgd_turns.jsonl"):
        spans = [
            (s["type"], s["start"], s["end"])
            for s in row["spans"]
            if s["type"] in ("PHONE_NUMBER", "STREET_ADDRESS") or s.get("slot") in SGD_PEOPLE
        ]
        if spans:
            out.append(Row(row["text"], spans))
    return out


def restaurant(folder: Path) -> list[Row]:
    """Booking turns in which the caller says a name."""
    out = []
    for row in rows(folder / "pii_restaurant8k.jsonl"):
        spans = [(s["type"], s["start"], s["end"]) for s in row["spans"] if s["type"] == "PERSON"]
        if spans:
            out.append(Row(row["text"], spans))
    return out


def ordinary(folder: Path) -> list[Row]:
    """Turns of Banking77, CLINC150 and NLU++; ``spans`` are names that are truly there (annotated, or checked by hand)."""
    checked = true_names()
    out, seen = [], set()
    for name in ("topic_banking77", "topic_clinc150", "topic_nlupp"):
        for row in rows(folder / f"{name}.jsonl"):
            text = row["text"]
            if text in seen:
                continue
            seen.add(text)
            spans = [("PERSON", s["start"], s["end"]) for s in row.get("spans", ()) if s["type"] == "person_name"]
            spans += [("PERSON", start, end) for start, end in checked.get(text_digest(text), ())]
            out.append(Row(text, spans, name))
    return out


def generated(seed: int = 11) -> list[Row]:
    """SSNs and IBANs with valid checks in sentences of our own: the sets hold few."""
    rng = random.Random(seed)
    frames = {
        "US_SSN": [
            "my social security number is {}",
            "SSN: {}",
            "It's {}, that is my social.",
            "{} is the ssn on file",
        ],
        "IBAN_CODE": ["Please pay to {}.", "my iban is {} thanks", "IBAN {}", "the transfer to {} did not arrive"],
    }
    made = {"US_SSN": _ssn, "IBAN_CODE": _iban}
    out = []
    for kind, templates in frames.items():
        for number in range(GENERATED):
            before, after = templates[number % len(templates)].split("{}")
            value = made[kind](rng)
            out.append(Row(before + value + after, [(kind, len(before), len(before) + len(value))], "generated"))
    return out


def _ssn(rng: random.Random) -> str:
    while not is_ssn(digits := f"{rng.randrange(10**9):09}"):
        pass
    return rng.choice(("{}-{}-{}", "{} {} {}", "{}{}{}")).format(digits[:3], digits[3:5], digits[5:])


def _iban(rng: random.Random) -> str:
    country = rng.choice(sorted(IBAN_LENGTHS))
    bban = "".join(rng.choice("0123456789") for _ in range(int(IBAN_LENGTHS[country]) - 4))
    number = int("".join(str(int(c, 36)) for c in bban + country + "00"))
    iban = f"{country}{98 - number % 97:02}{bban}"
    return " ".join(iban[i : i + 4] for i in range(0, len(iban), 4)) if rng.random() < 0.5 else iban


def is_held_out(template: str) -> bool:
    """Whether the name model was trained without rows of this template (a fixed fifth)."""
    return is_validation(f"template {template}")


def lowered(row: Row) -> Row:
    """The row in lower case; unchanged where that would move offsets."""
    lower = row.text.lower()
    return Row(lower, row.spans, row.part) if len(lower) == len(row.text) else row


class Tally:
    """Hits, misses and false finds by core kind: a hit is a finding of the same kind that overlaps the gold span."""

    def __init__(self) -> None:
        self.gold: Counter[str] = Counter()
        self.hits: Counter[str] = Counter()
        self.found = self.right = 0

    def add(self, row: Row, found: Iterable[Span], names: dict[str, str] = CORE) -> None:
        """``names`` maps kinds to those that are compared; others are left out."""
        mine = [(names[kind], start, end) for kind, start, end in found if kind in names]
        wanted = [(kind, names[kind], start, end) for kind, start, end in row.spans if kind in names]
        for fine, kind, start, end in wanted:
            hit = any(k == kind and a < end and start < b for k, a, b in mine)
            for name in {kind, fine}:
                self.gold[name] += 1
                self.hits[name] += hit
        self.gold["all"] += len(wanted)
        self.hits["all"] += sum(any(k == kind and a < end and s < b for k, a, b in mine) for _, kind, s, end in wanted)
        self.found += len(mine)
        self.right += sum(any(k == kind and a < e and s < b for _, kind, s, e in wanted) for k, a, b in mine)

    def recall(self, kind: str = "all") -> float | None:
        return round(self.hits[kind] / self.gold[kind], 4) if self.gold[kind] else None

    @property
    def precision(self) -> float | None:
        return round(self.right / self.found, 4) if self.found else None

    @property
    def f2(self) -> float | None:
        precision, recall = self.precision, self.recall()
        if precision is None or recall is None or not precision + recall:
            return None
        return round(5 * precision * recall / (4 * precision + recall), 4)


def is_false(row: Row, found: Sequence[Span]) -> bool:
    """Whether something is found in an ordinary turn that is no date, place, organisation or name that is truly there."""
    return any(
        kind not in NOT_FALSE and not any(start < b and a < end for _, a, b in row.spans) for kind, start, end in found
    )
