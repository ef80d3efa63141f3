"""A finished run told to MLflow and to Weights and Biases. Fails open: a tracker that is away costs one line, never a run.

The only place that knows the two. W&B writes into a folder (offline) unless told otherwise. Answers go nowhere from here: the files sent are
those of the run's folder that hold none (report.md, junit.xml) and the numbers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.report import Report

FILES = ("report.md", "junit.xml")


@dataclass(frozen=True, slots=True)
class Trackers:
    """Where to tell: `mlflow_uri` a tracking URI; `wandb` 'offline' or 'online'; `model_version` is NAME/VERSION in MLflow's registry."""

    mlflow_uri: str | None = None
    wandb: str | None = None
    model_version: str | None = None


def record(report: Report, folder: Path, trackers: Trackers) -> Iterator[str]:
    """One line a tracker: where it is, or why it is not. Never raises for a tracker's fault."""
    if trackers.mlflow_uri is not None:
        uri = trackers.mlflow_uri
        yield _openly("mlflow", lambda: to_mlflow(report, folder, uri, trackers.model_version))
    if trackers.wandb is not None:
        mode = trackers.wandb
        yield _openly("wandb", lambda: to_wandb(report, folder, mode))


def _openly(name: str, tell: Callable[[], str]) -> str:
    try:
        return f"{name}: {tell()}"
    except Exception as error:  # noqa: BLE001 - telemetry fails open, whatever a vendor raises
        return f"{name}: not recorded ({type(error).__name__}); the report itself is complete"


def parameters(report: Report) -> dict[str, str]:
    """What was asked: suite, settings, judges, digests."""
    evidence = report.evidence
    found = {
        "suite": f"{evidence.suite} {evidence.suite_version}",
        "candidate": evidence.candidate.name,
        "candidate_model": evidence.candidate.model,
        "candidate_version": evidence.candidate.version,
        "baseline": evidence.baseline.name,
        "baseline_version": evidence.baseline.version,
        "suite_digest": evidence.suite_digest,
        "dataset_digest": evidence.dataset_digest,
        "code_digest": evidence.code_digest,
        "report_digest": report.digest,
        "verdict": report.gate.verdict.value,
    }
    return found | {f"judge.{metric.name}": metric.judge[:250] for metric in evidence.metrics}


def numbers(report: Report) -> dict[str, float]:
    """What was found, by metric: means, difference, interval, what is not scored."""
    found: dict[str, float] = {}
    for comparison, decision in zip(report.comparisons, report.gate.decisions, strict=True):
        name = comparison.metric
        means = {"candidate": comparison.candidate_mean, "baseline": comparison.baseline_mean}
        found |= {f"{name}.{side}": mean for side, mean in means.items() if mean is not None}
        found |= {
            f"{name}.difference": comparison.scored.estimate,
            f"{name}.low": decision.low,
            f"{name}.high": decision.high,
            f"{name}.not_scored": float(comparison.not_scored_candidate + comparison.not_scored_baseline),
        }
    return found


def to_mlflow(report: Report, folder: Path, uri: str, model_version: str | None) -> str:
    """A run with parameters, metrics and files; its verdict also on the model version where one is named. Returns where."""
    # Without these the client retries an absent server for minutes; a gate's exit code must not wait for it.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    name = f"callgate/{report.evidence.suite}"
    experiment = client.get_experiment_by_name(name)
    experiment_id = experiment.experiment_id if experiment else client.create_experiment(name)
    run = client.create_run(
        experiment_id, run_name=f"{report.evidence.candidate.name} against {report.evidence.baseline.name}"
    )
    run_id = run.info.run_id
    now_ms = run.info.start_time
    metrics = [Metric(key, value, now_ms, 0) for key, value in numbers(report).items()]
    client.log_batch(run_id, metrics=metrics, params=[Param(k, v) for k, v in parameters(report).items()])
    for file in FILES:
        if (folder / file).is_file():
            client.log_artifact(run_id, str(folder / file))
    if model_version:
        client.set_tag(run_id, "callgate.model_version", model_version)
    client.set_terminated(run_id)
    tagged = _tag(client, model_version, report) if model_version else ""
    return f"run {run_id} of experiment {name}{tagged}"


def _tag(client: Any, model_version: str, report: Report) -> str:
    """The verdict on the model version; one that the registry does not have costs the tag and not the run."""
    from mlflow.exceptions import MlflowException

    model, _, version = model_version.rpartition("/")
    try:
        client.set_model_version_tag(model, version, "callgate.gate", report.gate.verdict.value)
        client.set_model_version_tag(model, version, "callgate.report", report.digest)
    except MlflowException as error:
        return f"; model version {model_version} not tagged ({error.error_code})"
    return f"; model version {model_version} tagged"


def to_wandb(report: Report, folder: Path, mode: str) -> str:
    os.environ.update(WANDB_SILENT="true", WANDB_ERROR_REPORTING="false")
    import wandb

    # Else it takes along what is printed, the command line (addresses may hold passwords), the machine's name and changed files.
    quiet = wandb.Settings(
        console="off", disable_git=True, save_code=False, x_disable_meta=True, x_disable_machine_info=True
    )
    settings: dict[str, Any] = {"mode": mode, "dir": str(folder), "project": "callgate", "config": parameters(report)}
    run = wandb.init(name=f"{report.evidence.suite}: {report.evidence.candidate.name}", settings=quiet, **settings)
    run.summary.update(numbers(report))
    place = run.dir
    run.finish()
    return f"run {run.id} in {place}" if mode == "offline" else f"run {run.id}"
