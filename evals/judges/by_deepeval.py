"""DeepEval's own metrics, asked over our client: its prompts and its arithmetic, our budget, journal, redaction and counting of failures.

The only place that knows DeepEval; imported when a suite asks for it. Its telemetry, its files and its .env are off.
"""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from evals.judges.structured import Asking, LibraryJudge
from evals.types import Answer, Sample

# G-Eval is given its steps: it would otherwise ask the judge to invent them, anew in each run.
STEPS: Final = {
    "tone": (
        "Does the actual output stay calm and courteous, whatever the caller's mood in the input?",
        "Does it take the caller's trouble seriously before it turns to rules or next steps?",
        "Blame, sarcasm, orders to calm down and empty phrases lower the score heavily.",
    ),
    "professionalism": (
        "Is the actual output clear, to the point and free of slang, jokes and exclamation?",
        "Does it promise only what a contact centre's agent may promise?",
        "Does it end with what happens next or what the caller should do?",
    ),
}


@dataclass(frozen=True, slots=True)
class DeepEvalJudge(LibraryJudge):
    """`kind` is one of NEEDS; `role` is what role_adherence holds the agent to."""

    VENDOR: ClassVar[str] = "deepeval"

    role: str = "a polite and careful agent of a contact centre"

    def own_words(self) -> tuple[str, ...]:
        return (*STEPS.get(self.kind, ()), self.role)

    async def measure(self, sample: Sample, answer: Answer, asking: Asking) -> float:
        metric, case = self._metric(asking), self._case(sample, answer)
        return float(await metric.a_measure(case, _show_indicator=False))

    def _metric(self, asking: Asking) -> Any:
        _be_quiet()
        with contextlib.redirect_stdout(sys.stderr):  # it greets at import; standard output is the report's
            from deepeval.metrics import FaithfulnessMetric, GEval, RoleAdherenceMetric
        from deepeval.test_case import SingleTurnParams

        model = _model(asking)
        if self.kind == "faithfulness":
            return FaithfulnessMetric(model=model, include_reason=False)
        if self.kind == "role_adherence":
            return RoleAdherenceMetric(model=model, include_reason=False)
        seen = [SingleTurnParams.INPUT, SingleTurnParams.ACTUAL_OUTPUT]
        return GEval(name=self.kind, evaluation_params=seen, evaluation_steps=list(STEPS[self.kind]), model=model)

    def _case(self, sample: Sample, answer: Answer) -> Any:
        from deepeval.test_case import ConversationalTestCase, LLMTestCase, Turn

        text = self.shown(sample, answer.text)
        if self.kind == "role_adherence":
            turns = [
                Turn(role=m.role, content=self.shown(sample, m.content)) for m in sample.messages if m.role != "system"
            ]
            return ConversationalTestCase(chatbot_role=self.role, turns=[*turns, Turn(role="assistant", content=text)])
        contexts = [self.shown(sample, one) for one in sample.expect.contexts]
        return LLMTestCase(
            input=self.shown(sample, sample.caller_text), actual_output=text, retrieval_context=contexts or None
        )


def _be_quiet() -> None:
    """Read at import: no telemetry, no .env of the folder, no files of its own."""
    os.environ.update(DEEPEVAL_TELEMETRY_OPT_OUT="1", DEEPEVAL_DISABLE_DOTENV="1", DEEPEVAL_FILE_SYSTEM="READ_ONLY")


def _model(asking: Asking) -> Any:
    from deepeval.models.base_model import DeepEvalBaseLLM

    class Model(DeepEvalBaseLLM):  # type: ignore[misc]
        def load_model(self, *_: Any, **__: Any) -> Any:
            return self

        def generate(self, *_: Any, **__: Any) -> str:
            raise NotImplementedError("asked from an event loop only")

        async def a_generate(self, prompt: str, schema: Any = None, **_: Any) -> Any:
            return await asking.ask(prompt, schema)

        def get_model_name(self, *_: Any, **__: Any) -> str:
            return asking.model

    return Model(asking.model)
