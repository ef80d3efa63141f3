"""/admin: which worker runs which version, and moving the pointer, for those whose token CALLGATE_ADMIN_TOKEN holds; without it there is none.

Who does something is the token's name, never a word of the request. It takes digests of versions that the store holds, never files and never
code; plans are made with `callgate policy plan`. Reading also takes HTTP Basic, for browsers; changes take the bearer token alone, so no page
elsewhere can make a browser change anything. Every change is logged, with its name and outcome.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any

import msgspec
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse

from gateway.errors import BadRequest, CallgateError, NotFound, TooLarge, Unauthenticated
from gateway.policy_desk import Refused
from gateway.policy_follow import ApplyRefused
from gateway.policy_life import PolicyLife
from gateway.policy_render import admin_html
from gateway.sql import DatabaseError
from gateway.stores import StoreError

MOST_BYTES = 4096
_PRIVATE = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
}
Handler = Callable[[PolicyLife, Request, str], Awaitable[Any]]


class ApplyBody(msgspec.Struct, forbid_unknown_fields=True):
    """``digest``: of a version in the store, whole."""

    digest: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class RollbackBody(msgspec.Struct, forbid_unknown_fields=True):
    """``to``: digest of a version that ran before, or its beginning; empty: the one before."""

    to: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{0,64}$")] = ""


def add_policy_routes(app: FastAPI) -> None:
    """The routes; ``app.state`` gets ``policies`` (a PolicyLife or None) and ``admin_tokens`` (name to token) when the gateway starts."""
    for method, path, handler in (
        ("GET", "/admin", page),
        ("GET", "/admin/policies", state),
        ("GET", "/admin/policies/{name}/history", history),
        ("GET", "/admin/policies/{name}/plans", plans),
        ("POST", "/admin/policies/{name}/apply", apply),
        ("POST", "/admin/policies/{name}/rollback", roll_back),
        ("POST", "/admin/plans/{plan}/approve", approve),
    ):
        app.add_api_route(path, _route(app, handler, change=method == "POST"), methods=[method], tags=["admin"])


async def page(life: PolicyLife, request: Request, who: str) -> Response:  # noqa: ARG001
    """What /admin/policies says, for people."""
    told = await life.state()
    desk = life.desk()
    latest = [row for name in told["active"] for row in await asyncio.to_thread(desk.history, name)][:20]
    return HTMLResponse(admin_html(told, sorted(latest, key=lambda row: -row["at"])), headers=_PRIVATE)


async def state(life: PolicyLife, request: Request, who: str) -> Any:  # noqa: ARG001
    return await life.state()


async def history(life: PolicyLife, request: Request, who: str) -> Any:  # noqa: ARG001
    return {"history": await asyncio.to_thread(life.desk().history, request.path_params["name"])}


async def plans(life: PolicyLife, request: Request, who: str) -> Any:  # noqa: ARG001
    return {"plans": await asyncio.to_thread(life.desk().plans, request.path_params["name"])}


async def apply(life: PolicyLife, request: Request, who: str) -> Any:
    wanted = await _body(request, ApplyBody)
    return await life.desk().apply(request.path_params["name"], wanted.digest, who)


async def roll_back(life: PolicyLife, request: Request, who: str) -> Any:
    wanted = await _body(request, RollbackBody)
    return await life.desk().roll_back(request.path_params["name"], wanted.to, who)


async def approve(life: PolicyLife, request: Request, who: str) -> Any:
    plan = await asyncio.to_thread(life.desk().approve, request.path_params["plan"], who)
    return {name: plan[name] for name in ("id", "name", "base", "digest", "by")} | {"approved_by": who}


def _route(app: FastAPI, handler: Handler, *, change: bool) -> Callable[[Request], Awaitable[Response]]:
    log = structlog.get_logger("admin")

    async def answer(request: Request) -> Response:
        try:
            who = _who(app.state.admin_tokens, request, bearer_only=change)
            life: PolicyLife | None = app.state.policies
            if life is None:
                raise NotFound("No model here has a policy.")
            told = await _told(handler(life, request, who))
        except CallgateError as error:
            if change:
                log.warning("admin_refused", path=request.url.path, code=error.code_now)
            asks = {"www-authenticate": 'Basic realm="callgate"'} if isinstance(error, Unauthenticated) else {}
            return JSONResponse(error.body(), error.status, headers=_PRIVATE | asks)
        if change:
            log.warning("admin_changed", path=request.url.path, by=who)
        return told if isinstance(told, Response) else JSONResponse(told, headers=_PRIVATE)

    answer.__doc__ = handler.__doc__
    answer.__name__ = f"admin_{handler.__name__}"
    return answer


class Conflict(CallgateError):
    status = 409
    type = "invalid_request_error"
    code = "refused"


class Away(CallgateError):
    status = 503
    code = "store_unavailable"


async def _told(work: Awaitable[Any]) -> Any:
    try:
        return await work
    except (Refused, ApplyRefused) as error:
        raise Conflict(f"{error}.") from None
    except StoreError as error:
        raise Away(f"Redis is away ({error}).") from None
    except DatabaseError as error:
        raise Away(f"{error}.") from None


def _who(tokens: Mapping[str, str], request: Request, *, bearer_only: bool) -> str:
    """The name of the token that was sent. Every token is compared, in constant time. Raises: NotFound, Unauthenticated."""
    if not tokens:
        raise NotFound("There is no /admin here; set CALLGATE_ADMIN_TOKEN.")
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic" and not bearer_only:
        try:
            given = base64.b64decode(given, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            given = ""
    elif scheme.lower() != "bearer":
        given = ""
    found = [name for name, token in tokens.items() if hmac.compare_digest(given.encode(), token.encode())]
    if not found:
        raise Unauthenticated("Send the admin token as 'Authorization: Bearer ...'.")
    return found[0]


async def _body(request: Request, shape: Any) -> Any:
    raw = b""
    async for piece in request.stream():
        raw += piece
        if len(raw) > MOST_BYTES:
            raise TooLarge("The body is over 4096 bytes.")
    try:
        return msgspec.json.decode(raw or b"{}", type=shape)
    except msgspec.DecodeError as error:
        raise BadRequest(f"{error}.") from None
