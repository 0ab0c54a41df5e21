"""Where a request's time went, as far as it came."""

from typing import Any

import pytest

from lmi_chat.console.waterfall import spans_of
from lmi_chat.observability.record import RequestRecord

WHOLE: dict[str, Any] = {
    "received_s": 1,
    "parsed_s": 2,
    "seated_s": 3,
    "queue_s": 2.5,
    "ttft_s": 6,
    "prefill_s": 2,
    "decode_s": 2,
}


@pytest.mark.parametrize(
    ("facts", "spans"),
    [
        (WHOLE, "received 0-1 parsed 1-2 queued 2-4 prefill 4-6 decode 6-8 client 8-10"),
        (WHOLE | {"decode_s": 9}, "received 0-1 parsed 1-2 queued 2-4 prefill 4-6 decode 6-10"),
        ({"error": "too_large", "status": 413}, "received 0-10"),
        ({"received_s": 1, "error": "bad_field", "status": 400}, "received 0-1 parsed 1-10"),
        ({"received_s": 1, "parsed_s": 2, "error": "busy", "status": 503}, "received 0-1 parsed 1-2 queued 2-10"),
        ({"received_s": 1, "parsed_s": 2, "status": 499}, "received 0-1 parsed 1-2 queued 2-10"),
        ({"received_s": 1, "parsed_s": 2}, "received 0-1 parsed 1-2 client 2-10"),
        (
            {"received_s": 1, "parsed_s": 2, "seated_s": 3, "status": 499},
            "received 0-1 parsed 1-2 queued 2-3 prefill 3-10",
        ),
        (
            {"received_s": 1, "parsed_s": 2, "seated_s": 3, "begun_s": 5, "status": 499},
            "received 0-1 parsed 1-2 queued 2-3 prefill 3-5 decode 5-10",
        ),
        ({}, "received 0-10"),
    ],
)
def test_spans(facts: dict[str, Any], spans: str) -> None:
    found = spans_of(RequestRecord(**facts), 10.0)
    assert " ".join(f"{span['name']} {span['start_s']:g}-{span['end_s']:g}" for span in found) == spans
