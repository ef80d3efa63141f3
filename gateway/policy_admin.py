"""/admin/policies: which worker runs which version, and moving the pointer. There is no /admin without CALLGATE_ADMIN_TOKEN.

It takes digests of versions that the store holds, never files and never code; plans are made with `callgate policy plan`.
"""

from __future__ import annotations

import hmac
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from gateway.errors import CallgateError, NotFound, Unauthenticated
from gateway.stores import StoreError


def add_policy_routes(app: FastAPI) -> None:
    """The routes; ``app.state`` gets ``policies`` (a PolicyLife or None) and ``admin_token`` when the gateway starts."""

    async def policies(request: Request) -> Response:
        if (refused := _refused(app, request)) is not None:
            return refused
        life = app.state.policies
        try:
            state: dict[str, Any] = await life.state() if life is not None else {"active": {}, "workers": []}
        except StoreError as error:
            return JSONResponse({"error": {"message": f"Redis is away ({error}).", "code": "store_unavailable"}}, 503)
        return JSONResponse(state)

    app.add_api_route("/admin/policies", policies, tags=["admin"])


def _refused(app: FastAPI, request: Request) -> Response | None:
    token: str = getattr(app.state, "admin_token", "")
    if not token:
        return _answer(NotFound("There is no /admin here; set CALLGATE_ADMIN_TOKEN."))
    given = request.headers.get("authorization", "").removeprefix("Bearer ")
    if not hmac.compare_digest(given.encode(), token.encode()):
        return _answer(Unauthenticated("Send the admin token as 'Authorization: Bearer ...'."))
    return None


def _answer(error: CallgateError) -> Response:
    return JSONResponse(error.body(), error.status)
