"""Replaces personal data by tokens before a text leaves, and says how to put it back.

Safety fails closed: a finder that fails or is late stops the request unless the settings say otherwise. A redactor is
shared by all requests and keeps no text between them: what it remembers of a message is a keyed digest and offsets.
Knows nothing of HTTP. Restoring is in ``restore``.
"""

import asyncio
import hashlib
import json
import secrets
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import replace

from msgspec import structs

from guardrails.added import AddedData
from guardrails.changing import hashed, masked
from guardrails.detectors import asked, spoken, spoken_links
from guardrails.detectors.contacts import contact_patterns, place_patterns
from guardrails.detectors.merge import merged
from guardrails.detectors.names import SHIPPED_MODEL, NameFinder
from guardrails.detectors.numbers import bank_patterns, card_patterns, government_patterns, record_patterns
from guardrails.detectors.own import OwnFinder, Recognizer
from guardrails.detectors.pattern import Matcher, Pattern
from guardrails.detectors.spoken_names import name_patterns
from guardrails.detectors.view import View, json_view, plain_view
from guardrails.redaction_settings import CustomPattern, RedactionSettings
from guardrails.tokens import LITERAL, TOKEN_SHAPE, Numbering
from guardrails.types import Finding, PersonalDataBlocked, Redaction, RedactionUnavailable, Segment, TokenMap

__all__ = ["CustomPattern", "Redaction", "RedactionSettings", "Redactor", "TokenMap", "build_redactor"]

MOST_PASSES = (
    4  # of a redaction that nobody undoes; what a replaced value uncovers is rare, and rarer still a second time
)
INLINE_CHARACTERS = 4_000  # longer texts are matched in a thread: 2,000 characters take about half a millisecond
PHONE_REGIONS = {"US": ["US"], "UK": ["GB"], "EU": ["DE", "FR", "NL"], "IN": ["IN"], "ES": ["ES"], "MX": ["MX"]}


def build_redactor(
    settings: RedactionSettings, *, key: bytes | None = None, recognizers: Sequence[Recognizer] = ()
) -> "Redactor":
    """A redactor of these settings; close it with ``aclose``.

    ``key``: of the hash action and of the digests of remembered messages; random if not given, so that hashes then
    compare only within this redactor. ``recognizers``: Presidio EntityRecognizers of the operator's own.

    Raises:
        ValueError: a custom pattern is not RE2 syntax, or Presidio refuses the recogniser file.
    """
    names, own = None, list(recognizers)
    signals = {"spoken": spoken.SIGNAL, "links": spoken_links.SIGNAL, "transcript": asked.SIGNAL}
    patterns, key = _patterns(settings), key or secrets.token_bytes(32)
    matcher = Matcher(patterns, signals)
    added = AddedData(settings, patterns, key) if settings.answers.check == "on" else None
    if settings.presidio_recognizers is not None:
        from guardrails.detectors.presidio import load_recognizers

        own += load_recognizers(settings.presidio_recognizers)
    if settings.ner == "on":
        names = NameFinder(settings.ner_model or SHIPPED_MODEL, settings.ner_timeout_s)
    finder = OwnFinder(own, settings.ner_timeout_s) if own else None
    return Redactor(settings, matcher, names, key, finder, added)


def _patterns(settings: RedactionSettings) -> list[Pattern]:
    regions = [settings.region, *(region for country in settings.countries for region in PHONE_REGIONS[country])]
    built = [
        *card_patterns(),
        *bank_patterns(),
        *government_patterns(),
        *record_patterns(),
        *contact_patterns(list(dict.fromkeys(regions))),
        *place_patterns(),
        *(name_patterns() if settings.ner == "on" else ()),
    ]
    chosen = [
        pattern for pattern in built if not pattern.countries or pattern.countries.intersection(settings.countries)
    ]
    for own in settings.patterns:
        context = "|".join(own.context)
        chosen.append(
            Pattern(own.name, f"policy pattern {own.name}", own.regex, own.score, own.longest, context=context)
        )
    return chosen


