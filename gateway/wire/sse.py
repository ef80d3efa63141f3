"""Server-sent events: bytes in, JSON chunks out, and back. It knows framing only, not what a chunk means.

Framing follows the WHATWG HTML standard, section 9.2.6 (interpreting an event stream): lines end in LF, CR LF or CR, a line that
begins with a colon is a comment, and several ``data:`` lines are joined with LF.
"""

from __future__ import annotations

import msgspec

from gateway.errors import UpstreamError, UpstreamInvalid
from gateway.types import Chunk, Json

MAX_EVENT_BYTES = 1 << 20
DONE = b"data: [DONE]\n\n"

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class EventReader:
    """Chunks out of bytes that arrive in any pieces. One per upstream answer.

    ``done`` is set by ``[DONE]``; what follows it is ignored.
    """

    __slots__ = ("_data", "_rest", "done")

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self.done = False

    def feed(self, data: bytes) -> list[Chunk]:
        """The chunks that these bytes complete.

        Raises: UpstreamInvalid for an event over 1 MiB or one that is not a JSON object, UpstreamError for an error event.
        """
        data = self._rest + data if self._rest else data
        half_line_end = b""
        if b"\r" in data:
            if data.endswith(b"\r"):  # perhaps the first half of CR LF
                data, half_line_end = data[:-1], b"\r"
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, rest = data.split(b"\n")
        self._rest = rest + half_line_end
        if len(self._rest) > MAX_EVENT_BYTES:
            raise UpstreamInvalid("The model's stream held an event of more than 1 MiB.")
        chunks: list[Chunk] = []
        for line in lines:
            if not line:
                self._dispatch(chunks)
            elif line.startswith(b"data:"):
                self._data.append(line[6:] if line[5:6] == b" " else line[5:])
        return chunks

    def close(self) -> list[Chunk]:
        """The last event of a stream that ended without its blank line."""
        chunks = self.feed(b"\n\n") if self._rest or self._data else []
        return chunks

    def _dispatch(self, chunks: list[Chunk]) -> None:
        if not self._data or self.done:
            self._data.clear()
            return
        data = b"\n".join(self._data)
        self._data.clear()
        if data == b"[DONE]":
            self.done = True
            return
        chunk = decode_object(data)
        if chunk.get("error"):
            raise UpstreamError("The model reported an error in the middle of its answer.", code="upstream_error")
        chunks.append(chunk)


def decode_object(data: bytes) -> Json:
    """A JSON object from a backend. Raises: UpstreamInvalid, without repeating what it said."""
    try:
        value = _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise UpstreamInvalid("The model's server answered with something that is not JSON.") from None
    if type(value) is not dict:
        raise UpstreamInvalid("The model's server answered with JSON that is not an object.")
    return value


def encode_event(chunk: Json) -> bytes:
    return b"data: " + _encode(chunk) + b"\n\n"


def encode_named_event(name: str, data: Json) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + _encode(data) + b"\n\n"


def encode_body(body: Json) -> bytes:
    return _encode(body)
