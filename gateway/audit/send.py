"""Sends probes as a caller would, and reads what an answer says. It judges nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from urllib.parse import quote

from gateway.audit.honeytokens import Honeytoken
from gateway.audit.probes import Probe

TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True, repr=False)
class Answer:
    """What came back. ``ok``: an answer, not an error; a stream that ends in an error is one."""

    tokens: Sequence[Honeytoken]
    status: int
    headers: str
    body: str

    @property
    def ok(self) -> bool:
        return self.status == 200 and '"error":{' not in self.body.replace(" ", "")

    def error(self) -> str:
        """What an error says: the last event of a stream that had begun (the caller's own values may stand before it), else all of it."""
        return self.body if self.status != 200 else self.body[self.body.rfind('"error"') :]

    def said(self) -> list[str]:
        """What the answer says to the caller, a text for each of its choices and fields, pieces joined and JSON decoded."""
        events = [line.removeprefix("data: ") for line in self.body.split("\n") if line.startswith("data: {")]
        joined: dict[tuple[int, str], str] = {}
        for event in events or [self.body]:
            for key, piece in _pieces(json.loads(event)):
                joined[key] = joined.get(key, "") + piece
        return [_decoded(text) for text in joined.values() if text]


Piece = tuple[tuple[int, str], str]


def _pieces(event: dict[str, Any]) -> Iterator[Piece]:
    for choice in event.get("choices") or ():
        said, index = choice.get("delta") or choice.get("message") or choice, choice.get("index", 0)
        for key in ("content", "refusal", "text"):
            if isinstance(said.get(key), str):
                yield (index, key), said[key]
        for call in said.get("tool_calls") or ():
            yield (index, "arguments"), call.get("function", {}).get("arguments") or ""
    if str(event.get("type", "")).endswith("output_text.delta"):
        yield (0, "text"), event["delta"]
    for item in event.get("output") or ():
        for part in item.get("content") or ():
            if isinstance(part.get("text"), str):
                yield (0, "text"), part["text"]


def _decoded(text: str) -> str:
    try:
        return "".join(map(str, json.loads(text).values()))
    except (ValueError, AttributeError):
        return text


class Sender:
    """One caller with a key. Closed by leaving its context."""

    def __init__(self, url: str, key: str) -> None:
        import aiohttp

        self._url = url
        self._key = key
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(TIMEOUT_S))

    async def __aenter__(self) -> Sender:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def get(self, path: str) -> str:
        async with self._session.get(self._url + path) as response:
            return await response.text()

    async def send(self, probe: Probe, model: str, tokens: Sequence[Honeytoken]) -> Answer:
        """The probe with these values. A connection that breaks is an empty answer of status 0."""
        import aiohttp
        from yarl import URL

        value = next((token.field[1] for token in tokens if token.field is not None), "")
        body = probe.build(model, tokens)
        if isinstance(body, dict):
            body = json.dumps(body | ({"stream": True} if probe.stream else {})).encode()
        headers = {"authorization": f"Bearer {self._key}", "content-type": "application/json"}
        headers |= {name: text.format(value) for name, text in probe.headers}
        url = URL(self._url + probe.path.format(quote(value, safe="")), encoded=True)
        try:
            async with self._session.request(probe.method, url, data=body, headers=headers) as response:
                got = await response.read()
                shown = "\n".join(f"{name}: {text}" for name, text in response.headers.items())
                return Answer(tokens, response.status, shown, got.decode("utf-8", "replace"))
        except (aiohttp.ClientError, TimeoutError):
            return Answer(tokens, 0, "", "")
