"""OpenAI-compatible backends (vLLM, TGI, Ollama, llama.cpp) over one pooled HTTP client.

It turns one deployment and one body into chunks, and every fault into one error of gateway/errors.py. It does not choose deployments,
retry, or read the text of an answer. Hosted providers with a wire of their own are in gateway/providers.py.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING

from gateway.errors import (
    UpstreamCut,
    UpstreamError,
    UpstreamInvalid,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.types import Chunk, Deployment, Endpoint, Json
from gateway.wire.replies import to_chunk
from gateway.wire.sse import EventReader, decode_object, encode_body

if TYPE_CHECKING:
    import aiohttp

MAX_RESPONSE_BYTES = 32 << 20
_PATHS: dict[Endpoint, str] = {"chat": "/chat/completions", "completion": "/completions", "embedding": "/embeddings"}


class HttpBackends:
    """Every OpenAI-compatible backend, through one pool of connections. ``aclose`` ends it."""

    def __init__(self, max_connections: int = 1000) -> None:
        self._max_connections = max_connections
        self._session: aiohttp.ClientSession | None = None

    async def call(
        self,
        deployment: Deployment,
        endpoint: Endpoint,
        body: Json,
        *,
        stream: bool,
        timeout_s: float,
        headers: Mapping[str, str],
    ) -> AsyncGenerator[Chunk]:
        """The chunks of one answer; a whole answer is one chunk. ``timeout_s`` bounds the whole of it.

        Raises: an UpstreamError. Before the first chunk its ``retryable`` says whether another deployment may be tried.
        """
        import aiohttp

        session = self._opened()
        payload = encode_body({**body, "model": deployment.model})
        sent = {"content-type": "application/json", **headers}
        if deployment.api_key:
            sent["authorization"] = f"Bearer {deployment.api_key}"
        timeout = aiohttp.ClientTimeout(
            total=timeout_s,
            sock_connect=deployment.connect_timeout_s,
            sock_read=deployment.idle_timeout_s if stream else None,
        )
        begun = False
        try:
            async with session.post(
                deployment.base_url + _PATHS[endpoint],
                data=payload,
                headers=sent,
                timeout=timeout,
                allow_redirects=False,
            ) as response:
                if response.status != 200:
                    raise await _refusal(response)
                if not stream:
                    yield to_chunk(endpoint, decode_object(await _read(response)))
                    return
                async with aclosing(_events(response)) as chunks:
                    async for chunk in chunks:
                        begun = True
                        yield chunk
        except TimeoutError:
            raise _cut(begun, UpstreamTimeout("The model did not answer in time.")) from None
        except aiohttp.ClientConnectorError:
            raise UpstreamUnavailable("The model's server could not be reached.") from None
        except aiohttp.ClientPayloadError:
            raise _cut(True, UpstreamUnavailable("")) from None
        except (aiohttp.ClientError, OSError, ValueError):
            raise _cut(begun, UpstreamUnavailable("The model's server broke off the connection.")) from None

    def open(self) -> None:
        """Opens the pool (and imports its library) now rather than at the first request. Needs a running event loop."""
        self._opened()

    async def is_alive(self, deployment: Deployment, timeout_s: float = 2.0) -> bool:
        """Whether the backend answers a request that costs no tokens (GET /v1/models)."""
        import aiohttp

        headers = {"authorization": f"Bearer {deployment.api_key}"} if deployment.api_key else {}
        try:
            async with self._opened().get(
                deployment.base_url + "/models",
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=timeout_s),
                allow_redirects=False,
            ) as response:
                return response.status < 500
        except (aiohttp.ClientError, OSError, TimeoutError):
            return False

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _opened(self) -> aiohttp.ClientSession:
        import aiohttp

        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._max_connections, keepalive_timeout=30),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=True,
                trust_env=False,
                skip_auto_headers=("User-Agent", "Accept-Encoding"),
            )
        return self._session


async def _events(response: aiohttp.ClientResponse) -> AsyncGenerator[Chunk]:
    if response.content_type != "text/event-stream":
        raise UpstreamInvalid(
            "The model's server answered a streamed request with something that is not an event stream."
        )
    reader = EventReader()
    finished = False
    async for data in response.content.iter_any():
        for chunk in reader.feed(data):
            finished = finished or any(choice.get("finish_reason") for choice in chunk.get("choices") or ())
            yield chunk
        if reader.done:
            return
    for chunk in reader.close():
        yield chunk
    # Some servers never send [DONE]; an answer that gave its finish_reason is whole without it.
    if not reader.done and not finished:
        raise UpstreamCut("The model's answer ended before it was complete.")


async def _read(response: aiohttp.ClientResponse) -> bytes:
    if (response.content_length or 0) > MAX_RESPONSE_BYTES:
        raise UpstreamInvalid("The model's server answered with more than 32 MiB.")
    if response.content_length is not None:
        return await response.read()
    pieces, size = [], 0
    async for piece in response.content.iter_any():
        size += len(piece)
        if size > MAX_RESPONSE_BYTES:
            raise UpstreamInvalid("The model's server answered with more than 32 MiB.")
        pieces.append(piece)
    return b"".join(pieces)


def _cut(begun: bool, otherwise: UpstreamError) -> UpstreamError:
    return UpstreamCut("The model's answer broke off before it was complete.") if begun else otherwise


async def _refusal(response: aiohttp.ClientResponse) -> UpstreamError:
    """One error for a status other than 200. The backend's own words stay here; only codes on our list are passed on."""
    try:
        code = error_code(await asyncio.wait_for(response.content.read(65536), 2))
    except (TimeoutError, OSError):
        code = None
    return refusal(response.status, code, retry_after(response.headers))


def refusal(status: int, code: str | None, retry_after_s: float | None) -> UpstreamError:
    """The error that a caller sees for a backend's HTTP status. ``code`` is one that ``error_code`` let through, or None."""
    if status == 429:
        return UpstreamRateLimited(
            "The model's server is over its rate limit; try again later.", retry_after_s=retry_after_s or 1.0
        )
    if status == 503:
        return UpstreamUnavailable("The model's server is not available.", retry_after_s=retry_after_s)
    if status in (408, 504):
        return UpstreamTimeout("The model did not answer in time.")
    if status == 400 or status in (413, 422):
        what = "its context length is exceeded" if code == "context_length_exceeded" else "check the parameters"
        return UpstreamRejected(f"The model's server refused the request: {what}.", code=code)
    if status in (401, 403):
        return UpstreamUnavailable(
            "The gateway's own credentials for the model's server were refused.", code="upstream_credentials"
        )
    if status == 404:
        return UpstreamUnavailable(
            "The model's server does not know the model it was configured with.", code="upstream_no_model"
        )
    return UpstreamError(f"The model's server failed with status {status}.")


_KNOWN_CODES = frozenset({"context_length_exceeded", "invalid_prompt", "unsupported_parameter", "unsupported_value"})
_CONTEXT = re.compile(rb"context (length|size|window)|maximum context|exceed_context_size", re.IGNORECASE)


def error_code(body: bytes) -> str | None:
    """A code of OpenAI's list in a backend's error body, or None. Text is never taken over."""
    try:
        error = decode_object(body).get("error")
    except UpstreamInvalid:
        return None
    code = error.get("code") if type(error) is dict else None
    if code in _KNOWN_CODES:
        return str(code)
    return "context_length_exceeded" if _CONTEXT.search(body) else None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from retry-after-ms or Retry-After in seconds; between 0 and 3,600."""
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            return min(3600.0, max(0.0, float(headers[name]) * unit_s))
        except (KeyError, ValueError):
            continue
    return None
