"""Write AWS event-stream messages.

Format: Smithy, "Amazon Event Stream Specification".
"""

from collections.abc import Iterator
from struct import pack
from zlib import crc32

EVENT_STREAM = "application/vnd.amazon.eventstream"
PART_BYTES = 2**20  # of one message's payload; botocore takes 24 MiB, other SDKs 16
TEXT = 7  # the type of a header whose value is text


def message(headers: bytes, payload: bytes) -> bytes:
    """Build one message: lengths, their CRC-32, headers, payload, the CRC-32 of all that."""
    lengths = pack(">II", 16 + len(headers) + len(payload), len(headers))
    body = b"".join((lengths, pack(">I", crc32(lengths)), headers, payload))
    return body + pack(">I", crc32(body))


def header(name: str, value: str) -> bytes:
    """Build a header of text; name and value have at most 255 and 65,535 bytes."""
    name_bytes, value_bytes = name.encode(), value.encode()
    return pack(">B", len(name_bytes)) + name_bytes + pack(">BH", TEXT, len(value_bytes)) + value_bytes


PART_HEADERS = (
    header(":event-type", "PayloadPart")
    + header(":content-type", "application/octet-stream")
    + header(":message-type", "event")
)


def parts(data: bytes) -> Iterator[bytes]:
    """Split `data` into SageMaker's PayloadPart messages, of at most PART_BYTES each."""
    if len(data) <= PART_BYTES:
        yield message(PART_HEADERS, data)
        return
    for start in range(0, len(data), PART_BYTES):
        yield message(PART_HEADERS, data[start : start + PART_BYTES])


def exception(kind: str, payload: bytes) -> bytes:
    """Build a message that the client raises: `kind` is a shape of the service's model, `payload` its JSON."""
    headers = header(":exception-type", kind) + header(":content-type", "application/json")
    return message(headers + header(":message-type", "exception"), payload)
