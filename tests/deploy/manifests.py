"""Rendered manifests, checked: built-in kinds by Kubernetes' own schemas, custom ones by the schemas kept beside this file.

A kind that neither knows is an error, not a warning. It does not render; tests/deploy/helm.py does.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

KUBERNETES = "1.32"
CUSTOM = {("monitoring.coreos.com/v1", "ServiceMonitor"): "servicemonitor_v1.json"}
SCHEMAS = Path(__file__).parent / "schemas"

Manifest = dict[str, Any]


def parse(text: str) -> list[Manifest]:
    return [document for document in yaml.safe_load_all(text) if document]


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def only(manifests: list[Manifest], kind: str) -> Manifest:
    (manifest,) = of_kind(manifests, kind)
    return manifest


def pod_specs(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Every pod that the manifests would make, with a name for messages."""
    for manifest in manifests:
        name = f"{manifest['kind']}/{manifest['metadata']['name']}"
        if manifest["kind"] == "Pod":
            yield name, manifest["spec"]
        elif manifest["kind"] in ("Deployment", "StatefulSet", "DaemonSet", "Job"):
            yield name, manifest["spec"]["template"]["spec"]
        elif manifest["kind"] == "CronJob":
            yield name, manifest["spec"]["jobTemplate"]["spec"]["template"]["spec"]


def assert_least_privilege(manifests: list[Manifest], volumes: set[str]) -> None:
    """Every pod: no root, no capabilities, nothing of the host, no API token, a read-only file system, limits."""
    for name, pod in pod_specs(manifests):
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["enableServiceLinks"] is False, name
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"].get("runAsUser") != 0, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys(), name
        assert all(set(volume) & volumes for volume in pod.get("volumes", [])), name
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["privileged"] is False, name
            assert context["readOnlyRootFilesystem"] is True, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert {"cpu", "memory"} <= container["resources"]["limits"].keys(), name
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), name
    for account in of_kind(manifests, "ServiceAccount"):
        assert account["automountServiceAccountToken"] is False


def validate(manifest: Manifest) -> None:
    """Raises: a ValidationError for a manifest that the API server would refuse or silently prune, KeyError for an unknown kind."""
    import kubernetes_validate  # type: ignore[import-untyped]

    identity = (manifest["apiVersion"], manifest["kind"])
    if identity in CUSTOM:
        _validate_custom(manifest, CUSTOM[identity])
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of importlib.resources, inside the library
            kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    except kubernetes_validate.SchemaNotFoundError:
        raise KeyError(f"no schema for {identity}; keep one in {SCHEMAS.name}/") from None


def _validate_custom(manifest: Manifest, file: str) -> None:
    import jsonschema  # type: ignore[import-untyped]

    schema = json.loads((SCHEMAS / file).read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(_closed(schema)).validate(manifest)


def _closed(schema: Any) -> Any:
    """The schema with unknown keys refused: the API server would prune them without a word."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        closed.setdefault("additionalProperties", False)
    return closed
