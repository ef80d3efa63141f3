"""bench-judges: how far every judge that is here agrees with people, on BEGIN, HaluEval and LLMBar.

Run `python -m tests.bench.bench_judges` from the root with CALLGATE_DATA_DIR set; QUICK=1 asks the models for fewer rows. A hosted
judge is added by JUDGE_URL (an OpenAI-compatible address, /v1 included), JUDGE_MODEL and JUDGE_KEY. Trains nothing; pairs that the
shipped head was trained on are left out. `trusted` is the gate's own rule (lower bound of kappa on BEGIN at least .6). Ends with one
line of JSON; null is what was not measured.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evals.attack import Flips, load_attacks, measure_flips
from evals.calibrate import judge_trust
from evals.journal import Journal
from evals.judges.faithfulness import FaithfulnessHead
from evals.judges.model import ModelJudge
from evals.judges.overlap import content_overlap
from evals.judges.pairwise import PairwiseJudge
from evals.launch import Real
from evals.statistics.agreement import Agreement, measure_agreement
from evals.target import Budget, ChatClient, Patience, open_session
from evals.terminal import describe_flips
from evals.types import Answer, Expectation, Limits, Message, Sample

QUICK = bool(os.environ.get("QUICK"))
MODEL_ROWS = 8 if QUICK else 120
MOST_CHARACTERS = 400 if QUICK else 900  # of a text shown to a model: the embedded one reads 200 tokens a second
SAMPLED = (("max_tokens", 60), ("seed", 7), ("temperature", 0))
SETS = ("begin", "begin_hard", "halueval", "llmbar")
PUBLISHED = (
    "published, whole sets: LLMBar natural/adversarial accuracy GPT-4 93.5/73.1, PaLM2 with metrics and reference 86.5/69.5,",
    "  ChatGPT 79.0/32.0, LLaMA2 77.0/32.4, chance 50 (princeton-nlp/LLMBar @900616bff90b); HaluEval and BEGIN: none stored",
)


@dataclass(frozen=True)
class Row:
    """`text` is what the reply may rely on (BEGIN), the question (HaluEval, LLMBar); `other` the second reply of a pair."""

    set: str
    text: str
    message: str
    reply: str
    other: str | None
    human: bool
    cluster: str
    hard: bool = False


Judge = Callable[[Row], Awaitable[bool | None]]


def main() -> int:
    """Exit code: 0 measured, 3 no data."""
    folder = Path(os.environ.get("CALLGATE_DATA_DIR", ""))
    head = FaithfulnessHead.load()
    rows = read(folder)
    if not rows:
        print("CALLGATE_DATA_DIR holds none of the judge_*.jsonl files", file=sys.stderr)
        return 3
    fresh = [row for row in rows if row.set != "begin" or not head.seen_before(row.text, row.reply)]
    print(f"{len(rows)} rows; {len(rows) - len(fresh)} that the shipped head was trained on are left out")
    figures: dict[str, float | int | None] = {}
    report(figures, "local", fresh, asyncio.run(ask_all(local(head), fresh)), fresh)
    report(figures, "overlap", fresh, asyncio.run(ask_all(overlap, fresh)), fresh)
    report(figures, "length", fresh, asyncio.run(ask_all(longer, fresh)), fresh)
    some = sample_of(fresh)
    hosted = os.environ.get("JUDGE_URL"), os.environ.get("JUDGE_MODEL")
    for name, url, model in (("embedded", None, None), ("hosted", *hosted)):
        if name == "hosted" and not (url and model):
            print("hosted: not measured (JUDGE_URL and JUDGE_MODEL name one)")
        with nullcontext((url, model)) if url else embedded() if name == "embedded" else nullcontext(None) as server:
            at, named = server or (None, None)
            found = asyncio.run(with_model(at, named, some)) if at and named else None
            flips = asyncio.run(talked_over(at, named)) if at and named else None
        report(figures, name, some, found, some)
        figures[f"{name}.attacks.flips_per_100"] = flips.per_100.estimate if flips else None
        figures[f"{name}.attacks.not_scored"] = flips.not_scored if flips else None
        if flips:
            print(f"  {name:9} {describe_flips(flips)}")
    figures |= edges(head, fresh)
    print("\n".join(PUBLISHED))
    print(json.dumps(figures))
    return 0


def read(folder: Path) -> list[Row]:
    """All rows there are, by file; a missing file is left out."""
    begin = [
        Row(
            "begin", one["knowledge"], one["message"], one["response"], None, bool(one["faithful"]), one["group"],
            content_overlap(one["knowledge"], one["response"]) >= 0.7,
        )
        for one in lines(folder / "judge_faithfulness_begin.jsonl")
    ]  # fmt: skip
    halueval = [
        Row("halueval", one["prompt"], "", one["response"], None, not one["hallucination"], one["group"])
        for one in lines(folder / "judge_hallucination_halueval_general.jsonl")
    ]
    llmbar = [
        Row("llmbar", one["prompt"], "", one["output_1"], one["output_2"], one["label"] == 1, one["id"])
        for one in lines(folder / "judge_pairwise_llmbar.jsonl")
    ]
    return [*begin, *halueval, *llmbar]


def lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.is_file():
        yield from (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip())


def sample_of(rows: Sequence[Row]) -> list[Row]:
    """The same number of rows of each set for the models, by a fixed seed; half of BEGIN's are hard ones."""
    chance = random.Random(11)
    some = []
    for name, hard in (("begin", False), ("begin", True), ("halueval", None), ("llmbar", None)):
        of_set = [row for row in rows if row.set == name and hard in (None, row.hard)]
        some += chance.sample(of_set, min(len(of_set), MODEL_ROWS // (1 if hard is None else 2)))
    return some


def local(head: FaithfulnessHead) -> Judge:
    async def judge(row: Row) -> bool | None:
        if row.other is not None:
            return head.probability(row.text, row.reply) >= head.probability(row.text, row.other)
        return head.probability(row.text, row.reply) >= head.threshold

    return judge


async def overlap(row: Row) -> bool | None:
    """The word counter that a judge has to beat; its limit is the usual one half."""
    mine = content_overlap(row.text, row.reply)
    return mine >= 0.5 if row.other is None else mine >= content_overlap(row.text, row.other)


async def longer(row: Row) -> bool | None:
    """The prejudice that people and models share: the longer reply is better. For pairs only."""
    return None if row.other is None else len(row.reply) >= len(row.other)


async def ask_all(judge: Judge, rows: Sequence[Row]) -> list[bool | None]:
    return [await judge(row) for row in rows]


@asynccontextmanager
async def asked_at(url: str, requests: int) -> AsyncIterator[ChatClient]:
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal.open(Path(folder) / "journal.jsonl")
        async with open_session(4) as session:
            yield ChatClient(
                url, session, journal, Real(), key=os.environ.get("JUDGE_KEY"), concurrency=4,
                patience=Patience(deadline_s=120), budget=Budget(max_requests=requests),
            )  # fmt: skip
        journal.close()


async def with_model(url: str, model: str, rows: Sequence[Row]) -> list[bool | None]:
    """A model through the product's own judges; what it does not say in the asked shape is None, and counted."""
    asked = {
        "begin": "Is everything that the reply says stated in the text of the conversation's system message?",
        "halueval": "Is the reply free of invented or wrong facts?",
    }
    async with asked_at(url, 4 * len(rows)) as client:
        judges = {
            name: ModelJudge(metric=name, name=name, model=model, question=question, version="1", client=client, parameters=SAMPLED)
            for name, question in asked.items()
        }  # fmt: skip
        pairs = PairwiseJudge(
            metric="llmbar", name="better", model=model, version="1", client=client, parameters=SAMPLED,
            question="Which reply follows the request better?",
        )  # fmt: skip

        async def one(row: Row) -> bool | None:
            sample, answer = as_case(row)
            if row.other is not None:
                preferred = (await pairs.prefer(sample, row.reply, row.other)).for_first_reply
                return None if preferred is None or preferred == 0.5 else preferred > 0.5
            value = (await judges[row.set].score(sample, answer)).value
            return None if value is None else value >= 0.5

        return list(await asyncio.gather(*(one(row) for row in rows)))


async def talked_over(url: str, model: str) -> Flips:
    """The attack set against one question to this model."""
    attacks = load_attacks()[:: 6 if QUICK else 1]
    async with asked_at(url, 8 * len(attacks)) as client:
        question = "Is the reply right, going by what an agent of a contact centre should say?"
        judge = ModelJudge("right", "right", model, question, "1", client, SAMPLED)
        return (await measure_flips({"right": judge}, {}, attacks))[0]


def as_case(row: Row) -> tuple[Sample, Answer]:
    text = (
        [Message("system", row.text[:MOST_CHARACTERS]), Message("user", row.message or "-")]
        if row.set == "begin"
        else []
    )
    messages = tuple(text or [Message("user", row.text[:MOST_CHARACTERS])])
    return Sample("row", "row", row.set, messages, Expectation(), "row"), Answer(
        "row", "row", 0, row.reply[:MOST_CHARACTERS]
    )


def report(
    figures: dict[str, float | int | None],
    judge: str,
    rows: Sequence[Row],
    found: Sequence[bool | None] | None,
    _all: Sequence[Row],
) -> None:
    """Rows of the table and keys of one judge. What it did not say counts as wrong half of the time, as a coin would be."""
    limits, trusted = Limits(), None
    for name in SETS:
        chosen = [i for i, row in enumerate(rows) if in_set(row, name)]
        said = [(found[i], rows[i]) for i in chosen if found is not None and found[i] is not None]
        silent = len(chosen) - len(said)
        agreement = agree(said)
        figures[f"{judge}.{name}.balanced_accuracy"] = with_coin(said, chosen, rows, found)
        figures[f"{judge}.{name}.kappa"] = agreement.kappa.estimate if agreement else None
        figures[f"{judge}.{name}.not_scored"] = silent if found is not None else None
        if found is None or not said:
            continue
        trust = judge_trust(agreement, [row.human for _, row in said], limits)
        if name == "begin":
            trusted = int(trust.may_decide)
        shown = figures[f"{judge}.{name}.balanced_accuracy"]
        print(
            f"  {judge:9} {name:10} rows {len(chosen):5} silent {silent:4}  balanced accuracy "
            f"{'  - ' if shown is None else f'{shown:.3f}'}  {trust.standing.value}: {trust.reason}"
        )
    figures[f"{judge}.trusted"] = trusted


def in_set(row: Row, name: str) -> bool:
    return row.set == "begin" and row.hard if name == "begin_hard" else row.set == name


def agree(said: Sequence[tuple[bool | None, Row]]) -> Agreement | None:
    human = [row.human for _, row in said]
    if len(human) < 2 or len(set(human)) < 2:
        return None
    return measure_agreement([bool(value) for value, _ in said], human, [row.cluster for _, row in said], 0.05)


def with_coin(
    said: Sequence[tuple[bool | None, Row]],
    chosen: Sequence[int],
    rows: Sequence[Row],
    found: Sequence[bool | None] | None,
) -> float | None:
    """Balanced accuracy where a silent judge gets a half: dropping what it did not answer would flatter it."""
    if found is None or not said:
        return None
    points: dict[bool, list[float]] = {True: [], False: []}
    for i in chosen:
        value = found[i]
        points[rows[i].human].append(0.5 if value is None else float(value == rows[i].human))
    return float(np.mean([np.mean(p) for p in points.values()])) if all(points.values()) else None


def edges(head: FaithfulnessHead, rows: Sequence[Row]) -> dict[str, float]:
    """AUROC of the head on BEGIN and what a judged reply costs it."""
    from sklearn.metrics import roc_auc_score

    begin = [row for row in rows if row.set == "begin"]
    if not begin:
        return {}
    started = time.process_time()
    found = [head.probability(row.text, row.reply) for row in begin]
    cost = (time.process_time() - started) / len(begin) * 1000
    shares = {"begin": range(len(begin)), "begin_hard": [i for i, row in enumerate(begin) if row.hard]}
    figures = {"local.cpu_ms": cost}
    for name, which in shares.items():
        human = [begin[i].human for i in which]
        if len(set(human)) == 2:
            figures[f"local.{name}.auroc"] = float(roc_auc_score(human, [found[i] for i in which]))
    print("  local: " + ", ".join(f"{name.removeprefix('local.')} {value:.3f}" for name, value in figures.items()))
    return figures


@contextmanager
def embedded() -> Iterator[tuple[str, str] | None]:
    """The embedded model on a free port, or None where its wheel is missing; stopped on the way out."""
    from serving.llm.embedded import MODEL_NAME

    command = [sys.executable, "-m", "serving.llm.embedded", "--port", "0"]
    with tempfile.TemporaryFile("w+") as log:
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, text=True)
        try:
            url = address(server, log)
            yield (url, MODEL_NAME) if url else None
        finally:
            server.terminate()
            server.wait(20)


def address(server: subprocess.Popen[str], log: Any) -> str | None:
    for _ in range(600):
        log.seek(0)
        for line in log.read().splitlines():
            if " on http" in line and line.endswith("/v1"):
                return str(line.rpartition(" on ")[2])
        if server.poll() is not None:
            return None
        time.sleep(0.1)
    return None


if __name__ == "__main__":
    sys.exit(main())
