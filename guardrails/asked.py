"""The model that NeMo's rails ask, as NeMo wants to see it: whatever asks for us is handed in, and no address or key is known here.

A topical check asks nobody: a configuration that would let a model speak has nothing to object.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
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


@dataclass(slots=True)
class Answers:
    """What was answered to what rails asked in one request, by `question_id`: kept for a replay, and read by it. ``tokens``: about so many."""

    known: dict[str, str]
    tokens: int = 0


ANSWERS: ContextVar[Answers | None] = ContextVar("callgate_answers", default=None)


def question_id(messages: Sequence[dict[str, str]], most: int) -> str:
    """The name of a question: alike for the same words to the same end, whichever policy asks."""
    return hashlib.sha256(json.dumps([list(messages), most]).encode()).hexdigest()[:24]


async def ask_nobody(messages: Sequence[dict[str, str]], most: int) -> str:
    """For replays and tests of cases: no model is asked, and what was answered then is the answer. Raises: RuntimeError where nothing was."""
    answers = ANSWERS.get()
    answer = answers.known.get(question_id(messages, most)) if answers is not None else None
    if answer is None:
        raise RuntimeError("asks a model what was not asked then")
    return answer


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
        answers = ANSWERS.get()
        if answers is not None:
            answers.tokens += (
                sum(len(message["content"]) for message in messages) // 4 + 1
            )  # about 4 characters a token
        answer = await self._ask(messages, most)
        if answers is not None:
            answers.known[question_id(messages, most)] = answer
        return self._response(content=answer)

    async def stream_async(self, prompt: Any, *, stop: Sequence[str] | None = None, **more: Any) -> AsyncIterator[Any]:
        """The whole answer as one piece: rails never need less."""
        yield await self.generate_async(prompt, stop=stop, **more)


def _plain(message: Any) -> dict[str, str]:
    role = getattr(message.role, "value", message.role)
    return {"role": str(role), "content": message.content if isinstance(message.content, str) else ""}
