"""A LiteLLM proxy's config.yaml as a callgate.yaml, and a list of everything that could not be carried over. It reads no environment.

It carries model_list (model_name, litellm_params: model, api_base, api_key, api_version, weight, order, rpm, tpm, timeout,
max_parallel_requests), the fallbacks of router_settings and litellm_settings, and Presidio guardrails as our own redaction policy.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

_OWN_SERVERS = ("openai/", "hosted_vllm/", "text-completion-openai/", "llamafile/", "lm_studio/")
_ENVIRONMENT = "os.environ/"
_FALLBACKS = {
    "fallbacks": "outage",
    "context_window_fallbacks": "context_length",
    "content_policy_fallbacks": "content_filter",
}
_STRATEGIES = {
    "simple-shuffle": "weighted",
    "least-busy": "least_busy",
    "latency-based-routing": "fastest",
}
SHIPPED_POLICY = {"call-centre": "guardrails/policies/call-centre"}


@dataclass
class Imported:
    """``settings``: a callgate.yaml as data. ``lost``: lines 'where: why' for every key that was not carried."""

    settings: dict[str, Any]
    lost: list[str] = field(default_factory=list)


def import_litellm(config: Mapping[str, Any]) -> Imported:
    """Raises: ValueError when there is no model_list."""
    listed = config.get("model_list")
    if not isinstance(listed, list) or not listed:
        raise ValueError("there is no model_list; is this a LiteLLM proxy's config.yaml?")
    result = Imported({})
    policy = _policy(config, result)
    models: dict[str, dict[str, Any]] = {}
    for place, entry in enumerate(listed):
        where = f"model_list[{place}]"
        name = str(entry.get("model_name", ""))
        model = models.setdefault(name, {"name": name, "policy": policy, "deployments": []})
        deployment = _deployment(where, entry.get("litellm_params") or {}, result)
        deployment["name"] = f"{_slug(name)}-{len(model['deployments']) + 1}"
        model["deployments"].append(deployment)
        _lose(result, where, entry, {"model_name", "litellm_params"}, "has no counterpart")
    router = config.get("router_settings") or {}
    for model in models.values():
        model["attempts"] = min(10, max(2, len(model["deployments"])))
        if router.get("routing_strategy") in _STRATEGIES:
            model["strategy"] = _STRATEGIES[router["routing_strategy"]]
        orders = [d.pop("order", None) for d in model["deployments"]]
        if len({order for order in orders if order is not None}) > 1:
            first = min(order for order in orders if order is not None)
            for deployment, order in zip(model["deployments"], orders, strict=True):
                if order is not None and order > first:
                    deployment["weight"] = 0
    _fallbacks(config, router, models, result)
    result.settings = {
        **({"policies": dict(SHIPPED_POLICY)} if policy else {}),
        "models": [{k: v for k, v in model.items() if v != {}} for model in models.values()],
    }
    _lose(result, "", config, {"model_list", "router_settings", "litellm_settings", "guardrails"}, "has no counterpart")
    return result


def _deployment(where: str, params: Mapping[str, Any], result: Imported) -> dict[str, Any]:
    model, base = str(params.get("model", "")), params.get("api_base")
    own = next((prefix for prefix in _OWN_SERVERS if model.startswith(prefix)), None)
    made: dict[str, Any] = {}
    if base and own and not str(base).startswith("https://api."):
        made |= {"base_url": _reference(base), "model": model.removeprefix(own)}
    else:
        made |= {"provider": model if "/" in model else f"openai/{model}"}
        if base:
            made["base_url"] = _reference(base)
    key = params.get("api_key")
    if isinstance(key, str) and key.startswith(_ENVIRONMENT):
        made["api_key_env"] = key.removeprefix(_ENVIRONMENT)
    elif key is not None:
        result.lost.append(
            f"{where}.litellm_params.api_key: secrets are references here; put it in the environment and set api_key_env"
        )
    if params.get("api_version"):
        made["api_version"] = _reference(params["api_version"])
    for ours, theirs in (("weight", "weight"), ("max_concurrency", "max_parallel_requests"), ("order", "order")):
        if params.get(theirs) is not None:
            made[ours] = params[theirs]
    if params.get("timeout") is not None:
        made["first_byte_timeout_s"] = params["timeout"]
    for name in ("rpm", "tpm"):
        if params.get(name) is not None:
            result.lost.append(
                f"{where}.litellm_params.{name}: limits belong to keys here; use max_concurrency, or limits of a key"
            )
    known = {
        "model",
        "api_base",
        "api_key",
        "api_version",
        "weight",
        "order",
        "rpm",
        "tpm",
        "timeout",
        "max_parallel_requests",
    }
    _lose(result, f"{where}.litellm_params", params, known, "has no counterpart")
    return made


def _policy(config: Mapping[str, Any], result: Imported) -> str | None:
    """The shipped policy when Presidio masked anything; other guardrails are reported."""
    policy = None
    for place, guardrail in enumerate(config.get("guardrails") or ()):
        params = guardrail.get("litellm_params") or {}
        where = f"guardrails[{place}] {guardrail.get('guardrail_name', '')}".strip()
        if params.get("guardrail") != "presidio":
            result.lost.append(f"{where}: only Presidio is carried over; write a rail of a policy for it")
            continue
        policy = "call-centre"
        _lose(
            result,
            where,
            params,
            {"guardrail", "mode", "default_on", "output_parse_pii"},
            "set the actions of kinds in policy.yaml",
        )
    if policy:
        result.lost.append(
            "guardrails: Presidio becomes the shipped policy 'call-centre', which also checks inputs and answers; review it"
        )
    return policy


def _fallbacks(
    config: Mapping[str, Any], router: Mapping[str, Any], models: Mapping[str, dict[str, Any]], result: Imported
) -> None:
    settings = config.get("litellm_settings") or {}
    for where, section in (("router_settings", router), ("litellm_settings", settings)):
        for theirs, reason in _FALLBACKS.items():
            for entry in section.get(theirs) or ():
                for name, others in entry.items():
                    known = [other for other in others if other in models and other != name]
                    for other in (other for other in others if other not in known):
                        result.lost.append(f"{where}.{theirs}: '{other}' is no other model of this file")
                    if name not in models:
                        result.lost.append(f"{where}.{theirs}: '{name}' is no model of this file")
                    elif known:
                        kept = models[name].setdefault("fallbacks", {})
                        kept[reason] = known
                        if reason == "outage":
                            kept.setdefault("rate_limit", known)
    carried = (
        {*_FALLBACKS, "routing_strategy"} if router.get("routing_strategy") in (*_STRATEGIES, None) else set(_FALLBACKS)
    )
    _lose(result, "router_settings", router, carried, "has no counterpart")
    _lose(result, "litellm_settings", settings, set(_FALLBACKS), "has no counterpart")


def _lose(result: Imported, where: str, section: Mapping[str, Any], known: set[str], why: str) -> None:
    result.lost.extend(f"{where}.{key}".lstrip(".") + f": {why}" for key in _unknown(section, known))


def _unknown(section: Mapping[str, Any], known: set[str]) -> Iterator[str]:
    return (key for key in section if key not in known)


def _reference(value: Any) -> str:
    text = str(value)
    return f"${{{text.removeprefix(_ENVIRONMENT)}}}" if text.startswith(_ENVIRONMENT) else text


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-") or "model"
