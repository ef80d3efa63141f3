"""Server-sent events mean the same however the bytes are cut."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import UpstreamError, UpstreamInvalid
from gateway.types import Chunk
from gateway.wire.sse import MAX_EVENT_BYTES, EventReader, encode_event

texts = st.text(max_size=30)
line_ends = st.sampled_from(["\n", "\r\n", "\r"])


def read(pieces: list[bytes]) -> tuple[list[Chunk], bool]:
    reader = EventReader()
    chunks = [chunk for piece in pieces for chunk in reader.feed(piece)]
    return chunks + reader.close(), reader.done


@given(st.lists(texts, max_size=6), line_ends, st.lists(st.integers(0, 400), max_size=12), st.booleans(), st.booleans())
def test_every_split_of_the_bytes_gives_the_same_chunks(
    said: list[str], end: str, cuts: list[int], comments: bool, done: bool
) -> None:
    wanted = [{"text": text} for text in said]
    lines = [
        f"data: {json.dumps(chunk)}{end}{end}" + (f": a comment{end}{end}" if comments else "") for chunk in wanted
    ]
    raw = ("".join(lines) + (f"data: [DONE]{end}{end}" if done else "")).encode()
    places = sorted({min(cut, len(raw)) for cut in cuts})
    pieces = [raw[a:b] for a, b in zip([0, *places], [*places, len(raw)], strict=True)]
    assert read(pieces) == (wanted, done)


def test_several_data_lines_are_one_event_and_other_fields_are_passed_over() -> None:
    assert read([b'event: x\nid: 7\ndata: {"a":\ndata: 1}\n\n']) == ([{"a": 1}], False)


def test_the_last_event_counts_without_its_blank_line() -> None:
    assert read([b'data: {"a": 1}']) == ([{"a": 1}], False)


def test_nothing_counts_after_done() -> None:
    assert read([b'data: [DONE]\n\ndata: {"a": 1}\n\n']) == ([], True)


def test_what_is_encoded_is_read_back() -> None:
    assert read([encode_event({"choices": [{"text": "é\n\r✓"}]})])[0] == [{"choices": [{"text": "é\n\r✓"}]}]


@pytest.mark.parametrize(
    "data", [b"data: nonsense\n\n", b"data: [1]\n\n", b"data: \xff\n\n", b"data: " + b"x" * (MAX_EVENT_BYTES + 1)]
)
def test_an_event_that_is_no_object_or_too_long_is_refused(data: bytes) -> None:
    with pytest.raises(UpstreamInvalid):
        read([data])


def test_an_error_event_is_an_error_that_does_not_repeat_its_words() -> None:
    with pytest.raises(UpstreamError) as caught:
        read([b'data: {"error": {"message": "SECRET"}}\n\n'])
    assert "SECRET" not in str(caught.value)
