"""The gateway's /admin/rollouts over HTTP, with a person's or a service's own token. Knows no scores and decides nothing."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import aiohttp

from evals.errors import EvalError


class AdminRefused(EvalError):
    """The gateway said no, and why."""


class AdminAway(EvalError):
    """Nothing answered, or not what answers there."""


class Admin:
    """`url` is the gateway, with or without /v1."""

    def __init__(self, url: str, session: aiohttp.ClientSession, token: str) -> None:
        self._url = url.rstrip("/").removesuffix("/v1") + "/admin/rollouts"
        self._session = session
        self._headers = {"authorization": f"Bearer {token}"}

    async def rollouts(self) -> list[dict[str, Any]]:
        """Every model that has a candidate, with its rollout."""
        found: list[dict[str, Any]] = (await self._ask("GET", ""))["rollouts"]
        return found

    async def start(self, model: str, owner: str, share: float, lease_s: float, report: str) -> None:
        await self._change(model, "start", {"owner": owner, "share": share, "lease_s": lease_s, "report": report})

    async def move(self, model: str, owner: str, share: float, lease_s: float, reason: str) -> None:
        await self._change(model, "share", {"owner": owner, "share": share, "lease_s": lease_s, "reason": reason})

    async def end(self, model: str, owner: str | None, outcome: str, reason: str) -> None:
        body = {"outcome": outcome, "reason": reason} | ({"owner": owner} if owner is not None else {})
        await self._change(model, "end", body)

    async def clear(self, model: str) -> None:
        await self._change(model, "clear", {})

    async def _change(self, model: str, what: str, body: dict[str, Any]) -> None:
        await self._ask("POST", f"/{quote(model)}/{what}", body)

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Raises AdminRefused for what the gateway refuses, AdminAway for what does not answer like one."""
        try:
            timeout = aiohttp.ClientTimeout(total=10)
            async with self._session.request(
                method, self._url + path, json=body, headers=self._headers, timeout=timeout
            ) as response:
                told = await response.json(content_type=None)
                status = response.status
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise AdminAway(f"{self._url}: no answer of a gateway ({type(error).__name__})") from error
        if status == 200 and isinstance(told, dict):
            return told
        message = told.get("error", {}).get("message", "") if isinstance(told, dict) else ""
        if status >= 500 or status in (408, 429):  # of a proxy before it
            raise AdminAway(f"{self._url}: status {status} {message}".rstrip())
        raise AdminRefused(message or f"{self._url}: status {status}")
