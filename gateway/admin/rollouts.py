"""/admin/rollouts: which candidate answers which share of a model's calls, and moving it. Who may come in is gateway/admin/door.py's matter."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec
from fastapi import FastAPI, Request

from gateway.admin.door import add_admin_route, body_of
from gateway.errors import NotFound
from gateway.rollouts import Rollout, RolloutRefused, Rollouts, Share, backend_of
from gateway.routing import Router
from gateway.types import Deployment

Owner = Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9._:-]{8,64}$")]
LeaseS = Annotated[float, msgspec.Meta(ge=1, le=3600)]
Reason = Annotated[str, msgspec.Meta(max_length=500)]


class StartBody(msgspec.Struct, forbid_unknown_fields=True):
    """``report``: the digest of the gate report; ``lease_s``: for how long the share holds unless it is renewed."""

    owner: Owner
    share: Share
    lease_s: LeaseS
    report: Annotated[str, msgspec.Meta(max_length=100)] = ""


class MoveBody(msgspec.Struct, forbid_unknown_fields=True):
    owner: Owner
    share: Share
    lease_s: LeaseS
    reason: Reason = ""


class EndBody(msgspec.Struct, forbid_unknown_fields=True):
    """Without ``owner``: a person's word, whoever's run it is."""

    outcome: Literal["promoted", "rolled_back"]
    owner: Owner | None = None
    reason: Reason = ""


@dataclass(frozen=True, slots=True)
class RolloutDesk:
    """What the routes work with."""

    rollouts: Rollouts
    router: Router


def add_rollout_routes(app: FastAPI) -> None:
    """``app.state.rollouts`` is a RolloutDesk once the gateway runs."""
    for method, path, handler in (
        ("GET", "/admin/rollouts", state),
        ("POST", "/admin/rollouts/{model:path}/start", start),
        ("POST", "/admin/rollouts/{model:path}/share", move),
        ("POST", "/admin/rollouts/{model:path}/end", end),
        ("POST", "/admin/rollouts/{model:path}/clear", clear),
    ):
        add_admin_route(app, method, path, handler, "rollouts", refused=(RolloutRefused,))


async def state(desk: RolloutDesk, request: Request, who: str) -> Any:  # noqa: ARG001
    """Every model that has a candidate, and its rollout: none, running, promoted or rolled back."""
    candidates = {route.model: route.candidate for route in desk.router.routes.values() if route.candidate is not None}
    kept = await desk.rollouts.read(list(candidates))
    return {"rollouts": [_shown(model, deployment, kept.get(model)) for model, deployment in candidates.items()]}


async def start(desk: RolloutDesk, request: Request, who: str) -> Any:
    wanted = await body_of(request, StartBody)
    rollout = _rollout(desk, request, who, wanted.owner, wanted.share, "running", report=wanted.report)
    await desk.rollouts.start(rollout, wanted.lease_s)
    return msgspec.to_builtins(rollout)


async def move(desk: RolloutDesk, request: Request, who: str) -> Any:
    wanted = await body_of(request, MoveBody)
    rollout = _rollout(desk, request, who, wanted.owner, wanted.share, "running", reason=wanted.reason)
    kept = (await desk.rollouts.read([rollout.model])).get(rollout.model)
    rollout = msgspec.structs.replace(rollout, report=kept.report if kept else "")
    await desk.rollouts.move(rollout, wanted.lease_s)
    request.state.changed_nothing = kept is not None and kept.share == wanted.share  # a lease renewed, twice a minute
    return msgspec.to_builtins(rollout)


async def end(desk: RolloutDesk, request: Request, who: str) -> Any:
    wanted = await body_of(request, EndBody)
    model, owner = request.path_params["model"], wanted.owner or ""
    kept = (await desk.rollouts.read([model])).get(model)
    if kept is not None and wanted.outcome == "rolled_back":  # also where callgate.yaml has that candidate no more
        rollout = msgspec.structs.replace(
            kept, share=0.0, state="rolled_back", owner=owner, by=who, at=_now(), reason=wanted.reason, lease_s=None
        )
    else:
        share = 1.0 if wanted.outcome == "promoted" else 0.0
        rollout = _rollout(
            desk, request, who, owner, share, wanted.outcome, report=kept.report if kept else "", reason=wanted.reason
        )
    await desk.rollouts.end(rollout)
    return msgspec.to_builtins(rollout)


async def clear(desk: RolloutDesk, request: Request, who: str) -> Any:  # noqa: ARG001
    model = request.path_params["model"]
    await desk.rollouts.clear(model)
    return {"model": model, "state": "none"}


def _rollout(
    desk: RolloutDesk,
    request: Request,
    who: str,
    owner: str,
    share: float,
    now: Any,
    *,
    report: str = "",
    reason: str = "",
) -> Rollout:
    """Raises: NotFound for a model that is not here or has no candidate."""
    model = request.path_params["model"]
    route = desk.router.routes.get(model)
    if route is None or route.candidate is None:
        what = "has no candidate; give it one in callgate.yaml" if route else "does not exist here"
        raise NotFound(f"The model {model} {what}.", param="model")
    return Rollout(
        model=model, candidate=route.candidate.name, backend=backend_of(route.candidate), share=share, state=now, owner=owner, by=who, at=_now(), report=report, reason=reason
    )  # fmt: skip


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _shown(model: str, candidate: Deployment, kept: Rollout | None) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "model": model,
        "candidate": candidate.name,
        "arm": candidate.arm,
        "state": "none",
        "share": 0.0,
    }
    if kept is None:
        return shown
    if kept.candidate != candidate.name:
        return shown | {"note": f"the last rollout was of {kept.candidate}, which is no candidate now"}
    if kept.backend != backend_of(candidate):
        return shown | {"note": f"the last rollout was of {kept.candidate} with another model or address"}
    told: dict[str, Any] = msgspec.to_builtins(kept)
    return shown | {name: value for name, value in told.items() if name not in ("owner", "backend")}
