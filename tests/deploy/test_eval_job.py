"""The chart's Indexed Job: its pods are the shards of one run, with the rights of a caller and no more; its command is one that callgate knows."""

from __future__ import annotations

from typing import Any

import pytest

from tests.deploy import manifests as k8s
from tests.deploy.manifests import Manifest
from tests.deploy.test_chart import EVERYTHING, refusal, render, run

ONCE: dict[str, Any] = {"enabled": True, "results": {"existingClaim": "eval-results"}}
NIGHTLY: dict[str, Any] = {
    **ONCE,
    "schedule": "0 2 * * *",
    "suiteConfigMap": "our-suite",
    "shards": 3,
    "image": "callgate-evals:1",
    "judgeUrl": "https://judge.example.com/v1",
    "apiKey": {"existingSecret": "eval-caller", "key": "key"},
    "judgeKey": {"existingSecret": "eval-judge", "key": "key"},
    "signingKey": {"existingSecret": "eval-signs", "key": "key"},
    "egress": [{"ports": [443], "to": [{"ipBlock": {"cidr": "203.0.113.0/24"}}]}],
}


def job_of(manifests: list[Manifest]) -> Manifest:
    cron = k8s.of_kind(manifests, "CronJob")
    return dict(cron[0]["spec"]["jobTemplate"]["spec"] if cron else k8s.only(manifests, "Job")["spec"])


def container_of(manifests: list[Manifest]) -> Manifest:
    (container,) = job_of(manifests)["template"]["spec"]["containers"]
    return dict(container)


@pytest.mark.parametrize("evals", [ONCE, NIGHTLY], ids=["once", "nightly"])
def test_the_job_is_valid_and_has_the_rights_of_a_caller(evals: dict[str, Any]) -> None:
    values = {**EVERYTHING, "evals": evals}
    assert run("lint", values, "--strict").returncode == 0
    manifests = render(values)
    for manifest in manifests:
        k8s.validate(manifest)
    k8s.assert_least_privilege(manifests, volumes={"configMap", "emptyDir", "persistentVolumeClaim"})
    (policy,) = [one for one in k8s.of_kind(manifests, "NetworkPolicy") if one["metadata"]["name"].endswith("-evals")]
    labels = job_of(manifests)["template"]["metadata"]["labels"]
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    assert "ingress" not in policy["spec"]
    service = k8s.only(manifests, "Service")["spec"]["selector"]
    assert policy["spec"]["egress"][0]["to"] == [{"podSelector": {"matchLabels": service}}]
    assert not service.items() <= labels.items()
    assert labels["callgate-client"] == "true"


def test_each_pod_is_one_shard_of_a_folder_of_the_job_alone() -> None:
    job, container = job_of(render({"evals": ONCE})), container_of(render({"evals": ONCE}))
    assert (job["completionMode"], job["completions"], job["parallelism"]) == ("Indexed", 4, 4)
    assert job["backoffLimitPerIndex"] == 2
    assert container["args"][-1] == "--out=/var/lib/callgate-evals/$(JOB_NAME)"
    names = {entry["name"]: entry for entry in container["env"]}
    assert "job-name" in names["JOB_NAME"]["valueFrom"]["fieldRef"]["fieldPath"]
    nightly = render({"evals": NIGHTLY})
    assert job_of(nightly)["parallelism"] == 3
    secrets = {n: e["valueFrom"]["secretKeyRef"]["name"] for n, e in
               ((e["name"], e) for e in container_of(nightly)["env"]) if "secretKeyRef" in e.get("valueFrom", {})}  # fmt: skip
    assert secrets == {
        "CALLGATE_API_KEY": "eval-caller",
        "CALLGATE_JUDGE_KEY": "eval-judge",
        "CALLGATE_EVAL_KEY": "eval-signs",
    }
    assert container_of(nightly)["args"][0] == "/etc/callgate-suite"
    assert container_of(nightly)["image"] == "callgate-evals:1"


@pytest.mark.filterwarnings("ignore")
def test_callgate_knows_every_word_of_the_jobs_command() -> None:
    from typer.main import get_command

    from gateway.cli import build

    container = container_of(render({"evals": NIGHTLY}))
    root = get_command(build())
    command = root.commands["eval"].commands["run"]  # type: ignore[attr-defined]
    context = command.make_context("run", list(container["args"]), resilient_parsing=False)
    assert container["command"] == ["callgate", "eval", "run"]
    assert (context.params["shards"], str(context.params["engine"])) == (3, "job")
    assert context.params["url"] == "http://gw-callgate.calls.svc:80/v1"


def test_a_job_without_a_place_for_results_is_refused_in_words() -> None:
    assert "ReadWriteMany" in refusal({"evals": {"enabled": True}})
    assert not k8s.of_kind(render({}), "Job")
