"""Our sentence encoder as NeMo's embedding provider, so that NeMo never reaches for a model hub."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Embed = Callable[[Sequence[str]], Awaitable[NDArray[np.float32]]]


def use_our_embeddings(config: Any, embed: Embed | None) -> None:
    """Points a configuration at a provider of ours. Without ``embed`` whatever asks it raises."""
    from nemoguardrails.embeddings.providers import EmbeddingProviderRegistry, register_embedding_provider
    from nemoguardrails.embeddings.providers.base import EmbeddingModel
    from nemoguardrails.rails.llm.config import Model

    loop = getattr(embed, "loop", None)

    class CallgateEmbeddings(EmbeddingModel):  # type: ignore[misc]  # NeMo is untyped
        engine_name = "callgate"

        def __init__(self, embedding_model: str = "", **_: Any) -> None:
            self.model = embedding_model
            self.embedding_size = 384

        async def encode_async(self, documents: list[str]) -> list[list[float]]:
            if embed is None or loop is None:
                raise RuntimeError("this policy needs embeddings; set embedding.enabled")
            waiting = asyncio.run_coroutine_threadsafe(_vectors(embed, documents), loop)
            return await asyncio.wrap_future(waiting)

        def encode(self, documents: list[str]) -> list[list[float]]:
            if embed is None or loop is None:
                raise RuntimeError("this policy needs embeddings; set embedding.enabled")
            return asyncio.run_coroutine_threadsafe(_vectors(embed, documents), loop).result(30)

    engine = f"callgate-{id(CallgateEmbeddings)}"
    if engine not in EmbeddingProviderRegistry().items:
        register_embedding_provider(CallgateEmbeddings, engine)
    config.models = [model for model in config.models if model.type != "embeddings"]
    config.models.append(Model(type="embeddings", engine=engine, model="all-minilm-l6-v2"))


async def _vectors(embed: Embed, documents: Sequence[str]) -> list[list[float]]:
    vectors: list[list[float]] = (await embed(documents)).tolist()
    return vectors
