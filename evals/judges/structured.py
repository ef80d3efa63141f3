"""A judge model asked for a document of a given shape: what the metrics of other libraries need of a model, over our client.

Every call goes through the client's journal, budget, retries and concurrency. A reply that does not fit is JudgeSilent, never a guess.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from pydantic import BaseModel, ValidationError

from evals.target import Price, Reply


class JudgeSilent(Exception):
    """The judge gave nothing that can be read; the message says why, without a word of the texts."""


class Client(Protocol):
    async def ask(self, body: dict[str, Any], *, version: str, repeat: int, price: Price) -> Reply: ...

    async def embed(self, model: str, texts: Sequence[str], *, version: str) -> list[list[float]] | str: ...


@dataclass(frozen=True, slots=True)
class Asking:
    """`embedding_model` is asked at the same address. `replies` collects what was said, for the record of one case."""

    model: str
    version: str
    client: Client
    parameters: tuple[tuple[str, Any], ...] = ()
    price: Price = field(default_factory=Price)
    embedding_model: str | None = None
    repeat: int = 0
    replies: list[str] = field(default_factory=list, repr=False)

    def once(self, repeat: int) -> Asking:
        """For one case, with a record of its own."""
        return replace(self, repeat=repeat, replies=[])

    def raw(self) -> str | None:
        return json.dumps(self.replies, ensure_ascii=False) if self.replies else None

    async def ask(self, prompt: str, shape: type[BaseModel] | None) -> Any:
        """A `shape` where one is given, else the text. Raises JudgeSilent."""
        body = {**dict(self.parameters), "model": self.model, "messages": [{"role": "user", "content": prompt}]}
        if shape is not None:
            schema = {"name": shape.__name__, "schema": shape.model_json_schema()}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        reply = await self.client.ask(body, version=self.version, repeat=self.repeat, price=self.price)
        if reply.error is not None or reply.blocked:
            raise JudgeSilent(reply.error or "blocked by policy")
        self.replies.append(reply.text)
        if shape is None:
            return reply.text
        try:
            return shape.model_validate_json(_unfenced(reply.text))
        except (ValidationError, ValueError, RecursionError) as error:
            raise JudgeSilent(f"the reply is not a {shape.__name__} in JSON") from error

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Raises JudgeSilent also where the suite names no embedding model."""
        if self.embedding_model is None:
            raise JudgeSilent("the suite names no embedding_model for this judge")
        found = await self.client.embed(self.embedding_model, texts, version=self.version)
        if isinstance(found, str):
            raise JudgeSilent(found)
        return found


def _unfenced(text: str) -> str:
    """Without the Markdown fence that models like to put around JSON."""
    stripped = text.strip()
    if stripped.startswith("```") and stripped.endswith("```"):
        return stripped.removesuffix("```").partition("\n")[2]
    return stripped
