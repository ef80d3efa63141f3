"""A rollout on live calls: a real gateway, Redis and Phoenix; calls are judged as they come, and their scores move the candidate's share. Models and judge are doubles."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from evals.calibrate import Label
from evals.launch import Watching, launch, watch
from evals.report import build_report, save_report, sign
from evals.rollout.launch import RolloutOptions, launch_rollout
from evals.rollout.run import Ending, Outcome, RolloutPlan
from gateway.stores import RedisStore
from tests.doubles.openai_backend import Backend
from tests.evals.test_tracking import phoenix  # noqa: F401 (a fixture)
from tests.evals.tiny import Served, completion, good, options, write_suite
from tests.gateway.conftest import Gateway, running, settings_for

pytestmark = [
    pytest.mark.servers,
    pytest.mark.timeout(500),
    pytest.mark.xdist_group("phoenix"),
    pytest.mark.filterwarnings("ignore"),
]

REDACTION = (
    Path(__file__).parents[2] / "guardrails/policies/redaction"
)  # texts of a model without a policy are not traced
TOKEN, KEY = "ada-has-a-long-token", b"sixteen bytes or more"


@pytest.fixture
def served() -> Iterator[Served]:
    """The judge finds helpful what repeats the question's word."""

    def verdict(body: dict[str, Any]) -> web.Response:
        if "response_format" not in body:
            return completion(good(body))
        said = body["messages"][1]["content"]
        return completion(json.dumps({"reason": "r", "verdict": "yes" if said.count("fine") > 1 else "no"}))

    with Served() as one:
        one.answer = verdict
        yield one


