"""Encode the parts of an asynchronous answer as DJL's Python engine reads them: pairs of texts, big-endian.

i16 number of pairs, then for each pair key and value as i32 length and UTF-8. The pairs: `data`, `last` ("True" or
"False"), and for a refusal `code` and `error`. (DJL Serving, engines/python: AsyncRequestManager, binary_encode.)
"""

import asyncio
import struct
from collections.abc import Iterable, Iterator

from lmi_chat.errors import Error

# DJL's connection ends at a frame of 20 MiB.
PART_BYTES = 8 * 1024 * 1024


def part(data: bytes, *, is_last: bool) -> bytes:
    """Encode one part that carries `data`, which is complete UTF-8."""
    last = b"\0\0\0\4last\0\0\0\4True" if is_last else b"\0\0\0\4last\0\0\0\5False"
    return b"\0\2\0\0\0\4data" + struct.pack(">i", len(data)) + data + last


def refusal(error: Error) -> bytes:
    """Encode the part that ends an answer with an error: DJL makes {"code", "error"} and the status line of it."""
    return pairs((("data", ""), ("last", "True"), ("code", str(error.status)), ("error", error.message)))


def pairs(texts: Iterable[tuple[str, str]]) -> bytes:
    """Encode pairs of texts as a part."""
    encoded = [_text(name) + _text(text) for name, text in texts]
    return struct.pack(">h", len(encoded)) + b"".join(encoded)


def read(encoded: bytes) -> dict[str, str]:
    """Decode a part into its pairs. Raises ValueError for anything else."""
    try:
        (count,) = struct.unpack_from(">h", encoded)
        at, texts = 2, []
        for _ in range(2 * count):
            (length,) = struct.unpack_from(">i", encoded, at)
            texts.append(str(encoded[at + 4 : at + 4 + length], "utf-8") if length >= 0 else "")
            at += 4 + max(length, 0)
    except struct.error as error:
        raise ValueError("not pairs of texts as Output.binary_encode makes them") from error
    if at != len(encoded):
        raise ValueError(f"pairs of {at} bytes in a part of {len(encoded)}")
    return dict(zip(texts[::2], texts[1::2], strict=True))


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack(">i", len(data)) + data


def split(data: bytes, most: int = PART_BYTES) -> Iterator[bytes]:
    """Split `data`, which is UTF-8, into pieces of at most `most` bytes (at least 4) that end between characters."""
    at = 0
    while len(data) - at > most:
        end = at + most
        while data[end] & 0xC0 == 0x80:  # noqa: PLR2004 UTF-8's mark of a byte inside a character
            end -= 1
        yield data[at:end]
        at = end
    yield data[at:]


class Parts:
    """A ResponseSink that queues encoded parts; the last one is followed by None."""

    def __init__(self) -> None:
        """Empty; `content_type` is known with the first part."""
        self.content_type = ""
        self._waiting: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.get = self._waiting.get

    async def whole(self, body: bytes, content_type: str) -> None:
        """Queue the whole answer."""
        self.content_type = content_type
        deltas = list(split(body))
        for number, delta in enumerate(deltas, 1):
            self._waiting.put_nowait(part(delta, is_last=number == len(deltas)))
        self._waiting.put_nowait(None)

    async def start(self, content_type: str) -> None:
        """Begin a stream."""
        self.content_type = content_type

    def write(self, data: bytes) -> None:
        """Queue one frame; one that is too large for DJL as several parts."""
        for delta in split(data):
            self._waiting.put_nowait(part(delta, is_last=False))

    def fail(self, error: Error, frame: bytes) -> None:  # noqa: ARG002 the frame says it
        """Queue a stream's last frame, of an error."""
        self.write(frame)

    async def end(self) -> None:
        """End the stream."""
        self._waiting.put_nowait(part(b"", is_last=True))
        self._waiting.put_nowait(None)

    def refuse(self, error: Error) -> None:
        """Answer with an error; nothing was sent before."""
        self._waiting.put_nowait(refusal(error))
        self._waiting.put_nowait(None)
