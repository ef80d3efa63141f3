"""What is written by hand as OTLP is what the official library reads."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from gateway.otlp import CLIENT, SpanWriter

VALUES = (
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300)
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


@given(
    attributes=st.dictionaries(NAMES, VALUES, max_size=12),
    error=st.sampled_from(["", "upstream_timeout"]),
    start_ns=st.integers(0, 2**63),
    name=NAMES,
)
def test_the_official_library_reads_every_field_back(
    attributes: dict[str, Any], error: str, start_ns: int, name: str
) -> None:
    writer = SpanWriter()
    span = writer.span(b"t" * 16, b"s" * 8, b"p" * 8, name, CLIENT, start_ns, start_ns + 5, attributes, error)
    read = ExportTraceServiceRequest.FromString(writer.request({"service.name": "callgate"}, [span, span]))
    resource = read.resource_spans[0]
    assert resource.resource.attributes[0].value.string_value == "callgate"
    assert len(resource.scope_spans[0].spans) == 2
    back = resource.scope_spans[0].spans[1]
    assert (back.trace_id, back.span_id, back.parent_span_id) == (b"t" * 16, b"s" * 8, b"p" * 8)
    assert (back.name, back.kind, back.start_time_unix_nano, back.end_time_unix_nano) == (
        name,
        3,
        start_ns,
        start_ns + 5,
    )
    assert (back.status.message, back.status.code) == (error, 2 if error else 1)
    seen = {pair.key: getattr(pair.value, str(pair.value.WhichOneof("value"))) for pair in back.attributes}
    assert seen == attributes


def test_a_lone_surrogate_does_not_stop_a_trace() -> None:
    writer = SpanWriter()
    span = writer.span(b"t" * 16, b"s" * 8, b"", "x", CLIENT, 1, 2, {"a": "\ud800"}, "")
    read = ExportTraceServiceRequest.FromString(writer.request({}, [span]))
    assert read.resource_spans[0].scope_spans[0].spans[0].attributes[0].value.string_value == "?"
