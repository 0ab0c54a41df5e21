"""Keep the last requests, each as the JSON that it is shown as, and find those that are asked for."""

import re
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from lmi_chat.codec import json_text
from lmi_chat.console.answers import RequestRow
from lmi_chat.console.waterfall import spans_of
from lmi_chat.observability.record import RequestRecord, rounded

NAME_CHARS, MESSAGE_CHARS = 128, 600
"""Of a name, an adapter's or a user's, and of an error's sentence so much is kept."""
NAMED = ("model ", "adapter ")
"""An error's sentence that begins so repeats a name alone."""
ECHO, REMOVED = re.compile('".*"'), '"…"'
"""What another one repeats of a text that came: it may be of a prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which requests are asked for: texts stand in the field, a status is one or a hundred (4xx)."""

    id: str = ""
    user: str = ""
    adapter: str = ""
    status: str = ""


class _Kept(NamedTuple):
    id: str
    user: str
    adapter: str
    status: str
    data: bytes

    def is_wanted(self, wanted: Wanted) -> bool:
        return (
            wanted.id in self.id
            and wanted.user in self.user
            and wanted.adapter in self.adapter
            and wanted.status in {"", self.status, self.status[0] + "xx"}
        )


class RecentRequests:
    """The last requests, at most `most`."""

    def __init__(self, most: int) -> None:
        """Begin with none."""
        self.most = most
        self._kept: deque[_Kept] = deque(maxlen=most)

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, record: RequestRecord, total_s: float, gaps: tuple[float | None, float | None]) -> None:
        """Keep a request that ended now, after `total_s` seconds; `gaps`: the median one and the longest."""
        row = _row(record, total_s, gaps)
        data = bytes(memoryview(json_text.dump(row)))  # a copy: what orjson gives takes up to eight times its length
        self._kept.append(_Kept(row["id"], row["user"] or "", row["adapter"] or "", str(row["status"]), data))

    def newest(self, wanted: Wanted, limit: int) -> Iterator[bytes]:
        """Go through those that are wanted, newest first, at most `limit`, each as JSON."""
        for kept in reversed(self._kept):
            if limit <= 0:
                return
            if kept.is_wanted(wanted):
                limit -= 1
                yield kept.data

    def find(self, request_id: str) -> bytes | None:
        """The newest request of an id as JSON."""
        return next((kept.data for kept in reversed(self._kept) if kept.id == request_id), None)


def _row(record: RequestRecord, total_s: float, gaps: tuple[float | None, float | None]) -> RequestRow:
    return {
        "id": record.id,
        "inference_id": record.inference_id or None,
        "time": round(time.time() - total_s, 3),
        "dialect": record.dialect or None,
        "adapter": _cut(record.adapter, NAME_CHARS) or None,
        "user": _cut(record.user, NAME_CHARS) or None,
        "key": _cut(record.owner, NAME_CHARS) or None,
        "stream": record.is_stream,
        "status": record.status,
        "error": record.error,
        "finish_reason": ",".join(dict.fromkeys(record.reasons)) or None,
        "prompt_tokens": record.prompt_tokens,
        "cached_tokens": record.cached_tokens,
        "completion_tokens": record.completion_tokens,
        "ttft_s": rounded(record.ttft_s if record.ttft_s is not None else record.begun_s),
        "total_s": round(total_s, 6),
        "spans": [*spans_of(record, total_s)],
        "gap_p50_s": rounded(gaps[0]),
        "gap_max_s": rounded(gaps[1]),
        "message": _cut(_without_content(record.message), MESSAGE_CHARS) or None,
    }


def _without_content(message: str) -> str:
    return message if message.startswith(NAMED) else ECHO.sub(REMOVED, message)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
