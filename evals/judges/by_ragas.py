"""Ragas' own metrics, asked over our client: its prompts and its arithmetic, our budget, journal, redaction and counting of failures.

The only place that knows Ragas; imported when a suite asks for it (6 s CPU). Its telemetry is off. It costs one to four calls a case.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, ClassVar

from evals.judges.structured import Asking, LibraryJudge
from evals.types import Answer, Sample


@dataclass(frozen=True, slots=True)
class RagasJudge(LibraryJudge):
    """`kind` is one of NEEDS. Context metrics score the texts that a case gives (retrieval), not the reply."""

    VENDOR: ClassVar[str] = "ragas"

    async def measure(self, sample: Sample, answer: Answer, asking: Asking) -> float:
        given: dict[str, Any] = {"user_input": self.shown(sample, sample.caller_text)}
        if self.kind != "answer_relevancy":
            given["retrieved_contexts"] = [self.shown(sample, text) for text in sample.expect.contexts]
        if self.kind in ("context_precision", "context_recall"):
            given["reference"] = self.shown(sample, sample.expect.reference or "")
        else:
            given["response"] = self.shown(sample, answer.text)
        result = await _metric(self.kind, asking).ascore(**given)
        try:
            return float(result.value)
        except (TypeError, ValueError):
            return float("nan")


def _metric(kind: str, asking: Asking) -> Any:
    os.environ["RAGAS_DO_NOT_TRACK"] = "true"
    from ragas.embeddings.base import BaseRagasEmbedding
    from ragas.llms.base import InstructorBaseRagasLLM
    from ragas.metrics.collections import AnswerRelevancy, ContextPrecision, ContextRecall, Faithfulness

    class Model(InstructorBaseRagasLLM):  # type: ignore[misc]
        def generate(self, prompt: str, response_model: Any) -> Any:
            raise NotImplementedError("asked from an event loop only")

        async def agenerate(self, prompt: str, response_model: Any) -> Any:
            return await asking.ask(prompt, response_model)

    class Embedding(BaseRagasEmbedding):  # type: ignore[misc]
        def embed_text(self, text: str, **_: Any) -> list[float]:
            raise NotImplementedError("asked from an event loop only")

        async def aembed_text(self, text: str, **_: Any) -> list[float]:
            return (await asking.embed([text]))[0]

        async def aembed_texts(self, texts: list[str], **_: Any) -> list[list[float]]:
            return await asking.embed(texts)

    if kind == "answer_relevancy":
        return AnswerRelevancy(llm=Model(), embeddings=Embedding())
    return {"faithfulness": Faithfulness, "context_precision": ContextPrecision, "context_recall": ContextRecall}[kind](
        llm=Model()
    )
