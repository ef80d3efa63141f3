"""One run by one process, by four, by a local Ray and by the pods of an Indexed Job: the same report; and what happens when a shard dies."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from typer.testing import CliRunner

from evals.cli import app
from evals.errors import RecordError, TargetError
from evals.evidence import merge
from evals.launch import gather, launch
from evals.report import Report, load_report
from evals.shards import launch_pod, launch_shards, part
from evals.target import Budget
from evals.types import Verdict
from tests.evals.tiny import Served, completion, good, options

ANCHORS = [
    {"metric": "helpful", "messages": [{"role": "user", "content": f"q{n}"}], "answer": "fine" if n % 2 else "bad", "human": bool(n % 2)}
    for n in range(6)
]  # fmt: skip


@pytest.fixture
def whole(suite: Path, served: Served) -> Report:
    """A run with anchors, in one process."""
    (suite / "anchors.jsonl").write_text("".join(json.dumps(anchor) + "\n" for anchor in ANCHORS))
    with (suite / "suite.yaml").open("a") as file:
        file.write("anchors: anchors.jsonl\n")
    return launch(options(suite, served, out=suite / "whole"))


def test_four_processes_give_the_report_of_one(whole: Report, suite: Path, served: Served) -> None:
    seen: list[tuple[str, int, int]] = []
    report = launch_shards(options(suite, served), 4, progress=lambda *step: seen.append(step[:3]))
    assert (report.digest, report.evidence_digest) == (whole.digest, whole.evidence_digest)
    assert report.evidence.anchors == whole.evidence.anchors != ()
    assert load_report(suite / "out" / "report.json").digest == whole.digest
    assert seen[-1] == ("shards", 4, 4)
    assert not (suite / "out" / "shards").exists()


@pytest.mark.servers
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore")  # what Ray warns of is its own
def test_a_local_ray_gives_the_report_of_one(whole: Report, suite: Path, served: Served) -> None:
    report = launch_shards(options(suite, served), 4, "local")
    assert (report.digest, report.evidence_digest) == (whole.digest, whole.evidence_digest)


def test_a_ray_that_does_not_come_up_is_named(suite: Path, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def late(*_: object, **__: object) -> None:
        raise Exception("The current node timed out during startup.")  # noqa: TRY002 - the very class that it raises

    monkeypatch.setattr(ray, "init", late)
    with pytest.raises(TargetError, match=r"no Ray at --ray-address 'local': The current node timed out"):
        launch_shards(options(suite, served), 4, "local")


def test_the_pods_of_a_job_give_the_report_of_one_and_the_last_of_them_writes_it(
    whole: Report, suite: Path, served: Served
) -> None:
    one = options(suite, served)
    stages: list[str] = []
    reports = [launch_pod(one, index, 4, lambda stage, *_: stages.append(stage)) for index in (2, 0, 3, 1)]
    assert "answers" in stages
    assert reports[:3] == [None, None, None]
    assert reports[3] is not None
    assert reports[3].digest == whole.digest
    paid = served.asked
    again = launch_pod(one, 2, 4)  # a pod that is started again asks nothing and finds the same
    assert again is not None
    assert again.digest == whole.digest
    assert served.asked == paid
    assert not list((suite / "out").rglob("journal.jsonl"))


def test_a_pod_takes_its_number_from_the_job_and_its_verdict_is_no_failure(suite: Path, served: Served) -> None:
    arguments = ["run", str(suite), "--candidate", "bad", "--baseline", "good", "--url", served.url, "--out"]
    arguments += [str(suite / "out"), "--shards", "2", "--engine", "job"]
    first = CliRunner(env={"JOB_COMPLETION_INDEX": "1"}).invoke(app, arguments)
    assert (first.exit_code, "others are not yet" in first.output) == (0, True)
    last = CliRunner(env={"JOB_COMPLETION_INDEX": "0"}).invoke(app, arguments)
    assert last.exit_code == 0, last.output
    assert load_report(suite / "out" / "report.json").gate.verdict is Verdict.REJECT
    for wrong in ("", "2", "x"):
        assert CliRunner(env={"JOB_COMPLETION_INDEX": wrong}).invoke(app, arguments).exit_code == 3


def test_a_shard_that_died_goes_on_where_it_stopped(suite: Path, served: Served) -> None:

    one = part(options(suite, served), 1, 4)
    gather(one)
    paid = served.asked
    served.answer = lambda body: completion("ignored: this shard was paid for")
    again = gather(one)
    assert served.asked == paid
    assert all(answer.from_cache for answer in again.answers)
    served.answer = lambda body: completion(good(body))
    assert (
        launch_shards(options(suite, served), 4).evidence.digest() == launch(options(suite, served)).evidence.digest()
    )


def test_a_target_that_never_answers_breaks_a_run_of_shards_too(suite: Path, served: Served) -> None:
    one = options(suite, served, url="http://127.0.0.1:9/v1")
    with pytest.raises(TargetError, match="nothing answers"):
        launch_shards(one, 2)


def test_shards_that_scored_the_anchors_differently_are_not_joined(whole: Report) -> None:
    evidence = whole.evidence
    first = replace(evidence, cases=evidence.cases[:2], answers=(), scores=())
    other = replace(
        evidence, cases=evidence.cases[2:], answers=(), scores=(), anchors=(replace(evidence.anchors[0], kappa=0.1),)
    )
    with pytest.raises(RecordError, match="anchors differently"):
        merge([first, other])


def test_shards_together_keep_the_money_limit() -> None:
    shares = [Budget(max_requests=10, max_cost_usd=Decimal("1.00")).share(4) for _ in range(4)]
    granted = 0
    for budget in shares:
        while budget.reserve(Decimal("0.1")):
            budget.settle(Decimal("0.1"), Decimal("0.1"))
            granted += 1
    assert granted == 8
    with pytest.raises(ValueError, match="cannot be shared"):
        Budget(max_requests=2).share(4)
