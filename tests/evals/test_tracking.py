"""Runs told to real MLflow code (SQLite), to W&B offline and to a real Phoenix server, and read back; and what happens when they are away."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from evals.calibrate import human_of, load_labels
from evals.cli import app as cli
from evals.errors import EvalError
from evals.evidence import Evidence, MetricPlan, case_of
from evals.launch import ask_for_labels, read_labels, record
from evals.phoenix import Phoenix, choose, needed, queue_project, span_id
from evals.report import Report, build_report
from evals.suite import find_suite, load_suite
from evals.tracking import Trackers, numbers
from evals.types import Answer, Limits, Score, Setting

pytestmark = pytest.mark.filterwarnings("ignore")  # what the trackers warn of is theirs
SUITE = "call-centre-smoke"
PHOENIX = Path(__file__).parents[2] / ".venv-phoenix/bin/phoenix"


@pytest.fixture(scope="module")
def report() -> Report:
    """A run of the shipped smoke suite, its answers written here; one score could not be had."""
    suite = load_suite(find_suite(SUITE))
    sides = (Setting("new", "m", version="7"), Setting("old", "m"))
    samples = suite.dataset.samples
    answers = [
        Answer(s.id, side.name, 0, f"Of course. Mail me at a.b@example.com ({side.name})")
        for s in samples
        for side in sides
    ]
    scores = [Score("brief", a.sample_id, a.setting, 0, 1.0, "4 words", "check/length@1") for a in answers]
    for n, a in enumerate(answers):
        value = None if n == 0 else float(n % 3 > 0)
        scores.append(
            Score("helpful", a.sample_id, a.setting, 0, value, "judge: timeout" if n == 0 else "yes", "model/j@1")
        )
    metrics = (
        MetricPlan("brief", "check/length@1", True, True, True, 0.1),
        MetricPlan("helpful", "model/j@1", False, True, False, 0.1),
    )
    cases = tuple(case_of(s, ("brief", "helpful")) for s in samples)
    limits = Limits(min_labels=10)
    digests = ("sha256:s", suite.dataset.digest, "sha256:c")
    return build_report(
        Evidence(SUITE, "1", *digests, *sides, 1, limits, metrics, cases, tuple(answers), tuple(scores))
    )


def test_mlflow_has_the_run_with_its_numbers_files_and_model_version(report: Report, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    client.create_experiment(f"callgate/{SUITE}", artifact_location=(tmp_path / "artifacts").as_uri())
    client.create_registered_model("agent")
    client.create_model_version("agent", source=tmp_path.as_uri())
    (tmp_path / "report.md").write_text("# Report\n")
    (line,) = record(report, SUITE, tmp_path, Trackers(mlflow_uri=uri, model_version="agent/1"), None)
    assert line.startswith("mlflow: run "), line
    run = client.get_run(line.split()[2])
    assert run.info.status == "FINISHED"
    assert run.data.params["report_digest"] == report.digest
    assert run.data.metrics == pytest.approx(numbers(report))
    assert [one.path for one in client.list_artifacts(run.info.run_id)] == ["report.md"]
    assert client.get_model_version("agent", "1").tags["callgate.gate"] == report.gate.verdict.value


@pytest.mark.filterwarnings("ignore")
def test_a_model_version_that_is_not_there_costs_the_tag_and_not_the_run(report: Report, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    (line,) = record(report, SUITE, tmp_path, Trackers(mlflow_uri=uri, model_version="agent/9"), None)
    assert line.startswith("mlflow: run ")
    assert line.endswith("; model version agent/9 not tagged (RESOURCE_DOES_NOT_EXIST)")
    assert MlflowClient(uri, uri).get_run(line.split()[2]).info.status == "FINISHED"


@pytest.mark.parametrize(
    "given", [["agent/3"], ["agent", "--mlflow", "sqlite://"], ["agent/", "--mlflow", "sqlite://"]]
)
def test_a_model_version_without_its_registry_or_number_is_named_before_anything_is_asked(given: list[str]) -> None:
    done = CliRunner().invoke(
        cli, ["run", SUITE, "--candidate", "same", "--baseline", "good", "--model-version", *given]
    )
    assert done.exit_code == 3
    assert "--model-version is NAME/VERSION" in done.output


def test_wandb_writes_a_run_offline_and_takes_nothing_else_along(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of itself it takes what is printed, the command line (addresses may hold passwords), the machine's name and changed files."""
    monkeypatch.setattr(sys, "argv", ["callgate", "--mlflow=https://user:hunter2@example.com"])
    (line,) = record(report, SUITE, tmp_path, Trackers(wandb="offline"), None)
    assert line.startswith("wandb: run "), line
    (run,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    assert b"hunter2" not in run.read_bytes()
    assert not (run.parent / "files/output.log").exists()


def test_a_tracker_that_is_away_costs_one_clear_line_each(report: Report, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    lines = list(record(report, SUITE, tmp_path, Trackers(mlflow_uri=url), url))
    assert len(lines) == 2
    for name, line in zip(("mlflow", "phoenix"), lines, strict=True):
        assert line.startswith(f"{name}: not recorded (")
        assert line.endswith("the report itself is complete")


def test_labels_are_drawn_at_random_whole_conversations_and_the_same_each_time(report: Report) -> None:
    assert dict(needed(report)) == {"helpful": 10}
    wanted = choose(report, "helpful", 5)
    assert len(wanted) == 6  # three conversations of one case, both sides
    assert wanted == choose(report, "helpful", 5)
    assert wanted == choose(report, "helpful", 24)[:6]
    assert {one.setting for one in wanted} == {"new", "old"}


@pytest.fixture(scope="module")
def phoenix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if not PHOENIX.exists():
        pytest.skip("no Phoenix in .venv-phoenix")
    with socket.socket() as free, socket.socket() as other:
        free.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        port, grpc = free.getsockname()[1], other.getsockname()[1]
    home = tmp_path_factory.mktemp("phoenix")
    environment = {
        **os.environ, "PHOENIX_PORT": str(port), "PHOENIX_GRPC_PORT": str(grpc), "PHOENIX_HOST": "127.0.0.1",
        "PHOENIX_WORKING_DIR": str(home), "PHOENIX_TELEMETRY_ENABLED": "false",
    }  # fmt: skip
    with (home / "log").open("wb") as log:
        server = subprocess.Popen([str(PHOENIX), "serve"], env=environment, stdout=log, stderr=log)
        url = f"http://127.0.0.1:{port}"
        try:
            wait_for(f"{url}/healthz", server)
            yield url
        finally:
            server.terminate()
            server.wait(20)


def wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(4000):
        assert server.poll() is None, "Phoenix stopped"
        try:
            with urllib.request.urlopen(url, timeout=1):  # noqa: S310
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("Phoenix did not answer in 400 s")


def until(ask: Callable[[], Sequence[Any]], count: int) -> Sequence[Any]:
    """Phoenix takes what it is sent by a queue of its own."""
    for _ in range(1200):
        with contextlib.suppress(Exception):
            found = ask()
            if len(found) >= count:
                return found
        time.sleep(0.1)
    raise AssertionError(f"not {count} after two minutes")


@pytest.mark.servers
@pytest.mark.timeout(560)
@pytest.mark.xdist_group("phoenix")
def test_phoenix_has_spans_annotations_and_gives_peoples_labels_back(
    report: Report, phoenix: str, tmp_path: Path
) -> None:
    from phoenix.client import Client

    for _ in range(2):  # recorded twice is recorded once
        (line,) = record(report, SUITE, tmp_path, Trackers(), phoenix)
        assert line.startswith("phoenix: 24 spans, 48 annotations"), line
        assert "2 experiments" in line
    client = Client(base_url=phoenix)
    dataset = client.datasets.get_dataset(dataset=f"callgate-{SUITE}-{report.evidence.dataset_digest[-12:]}")
    assert len(dataset.examples) == 12
    experiments = {one["name"].split()[0]: one for one in client.experiments.list(dataset_id=dataset.id)}
    assert set(experiments) == {"new", "old"}
    assert experiments["new"]["metadata"]["report"] == report.digest
    ran = client.experiments.get_experiment(experiment_id=experiments["new"]["id"])
    assert len(ran["task_runs"]) == 12
    assert "a.b@example.com" not in str(ran)
    said = [evaluation for evaluation in ran["evaluation_runs"] if evaluation.name == "helpful"]
    assert {evaluation.annotator_kind for evaluation in said} == {"LLM"}
    assert len([evaluation for evaluation in said if (evaluation.result or {}).get("score") is None]) == 1
    first = report.evidence.answers[0]
    span = span_id(report, first.sample_id, first.setting, 0)
    annotations = until(
        lambda: client.spans.get_span_annotations(span_ids=[span], project_identifier="callgate-evals"), 2
    )
    found = {a["name"]: a for a in annotations}
    assert found["brief"]["annotator_kind"] == "CODE"
    assert found["brief"]["result"]["score"] == 1.0
    assert found["helpful"]["annotator_kind"] == "LLM"
    assert found["helpful"]["result"]["label"] == "not scored"
    spans = until(lambda: client.spans.get_spans(project_identifier="callgate-evals", limit=100), 24)
    assert len(spans) == 24
    assert "a.b@example.com" not in str(spans)

    for _ in range(2):
        (line,) = ask_for_labels(report, SUITE, phoenix)
    with urllib.request.urlopen(f"{phoenix}/v1/projects/{queue_project(report)}/annotation_configs") as asked:  # noqa: S310
        (offered,) = json.loads(asked.read())["data"]
    assert (offered["name"], [value["label"] for value in offered["values"]]) == ("helpful", ["pass", "fail"])
    assert line.startswith("helpful: 10 answers in project"), line
    assert line.endswith("Does the reply help the caller politely and to the point?")
    assert offered["description"] == "Does the reply help the caller politely and to the point?"
    until(lambda: client.spans.get_spans(project_identifier=queue_project(report), limit=100), 10)
    wanted = choose(report, "helpful", 10)
    for one, word in zip(wanted[:3], ("pass", "Fail", "pass"), strict=True):
        client.spans.add_span_annotation(
            span_id=span_id(report, one.sample_id, one.setting, 0, queue_project(report)), annotation_name="helpful", annotator_kind="HUMAN",
            label=word, sync=True,
        )  # fmt: skip
    path = tmp_path / "labels.jsonl"
    assert list(read_labels(report, phoenix, path)) == [f"3 labels in {path}"]
    labels = load_labels(path)
    assert [labels["helpful", one.sample_id, one.setting, 0].human for one in wanted[:3]] == [True, False, True]
    assert len(human_of(report.evidence, labels)) == 3
    client.spans.add_span_annotation(
        span_id=span_id(report, wanted[0].sample_id, wanted[0].setting, 0, queue_project(report)), annotation_name="helpful",
        annotator_kind="HUMAN", label="so-so", sync=True,
    )  # fmt: skip
    with pytest.raises(EvalError, match="neither pass nor fail"):
        Phoenix(phoenix).labels(report, wanted)
    assert queue_project(report).startswith("callgate-labels-")
    # with some labels it is another report: what it asks for next joins the same project, and nobody sees whose answers they are
    labels = {key: label for key, label in labels.items() if key[1] != wanted[0].sample_id}
    again = build_report(report.evidence, labels)
    assert again.digest != report.digest
    Phoenix(phoenix).queue(again, choose(again, "helpful", 16), {}, {}, datetime.now(UTC))
    asked_for = until(lambda: client.spans.get_spans(project_identifier=queue_project(again), limit=100), 16)
    assert len(asked_for) == 16
    assert {name for span in asked_for for name in span["attributes"]} <= {
        "input.value",
        "output.value",
        "openinference.span.kind",
    }
    assert not any(": " in span["name"] for span in asked_for)
