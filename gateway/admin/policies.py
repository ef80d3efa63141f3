"""/admin and /admin/policies: which worker runs which version, and moving the pointer. Who may come in is gateway/admin/door.py's matter.

It takes digests of versions that the store holds, never files and never code; plans are made with `callgate policy plan`.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse

from gateway.admin.door import PRIVATE, add_admin_route, body_of
from gateway.policy_desk import Refused
from gateway.policy_follow import ApplyRefused
from gateway.policy_life import PolicyLife
from gateway.policy_render import admin_html
from gateway.sql import DatabaseError


class ApplyBody(msgspec.Struct, forbid_unknown_fields=True):
    """``digest``: of a version in the store, whole."""

    digest: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class RollbackBody(msgspec.Struct, forbid_unknown_fields=True):
    """``to``: digest of a version that ran before, or its beginning; empty: the one before."""

    to: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{0,64}$")] = ""


def add_policy_routes(app: FastAPI) -> None:
    """``app.state.policies`` is a PolicyLife, or None, once the gateway runs."""
    for method, path, handler in (
        ("GET", "/admin", page),
        ("GET", "/admin/policies", state),
        ("GET", "/admin/policies/{name}/history", history),
        ("GET", "/admin/policies/{name}/plans", plans),
        ("POST", "/admin/policies/{name}/apply", apply),
        ("POST", "/admin/policies/{name}/rollback", roll_back),
        ("POST", "/admin/plans/{plan}/approve", approve),
    ):
        add_admin_route(app, method, path, handler, "policies", refused=(Refused, ApplyRefused), away=(DatabaseError,))


async def page(life: PolicyLife, request: Request, who: str) -> Response:  # noqa: ARG001
    """What /admin/policies says, for people."""
    told = await life.state()
    desk = life.desk()
    latest = [row for name in told["active"] for row in await asyncio.to_thread(desk.history, name)][:20]
    return HTMLResponse(admin_html(told, sorted(latest, key=lambda row: -row["at"])), headers=PRIVATE)


async def state(life: PolicyLife, request: Request, who: str) -> Any:  # noqa: ARG001
    return await life.state()


async def history(life: PolicyLife, request: Request, who: str) -> Any:  # noqa: ARG001
    return {"history": await asyncio.to_thread(life.desk().history, request.path_params["name"])}


async def plans(life: PolicyLife, request: Request, who: str) -> Any:  # noqa: ARG001
    return {"plans": await asyncio.to_thread(life.desk().plans, request.path_params["name"])}


async def apply(life: PolicyLife, request: Request, who: str) -> Any:
    wanted = await body_of(request, ApplyBody)
    return await life.desk().apply(request.path_params["name"], wanted.digest, who)


async def roll_back(life: PolicyLife, request: Request, who: str) -> Any:
    wanted = await body_of(request, RollbackBody)
    return await life.desk().roll_back(request.path_params["name"], wanted.to, who)


async def approve(life: PolicyLife, request: Request, who: str) -> Any:
    plan = await asyncio.to_thread(life.desk().approve, request.path_params["plan"], who)
    return {name: plan[name] for name in ("id", "name", "base", "digest", "by")} | {"approved_by": who}
