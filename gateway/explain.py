"""What `callgate check` shows: the effective routes, policies and their rails, as facts and as a table. It changes nothing."""

from __future__ import annotations

import asyncio
from typing import Any

from gateway.settings import Settings, api_key


def explain(settings: Settings) -> dict[str, Any]:
    """The effective configuration; secrets are resolved, to know that they are there, and not shown. Raises: SettingsError."""
    for model in settings.models:
        for deployment in (*model.deployments, model.candidate):
            if deployment is not None:
                api_key(deployment)
    return {
        "listen": f"{settings.server.host}:{settings.server.port}",
        "limits": settings.limits.model_dump(),
        "models": [
            {
                "name": model.name,
                "policy": model.policy,
                "knowledge": model.knowledge,
                "deadline_s": model.deadline_s,
                "max_tokens": model.max_tokens,
                "strategy": model.strategy
                + (", sticky by call id" if model.sticky and len(model.deployments) > 1 else ""),
                "attempts": model.attempts,
                "fallbacks": {reason: list(others) for reason, others in model.fallbacks if others},
                "hedge_after_s": model.hedge_after_s,
                "shadow": model.shadow.name if model.shadow else None,
                "candidate": model.candidate.name if model.candidate else None,
                "deployments": [
                    {
                        "name": d.name,
                        "to": d.provider or f"{d.base_url} ({d.model})",
                        "weight": d.weight,
                        "max_concurrency": d.max_concurrency,
                    }
                    for d in model.deployments
                ],
            }
            for model in settings.models
        ],
        "policies": asyncio.run(_policies(settings)),
    }


async def _policies(settings: Settings) -> list[dict[str, Any]]:
    used = sorted({model.policy for model in settings.models if model.policy})
    if not used:
        return []
    from gateway.steps.build import check_policies  # builds what the gateway would build

    return await check_policies(settings, used)


def _added(answers: dict[str, Any] | None) -> str:
    """What is promised of personal data that a model adds."""
    if answers is None:
        return "does not look for personal data that a model adds (redaction.answers.check: off)"
    does = sorted(set(answers["kinds"].values()))
    return (
        f"personal data that a model adds never leaves, up to {answers['horizon_chars']} characters a value"
        f" ({', '.join(does)}; {len(answers['kinds'])} kinds, names not among them; {answers['company']} values of the company's own pass)"
    )


def _choosing(model: dict[str, Any]) -> str:
    lines = [f"{model['strategy']}, {model['attempts']} attempts"]
    lines += [f"{reason}: then {', '.join(others)}" for reason, others in model["fallbacks"].items()]
    lines += [f"hedged after {model['hedge_after_s']:g} s"] if model["hedge_after_s"] else []
    lines += [f"copies to {model['shadow']}"] if model["shadow"] else []
    return "\n".join(lines)


def render(facts: dict[str, Any]) -> None:
    """The facts for a person."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    routes = Table(
        "model",
        "policy",
        "knowledge",
        "deployments",
        "choosing",
        title=f"Routes on {facts['listen']}",
        title_justify="left",
    )
    for model in facts["models"]:
        targets = "\n".join(f"{d['name']} -> {d['to']}, weight {d['weight']:g}" for d in model["deployments"])
        targets += f"\n{model['candidate']}, by rollout" if model["candidate"] else ""
        routes.add_row(model["name"], model["policy"] or "none", model["knowledge"] or "-", targets, _choosing(model))
    console.print(routes)
    for policy in facts["policies"]:
        title = f"Policy {policy['name']} {policy['digest'][:12]}"
        rails = Table("rail", "stage", "mode", "fail", "deadline", "cost", title=title, title_justify="left")
        for rail in policy["rails"]:
            rails.add_row(
                rail["rail"], rail["stage"], rail["mode"], rail["fail"], f"{rail['deadline_ms']} ms", rail["cost"]
            )
        console.print(rails)
        console.print(f"  {policy['claim']}; redacts: {', '.join(policy['redacts'])}", soft_wrap=True)
        console.print(f"  {_added(policy['answers'])}")
    console.print("ok")
