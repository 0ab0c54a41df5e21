"""W3C's headers of a trace: what is taken, what is not, what is handed on."""

import pytest

from lmi_chat.observability import trace_context
from lmi_chat.observability.trace_context import Trace

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GIVEN = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize("text", [GIVEN, f"01-{TRACE}-{SPAN}-01-what-comes-later", f"00-{TRACE}-{SPAN}-00"])
def test_a_callers_span_is_read(text: str) -> None:
    caller = trace_context.read(text, "vendor=1,other=two")
    assert caller is not None
    assert (caller.trace_id, caller.span_id) == (int(TRACE, 16), int(SPAN, 16))
    assert (caller.flags, caller.state) == (int(text.split("-")[3], 16), "vendor=1,other=two")


@pytest.mark.parametrize(
    "text",
    [
        *("", "00", GIVEN[:-1], GIVEN + "-more", GIVEN.upper(), f" {GIVEN}", f"{GIVEN}\n", f"ff-{TRACE}-{SPAN}-01"),
        *(f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01", f"00-{TRACE}-{SPAN}-0g", GIVEN.replace("-", "_")),
    ],
)
def test_what_is_none_begins_a_new_trace(text: str) -> None:
    assert trace_context.read(text) is None


@pytest.mark.parametrize("state", ["a" * 513, "ü=1", "a=1\r\nx: y"])
def test_a_state_that_may_not_be_is_left_out(state: str) -> None:
    caller = trace_context.read(GIVEN, state)
    assert caller is not None
    assert caller.state == ""


def test_headers_are_written() -> None:
    assert Trace(1, 2, is_sampled=True, began_ns=0).headers() == {"traceparent": f"00-{1:032x}-{2:016x}-01"}
    headers = Trace(int(TRACE, 16), int(SPAN, 16), is_sampled=False, began_ns=0, state="a=1").headers()
    assert headers == {"traceparent": f"00-{TRACE}-{SPAN}-00", "tracestate": "a=1"}


@pytest.mark.parametrize(
    ("headers", "attributes", "found"),
    [
        ({b"traceparent": GIVEN, b"tracestate": "a=1"}, "traceparent=00-other", (GIVEN, "a=1")),
        ({b"tracestate": "a=1"}, f"route=/v1/messages; traceparent = {GIVEN},x=1", (GIVEN, "")),
        ({b"tracestate": "a=1"}, "xtraceparent=00", ("", "")),
        ({}, "", ("", "")),
    ],
)
def test_custom_attributes_bring_it_where_headers_do_not(
    headers: dict[bytes, str], attributes: str, found: tuple[str, str]
) -> None:
    assert trace_context.of_headers(headers, attributes) == found
