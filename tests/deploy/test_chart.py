"""The Helm chart: it renders what Kubernetes accepts, gives the gateway no more than it needs, and refuses what is mistaken."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway import settings as configuration
from tests.deploy import manifests as k8s
from tests.deploy.helm import helm
from tests.deploy.manifests import Manifest

CHART = Path(__file__).resolve().parents[2] / "charts" / "callgate"
PEER = {"podSelector": {"matchLabels": {"app": "peer"}}}
INTERNET = {"ipBlock": {"cidr": "203.0.113.0/24"}}

EVERYTHING: dict[str, Any] = {
    "image": {"digest": "sha256:" + "a" * 64},
    "imagePullSecrets": [{"name": "registry"}],
    "config": {
        "server": {"drain_s": 45.5},
        "keys": [{"id": "ivr", "hash": "0" * 64}],
        "policies": {"bank": "/etc/callgate-policies/bank"},
        "models": [
            {
                "name": "call-centre",
                "policy": "bank",
                "deployments": [
                    {"name": "own", "base_url": "http://vllm:8000/v1", "model": "m", "weight": 3},
                    {"name": "hosted", "provider": "openai/gpt-x", "api_key_env": "OPENAI_API_KEY"},
                ],
            }
        ],
    },
    "policyConfigMaps": [{"name": "bank", "configMap": "bank-policy"}],
    "secrets": {
        "keySecret": {"existingSecret": "gateway-keys", "key": "hmac"},
        "redis": {"existingSecret": "gateway-redis", "key": "url"},
        "otlpHeaders": {"existingSecret": "otlp", "key": "headers"},
        "providers": [{"env": "OPENAI_API_KEY", "existingSecret": "providers", "key": "openai"}],
    },
    "telemetry": {"otlpEndpoint": "http://phoenix:6006/v1/traces"},
    "env": {"OMP_NUM_THREADS": "1"},
    "autoscaling": {"enabled": True},
    "nodeSelector": {"kubernetes.io/arch": "amd64"},
    "tolerations": [{"key": "pool", "operator": "Equal", "value": "llm", "effect": "NoSchedule"}],
    "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    "priorityClassName": "high",
    "podAnnotations": {"team": "voice"},
    "podLabels": {"team": "voice"},
    "serviceAccount": {"annotations": {"example.com/role": "gateway"}},
    "service": {"type": "LoadBalancer", "port": 443, "annotations": {"example.com/internal": "true"}},
    "networkPolicy": {
        "ingress": {"from": [PEER]},
        "egress": {"otlp": {"to": [PEER]}, "extra": [{"ports": [443], "to": [INTERNET]}]},
    },
    "ingress": {
        "enabled": True,
        "className": "nginx",
        "annotations": {"a.example/b": "c"},
        "hosts": [{"host": "llm.example.com"}],
        "tls": [{"secretName": "llm-tls", "hosts": ["llm.example.com"]}],
    },
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
}
SEALED = {
    "networkPolicy": {
        "ingress": {"from": []},
        "egress": {"dns": {"enabled": False}, "redis": {"to": []}, "models": {"to": []}},
    }
}
SMALL = {
    "replicaCount": 1,
    "serviceAccount": {"create": False},
    "podDisruptionBudget": {"enabled": False},
    "networkPolicy": {"enabled": False},
    "securityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": None},
    "topologySpread": [],
    "fullnameOverride": "llm",
}
VALUE_SETS: dict[str, dict[str, Any]] = {"defaults": {}, "everything": EVERYTHING, "sealed": SEALED, "small": SMALL}


def run(command: str, values: dict[str, Any], *arguments: str) -> Any:
    target = ["gw", str(CHART)] if command == "template" else [str(CHART)]
    return helm(command, *target, "--namespace", "calls", *arguments, "--values", "-", stdin=yaml.safe_dump(values))


def render(values: dict[str, Any]) -> list[Manifest]:
    done = run("template", values)
    assert done.returncode == 0, done.stderr
    return k8s.parse(done.stdout)


def refusal(values: dict[str, Any]) -> str:
    done = run("template", values)
    assert done.returncode != 0, "helm accepted these values"
    return str(done.stderr)


def gateway_container(manifests: list[Manifest]) -> Manifest:
    (container,) = k8s.only(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    return dict(container)


def environment(manifests: list[Manifest]) -> dict[str, Manifest]:
    return {entry["name"]: entry for entry in gateway_container(manifests)["env"]}


@pytest.fixture(scope="module", params=VALUE_SETS)
def rendered(request: pytest.FixtureRequest) -> list[Manifest]:
    return render(VALUE_SETS[request.param])


# --- what is rendered is accepted ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VALUE_SETS)
def test_lint_finds_nothing(name: str) -> None:
    done = run("lint", VALUE_SETS[name], "--strict")
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_manifest_fits_its_schema(rendered: list[Manifest]) -> None:
    for manifest in rendered:
        k8s.validate(manifest)


def test_the_schemas_notice_a_misspelt_field() -> None:
    manifests = render(EVERYTHING)
    k8s.only(manifests, "Deployment")["spec"]["replica"] = 3
    k8s.only(manifests, "ServiceMonitor")["spec"]["endpoints"][0]["intervall"] = "30s"
    for kind in ("Deployment", "ServiceMonitor"):
        with pytest.raises(Exception, match=r"replica|intervall"):
            k8s.validate(k8s.only(manifests, kind))
    with pytest.raises(KeyError, match="no schema"):
        k8s.validate({"apiVersion": "example.com/v1", "kind": "Unknown", "metadata": {"name": "x"}})


def test_everything_that_can_be_turned_on_is_rendered_once() -> None:
    kinds = sorted(manifest["kind"] for manifest in render(EVERYTHING))
    workload = ["ConfigMap", "Deployment", "HorizontalPodAutoscaler", "Pod", "PodDisruptionBudget", "ServiceAccount"]
    assert kinds == sorted([*workload, "Ingress", "NetworkPolicy", "Service", "ServiceMonitor"])


def test_the_chart_packages(tmp_path: Path) -> None:
    done = helm("package", str(CHART), "--destination", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (archive,) = tmp_path.glob("callgate-*.tgz")
    assert helm("template", "gw", str(archive)).returncode == 0


def test_the_notes_say_how_to_make_the_secret_and_the_first_key() -> None:
    done = helm("install", "gw", str(CHART), "--dry-run=client", "--namespace", "calls")
    assert done.returncode == 0, done.stderr
    notes = done.stdout.partition("NOTES:")[2]
    assert "create secret generic callgate" in notes
    assert "callgate keys create" in notes


# --- least privilege -----------------------------------------------------------------------------------------------------


def test_no_pod_has_more_rights_than_it_needs(rendered: list[Manifest]) -> None:
    assert len(dict(k8s.pod_specs(rendered))) == 2  # the gateway and the chart's own test
    k8s.assert_least_privilege(rendered, volumes={"configMap", "emptyDir"})


def test_no_manifest_holds_a_secret(rendered: list[Manifest]) -> None:
    assert not k8s.of_kind(rendered, "Secret")
    for name, entry in environment(rendered).items():
        if re.search(r"SECRET|KEY|TOKEN|PASSWORD|HEADERS|REDIS_URL", name):
            assert set(entry) == {"name", "valueFrom"}, name
            assert set(entry["valueFrom"]) == {"secretKeyRef"}, name


def test_secrets_come_from_the_named_objects() -> None:
    env = environment(render(EVERYTHING))
    found = {
        name: (entry["valueFrom"]["secretKeyRef"]["name"], entry["valueFrom"]["secretKeyRef"]["key"])
        for name, entry in env.items()
        if "valueFrom" in entry
    }
    assert found == {
        "CALLGATE_KEY_SECRET": ("gateway-keys", "hmac"),
        "CALLGATE_REDIS_URL": ("gateway-redis", "url"),
        "OTEL_EXPORTER_OTLP_HEADERS": ("otlp", "headers"),
        "OPENAI_API_KEY": ("providers", "openai"),
    }


# --- the network ---------------------------------------------------------------------------------------------------------


def test_the_network_policy_denies_by_default() -> None:
    manifests = render(SEALED)
    policy = k8s.only(manifests, "NetworkPolicy")["spec"]
    assert sorted(policy["policyTypes"]) == ["Egress", "Ingress"]
    assert "ingress" not in policy
    assert "egress" not in policy
    labels = k8s.only(manifests, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_every_network_rule_names_its_peers_and_ports(values: dict[str, Any]) -> None:
    policy = k8s.only(render(values), "NetworkPolicy")["spec"]
    assert policy["ingress"]
    assert policy["egress"]
    for rule in policy["ingress"]:
        assert rule["from"]
        assert [port["port"] for port in rule["ports"]] == [8080]
    for rule in policy["egress"]:
        assert rule["to"]
        assert all(peer for peer in rule["to"])
        assert rule["ports"]


def test_only_what_is_configured_can_be_reached() -> None:
    def ports(values: dict[str, Any]) -> list[int]:
        rules = k8s.only(render(values), "NetworkPolicy")["spec"]["egress"]
        return sorted(port["port"] for rule in rules for port in rule["ports"])

    assert ports({}) == [53, 53, 6379, 8000]
    assert ports(EVERYTHING) == [53, 53, 443, 4318, 6006, 6379, 8000]


def test_the_chart_test_is_let_in_by_the_default_policy() -> None:
    manifests = render({})
    allowed = k8s.only(manifests, "NetworkPolicy")["spec"]["ingress"][0]["from"][0]["podSelector"]["matchLabels"]
    assert allowed.items() <= k8s.only(manifests, "Pod")["metadata"]["labels"].items()


def test_the_chart_test_is_not_behind_the_service() -> None:
    manifests = render({})
    selector = k8s.only(manifests, "Service")["spec"]["selector"]
    assert not selector.items() <= k8s.only(manifests, "Pod")["metadata"]["labels"].items()
    assert selector.items() <= k8s.only(manifests, "Deployment")["spec"]["template"]["metadata"]["labels"].items()


# --- the gateway runs as it is told --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VALUE_SETS)
def test_the_gateway_reads_the_rendered_settings(name: str, tmp_path: Path) -> None:
    manifests = render(VALUE_SETS[name])
    file = tmp_path / "callgate.yaml"
    file.write_text(k8s.only(manifests, "ConfigMap")["data"]["callgate.yaml"], encoding="utf-8")
    env = {key: entry.get("value", "redis://redis:6379/0") for key, entry in environment(manifests).items()}
    settings = configuration.load(file, env)
    assert (settings.server.host, settings.server.port) == ("0.0.0.0", 8080)
    assert settings.redis.url == "redis://redis:6379/0"
    assert str(settings.state_dir) == "/var/lib/callgate"
    assert settings.telemetry.otlp_endpoint == VALUE_SETS[name].get("telemetry", {}).get("otlpEndpoint", "")
    assert settings.auth == "keys"


def test_the_settings_are_passed_on_word_for_word() -> None:
    odd = {"models": [{"name": "m", "later_key": {"deep": [1, 2.5, None, "yes", "${HOST:-x}"]}}], "later": True}
    config = yaml.safe_load(k8s.only(render({"config": odd}), "ConfigMap")["data"]["callgate.yaml"])
    assert config["models"] == odd["models"]
    assert config["later"] is True


def test_a_changed_setting_replaces_the_pods() -> None:
    def checksum(values: dict[str, Any]) -> str:
        template = k8s.only(render(values), "Deployment")["spec"]["template"]
        return str(template["metadata"]["annotations"]["checksum/config"])

    assert checksum({}) == checksum({"replicaCount": 5})
    assert checksum({}) != checksum({"config": {"limits": {"requests_per_minute": 7}}})


def test_open_streams_outlast_a_rollout(rendered: list[Manifest]) -> None:
    pod = k8s.only(rendered, "Deployment")["spec"]["template"]["spec"]
    config = yaml.safe_load(k8s.only(rendered, "ConfigMap")["data"]["callgate.yaml"])
    pause_s = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > pause_s + config["server"]["drain_s"]


def test_probes_ask_the_health_routes(rendered: list[Manifest]) -> None:
    container = gateway_container(rendered)
    assert container["command"] == ["callgate", "serve", "--config", "/etc/callgate/callgate.yaml"]
    assert container["ports"] == [{"name": "http", "containerPort": 8080, "protocol": "TCP"}]
    asked = {kind: container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")}
    assert asked == {"startup": "/health/live", "readiness": "/health/ready", "liveness": "/health/live"}


def test_what_the_gateway_writes_to_is_mounted(rendered: list[Manifest]) -> None:
    mounts = {mount["mountPath"]: mount for mount in gateway_container(rendered)["volumeMounts"]}
    env = environment(rendered)
    writable = {path for path, mount in mounts.items() if not mount.get("readOnly")}
    assert writable == {"/tmp", env["CALLGATE_STATE_DIR"]["value"]}  # noqa: S108
    assert env["HOME"]["value"] in writable


def test_autoscaling_alone_sets_the_number_of_pods() -> None:
    manifests = render(EVERYTHING)
    assert "replicas" not in k8s.only(manifests, "Deployment")["spec"]
    target = k8s.only(manifests, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]["name"]
    assert target == k8s.only(manifests, "Deployment")["metadata"]["name"]


def test_a_digest_wins_over_the_tag() -> None:
    assert gateway_container(render(EVERYTHING))["image"] == "callgate@sha256:" + "a" * 64
    assert gateway_container(render({"image": {"tag": "1.2"}}))["image"] == "callgate:1.2"


def test_the_outside_sees_only_the_api_by_default() -> None:
    (rule,) = k8s.only(render(EVERYTHING), "Ingress")["spec"]["rules"]
    assert [path["path"] for path in rule["http"]["paths"]] == ["/v1"]


# --- mistakes are refused, in words --------------------------------------------------------------------------------------

MODEL = {"name": "m", "policy": None, "deployments": [{"name": "d", "base_url": "http://x/v1", "model": "m"}]}
MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown value": ({"replicas": 3}, "replicas"),
    "unknown nested value": ({"networkPolicy": {"egress": {"everything": True}}}, "everything"),
    "inline secret": ({"secrets": {"keySecret": {"value": "x"}}}, "value"),
    "secret in the environment": ({"env": {"OPENAI_API_KEY": "sk-x"}}, "OPENAI_API_KEY"),
    "redis url in the settings": ({"config": {"redis": {"url": "redis://:pw@redis/0"}}}, "redis"),
    "password in a base_url": (
        {"config": {"models": [{"name": "m", "deployments": [{"base_url": "http://u:p@x/v1"}]}]}},
        "base_url",
    ),
    "key of a provider that no secret gives": (
        {"config": {"models": [{**MODEL, "deployments": [{"name": "d", "provider": "p/m", "api_key_env": "P_KEY"}]}]}},
        "P_KEY",
    ),
    "root": ({"securityContext": {"runAsUser": 0}}, "runAsUser"),
    "no model": ({"config": {"models": []}}, "config.models is empty"),
    "no authentication": ({"config": {"auth": "none"}}, "loopback"),
    "the tag latest": ({"image": {"tag": "latest"}}, "tag"),
    "every address": ({"networkPolicy": {"egress": {"extra": [{"ports": [443], "to": [{}]}]}}}, "extra"),
    "the whole internet": (
        {"networkPolicy": {"egress": {"extra": [{"ports": [443], "to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}]}}},
        "cidr",
    ),
    "ingress for nobody": ({"ingress": {"enabled": True}}, "ingress.hosts"),
    "no memory limit": ({"resources": {"limits": {"memory": None}}}, "memory"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_refused_and_named(name: str) -> None:
    values, named = MISTAKES[name]
    assert named in refusal(values)


def test_the_schema_is_strict_everywhere() -> None:
    """Every object of fixed keys refuses others; open ones are maps of strings, or Kubernetes' and the gateway's own structures."""
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    opened = {"config", "global", "nodeAffinity", "podAffinity", "podAntiAffinity"}

    def walk(node: Any, name: str) -> None:
        if isinstance(node, list):
            for item in node:
                walk(item, name)
        elif isinstance(node, dict) and name not in opened:
            if node.get("type") == "object":
                assert "additionalProperties" in node, f"{name} takes any key"
            for key, value in node.items():
                if key in ("properties", "$defs"):
                    for inner, below in value.items():
                        walk(below, inner)
                elif key != "not":
                    walk(value, name)

    walk(schema, "(values)")
