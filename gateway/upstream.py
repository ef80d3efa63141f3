"""OpenAI-compatible backends (vLLM, TGI, Ollama, llama.cpp) over one pooled HTTP client.

It turns one deployment and one body into chunks, and every fault into one error of gateway/errors.py. It does not choose deployments,
retry, or read the text of an answer. Hosted providers with a wire of their own are in gateway/providers.py.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace

from gateway import vllm
from gateway.errors import (
    UpstreamCut,
    UpstreamError,
    UpstreamInvalid,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.http_client import BrokenOff, ConnectFailed, Exchange, HttpError, HttpPool, Patience, Target, TimedOut
from gateway.types import Chunk, Deployment, Endpoint, Health, Json
from gateway.wire.replies import to_chunk
from gateway.wire.sse import EventReader, decode_object, encode_body

MAX_RESPONSE_BYTES = 32 << 20
_PATHS: dict[Endpoint, str] = {"chat": "/chat/completions", "completion": "/completions", "embedding": "/embeddings"}


class HttpBackends:
    """Every OpenAI-compatible backend, through one pool of connections. ``aclose`` ends it."""

    def __init__(self, max_connections: int = 1000) -> None:
        self._pool = HttpPool(max_connections)
        self._targets: dict[tuple[str, str, str], Target] = {}

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
        payload = encode_body({**body, "model": deployment.model})
        # A whole answer comes when it is finished: only the deadline bounds its first byte.
        first_byte_s = deployment.first_byte_timeout_s if stream else timeout_s
        patience = Patience(deployment.connect_timeout_s, first_byte_s, deployment.idle_timeout_s, timeout_s)
        more = "".join([f"{name}: {value}\r\n" for name, value in headers.items()]).encode("latin-1")
        begun = False
        try:
            async with self._pool.send(self._target(deployment, _PATHS[endpoint]), payload, patience, more) as answer:
                if answer.status != 200:
                    raise await _refusal(answer, body)
                if answer.header(b"content-encoding") not in (None, b"identity"):
                    raise UpstreamInvalid("The model's server answered with a compression that was not asked for.")
                if not stream:
                    yield to_chunk(endpoint, decode_object(await _read(answer)))
                    return
                async with aclosing(_events(answer)) as chunks:
                    async for chunk in chunks:
                        begun = True
                        yield chunk
        except TimedOut as error:
            raise _cut(
                begun or (stream and error.begun), UpstreamTimeout("The model did not answer in time.")
            ) from None
        except ConnectFailed:
            raise UpstreamUnavailable("The model's server could not be reached.") from None
        except BrokenOff as error:
            broken = UpstreamUnavailable("The model's server broke off the connection.")
            raise _cut(begun or error.begun, broken) from None

    async def health(self, deployment: Deployment, timeout_s: float = 2.0) -> Health:
        """Whether the backend answers a request that costs no tokens (GET /v1/models); of vLLM also whether it serves the model, and its queue."""
        try:
            status, body = await self._get(self._target(deployment, "/models", "GET"), timeout_s)
            if deployment.engine != "vllm" or status != 200:
                return Health(status < 500)
            if not vllm.served(decode_object(body), deployment.model):
                return Health(False)
            base = replace(deployment, base_url=deployment.base_url.removesuffix("/v1"))
            status, body = await self._get(self._target(base, "/metrics", "GET"), timeout_s)
            return vllm.health(body) if status == 200 else Health(True)
        except (HttpError, UpstreamInvalid):
            return Health(False)

    async def _get(self, target: Target, timeout_s: float) -> tuple[int, bytes]:
        patience = Patience(timeout_s, timeout_s, timeout_s, timeout_s)
        async with self._pool.send(target, b"", patience) as answer:
            # Read to the end, so that the connection can be used again.
            return answer.status, await answer.read(MAX_RESPONSE_BYTES)

    async def aclose(self) -> None:
        await self._pool.aclose()

    def _target(self, deployment: Deployment, path: str, method: str = "POST") -> Target:
        key = (method, deployment.base_url + path, deployment.api_key)
        found = self._targets.get(key)
        if found is None:
            headers = {"accept": "application/json, text/event-stream"}
            if method == "POST":
                headers["content-type"] = "application/json"
            if deployment.api_key:
                headers["authorization"] = f"Bearer {deployment.api_key}"
            found = self._targets[key] = Target.of(method, key[1], headers)
        return found


async def _events(answer: Exchange) -> AsyncGenerator[Chunk]:
    kind = (answer.header(b"content-type") or b"").partition(b";")[0].strip().lower()
    if kind != b"text/event-stream":
        raise UpstreamInvalid(
            "The model's server answered a streamed request with something that is not an event stream."
        )
    reader = EventReader()
    finished = False
    async for data in answer:
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


async def _read(answer: Exchange) -> bytes:
    length = answer.header(b"content-length") or b""
    if length.isdigit() and int(length) > MAX_RESPONSE_BYTES:
        raise UpstreamInvalid("The model's server answered with more than 32 MiB.")
    return await answer.read(MAX_RESPONSE_BYTES)


def _cut(begun: bool, otherwise: UpstreamError) -> UpstreamError:
    return UpstreamCut("The model's answer broke off before it was complete.") if begun else otherwise


async def _refusal(answer: Exchange, asked: Json) -> UpstreamError:
    """One error for a status other than 200. The backend's own words stay here; codes on our list and names of the request's fields are passed on."""
    try:
        async with asyncio.timeout(2):
            said = await answer.read(65536)
    except (TimeoutError, HttpError):
        said = b""
    waits = {
        name: (answer.header(name.encode()) or b"").decode("latin-1") for name in ("retry-after-ms", "retry-after")
    }
    return refusal(answer.status, error_code(said), retry_after(waits), named_fields(said, asked))


def refusal(status: int, code: str | None, retry_after_s: float | None, fields: Sequence[str] = ()) -> UpstreamError:
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
        if code == "context_length_exceeded":
            return UpstreamRejected(
                "The model's server refused the request: its context length is exceeded.", code=code
            )
        what = " and ".join(fields) or "the parameters"
        param = fields[0] if fields else None
        return UpstreamRejected(f"The model's server refused the request: check {what}.", param=param, code=code)
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
_ORDINARY = frozenset({"model", "messages", "prompt", "input", "stream", "user", "store"})  # words of any error
_WORD = re.compile("[A-Za-z_]+")
_CONTEXT = re.compile(rb"context (length|size|window)|maximum context|exceed_context_size", re.IGNORECASE)


def error_code(body: bytes) -> str | None:
    """A code of OpenAI's list in a backend's error body, or None. Text is never taken over."""
    code = _error(body).get("code")
    if code in _KNOWN_CODES:
        return str(code)
    return "context_length_exceeded" if _CONTEXT.search(body) else None


def named_fields(body: bytes, asked: Json) -> list[str]:
    """Those fields of the request that a backend's error names, at most four, in the request's order. Its other words stay here."""
    words = set(_WORD.findall(str(_error(body).get("message"))))
    return [name for name in asked if name in words and name not in _ORDINARY][:4]


def _error(body: bytes) -> Json:
    try:
        error = decode_object(body).get("error")
    except UpstreamInvalid:
        return {}
    return error if type(error) is dict else {}


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from retry-after-ms or Retry-After in seconds; between 0 and 3,600."""
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            return min(3600.0, max(0.0, float(headers[name]) * unit_s))
        except (KeyError, ValueError):
            continue
    return None
