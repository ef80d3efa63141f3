"""/admin: who may come in, and how its routes answer. For those whose token CALLGATE_ADMIN_TOKEN holds; without it there is none.

Who does something is the token's name, never a word of the request. Reading also takes HTTP Basic, for browsers; changes take the bearer token
alone, so no page elsewhere can make a browser change anything. Every change is logged, with its name and outcome. What the routes do is in
policies.py and rollouts.py beside it.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from gateway.errors import BadRequest, CallgateError, NotFound, TooLarge, Unauthenticated
from gateway.stores import StoreError

MOST_BYTES = 4096
PRIVATE = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
}
Handler = Callable[[Any, Request, str], Awaitable[Any]]
"""What the routes are about, the request, and who asks."""


class Conflict(CallgateError):
    status = 409
    type = "invalid_request_error"
    code = "refused"


class Away(CallgateError):
    status = 503
    code = "store_unavailable"


def add_admin_route(
    app: FastAPI,
    method: str,
    path: str,
    handler: Handler,
    held: str,
    *,
    refused: tuple[type[Exception], ...],
    away: tuple[type[Exception], ...] = (),
) -> None:
    """``held`` names what of ``app.state`` the handler is given; None there: there is no such route. Errors in ``refused`` are told as conflicts,
    those in ``away`` as of a store that cannot be had now, as is Redis.

    ``app.state`` gets ``admin_tokens`` (name to token) when the gateway starts.
    """
    log, change = structlog.get_logger("admin"), method == "POST"

    async def answer(request: Request) -> Response:
        try:
            who = _who(app.state.admin_tokens, request, bearer_only=change)
            about = getattr(app.state, held)
            if about is None:
                raise NotFound(f"This gateway has no {held}.")
            told = await _told(handler(about, request, who), refused, away)
        except CallgateError as error:
            if change:
                log.warning("admin_refused", path=request.url.path, code=error.code_now)
            asks = {"www-authenticate": 'Basic realm="callgate"'} if isinstance(error, Unauthenticated) else {}
            return JSONResponse(error.body(), error.status, headers=PRIVATE | asks)
        if change and not getattr(request.state, "changed_nothing", False):
            log.warning("admin_changed", path=request.url.path, by=who)
        return told if isinstance(told, Response) else JSONResponse(told, headers=PRIVATE)

    answer.__doc__ = handler.__doc__
    answer.__name__ = f"admin_{handler.__name__}"
    app.add_api_route(path, answer, methods=[method], tags=["admin"])


async def body_of(request: Request, shape: Any) -> Any:
    """The body, as a struct. Raises: TooLarge, BadRequest naming the field that is wrong."""
    raw = b""
    async for piece in request.stream():
        raw += piece
        if len(raw) > MOST_BYTES:
            raise TooLarge("The body is over 4096 bytes.")
    try:
        return msgspec.json.decode(raw or b"{}", type=shape)
    except msgspec.DecodeError as error:
        raise BadRequest(f"{error}.") from None


async def _told(work: Awaitable[Any], refused: tuple[type[Exception], ...], away: tuple[type[Exception], ...]) -> Any:
    try:
        return await work
    except refused as error:
        raise Conflict(f"{error}.") from None
    except StoreError as error:
        raise Away(f"Redis is away ({error}).") from None
    except away as error:
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
