"""A release from its answers to its verdict on real parts: model, gateway, Phoenix and MLflow are real, judge and people are doubles.

200 repeats of the identical candidate are `make bench-eval`'s; here it is a few.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from evals.launch import Watching, ask_for_labels, read_labels, record, watch
from evals.online import is_sampled
from evals.phoenix import Phoenix, choose, queue_project, span_id
from evals.report import Report
from evals.tracking import Trackers, numbers
from evals.types import Standing, Verdict
from tests.bench.release import Parts, person, play, repeats, running, write_suite
from tests.evals.test_tracking import PHOENIX, until

pytestmark = [
    pytest.mark.servers,
    pytest.mark.timeout(500),
    pytest.mark.filterwarnings("ignore"),  # what the libraries warn of is theirs
]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    if not PHOENIX.exists():
        pytest.skip("no Phoenix in .venv-phoenix")
    with running(tmp_path_factory.mktemp("release"), trackers=True) as started:
        yield started


def test_a_degraded_candidate_is_rejected_a_better_one_promoted_and_an_equal_one_neither(
    parts: Parts, tmp_path: Path
) -> None:
    suite = write_suite(tmp_path / "suite", 2)
    undecided = play(parts, suite, "degraded", "good")
    assert undecided.gate.verdict is Verdict.INCONCLUSIVE
    assert undecided.comparisons[0].trust.standing is Standing.UNCALIBRATED
    labels = labelled_in_phoenix(parts, undecided, suite, tmp_path / "labels.jsonl")

    rejected = play(parts, suite, "degraded", "good", labels)
    assert rejected.gate.verdict is Verdict.REJECT, rejected.gate.reasons
    assert {rejected.comparisons[0].trust.standing} == {Standing.CALIBRATED}
    promoted = play(parts, suite, "good", "degraded", labels)
    assert promoted.gate.verdict is Verdict.PROMOTE, promoted.gate.reasons
    for score in promoted.evidence.scores:
        assert score.value is not None, score.reason
    luck = repeats(parts, suite, 2, 2)
    assert luck.promoted.low <= promoted.evidence.limits.alpha, luck
    read_back(parts, rejected, suite)
    judge_live_calls(parts, suite)


def labelled_in_phoenix(parts: Parts, report: Report, suite: Path, path: Path) -> Path:
    """The answers that would decide are queued, labelled where they lie by a double of a person, and read back."""
    from phoenix.client import Client

    assert parts.phoenix_url
    client = Client(base_url=parts.phoenix_url)
    lines = list(ask_for_labels(report, str(suite), parts.phoenix_url))
    assert [line.partition(" in project")[0] for line in lines] == ["faithful: 24 answers", "tone: 24 answers"]
    queued = {(one.sample_id, one.setting) for metric in ("faithful", "tone") for one in choose(report, metric, 24)}
    project = queue_project(report)
    spans = until(lambda: client.spans.get_spans(project_identifier=project, limit=100), len(queued))
    said = {span["context"]["span_id"]: span["attributes"]["output.value"] for span in spans}
    for one in choose(report, "faithful", 24):
        span = span_id(report, one.sample_id, one.setting, 0, project)
        word = "pass" if person(one.sample_id, one.setting, said[span]) else "fail"
        client.spans.add_span_annotation(
            span_id=span, annotation_name="faithful", annotator_kind="HUMAN", label=word, sync=True
        )
    assert list(read_labels(report, parts.phoenix_url, path)) == [f"24 labels in {path}"]
    return path


def read_back(parts: Parts, report: Report, suite: Path) -> None:
    """What both servers hold of a run is what the report says."""
    from mlflow import MlflowClient
    from phoenix.client import Client

    assert parts.phoenix_url
    out = suite.with_name("degraded-good")
    mlflow, phoenix = record(report, str(suite), out, Trackers(mlflow_uri=parts.mlflow_url), parts.phoenix_url)
    assert phoenix.startswith("phoenix: 32 spans, 96 annotations"), phoenix
    assert mlflow.startswith("mlflow: run "), mlflow
    client = MlflowClient(tracking_uri=parts.mlflow_url)
    run = client.get_run(mlflow.split()[2])
    assert run.data.params["report_digest"] == report.digest
    assert run.data.metrics == pytest.approx(numbers(report))
    assert {one.path for one in client.list_artifacts(run.info.run_id)} == {"report.md", "junit.xml"}
    answer = report.evidence.answers[0]
    span = span_id(report, answer.sample_id, answer.setting, 0)
    spans = Client(base_url=parts.phoenix_url).spans
    notes = until(lambda: spans.get_span_annotations(span_ids=[span], project_identifier="callgate-evals"), 3)
    kinds = {note["name"]: note["annotator_kind"] for note in notes}
    assert kinds == {"faithful": "LLM", "tone": "LLM", "brief": "CODE"}


def judge_live_calls(parts: Parts, suite: Path) -> None:
    """The gateway's own traces of these runs, sampled, judged and annotated; a second look has nothing left to pay for."""
    from phoenix.client import Client

    assert parts.phoenix_url
    lines: list[str] = []
    once = Watching(
        str(suite), parts.judge_url, parts.phoenix_url, "callgate", 0.2, 1, timedelta(hours=1), 1, suite / "online", None
    )  # fmt: skip
    for _ in range(2):
        watch(once, lines.append)
    seen, sampled, written, not_scored = (int(word.split()[0]) for word in lines[0].split(", "))
    assert seen >= 64, lines
    assert 0 < sampled < seen
    assert written == sampled
    assert not_scored == 0
    assert ", 0 scores written" in lines[1], lines
    live = Phoenix(parts.phoenix_url).calls("callgate", datetime.now(UTC) - timedelta(hours=1), 1000)
    spans = [call.span_id for call in live if is_sampled(call.conversation, 0.2)]
    notes = Client(base_url=parts.phoenix_url).spans.get_span_annotations(span_ids=spans, project_identifier="callgate")
    assert len(notes) == written
    assert {(note["name"], note["annotator_kind"]) for note in notes} == {("tone", "LLM")}
    assert all(note["result"]["score"] == 0.9 for note in notes)
    assert {note["metadata"]["deployment"] for note in notes} == {"embedded"}
