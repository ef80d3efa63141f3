"""bench-judges: how far every judge that is here agrees with people, on BEGIN, HaluEval, LLMBar and whatever judge_*.jsonl is there.

Run `python -m tests.bench.bench_judges` from the root with CALLGATE_DATA_DIR set. The models are asked about the same sample of each set
for at most MODEL_MINUTES each (QUICK=1: a minute); rows they were not asked about are in no figure, what they did not answer counts as a
coin would. A hosted judge is added by JUDGE_URL (an OpenAI-compatible address, /v1 included), JUDGE_MODEL and JUDGE_KEY. Trains nothing;
pairs that the shipped head was trained on are left out. Bounds are 95 %, over conversations drawn again. `trusted` is the gate's own rule
(lower bound of kappa on BEGIN at least .6). Ends with one line of JSON; null is what was not measured.
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
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
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
from evals.statistics.agreement import measure_agreement
from evals.target import Budget, ChatClient, Patience, open_session
from evals.terminal import describe_flips
from evals.train import calibration_error
from evals.types import Answer, Expectation, Limits, Message, Sample
from tests.bench.judge_sets import Row, read, sets_of

QUICK = bool(os.environ.get("QUICK"))
MODEL_ROWS = 60  # of each set
LOCAL_ROWS = 400 if QUICK else 10**9
MODEL_MINUTES = 0.7 if QUICK else float(os.environ.get("MODEL_MINUTES", "9"))
MOST_CHARACTERS = 400 if QUICK else 900  # of a text shown to a model: the embedded one reads 200 tokens a second
MOST_ATTACKS = 24  # cases of the attack set, fewer where they would take more than a quarter of the model's minutes
SAMPLED = (("max_tokens", 60), ("seed", 7), ("temperature", 0))
RESAMPLES = 1000
PUBLISHED = """published, on whole sets (ours above are on the parts that are here):
  llmbar natural / adversarial, accuracy of both orders: GPT-4 .935 / .731, with metrics and reference .960 / .828; PaLM2 so .865 / .695;
    ChatGPT .790 / .320; LLaMA2 .770 / .324; chance .5 (princeton-nlp/LLMBar @900616bff90b, evaluators/*/statistics.json)
  faithbench, balanced accuracy: gpt-4-turbo .561, gpt-4o .558, HHEM-2.1-open .546, TrueTeacher .531, True-NLI .508, gpt-3.5-turbo .463
    (of the detectors' answers stored in vectara/FaithBench; its rows were chosen because detectors disagree)
  judgebench, both orders right: o1-mini .657, Skywork-Reward-Gemma-2-27B .643, GRM-Gemma-2B .594, Claude-3-haiku .322
    (of the outputs stored in ScalerLab/JudgeBench @e2c52c284e73)
  begin, halueval: no figure of a judge is published in the sets' repositories"""

Judge = Callable[[Row], Awaitable[bool | None]]
Figures = dict[str, float | int | None]


@dataclass
class Said:
    """What one judge said of the rows it was asked about; None: nothing that can be read."""

    rows: list[Row] = field(default_factory=list)
    values: list[bool | None] = field(default_factory=list)


def main() -> int:
    """Exit code: 0 measured, 3 no data."""
    head = FaithfulnessHead.load()
    rows = read(Path(os.environ.get("CALLGATE_DATA_DIR", "")))
    if not rows:
        print("CALLGATE_DATA_DIR holds none of the judge_*.jsonl files", file=sys.stderr)
        return 3
    fresh = [row for row in rows if not row.text or not head.seen_before(row.text, row.reply)]
    print(f"{len(rows)} rows; {len(rows) - len(fresh)} that the shipped head was trained on are left out")
    fresh = sample_of(fresh, LOCAL_ROWS)
    figures: Figures = {}
    for name, judge in (("local", local(head)), ("overlap", overlap), ("length", longer)):
        report(figures, name, asyncio.run(ask_all(judge, fresh)), fresh)
    figures |= probabilities(head, fresh)
    some = sample_of(fresh, MODEL_ROWS)
    hosted = os.environ.get("JUDGE_URL"), os.environ.get("JUDGE_MODEL")
    with embedded() as server:
        ask_model(figures, "embedded", server, some, fresh)
    ask_model(figures, "hosted", (hosted[0], hosted[1]) if hosted[0] and hosted[1] else None, some, fresh)
    print(PUBLISHED)
    print(json.dumps(figures))
    return 0


def ask_model(
    figures: Figures, name: str, server: tuple[str, str] | None, some: Sequence[Row], rows: Sequence[Row]
) -> None:
    """A model on the sample and on the attack set; where there is none its figures are null."""
    flips = None
    if server is None:
        print(f"  {name}: not measured" + (" (JUDGE_URL and JUDGE_MODEL name one)" if name == "hosted" else ""))
        report(figures, name, Said(), rows)
    else:
        started = time.monotonic()
        said = asyncio.run(with_model(name, *server, some))
        report(figures, name, said, rows)
        row_s = (time.monotonic() - started) / max(1, len(said.rows))
        flips = asyncio.run(talked_over(*server, cases=int(min(MOST_ATTACKS, max(4, MODEL_MINUTES * 15 / row_s / 2)))))
        print(f"  {name:9} {describe_flips(flips)}")
    figures[f"{name}.attacks.flips_per_100"] = flips.per_100.estimate if flips else None
    figures[f"{name}.attacks.not_scored"] = flips.not_scored if flips else None


def sample_of(rows: Sequence[Row], most: int) -> list[Row]:
    """At most so many rows of each set, by a fixed seed, its parts in equal shares; in an order that can be stopped anywhere."""
    chance = random.Random(11)
    kinds: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        kinds.setdefault(row.set, {}).setdefault(row.part, []).append(row)
    some = []
    for parts in kinds.values():
        for of_part in parts.values():
            some += chance.sample(of_part, min(len(of_part), most // len(parts)))
    chance.shuffle(some)
    return some


def local(head: FaithfulnessHead) -> Judge:
    async def judge(row: Row) -> bool | None:
        text = row.text or row.message
        if row.other is not None:
            return head.probability(text, row.reply) >= head.probability(text, row.other)
        return head.probability(text, row.reply) >= head.threshold

    return judge


async def overlap(row: Row) -> bool | None:
    """The word counter that a judge has to beat; its limit is the usual one half."""
    text = row.text or row.message
    mine = content_overlap(text, row.reply)
    return mine >= 0.5 if row.other is None else mine >= content_overlap(text, row.other)


async def longer(row: Row) -> bool | None:
    """The prejudice that people and models share: the longer reply is better. For pairs only."""
    return None if row.other is None else len(row.reply) >= len(row.other)


async def ask_all(judge: Judge, rows: Sequence[Row]) -> Said:
    return Said(list(rows), [await judge(row) for row in rows])


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


async def with_model(name: str, url: str, model: str, rows: Sequence[Row]) -> Said:
    """A model through the product's own judges, four rows at a time until the time is up; says how far it is twice a minute."""
    async with asked_at(url, 8 * len(rows)) as client:
        judge, said, started = model_judge(client, model), Said(), time.monotonic()
        waiting, shown = list(reversed(rows)), 0

        async def work() -> None:
            nonlocal shown
            while waiting and (passed := time.monotonic() - started) < MODEL_MINUTES * 60:
                row = waiting.pop()
                value = await judge(row)
                said.rows.append(row)
                said.values.append(value)
                if passed // 30 > shown:
                    shown = int(passed // 30)
                    left = min(MODEL_MINUTES * 60 - passed, passed / len(said.rows) * len(waiting)) / 60
                    print(
                        f"  {name}: {len(said.rows)} of {len(rows)} rows, at most {left:.1f} minutes left",
                        file=sys.stderr,
                    )

        await asyncio.gather(*(work() for _ in range(4)))
        return said


def model_judge(client: ChatClient, model: str) -> Judge:
    """One question for each kind of row; what the model does not say in the asked shape is None."""
    asked = {
        "grounded": "Is everything that the reply says stated in the text of the conversation's system message?",
        "ungrounded": "Is the reply free of invented or wrong facts?",
    }
    judges = {
        kind: ModelJudge(metric=kind, name=kind, model=model, question=question, version="1", client=client, parameters=SAMPLED)
        for kind, question in asked.items()
    }  # fmt: skip
    pairs = PairwiseJudge(
        metric="better", name="better", model=model, version="1", client=client, parameters=SAMPLED,
        question="Which reply follows the request better?",
    )  # fmt: skip

    async def judge(row: Row) -> bool | None:
        sample, answer = as_case(row)
        if row.other is not None:
            preferred = (await pairs.prefer(sample, row.reply, row.other)).for_first_reply
            return None if preferred is None or preferred == 0.5 else preferred > 0.5
        value = (await judges["grounded" if row.text else "ungrounded"].score(sample, answer)).value
        return None if value is None else value >= 0.5

    return judge


async def talked_over(url: str, model: str, cases: int) -> Flips:
    """So many cases of the attack set, evenly taken, against one question to this model."""
    everything = load_attacks()
    attacks = everything[:: -(-len(everything) // cases)]
    async with asked_at(url, 8 * len(attacks)) as client:
        question = "Is the reply right, going by what an agent of a contact centre should say?"
        judge = ModelJudge("right", "right", model, question, "1", client, SAMPLED)
        return (await measure_flips({"right": judge}, {}, attacks))[0]


def as_case(row: Row) -> tuple[Sample, Answer]:
    text = [Message("system", row.text[:MOST_CHARACTERS])] if row.text else []
    messages = (*text, Message("user", row.message[:MOST_CHARACTERS] or "-"))
    answer = Answer("row", "row", 0, row.reply[:MOST_CHARACTERS])
    return Sample("row", "row", row.set, messages, Expectation(), "row"), answer


def report(figures: Figures, judge: str, said: Said, rows: Sequence[Row]) -> None:
    """Rows of the table and keys of one judge, for every set that is there."""
    trusted = None
    for name, belongs in sets_of(list(rows)).items():
        chosen = [(value, row) for value, row in zip(said.values, said.rows, strict=True) if belongs(row)]
        spoken = [(value, row) for value, row in chosen if value is not None]
        key = f"{judge}.{name}"
        figures |= dict.fromkeys((f"{key}.{kind}" for kind in ("balanced_accuracy", "low", "high", "kappa")), None)
        figures |= {
            f"{key}.rows": len(chosen) or None,
            f"{key}.not_scored": len(chosen) - len(spoken) if chosen else None,
        }
        if not spoken or len({row.human for _, row in chosen}) < 2:
            continue
        human = [row.human for _, row in spoken]
        agreement = None
        if len(set(human)) == 2:
            agreement = measure_agreement([bool(v) for v, _ in spoken], human, [row.cluster for _, row in spoken], 0.05)
            figures[f"{key}.kappa"] = agreement.kappa.estimate
        trust = judge_trust(agreement, human, Limits())
        accuracy, low, high = with_coin(chosen)
        figures |= {f"{key}.balanced_accuracy": accuracy, f"{key}.low": low, f"{key}.high": high}
        if name == "begin":
            trusted = int(trust.may_decide)
        print(
            f"  {judge:9} {name:18} rows {len(chosen):5} silent {len(chosen) - len(spoken):4}  "
            f"balanced accuracy {accuracy:.3f} [{low:.3f}, {high:.3f}]  {trust.standing.value}: {trust.reason}"
        )
    figures[f"{judge}.trusted"] = trusted


def with_coin(chosen: Sequence[tuple[bool | None, Row]]) -> tuple[float, float, float]:
    """Balanced accuracy where a silent judge gets a half (dropping what it did not answer would flatter it), and its bounds."""
    points = np.array([0.5 if value is None else float(value == row.human) for value, row in chosen])
    human = np.array([row.human for _, row in chosen])
    names, cluster = np.unique([row.cluster for _, row in chosen], return_inverse=True)
    sums = np.zeros((len(names), 4))  # of each conversation: points and rows of either kind
    for column, part in enumerate((points * human, human, points * ~human, ~human)):
        np.add.at(sums[:, column], cluster, part)
    drawn = np.random.default_rng(0).multinomial(len(names), np.full(len(names), 1 / len(names)), RESAMPLES) @ sums
    with np.errstate(invalid="ignore"):
        values = (drawn[:, 0] / drawn[:, 1] + drawn[:, 2] / drawn[:, 3]) / 2
    low, high = np.nanquantile(values, [0.025, 0.975])
    return float((points[human].mean() + points[~human].mean()) / 2), float(low), float(high)


def probabilities(head: FaithfulnessHead, rows: Sequence[Row]) -> Figures:
    """AUROC, Brier score and calibration error of the head where there is a text, and what a judged reply costs."""
    from sklearn.metrics import roc_auc_score

    grounded = [row for row in rows if row.text and row.other is None]
    if not grounded:
        return {}
    started = time.process_time()
    found = np.array([head.probability(row.text, row.reply) for row in grounded])
    figures: Figures = {"local.cpu_ms": (time.process_time() - started) / len(grounded) * 1000}
    for name, belongs in sets_of(list(grounded)).items():
        chosen = np.array([belongs(row) for row in grounded])
        human = np.array([row.human for row in grounded])[chosen]
        if len(set(human)) == 2:
            figures[f"local.{name}.auroc"] = float(roc_auc_score(human, found[chosen]))
            figures[f"local.{name}.brier"] = float(np.mean((found[chosen] - human) ** 2))
            figures[f"local.{name}.calibration_error"] = calibration_error(found[chosen], human)
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
