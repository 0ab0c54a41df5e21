"""Turn a request's times into the spans of a waterfall: each begins where the one before it ends."""

from collections.abc import Sequence

from lmi_chat.console.answers import SpanName, SpanOfTime
from lmi_chat.observability.record import RequestRecord

OK = 200


def spans_of(record: RequestRecord, total_s: float) -> Sequence[SpanOfTime]:
    """The spans of a request that ended after `total_s` seconds, as far as it came.

    The last one that began ends with the request; `client` is what the client took after the last token.
    """
    found: list[SpanOfTime] = []
    at_s = 0.0
    for name, end_s in _ends(record, total_s):
        until_s = total_s if end_s is None else min(max(end_s, at_s), total_s)
        if until_s > at_s:
            found.append({"name": name, "start_s": round(at_s, 6), "end_s": round(until_s, 6)})
        at_s = until_s
        if end_s is None:
            break
    return found


def _ends(record: RequestRecord, total_s: float) -> Sequence[tuple[SpanName, float | None]]:
    """When each span ended; None: not before the request did."""
    is_answered = record.error is None and record.status == OK
    if record.parsed_s is None or (not record.seated_s and not is_answered):
        refused: list[tuple[SpanName, float | None]] = [
            ("received", record.received_s),
            ("parsed", record.parsed_s),
            ("queued", None),
        ]
        return refused
    ends: list[tuple[SpanName, float | None]] = [("received", record.received_s), ("parsed", record.parsed_s)]
    if not record.seated_s:  # it needed no engine
        return [*ends, ("client", None)]
    first_s = record.ttft_s if record.ttft_s is not None else record.begun_s
    ready_s = record.seated_s
    if record.ttft_s is not None and record.prefill_s is not None:
        ready_s = record.ttft_s - record.prefill_s
    last_s = None if first_s is None or record.decode_s is None else first_s + record.decode_s
    return [*ends, ("queued", ready_s), ("prefill", first_s), ("decode", last_s), ("client", total_s)]
