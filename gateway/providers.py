"""Hosted models through the LiteLLM SDK (never its proxy), imported only when a hosted provider is configured.

It turns one deployment and one body into chunks, as gateway/upstream.py does. The SDK costs about 7 s CPU to import and 6.5 ms a call
(2026-11), so OpenAI-compatible servers never go through it.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Mapping
from types import ModuleType
from typing import Any

from gateway.errors import UpstreamCut, UpstreamError, UpstreamTimeout, UpstreamUnavailable
from gateway.types import Chunk, Deployment, Endpoint, Json
from gateway.upstream import refusal, retry_after
from gateway.wire.replies import to_chunk


class HostedProviders:
    """Every hosted provider. The SDK is imported when this is built: build it only if one is configured."""

    def __init__(self) -> None:
        os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it fetches a price list at import
        import litellm

        litellm.telemetry = False
        litellm.drop_params = True
        litellm.suppress_debug_info = True
        self._litellm: ModuleType = litellm

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
        """As HttpBackends.call. Raises: an UpstreamError."""
        asks = {"chat": "acompletion", "completion": "atext_completion", "embedding": "aembedding"}
        ask = getattr(self._litellm, asks[endpoint])
        said = {**body, "model": deployment.provider} | ({"stream": stream} if endpoint != "embedding" else {})
        begun = False
        try:
            reply = await ask(
                **said,
                api_key=deployment.api_key or None,
                api_base=deployment.base_url or None,
                api_version=deployment.api_version or None,
                timeout=timeout_s,
                max_retries=0,
                num_retries=0,
                extra_headers=dict(headers),
            )
            if not stream:
                yield to_chunk(endpoint, _plain(reply))
                return
            async for piece in reply:
                begun = True
                yield _plain(piece)
        except UpstreamError:
            raise
        except Exception as error:  # noqa: BLE001 - the SDK's own tree mixes many vendors' exceptions; only status and type are read
            raise self._error(error, begun=begun) from None

    async def aclose(self) -> None:
        await self._litellm.close_litellm_async_clients()

    def _error(self, error: Exception, *, begun: bool) -> UpstreamError:
        if begun:
            return UpstreamCut("The model's answer broke off before it was complete.")
        if isinstance(error, self._litellm.ContextWindowExceededError):
            return refusal(400, "context_length_exceeded", None)
        if isinstance(error, self._litellm.Timeout):
            return UpstreamTimeout("The model did not answer in time.")
        if isinstance(error, self._litellm.APIConnectionError):
            return UpstreamUnavailable("The model's server could not be reached.")
        # The SDK keeps the provider's headers beside the exception; its own `response` is made up and has none.
        headers = getattr(error, "litellm_response_headers", None) or {}
        wait_s = retry_after({str(name).lower(): str(value) for name, value in dict(headers).items()})
        return refusal(int(getattr(error, "status_code", None) or 502), None, wait_s)


def _plain(reply: Any) -> Json:
    value: Json = reply.model_dump(mode="json", exclude_none=True)
    return value
