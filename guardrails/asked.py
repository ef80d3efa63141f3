"""The model that NeMo's rails ask, as NeMo wants to see it: whatever asks for us is handed in, and no address or key is known here.

A topical check asks nobody: a configuration that would let a model speak has nothing to object.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

Ask = Callable[[Sequence[dict[str, str]], int], Awaitable[str]]
"""Messages and the most tokens of the answer in, the answer out. Raises whatever means that there is none."""

MOST_TOKENS = 64  # NeMo's self-checks answer yes or no
ASKING = (
    "self check",
    "llama guard",
    "content safety",
    "topic safety",
    "hallucination",
    "facts",
    "alignscore",
    "patronus lynx",
)


class WouldGenerate(Exception):
    """Raised where a check would let the model speak."""


def asks_a_model(flow: str) -> bool:
    """Whether a catalogue flow of this name asks a model."""
    return any(name in flow for name in ASKING)


async def ask_nobody(_: Sequence[dict[str, str]], __: int) -> str:
    """For replays and tests of cases: rails that ask a model do not run there. Raises: RuntimeError."""
    raise RuntimeError("asks a model, and none is asked here")


async def let_it_speak(_: Sequence[dict[str, str]], __: int) -> str:
    """Raises: WouldGenerate."""
    raise WouldGenerate("the configuration would ask the model now")


class AskedModel:
    """NeMo's LLMModel protocol over an ``Ask``. ``response`` makes NeMo's LLMResponse of the answer's words."""

    def __init__(self, ask: Ask, response: Callable[..., Any]) -> None:
        self._ask = ask
        self._response = response

    @property
    def model_name(self) -> str:
        return "callgate"

    @property
    def provider_name(self) -> str | None:
        return None

    @property
    def provider_url(self) -> str | None:
        return None

    async def generate_async(self, prompt: Any, *, stop: Sequence[str] | None = None, **more: Any) -> Any:  # noqa: ARG002
        """NeMo's LLMResponse."""
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [_plain(one) for one in prompt]
        most = min(int(more.get("max_tokens") or MOST_TOKENS), MOST_TOKENS)
        return self._response(content=await self._ask(messages, most))

    async def stream_async(self, prompt: Any, *, stop: Sequence[str] | None = None, **more: Any) -> AsyncIterator[Any]:
        """The whole answer as one piece: rails never need less."""
        yield await self.generate_async(prompt, stop=stop, **more)


def _plain(message: Any) -> dict[str, str]:
    role = getattr(message.role, "value", message.role)
    return {"role": str(role), "content": message.content if isinstance(message.content, str) else ""}
