"""Read the trace that a request belongs to from its headers, and write it into others' (W3C, "Trace Context")."""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass

PARENT = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
"""Version (of which 00 has four parts), trace, the caller's span, flags."""
MEMBER = r"[ \t]*(?:[a-z0-9][a-z0-9_*/@-]{0,255}=[ -+\--<>-~]{1,256})?[ \t]*"
STATE = re.compile(rf"{MEMBER}(?:,{MEMBER}){{0,31}}")
STATE_CHARS = 512
"""Of `tracestate`, members such as vendor=value after commas, 32 at most; any other is dropped in silence."""
IN_ATTRIBUTES = re.compile(r"(?:^|[,;])[ \t]*traceparent[ \t]*=[ \t]*([0-9a-f-]+)")
"""SageMaker hands no header of a caller on but its custom attributes."""
SAMPLED = 1


@dataclass(frozen=True, slots=True)
class Caller:
    """The span that a request comes from."""

    trace_id: int
    span_id: int
    flags: int
    state: str = ""


@dataclass(frozen=True, slots=True)
class Trace:
    """A request's own span: its ids, its caller if it has one, and when it began, in nanoseconds since 1970."""

    trace_id: int
    span_id: int
    is_sampled: bool
    began_ns: int
    caller: Caller | None = None
    state: str = ""

    def headers(self) -> dict[str, str]:
        """The headers by which what it calls, and its caller, know it."""
        parent = f"00-{self.trace_id:032x}-{self.span_id:016x}-{SAMPLED if self.is_sampled else 0:02x}"
        return {"traceparent": parent, "tracestate": self.state} if self.state else {"traceparent": parent}


def read(parent: str, state: str = "") -> Caller | None:
    """Read the headers `traceparent` and `tracestate`; None where the first is not what it may be."""
    found = PARENT.fullmatch(parent)
    if found is None or (found[1] == "00" and found[5] is not None):
        return None
    known = state if len(state) <= STATE_CHARS and STATE.fullmatch(state) else ""
    return Caller(int(found[2], 16), int(found[3], 16), int(found[4], 16), known)


def of_headers(headers: Mapping[bytes, str], attributes: str) -> tuple[str, str]:
    """Find `traceparent` and `tracestate` in headers, names in lower case, else in the custom `attributes`."""
    parent = headers.get(b"traceparent", "")
    if not parent and attributes and (found := IN_ATTRIBUTES.search(attributes)):
        return found[1], ""
    return parent, headers.get(b"tracestate", "") if parent else ""


def began_ns(age_s: float) -> int:
    """The time, in nanoseconds since 1970, of what began `age_s` seconds ago."""
    return time.time_ns() - int(age_s * 1e9)
