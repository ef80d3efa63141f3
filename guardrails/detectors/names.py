"""Names of people by a model, in one worker thread that batches across concurrent requests.

The model is the shipped tagger, or any spaCy package or folder (the only file that imports spaCy). Fails closed: a model that does not load, a full
queue or a late answer raises. Nothing grows with what was read: the tagger forgets words beyond a bound, spaCy runs in memory zones.
"""

import asyncio
import queue
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guardrails.detectors.spoken import NUMBERS, REPEATS, TENS, ZERO
from guardrails.detectors.tagger import Tagger
from guardrails.types import Finding, RedactionUnavailable

SHIPPED_MODEL = str(Path(__file__).parents[1] / "models" / "ner")
Entity = tuple[str, int, int, float]  # kind, start, end, score
KINDS = {
    "PERSON": "PERSON",
    "GPE": "LOCATION",
    "LOC": "LOCATION",
    "ORG": "ORGANIZATION",
    "STREET_ADDRESS": "STREET_ADDRESS",
    "LOCATION": "LOCATION",
    "ORGANIZATION": "ORGANIZATION",
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
NUMBER_WORDS = frozenset([*NUMBERS, *TENS, *ZERO, *REPEATS, "hundred", "thousand"])
BATCH_TEXTS = 64
CLOSE_S = 30.0
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
        """Stop the worker; jobs that wait are refused. One that hangs ends with the process."""
        self._jobs.put(None)
        self._thread.join(CLOSE_S)

    def _work(self) -> None:
        try:
            find = _load(self._model)
        except Exception as error:  # noqa: BLE001 - whatever went wrong, every request must be refused
            self._failure = f"the name model does not load ({type(error).__name__})"
            self._loaded.set()
            return
        self._loaded.set()
        open_ = True
        while open_:
            jobs, open_ = self._next_batch()
            if jobs:
                self._answer(find, jobs)
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

    def _answer(self, find: Callable[[list[str]], list[list[Entity]]], jobs: list[_Job]) -> None:
        try:
            found = _analyse(find, [text for job in jobs for text in job.texts])
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


def _load(model: str) -> Callable[[list[str]], list[list[Entity]]]:
    """What finds the entities of texts: the tagger where a folder holds one, else spaCy."""
    if (Path(model) / "weights.npz").is_file():
        tagger = Tagger(Path(model))
        # Below what patterns in context score: they know the borders of a name better.
        return lambda texts: [[(k, a, b, 0.45 + 0.22 * sure) for k, a, b, sure in found] for found in tagger.tag(texts)]
    nlp = _load_spacy(model)

    def find(texts: list[str]) -> list[list[Entity]]:
        with nlp.memory_zone():
            docs = nlp.pipe(texts, batch_size=64)
            return [[(KINDS.get(e.label_, ""), e.start_char, e.end_char, 0.7) for e in doc.ents] for doc in docs]

    return find


def _load_spacy(model: str) -> Any:
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


def _analyse(find: Callable[[list[str]], list[list[Entity]]], texts: list[str]) -> list[list[Finding]]:
    pieces = [(index, start, part) for index, text in enumerate(texts) for start, part in _pieces(text)]
    found: list[list[Finding]] = [[] for _ in texts]
    for begun in range(0, len(pieces), BATCH_TEXTS):
        block = pieces[begun : begun + BATCH_TEXTS]
        for (index, offset, part), entities in zip(block, find([part for *_, part in block]), strict=True):
            found[index].extend(
                Finding(kind, offset + start, offset + end, score, "name model")
                for kind, start, end, score in entities
                if kind and not (kind == "PERSON" and _no_name(part[start:end]))
            )
    return found


def _no_name(text: str) -> bool:
    """What a model takes for a person in ordinary turns and is none: brands of cards, currencies, odd spellings."""
    if NUMBER_WORDS.issuperset(text.lower().replace("-", " ").split()):
        return True
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
