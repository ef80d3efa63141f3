"""An operator's own recognisers, run so that one which raises or hangs costs its kinds and nothing else.

They run in a thread of their own under a limit of time; a thread that hangs is left behind and another one takes its place, up to a bound. Says
which kinds were not looked for; whether the text may go on without them is not decided here. Knows Presidio's interface by shape only.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

from guardrails.types import Finding

MOST_STUCK = 4  # threads left behind that still hang; beyond it every text is refused at once


class Recognizer(Protocol):
    """Presidio's EntityRecognizer, as far as it is used."""

    name: str
    supported_entities: list[str]

    def analyze(self, text: str, entities: list[str], nlp_artifacts: Any) -> Sequence[Any] | None: ...


@dataclass(slots=True)
class Outcome:
    """``found``: of each text. ``failed``: the kinds that were not looked for, and why."""

    found: list[list[Finding]]
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True, repr=False)
class _Job:
    texts: list[str]
    answer: Future[Outcome]


class _Worker:
    """One thread and what waits for it."""

    def __init__(self, recognizers: Sequence[Recognizer]) -> None:
        self._recognizers = recognizers
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self.at_work: tuple[_Job, Recognizer] | None = None
        self.thread = threading.Thread(target=self._work, name="own recognisers", daemon=True)
        self.thread.start()

    def put(self, job: _Job | None) -> None:
        self._jobs.put(job)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if job.answer.set_running_or_notify_cancel():
                job.answer.set_result(self._outcome(job))
            self.at_work = None

    def _outcome(self, job: _Job) -> Outcome:
        outcome = Outcome([[] for _ in job.texts])
        for recognizer in self._recognizers:
            self.at_work = (job, recognizer)
            try:
                for place, text in enumerate(job.texts):
                    outcome.found[place] += _findings(recognizer, text)
            except Exception as error:  # noqa: BLE001 - somebody else's code: whatever it raises, its kinds were not looked for
                reason = f"{recognizer.name} raised {type(error).__name__}"
                outcome.failed |= dict.fromkeys(recognizer.supported_entities, reason)
        return outcome


class OwnFinder:
    """Findings of the recognisers given. ``timeout_s``: how long one request waits for all of them."""

    def __init__(self, recognizers: Sequence[Recognizer], timeout_s: float) -> None:
        self._recognizers = list(recognizers)
        self._timeout_s = timeout_s
        self._worker = _Worker(self._recognizers)
        self._left_behind: list[_Worker] = []

    @property
    def kinds(self) -> list[str]:
        return sorted({kind for recognizer in self._recognizers for kind in recognizer.supported_entities})

    async def find(self, texts: Sequence[str]) -> Outcome:
        """Never raises; where so many recognisers hang that no more are tried, none of their kinds is looked for."""
        self._left_behind = [worker for worker in self._left_behind if worker.at_work is not None]
        if len(self._left_behind) >= MOST_STUCK:
            return Outcome([[] for _ in texts], dict.fromkeys(self.kinds, "recognisers of the policy hang"))
        job, worker = _Job(list(texts), Future()), self._worker
        worker.put(job)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(job.answer), self._timeout_s)
        except TimeoutError:
            return self._late(job, worker)

    def _late(self, job: _Job, worker: _Worker) -> Outcome:
        """What is known of a job that was not done in time; whose turn it was is told, and does not keep others waiting."""
        at_work = worker.at_work
        mine = at_work is not None and at_work[0] is job
        if mine and worker is self._worker:
            worker.put(None)
            self._left_behind.append(worker)
            self._worker = _Worker(self._recognizers)
        name = at_work[1].name if at_work is not None and mine else "others' texts"
        return Outcome([[] for _ in job.texts], dict.fromkeys(self.kinds, f"no answer in time: waited for {name}"))

    def close(self) -> None:
        """Ends the thread once it is done; one that hangs ends with the process."""
        self._worker.put(None)


def _findings(recognizer: Recognizer, text: str) -> list[Finding]:
    results = recognizer.analyze(text, recognizer.supported_entities, None) or []
    reason = f"Presidio: {recognizer.name}"
    return [
        Finding(result.entity_type, result.start, result.end, float(result.score), reason)
        for result in results
        if 0 <= result.start < result.end <= len(text)
    ]