class Redactor:
    """Finds and replaces personal data in conversations. Safe to share between tasks of any event loop."""

    def __init__(
        self,
        settings: RedactionSettings,
        matcher: Matcher,
        names: NameFinder | None,
        key: bytes,
        own: OwnFinder | None = None,
        added: AddedData | None = None,
    ) -> None:
        """``added``: what looks for personal data that answers add, or None where the policy does not want it."""
        self._settings, self._matcher, self._names, self._key, self._own = settings, matcher, names, key, own
        self.added = added
        self._remembered: OrderedDict[bytes, tuple[Finding, ...]] = OrderedDict()

    @property
    def horizon(self) -> int:
        """Longest pattern, in characters, that it promises to catch."""
        return max(p.longest for p in self._matcher.patterns if self._settings.action(p.kind) != "allow")

    def kinds(self) -> list[str]:
        """Every kind that is looked for and not allowed, in alphabetical order."""
        kinds = {pattern.kind for pattern in self._matcher.patterns} | (
            {"PERSON"} if self._names is not None else set()
        )
        kinds.update(self._own.kinds if self._own is not None else ())
        return sorted(kind for kind in kinds if self._settings.action(kind) != "allow")

    async def ready(self) -> None:
        """Wait for the name model; raises RedactionUnavailable if it cannot be loaded."""
        if self._names is not None:
            await self._names.ready()

    async def aclose(self) -> None:
        """Stop the worker thread."""
        if self._own is not None:
            self._own.close()
        if self._names is not None:
            await asyncio.to_thread(self._names.close)

    async def redact(self, segments: Sequence[Segment], *, one_way: bool = False) -> Redaction:
        """Replace what the settings say in each text.

        Tokens are numbered by first appearance over the segments in order, so that they stay the same when a
        conversation grows at its end. A token-looking string of the caller becomes a LITERAL token and is restored
        verbatim. Redacting redacted text is idempotent in this sense: a token of the first pass is one LITERAL of the
        second, and restoring the second gives exactly the first. Lone surrogates are left where they are.
        ``one_way``: nothing will be restored, so token-looking strings stay, no new token takes their number, and what the result would
        itself be redacted of is replaced too: redacting the result changes nothing.

        Raises:
            RedactionUnavailable: some kind was not checked.
            PersonalDataBlocked: a kind that the settings block was found.
        """
        redaction = await self._redact_once(segments, one_way)
        for _ in range(MOST_PASSES if one_way else 0):
            result = [structs.replace(each, text=text) for each, text in zip(segments, redaction.texts, strict=True)]
            again = await self._redact_once(result, one_way)
            if again.texts == redaction.texts:
                break
            redaction = replace(again, counts=Counter(redaction.counts) + Counter(again.counts), said=redaction.said)
        return redaction

    async def _redact_once(self, segments: Sequence[Segment], one_way: bool) -> Redaction:
        found, not_checked = await self._find(segments)
        blocked = {item.kind for items in found for item in items if self._settings.action(item.kind) == "block"}
        if blocked:
            raise PersonalDataBlocked(blocked)
        numbering = Numbering()
        counts: Counter[str] = Counter()
        if one_way:
            for segment in segments:
                numbering.reserve(segment.text)
            found = [tuple(item for item in items if item.kind != LITERAL) for items in found]
        texts = tuple(
            self._replaced(segment, items, numbering, counts) for segment, items in zip(segments, found, strict=True)
        )
        said = tuple(s.text[i.start : i.end] for s, items in zip(segments, found, strict=True) for i in items)
        return Redaction(texts, TokenMap(numbering.values()), dict(counts), not_checked, said)

    async def find(self, segments: Sequence[Segment]) -> list[tuple[Finding, ...]]:
        """Findings of each segment, allowed kinds included, without overlap, by place.

        Raises:
            RedactionUnavailable: some kind was not checked.
        """
        return (await self._find(segments))[0]

    async def _find(self, segments: Sequence[Segment]) -> tuple[list[tuple[Finding, ...]], tuple[str, ...]]:
        kinds = asked.asked_before(segments) if len(segments) > 1 else [""]
        turns = list(zip(segments, kinds[: len(segments)], strict=True))
        keys = [self._digest(segment, kind) for segment, kind in turns]
        known = {key: self._recall(key) for key in keys}
        new = {key: turn for key, turn in zip(keys, turns, strict=True) if known[key] is None}
        not_checked: tuple[str, ...] = ()
        if new:
            analysed, not_checked = await self._analyse(list(new.values()))
            for key, items in zip(new, analysed, strict=True):
                known[key] = items
                if not not_checked:
                    self._remember(key, items)
        return [known[key] or () for key in keys], not_checked

    async def _analyse(self, turns: list[tuple[Segment, str]]) -> tuple[list[tuple[Finding, ...]], tuple[str, ...]]:
        segments = [segment for segment, _ in turns]
        if sum(len(segment.text) for segment in segments) > INLINE_CHARACTERS:
            views, patterned = await asyncio.to_thread(self._match_all, turns)
        else:
            views, patterned = self._match_all(turns)
        named: list[list[Finding]] = [[] for _ in segments]
        not_checked: tuple[str, ...] = ()
        if self._names is not None:
            try:
                named = await self._names.find([view.text for view in views])
            except RedactionUnavailable as error:
                if self._settings.on_unavailable == "refuse":
                    raise
                not_checked = error.kinds
        if self._own is not None:
            outcome = await self._own.find([view.text for view in views])
            if outcome.failed and self._settings.on_unavailable == "refuse":
                raise RedactionUnavailable(outcome.failed, "; ".join(sorted(set(outcome.failed.values()))))
            for items, own in zip(patterned, outcome.found, strict=True):
                items.extend(own)
            not_checked = (*not_checked, *sorted(outcome.failed))
        merging = (views, patterned, named)
        if sum(len(segment.text) for segment in segments) > INLINE_CHARACTERS:
            return await asyncio.to_thread(
                lambda: [self._merge(*each) for each in zip(*merging, strict=True)]
            ), not_checked
        return [self._merge(*each) for each in zip(*merging, strict=True)], not_checked

    def _match_all(self, turns: list[tuple[Segment, str]]) -> tuple[list[View], list[list[Finding]]]:
        views = [_view(segment) for segment, _ in turns]
        try:
            return views, [self._match(view, kind) for view, (_, kind) in zip(views, turns, strict=True)]
        except Exception as error:  # noqa: BLE001 - a validator's defect must stop the request, and must not show its text
            raise RedactionUnavailable({p.kind for p in self._matcher.patterns}, type(error).__name__) from None

    def _match(self, view: View, kind: str) -> list[Finding]:
        """What patterns find in a text as typed, as spoken, and as the answer to what was asked."""
        text, expected = view.text, frozenset([kind]) if kind else frozenset()
        found, heard = self._matcher.look(text, expected)
        if "spoken" in heard:
            runs = spoken.spoken_runs(text)
            for typed, corrected in spoken.spoken_views(text, runs):
                again = self._matcher.find(typed.text, expected)
                found += [spoken.in_original(item, typed, corrected) for item in again]
            found += [*spoken.dictated(text, runs), *spoken.spelled_names(text, runs)]
        if "links" in heard:
            found += spoken_links.spoken_links(text)
        if kind or "transcript" in heard:
            found += asked.answers(text, kind, "transcript" in heard)
        return found if self._settings.ner == "on" else [item for item in found if item.kind != "PERSON"]

    def _merge(self, view: View, patterned: list[Finding], named: list[Finding]) -> tuple[Finding, ...]:
        # Merged in the view's characters: in the source of a JSON string a border could fall inside an escape.
        candidates = [item for item in (*patterned, *named) if item.score >= self._settings.min_score]
        candidates.extend(
            Finding(LITERAL, match.start(), match.end(), 2.0, "looks like a token")
            for match in TOKEN_SHAPE.finditer(view.text)
        )
        kept: list[Finding] = []
        for item in merged(candidates, view.text):
            for piece in _located(item, view):
                if not kept or piece.start >= kept[-1].end:  # two parts of one JSON number are one value
                    kept.append(piece)
        return tuple(kept)

    def _replaced(self, segment: Segment, items: Sequence[Finding], numbering: Numbering, counts: Counter[str]) -> str:
        text = segment.text
        view = _view(segment) if segment.form == "json" and items else None
        bare = view.bare if view is not None else frozenset()
        out, position = [], 0
        for item in items:
            action = "token" if item.kind == LITERAL else self._settings.action(item.kind)
            if action == "allow":
                continue
            counts[item.kind] += 1
            value = text[item.start : item.end]
            if segment.form == "json" and view is not None and view.starts is not None and item.start not in bare:
                value = _json_value(value)
            new = numbering.token(item.kind, value) if action == "token" else self._changed(action, item, value, text)
            if segment.form == "json" and view is not None and view.starts is not None:
                new = json.dumps(new)[1:-1]  # a masked value may hold a quote
            out += [text[position : item.start], f'"{new}"' if item.start in bare else new]
            position = item.end
        out.append(text[position:])
        return "".join(out)

    def _changed(self, action: str, item: Finding, value: str, text: str) -> str:
        if action == "hash":
            return hashed(self._key, item.kind, value)
        if action == "mask":
            return masked(value)
        # A space keeps what stood on both sides from joining into something that looks like a token.
        before, after = text[item.start - 1 : item.start], text[item.end : item.end + 1]
        return "" if before.isspace() or after.isspace() or not before or not after else " "

    def _digest(self, segment: Segment, kind: str) -> bytes:
        material = f"{kind}\0{segment.text}".encode("utf-8", "surrogatepass")
        return hashlib.blake2b(material, digest_size=16, key=self._key, person=segment.form.encode()).digest()

    def _recall(self, key: bytes) -> tuple[Finding, ...] | None:
        found = self._remembered.get(key)
        if found is not None:
            self._remembered.move_to_end(key)
        return found

    def _remember(self, key: bytes, items: tuple[Finding, ...]) -> None:
        self._remembered[key] = items
        while len(self._remembered) > self._settings.remembered_messages:
            self._remembered.popitem(last=False)


def _view(segment: Segment) -> View:
    view = json_view(segment.text) if segment.form == "json" else None
    return view or plain_view(segment.text)


def _located(item: Finding, view: View) -> list[Finding]:
    """A finding of the view in the original's offsets, cut where it crosses from one JSON string to another."""
    if view.starts is None:
        return [item]
    cuts = [joint for joint in view.joints if item.start <= joint < item.end] if view.joints else []
    if not cuts and view.in_a_name(item.start):
        return []
    if not cuts:
        return [Finding(item.kind, *view.original(item.start, item.end), item.score, item.reason)]
    pieces, start = [], item.start
    for cut in [*cuts, item.end]:
        left, right = start, cut
        while left < right and view.text[left] in ": \n":
            left += 1
        while right > left and view.text[right - 1] in ": \n":
            right -= 1
        is_key = view.text[cut : cut + 1] == " " and cut != item.end
        if left < right and not is_key:
            pieces.append(Finding(item.kind, *view.original(left, right), item.score, item.reason))
        start = cut + 1
    return pieces


def _json_value(source: str) -> str:
    import msgspec

    try:
        return msgspec.json.decode(f'"{source}"', type=str)
    except (msgspec.DecodeError, UnicodeError):
        return source