def promoted(suite: Path, served: Served) -> tuple[Path, Path]:
    """A signed report that promotes, and its labels: people and judge agree on every answer."""
    evidence = launch(options(suite, served, candidate="good", baseline="bad")).evidence
    scores = tuple(
        replace(score, value=float(score.setting == "good")) if score.metric == "helpful" else score
        for score in evidence.scores
    )
    metrics = tuple(
        replace(metric, decides=True, margin=0.3) for metric in evidence.metrics if metric.name == "helpful"
    )
    labels = {
        (s.metric, s.sample_id, s.setting, s.repeat): Label(s.value == 1.0) for s in scores if s.metric == "helpful"
    }
    rows = [
        {"metric": m, "sample_id": c, "setting": s, "repeat": r, "human": h.human} for (m, c, s, r), h in labels.items()
    ]
    (suite / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    metrics = tuple(replace(metric, primary=True) for metric in metrics)
    report = sign(build_report(replace(evidence, scores=scores, metrics=metrics), labels), KEY)
    save_report(report, suite / "report.json")
    return suite / "report.json", suite / "labels.jsonl"


async def roll_out(
    at: Gateway, url: str, suite: Path, served: Served, project: str, patience: timedelta, questions: Sequence[str]
) -> tuple[Ending, list[str]]:
    """One rollout to its end, with callers and a watch beside it."""
    report, labels = await asyncio.to_thread(promoted, suite, served)
    plan = RolloutPlan(
        "m", "run-12345678", (0.45, 0.5), min_conversations=8, every_s=2, settle=timedelta(0), wait=timedelta(seconds=30),
        patience=patience, operational_margin=0.4,
    )  # fmt: skip
    told = RolloutOptions(plan, report, labels, at.url, url, project, suite / "rollout", TOKEN, KEY)
    lines: list[str] = []
    rollout = asyncio.create_task(asyncio.to_thread(launch_rollout, told, lines.append))
    watched: list[str] = []

    async def watching() -> None:
        once = Watching(str(suite), served.url, url, project, 1.0, 1, timedelta(minutes=10), 1, suite / "online", None)
        while not rollout.done():
            await asyncio.to_thread(watch, once, watched.append)

    async def calling() -> None:
        for number, question in enumerate(itertools.cycle(questions)):
            if rollout.done():
                return
            body = {"model": "m", "messages": [{"role": "user", "content": question}]}
            status, _, _ = await at.post("/v1/chat/completions", body, headers={"x-call-id": f"call-{number}"})
            assert status == 200
            await asyncio.sleep(0.4)

    await asyncio.gather(watching(), calling(), rollout)
    return rollout.result(), lines + watched


@pytest.mark.parametrize(
    ("champion", "candidate", "outcome", "share"),
    [("echo", "adds", Outcome.ROLLED_BACK, 0.0), ("adds", "echo", Outcome.PROMOTED, 1.0)],
    ids=["a degraded candidate loses its share", "a better one gets every call"],
)
async def test_live_scores_move_the_share(
    champion: str, candidate: str, outcome: Outcome, share: float,
    phoenix: str, openai_backend: Backend, redis_url: str, served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,  # noqa: F811
) -> None:  # fmt: skip
    project = f"rollout-{candidate}"
    async with gateway_with(
        champion, candidate, project, phoenix, openai_backend, redis_url, tmp_path, monkeypatch
    ) as at:
        suite = write_suite(tmp_path / "tiny")
        ending, lines = await roll_out(at, phoenix, suite, served, project, timedelta(minutes=4), ["fine"])
        assert ending.outcome is outcome, (lines[-3:], len(lines))
        store = RedisStore(redis_url)
        kept = json.loads(await store.read_value("{callgate-rollout}:m") or b"")
        await store.aclose()
        assert (kept["share"], kept["by"], kept["report"][:7]) == (share, "ada", "sha256:")
        assert any(reason.startswith("helpful: ") for reason in ending.reasons), ending.reasons
    looks = [json.loads(line) for line in (tmp_path / "tiny/rollout/rollout.jsonl").read_text().splitlines()]
    looks = [look for look in looks if "metrics" in look]  # a busy Phoenix may have left out one or the other
    assert looks[-1]["share"] == (0.5 if outcome is Outcome.PROMOTED else 0.45)
    last = {one["metric"]: one for one in looks[-1]["metrics"]}
    assert (last["answered"]["candidate_mean"], last["answered"]["baseline_mean"]) == (1.0, 1.0)
    assert last["helpful"]["candidate_mean"] == float(outcome is Outcome.PROMOTED)
    assert "<svg" in (tmp_path / "tiny/rollout/rollout.html").read_text()


async def test_a_judge_that_is_silent_on_bad_answers_of_the_candidate_promotes_nothing(
    phoenix: str, openai_backend: Backend, redis_url: str, served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,  # noqa: F811
) -> None:  # fmt: skip
    """Every second answer of the candidate is bad, and all that are judged are good."""
    judged = served.answer

    def silent(body: dict[str, Any]) -> web.Response:
        said = judged(body)
        return completion("rather not") if b'\\"no\\"' in (said.body or b"") else said  # type: ignore[operator]

    served.answer, project = silent, "rollout-silent"
    async with gateway_with("echo", "adds", project, phoenix, openai_backend, redis_url, tmp_path, monkeypatch) as at:
        suite = write_suite(tmp_path / "tiny")
        ending, lines = await roll_out(
            at, phoenix, suite, served, project, timedelta(seconds=90), ["fine", "fine, fine"]
        )
    assert (ending.outcome, ending.share) == (Outcome.UNDECIDED, 0.45), (ending, lines[-3:])
    looks = [json.loads(line) for line in (tmp_path / "tiny/rollout/rollout.jsonl").read_text().splitlines()]
    (helpful,) = (
        one for one in [look for look in looks if "metrics" in look][-1]["metrics"] if one["metric"] == "helpful"
    )
    reason = "not scored: judge: no yes or no in the asked shape"
    assert helpful["candidate_mean"] == 1.0
    assert helpful["candidate_missing"][reason] > 0
    assert reason not in helpful["baseline_missing"]
    assert reason in (tmp_path / "tiny/rollout/rollout.html").read_text()


@asynccontextmanager
async def gateway_with(
    champion: str, candidate: str, project: str, phoenix: str, openai_backend: Backend, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,  # noqa: F811
) -> AsyncIterator[Gateway]:  # fmt: skip
    """Its model `m` is traced with its texts, and has a candidate."""
    monkeypatch.setenv("CALLGATE_ADMIN_TOKEN", f"ada:{TOKEN}")

    def deployment(name: str, model: str) -> dict[str, Any]:
        return {"name": name, "base_url": openai_backend.base_url, "model": model}

    model = {
        "name": "m",
        "policy": "redaction",
        "deployments": [deployment("old", champion)],
        "candidate": deployment("new", candidate),
    }
    settings = settings_for(
        tmp_path, openai_backend, redis_url, models=[model], policies={"redaction": str(REDACTION)}, limits={"requests_per_minute": None, "tokens_per_minute": None},
        telemetry={"otlp_endpoint": f"{phoenix}/v1/traces", "flush_s": 0.1, "project": project, "log_level": "warning"},
    )  # fmt: skip
    async with running(settings) as at:
        yield at
