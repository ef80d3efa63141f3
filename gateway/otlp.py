"""Spans as OTLP bytes: the few messages of opentelemetry-proto's trace service that the gateway sends, written by hand.

It is on the path of every traced request; its test reads what it wrote with the official library. Field numbers are those of
opentelemetry/proto/{common,resource,trace,collector/trace}/v1. It knows no record and no attribute's meaning.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from struct import Struct
from typing import Any

INTERNAL, SERVER, CLIENT = 1, 2, 3
_FIXED = Struct("<Q").pack
_DOUBLE = Struct("<d").pack
_OK = b"\x7a\x02\x18\x01"  # Span.status (15) = {code (3): STATUS_CODE_OK}
_REMEMBERED = 4096


class SpanWriter:
    """Encodes spans; it remembers encoded attribute keys, at most 4,096 of them."""

    def __init__(self) -> None:
        self._keys: dict[str, bytes] = {}
        self._constant: dict[tuple[Any, ...], bytes] = {}

    def constant(self, names: tuple[str, ...], values: tuple[Any, ...]) -> bytes:
        """Attributes that many spans share, encoded once; at most 4,096 sets are remembered."""
        found = self._constant.get(values)
        if found is None:
            found = self.attributes(dict(zip(names, values, strict=True)), b"\x4a")
            if len(self._constant) < _REMEMBERED:
                self._constant[values] = found
        return found

    def request(self, resource: Mapping[str, Any], spans: Iterable[bytes]) -> bytes:
        """An ExportTraceServiceRequest with one resource and one scope. ``spans`` come from ``span``."""
        scope = _message(b"\x0a", _message(b"\x0a", b"callgate"))
        scoped = _message(b"\x12", scope + b"".join(_message(b"\x12", span) for span in spans))
        described = _message(b"\x0a", self.attributes(resource, b"\x0a"))
        return _message(b"\x0a", described + scoped)

    def span(
        self,
        trace_id: bytes,
        span_id: bytes,
        parent_id: bytes,
        name: str,
        kind: int,
        start_ns: int,
        end_ns: int,
        attributes: Mapping[str, Any],
        error: str,
        encoded: bytes = b"",
    ) -> bytes:
        """One Span message. ``error`` empty: status ok. ``encoded``: more attributes, from ``constant``."""
        head = b"\x0a\x10" + trace_id + b"\x12\x08" + span_id + (b"\x22\x08" + parent_id if parent_id else b"")
        times = b"\x39" + _FIXED(start_ns) + b"\x41" + _FIXED(end_ns)
        status = _message(b"\x7a", _message(b"\x12", error.encode()) + b"\x18\x02") if error else _OK
        named = _message(b"\x2a", name.encode())
        return head + named + b"\x30" + _varint(kind) + times + encoded + self.attributes(attributes, b"\x4a") + status

    def attributes(self, values: Mapping[str, Any], tag: bytes) -> bytes:
        """Repeated KeyValue messages under a field's tag. None and empty texts are left out."""
        out: list[bytes] = []
        keys = self._keys
        for name, value in values.items():
            if value is None or value == "":
                continue
            kind = type(value)
            if kind is str:
                text = value.encode("utf-8", "replace")
                size = len(text)
                told = b"\x0a%c%b" % (size, text) if size < 128 else b"\x0a" + _varint(size) + text
            elif kind is int:
                told = b"\x18" + _varint(value & 0xFFFFFFFFFFFFFFFF)
            elif kind is bool:
                told = b"\x10\x01" if value else b"\x10\x00"
            elif kind is float:
                told = b"\x21" + _DOUBLE(value)
            else:
                text = str(value).encode("utf-8", "replace")
                told = b"\x0a" + _varint(len(text)) + text
            key = keys.get(name) or self._key(name)
            size = len(told)
            pair = b"%b\x12%c%b" % (key, size, told) if size < 128 else b"%b\x12%b%b" % (key, _varint(size), told)
            size = len(pair)
            out.append(b"%b%c%b" % (tag, size, pair) if size < 128 else b"%b%b%b" % (tag, _varint(size), pair))
        return b"".join(out)

    def _key(self, name: str) -> bytes:
        key = _message(b"\x0a", name.encode())
        if len(self._keys) < _REMEMBERED:
            self._keys[name] = key
        return key


def _message(tag: bytes, content: bytes) -> bytes:
    return tag + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    """Base-128, least significant group first."""
    if value < 128:
        return b"%c" % value
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
