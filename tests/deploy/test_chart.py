"""The chart lints, renders valid manifests, gives no more rights than it needs, and refuses what it does not know."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway import settings
from setup.helm import helm_binary

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "callgate"
FULL = [
    "--set",
    "ingress.enabled=true,ingress.tlsSecret=tls,ingress.className=nginx,serviceMonitor.enabled=true,autoscaling.enabled=false",
]


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = helm_binary(ROOT / ".callgate" / "cache")
    return subprocess.run([str(program), *arguments], capture_output=True, text=True, check=False)


def rendered(*arguments: str) -> list[dict[str, Any]]:
    done = helm("template", "gate", str(CHART), "--namespace", "calls", *arguments)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def only(documents: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    found = [document for document in documents if document["kind"] == kind]
    assert len(found) == 1, kind
    return found[0]


def test_it_lints_strictly_and_packages(tmp_path: Path) -> None:
    done = helm("lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout + done.stderr
    assert helm("package", str(CHART), "-d", str(tmp_path)).returncode == 0
    assert list(tmp_path.glob("callgate-*.tgz"))


@pytest.mark.parametrize("arguments", [[], FULL])
def test_every_manifest_is_valid_against_its_schema(arguments: list[str], tmp_path: Path) -> None:
    documents = rendered(*arguments)
    crds = {"ServiceMonitor": "servicemonitor_v1.json"}
    plain = tmp_path / "plain.yaml"
    plain.write_text(yaml.safe_dump_all(d for d in documents if d["kind"] not in crds))
    command = [sys.executable, "-m", "kubernetes_validate", "--strict", "-k", "1.32", str(plain)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for document in documents:
        if schema := crds.get(document["kind"]):
            import jsonschema

            jsonschema.validate(document, json.loads((Path(__file__).parent / "schemas" / schema).read_text()))


def test_the_gateway_runs_with_the_least_rights() -> None:
    documents = rendered()
    pod = only(documents, "Deployment")["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    for container in pod["containers"]:
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"]["memory"]
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys()
    assert only(documents, "ServiceAccount")["automountServiceAccountToken"] is False


def test_the_network_is_closed_but_for_what_is_named() -> None:
    policy = only(rendered(), "NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert all(rule.get("to") for rule in policy["egress"])
    assert all(rule.get("from") for rule in policy["ingress"])


def test_no_secret_is_rendered_and_the_settings_inside_are_valid(tmp_path: Path) -> None:
    documents = rendered()
    assert not [document for document in documents if document["kind"] == "Secret"]
    path = tmp_path / "callgate.yaml"
    path.write_text(only(documents, "ConfigMap")["data"]["callgate.yaml"])
    settings.load(path, {"CALLGATE_REDIS_URL": "redis://redis:6379/0"})


@pytest.mark.parametrize("wrong", ["replicaz=3", "image.digest=latest", "networkPolicy.open=true", "existingSecret="])
def test_values_that_are_unknown_or_wrong_are_refused(wrong: str) -> None:
    done = helm("template", "gate", str(CHART), "--set", wrong)
    assert done.returncode != 0
    assert wrong.split("=", maxsplit=1)[0].split(".", maxsplit=1)[0] in done.stderr
