"""A release on real parts: the embedded model at two settings through the running gateway, Ragas' and DeepEval's own metric code
against a double of a judge over a socket, and what MLflow and Phoenix hold of it.

`repeats` is the question of luck: the same setting drawn anew is candidate against itself, run after run. What people say of an answer is a
rule here too (`person`), with one label in twenty wrong. Used by tests/life_of/test_release.py and by bench-eval.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.launch import Options, launch
from evals.report import Report
from evals.statistics.agreement import Bounded, clopper_pearson
from evals.types import Standing, Verdict
from gateway.children import answers_http
from gateway.ports import free_port
from tests.bench.processes import session
from tests.doubles.judge import sentences, supported

FACTS = (
    "A lost or stolen debit card is blocked at once by calling 0800 555 0199, day and night.",
    "A new card arrives within 5 working days and costs 8 euros.",
    "Transfers inside the country arrive the same day if ordered before 15:30.",
    "Later orders are booked on the next working day.",
    "A dispute about a card payment must be raised within 60 days of the statement.",
    "Roaming in Switzerland costs 4.90 euros a day.",
    "The daily charge for roaming starts with the first use.",
    "An engineer visits between 8:00 and 18:00 on working days.",
    "The contract can be ended with one month of notice.",
    "A direct debit can be returned within 8 weeks.",
    "The branch in Hill Street closes at 16:00 on Fridays.",
    "A new address is confirmed by letter within ten days.",
    "The fee for a paper statement is 2 euros a month.",
    "A refund reaches the account after 3 working days.",
    "Loans are repaid on the first day of each month.",
    "A new SIM card works two hours after it is activated.",
)
GOOD = "Repeat this sentence exactly."
MLFLOW = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
DEGRADED = "Write a poem about the sea."


@dataclass(frozen=True)
class Parts:
    """Where everything is; the trackers are None where they were not asked for."""

    url: str
    key: str
    judge_url: str
    phoenix_url: str | None
    mlflow_url: str | None


@contextmanager
def running(folder: Path, *, trackers: bool) -> Iterator[Parts]:
    """`callgate up` (model, Redis, gateway; Phoenix and MLflow with `trackers`) and the double; all of it ended on the way out."""
    up = [sys.executable, "-m", "gateway", "up", "--no-tour", "--port", "0", "--phoenix-port", "0"]
    up += [] if trackers else ["--no-phoenix"]
    mlflow_port = free_port()
    mlflow_url = f"http://127.0.0.1:{mlflow_port}" if trackers else None
    mlflow = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(mlflow_port), "--workers", "1"]  # fmt: skip
    mlflow += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "artifacts")]  # fmt: skip
    with ExitStack() as stack:
        stack.enter_context(session(up, {"CALLGATE_STATE_DIR": str(folder / "state")}))
        if trackers:
            stack.enter_context(session(mlflow, MLFLOW))
        judge_url = stack.enter_context(double())
        state = ready(folder / "state/up.json", mlflow_url)
        key = (folder / "state/demo.key").read_text().strip()
        yield Parts(f"{state['gateway_url']}/v1", key, judge_url, state["phoenix_url"], mlflow_url)


def ready(state: Path, mlflow_url: str | None, within_s: float = 240) -> dict[str, str]:
    """What `callgate up` writes down once all is up. Raises TimeoutError."""
    mlflow_answers = answers_http(f"{mlflow_url}/health") if mlflow_url else lambda: True
    end_s = time.monotonic() + within_s
    while not (state.is_file() and mlflow_answers()):
        if time.monotonic() > end_s:
            raise TimeoutError(f"not everything was up after {within_s:.0f} s")
        time.sleep(0.2)
    found: dict[str, str] = json.loads(state.read_text())
    return found


@contextmanager
def double() -> Iterator[str]:
    """The address of the double of a judge."""
    server = subprocess.Popen([sys.executable, "-m", "tests.doubles.judge"], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        yield server.stdout.readline().strip()
    finally:
        server.terminate()
        server.wait(10)


def write_suite(folder: Path, draws: int) -> Path:
    """The good and the degraded setting without chance, and `draws` of the good one with it, which differ in their seed alone."""
    folder.mkdir(parents=True)
    cases = [
        {"id": f"c{n:02}", "messages": [{"role": "user", "content": fact}], "expect": {"contexts": [fact], "max_words": 40}}
        for n, fact in enumerate(FACTS)
    ]  # fmt: skip
    (folder / "cases.jsonl").write_text("".join(json.dumps(case) + "\n" for case in cases))
    told: dict[str, Any] = {
        "model": "call-centre",
        "system": GOOD,
        "parameters": {"temperature": 0, "max_tokens": 24, "stop": ["\n"]},
    }
    drawn = {f"draw-{n}": {**told, "parameters": {**told["parameters"], "temperature": 0.6, "seed": n}} for n in range(draws)}  # fmt: skip
    targets = {"good": told, "degraded": {**told, "system": DEGRADED}, **drawn}
    document = {
        "name": "release", "version": "1", "dataset": "cases.jsonl", "targets": targets,
        "metrics": [
            {"name": "faithful", "judge": "double", "by": "ragas/faithfulness", "margin": 0.1, "primary": True},
            {"name": "tone", "judge": "double", "by": "deepeval/tone", "decides": False},
            {"name": "brief", "check": "length", "margin": 0.3},
        ],
        "judges": {"double": {"model": "judge-double", "version": "1"}},
        "limits": {"min_labels": 24, "min_kappa": 0.25},
    }  # fmt: skip
    (folder / "suite.yaml").write_text(json.dumps(document))
    return folder


def play(parts: Parts, suite: Path, candidate: str, baseline: str, labels: Path | None = None) -> Report:
    """One run, whole. Replies are kept beside the suite, so that a setting is asked once however often it is compared."""
    out = suite.with_name(f"{candidate}-{baseline}")
    options = Options(
        str(suite), candidate, baseline, parts.url, parts.judge_url, out, labels, 4, None, suite / "kept.jsonl", parts.key, None
    )  # fmt: skip
    return launch(options)


def person(sample: str, setting: str, text: str) -> bool:
    """What a person says of an answer of case `sample`: most of it is in the article; one label in twenty is a slip."""
    said = sentences(text)
    fair = 2 * sum(supported(one, FACTS[int(sample[1:])]) for one in said) >= max(1, len(said))
    slip = hashlib.sha256(f"{sample}/{setting}".encode()).digest()[0] < 256 / 20
    return fair != slip


def label(reports: Sequence[Report], path: Path) -> Path:
    """Everybody's word on every answer of these runs, as a file for --labels."""
    words = {
        (a.sample_id, a.setting): person(a.sample_id, a.setting, a.text) for r in reports for a in r.evidence.answers
    }
    rows = [
        {"metric": "faithful", "sample_id": sample, "setting": setting, "human": human}
        for (sample, setting), human in sorted(words.items())
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@dataclass(frozen=True)
class Luck:
    """What came of the good setting against itself; `calibrated` counts runs whose judge could decide, and `promoted` is of those: no other tells anything of luck."""

    verdicts: Counter[Verdict]
    calibrated: int
    promoted: Bounded


def repeats(parts: Parts, suite: Path, draws: int, most: int) -> Luck:
    """Every ordered pair of draws is a release of a candidate that is no better, up to `most` of them; all answers are labelled."""
    names = [f"draw-{n}" for n in range(draws)]
    labels = label([play(parts, suite, one, "degraded") for one in [*names, "good"]], suite / "labels.jsonl")
    pairs = itertools.islice(itertools.permutations(names, 2), most)
    reports = [play(parts, suite, *pair, labels) for pair in pairs]
    verdicts = Counter(report.gate.verdict for report in reports)
    calibrated = sum(report.comparisons[0].trust.standing is Standing.CALIBRATED for report in reports)
    return Luck(verdicts, calibrated, clopper_pearson(verdicts[Verdict.PROMOTE], calibrated, 0.025))
