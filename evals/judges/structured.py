"""A judge model asked for a document of a given shape: what the metrics of other libraries need of a model, over our client.

Every call goes through the client's journal, budget, retries and concurrency. A reply that does not fit is JudgeSilent, never a guess.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from types import MappingProxyType
from typing import Any, ClassVar, Final, Protocol

from pydantic import BaseModel, ValidationError

from evals.digests import digest
from evals.judges.asked import unfenced
from evals.judges.personal_data import redact, without_secrets
from evals.target import Price, Reply, with_own_seed
from evals.types import Answer, Sample, Score, fault_of, not_scored, scored

NEEDS: Final = MappingProxyType(
    {
        "ragas/faithfulness": ("contexts",),
        "ragas/answer_relevancy": (),
        "ragas/context_precision": ("contexts", "reference"),
        "ragas/context_recall": ("contexts", "reference"),
        "deepeval/tone": (),
        "deepeval/professionalism": (),
        "deepeval/faithfulness": ("contexts",),
        "deepeval/role_adherence": (),
    }
)
"""What a case must expect for a metric to ask anything of it."""


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
        body = with_own_seed(body, f"{self.repeat}/{digest(body['messages'])}")
        reply = await self.client.ask(body, version=self.version, repeat=self.repeat, price=self.price)
        if reply.error is not None or reply.blocked:
            raise JudgeSilent(reply.error or "blocked by policy")
        self.replies.append(reply.text)
        if shape is None:
            return reply.text
        try:
            return shape.model_validate_json(unfenced(reply.text))
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


@dataclass(frozen=True, slots=True)
class LibraryJudge(ABC):
    """A metric of another library: its prompts and arithmetic, our client and counting of failures. `kind` names the metric."""

    VENDOR: ClassVar[str]

    metric: str
    kind: str
    asking: Asking
    redact: Callable[[str], str] = field(default=redact)

    @property
    def id(self) -> str:
        asked = hashlib.sha256(self.prompt.encode()).hexdigest()[:12]
        return f"{self.VENDOR}/{self.kind}/{self.asking.model}/{asked}"

    @property
    def version(self) -> str:
        return self.asking.version

    @property
    def prompt(self) -> str:
        """The library's own prompts are its version's; what was chosen here is the metric and how the model is sampled."""
        chosen = [self.kind, self.asking.parameters, self.asking.embedding_model, *self.own_words()]
        return json.dumps([f"{self.VENDOR} {version(self.VENDOR)}", *chosen])

    def own_words(self) -> tuple[str, ...]:
        """What we tell the library to ask."""
        return ()

    def applies(self, sample: Sample) -> bool:
        return bool(sample.messages) and all(
            getattr(sample.expect, need) for need in NEEDS[f"{self.VENDOR}/{self.kind}"]
        )

    def shown(self, sample: Sample, text: str) -> str:
        """What the judge may see of a text of this case."""
        return self.redact(without_secrets(text, sample.expect.secrets))

    @abstractmethod
    async def measure(self, sample: Sample, answer: Answer, asking: Asking) -> float:
        """The library's number. May raise JudgeSilent, or whatever the library raises."""

    async def score(self, sample: Sample, answer: Answer) -> Score:
        judge = f"{self.id}@{self.version}"
        fault = fault_of(answer) or (None if answer.text.strip() else "there is no text to judge")
        if fault is not None:
            return not_scored(self.metric, answer, judge, reason=fault)
        asking = self.asking.once(answer.repeat)
        try:
            value = await self.measure(sample, answer, asking)
        except JudgeSilent as error:
            return not_scored(self.metric, answer, judge, reason=f"judge: {error}", raw=asking.raw())
        except Exception as error:  # noqa: BLE001 - a vendor's fault is one case not scored, never the end of a run
            reason = f"{self.VENDOR}: {type(error).__name__}"
            return not_scored(self.metric, answer, judge, reason=reason, raw=asking.raw())
        return scored(self.metric, answer, judge, value, reason=f"{self.VENDOR} {self.kind}", raw=asking.raw())
