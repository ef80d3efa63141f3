"""One audit, from the first honeytoken to the table: plant, let everything be written, search every place, tell what was found where.

It tells kinds, forms, ways in and places, never a value. Fails closed: a place that cannot be shown to have been searched is no zero.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.audit.honeytokens import Honeytoken, honeytokens
from gateway.audit.probes import MARKER, Probe, probes
from gateway.audit.search import Search, squeezed
from gateway.audit.send import Answer, Sender
from gateway.audit.stand import Stand, Target, stand
from gateway.audit.values import Values
from gateway.settings import Settings

BATCH = 6  # values of one request
AT_ONCE = 8  # requests in flight
PLACES = {
    "model": "what backends were sent",
    "judge": "what models that judge were asked",
    "traces": "spans, as the collector received them",
    "logs": "the gateway's log",
    "metrics": "GET /metrics",
    "redis": "keys and values: caches, limits, features",
    "recordings": "recordings, unsealed",
    "files": "all other files: databases, audit rows, journals, Redis' log",
    "errors": "errors and headers on the wire",
    "others": "answers to other callers",
}
_MARKED = ("model", "judge", "traces", "redis", "recordings")
Tell = Callable[[str, int, int], None]
"""What is being done, how much of it is done, of how much."""


@dataclass(frozen=True, slots=True, repr=False)
class Planted:
    """A honeytoken, and the way by which it came in."""

    token: Honeytoken
    probe: str


@dataclass(frozen=True, slots=True)
class Leak:
    """What was found where: never the value."""

    kind: str
    form: str
    probe: str
    place: str


@dataclass(slots=True)
class Report:
    """What an audit found. ``unproven``: why zeros of a place or kind mean nothing."""

    seed: int
    planted: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    restored: int = 0
    restorable: int = 0
    leaks: list[Leak] = field(default_factory=list)
    unproven: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0: nothing leaked; 1: something did; 2: nothing was found, but not everything was searched."""
        return 1 if self.leaks else 2 if self.unproven else 0


async def audit(
    settings: Settings, targets: Sequence[Target], folder: Path, *, seed: int, kinds: Sequence[str], tell: Tell
) -> Report:
    """Raises: PartFailedError, PartMissingError when a part of the stand does not start."""
    tell("starting Redis and the gateway", 0, 1)
    async with stand(settings, targets, folder) as started:
        silent = (
            () if settings.telemetry.record_texts else ("traces",)
        )  # spans hold no texts by setting, so no harmless words either
        run = _Run(started, seed, kinds, tell, marked=[place for place in _MARKED if place not in silent])
        for target in targets:
            await run.plant(target)
        await run.search(targets)
    return run.report


class _Run:
    def __init__(self, started: Stand, seed: int, kinds: Sequence[str], tell: Tell, *, marked: Sequence[str]) -> None:
        self._marked = marked
        self._silent: set[str] = set()
        self._stand = started
        self._values = Values(seed)
        self._kinds = kinds
        self._tell = tell
        self._planted: list[Planted] = []
        self._errors: list[str] = []
        self._to_others: list[tuple[str, frozenset[str]]] = []  # an answer, and what its own caller had said
        self.report = Report(seed)

    async def plant(self, target: Target) -> None:
        """Every kind by every way in, as the first caller; what may be cached also as a second one, with values of its own."""
        wanted = [probe for probe in probes() if not target.knowledge or probe.grounded]
        async with (
            Sender(self._stand.url, self._stand.keys[0]) as first,
            Sender(self._stand.url, self._stand.keys[1]) as second,
        ):
            tokens: list[Honeytoken] = []
            for done, probe in enumerate(wanted):
                self._tell(f"{target.policy}: {probe.name}", done, len(wanted))
                tokens = tokens if probe.again else self._fresh(target, probe)
                self._planted += [Planted(token, probe.name) for token in tokens]
                await self._send(first, target, probe, tokens)
                if probe.again:
                    others = self._fresh(target, probe)
                    own = frozenset(needle for token in others for needle in token.needles)
                    self._to_others += [(a.body, own) for a in await self._answers(second, target, probe, others)]

    def _fresh(self, target: Target, probe: Probe) -> list[Honeytoken]:
        drawn = honeytokens(self._values, target.promise.countries, self._kinds)
        if probe.by_field:
            return [
                token for token in drawn if token.field is not None and (token.speaks_for_itself or not probe.alone)
            ]
        return drawn if probe.in_turns else [token for token in drawn if len(token.turns) == 1]

    async def _send(self, sender: Sender, target: Target, probe: Probe, tokens: Sequence[Honeytoken]) -> None:
        answers = await self._answers(sender, target, probe, tokens)
        if probe.answers and tokens:
            self._silent.add(probe.name)
        for answer in answers:
            self.report.requests += 1
            self.report.planted.update(token.kind for token in answer.tokens)
            self._errors.append(answer.headers if answer.ok else f"{answer.headers}\n{answer.error()}")
            if not answer.ok:
                continue
            self.report.answered.update({token.kind for token in answer.tokens})
            self._silent.discard(probe.name)
            if probe.answers:
                self._count_restored(target, answer)

    async def _answers(
        self, sender: Sender, target: Target, probe: Probe, tokens: Sequence[Honeytoken]
    ) -> list[Answer]:
        size = 1 if probe.single else BATCH
        batches = [tokens[place : place + size] for place in range(0, len(tokens), size)]
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(batch: Sequence[Honeytoken]) -> Answer:
            async with gate:
                return await sender.send(probe, f"{target.name}-{probe.behaviour}", batch)

        return await asyncio.gather(*map(one, batches[:1] if probe.once else batches))

    def _count_restored(self, target: Target, answer: Answer) -> None:
        texts = answer.said()
        for token in answer.tokens:
            if target.promise.reversible(token.kind):
                self.report.restorable += 1
                wanted = [text for role, text in token.turns if role == "user"]
                self.report.restored += bool(texts) and all(text in said for said in texts for text in wanted)

    async def search(self, targets: Sequence[Target]) -> None:
        """Every place, after the gateway has written what it held."""
        stand_ = self._stand
        self._tell("waiting until everything is written", 0, 1)
        async with Sender(stand_.url, stand_.keys[0]) as sender:
            metrics = await sender.get("/metrics")
        redis = await stand_.redis()
        await stand_.stop_gateway()
        places: dict[str, Iterable[str]] = {
            "model": stand_.upstream.requests,
            "judge": stand_.upstream.judged,
            "traces": [sent.decode("utf-8", "replace") for sent in stand_.upstream.traces],
            "logs": stand_.logs(),
            "metrics": [metrics],
            "redis": redis,
            "recordings": stand_.recordings(targets),
            "files": stand_.files(),
            "errors": self._errors,
            "others": [body for body, _ in self._to_others],
        }
        by_needle: dict[str, Planted] = {}
        for planted in self._planted:
            by_needle.update({needle: by_needle.get(needle, planted) for needle in planted.token.needles})
        search, marker = Search([*by_needle, squeezed(MARKER)]), squeezed(MARKER)
        found: set[Leak] = set()
        for done, (place, texts) in enumerate(places.items()):
            self._tell(f"searching {place}: {PLACES[place]}", done, len(places))
            hits, empty = await asyncio.to_thread(_hits, search, texts)
            if place == "others":
                hits = await asyncio.to_thread(_not_their_own, search, self._to_others)
            if empty or (place in self._marked and marker not in hits):
                self.report.unproven.append(
                    f"{place}: " + ("nothing to search" if empty else "not even harmless words arrived")
                )
            for planted in {id(by_needle[hit]): by_needle[hit] for hit in hits - {marker}}.values():
                found.add(Leak(planted.token.kind, planted.token.form, planted.probe, place))
        self.report.leaks = sorted(found, key=lambda leak: (leak.kind, leak.place, leak.probe, leak.form))
        self.report.unproven += [f"'{probe}': no request of it was answered" for probe in sorted(self._silent)]
        silent = sorted(kind for kind in self.report.planted if not self.report.answered[kind])
        self.report.unproven += [f"{kind}: no request with it was answered" for kind in silent]


def _hits(search: Search, texts: Iterable[str]) -> tuple[set[str], bool]:
    hits: set[str] = set()
    empty = True
    for text in texts:
        empty = empty and not text
        hits |= search.found(text)
    return hits, empty


def _not_their_own(search: Search, answers: Iterable[tuple[str, frozenset[str]]]) -> set[str]:
    """What was found but for what its caller had said too: "21 Elm Road" stands in their own "121 Elm Road"."""
    return {hit for body, own in answers for hit in search.found(body) if not any(hit in said for said in own)}


def as_json(report: Report) -> dict[str, Any]:
    """For machines."""
    places: Counter[tuple[str, str]] = Counter((leak.kind, leak.place) for leak in report.leaks)
    return {
        "seed": report.seed,
        "requests": report.requests,
        "planted": dict(sorted(report.planted.items())),
        "restored": report.restored,
        "restorable": report.restorable,
        "table": {kind: {place: places[kind, place] for place in PLACES} for kind in sorted(report.planted)},
        "leaks": [
            {"kind": leak.kind, "form": leak.form, "probe": leak.probe, "place": leak.place} for leak in report.leaks
        ],
        "unproven": report.unproven,
        "exit_code": report.exit_code,
    }
