"""Write and read DJL's NDList: arrays in one binary message, big-endian, as on its Java side (version 3).

i32 count, then for each array: str "NDAR", i32 version, u8 has a name [str name], str sparse format, str type, shape,
u8 byte order of the data ("<" or ">"), i32 length, data. A str is i16 length and UTF-8; a shape is i32 rank, i64 each,
i32 rank, i16 layout each.
"""

import io
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

MAGIC, VERSION = "NDAR", 3
ZIP = b"PK"


def to_nd_list(arrays: "list[np.ndarray[Any, Any]] | np.ndarray[Any, Any]") -> bytearray:
    """Arrays → one message."""
    arrays = arrays if isinstance(arrays, list) else [arrays]
    message = bytearray(struct.pack(">i", len(arrays)))
    for array in arrays:
        data = array.astype(array.dtype.newbyteorder("<")).tobytes("C")
        rank = struct.pack(">i", array.ndim)
        message += _text(MAGIC) + struct.pack(">iB", VERSION, 0) + _text("default") + _text(str(array.dtype).upper())
        message += rank + b"".join(struct.pack(">q", size) for size in array.shape)
        message += rank + struct.pack(">h", ord("?")) * array.ndim
        message += b"<" + struct.pack(">i", len(data)) + data
    return message


def from_nd_list(message: bytes) -> "list[np.ndarray[Any, Any]]":
    """One message, or a npz file → arrays. Raises ValueError for what is neither."""
    import numpy as np

    if message[:2] == ZIP:
        with np.load(io.BytesIO(message), allow_pickle=False) as archive:
            return [archive[name] for name in archive.files]
    reader = _Reader(message)
    try:
        return [_array(reader) for _ in range(reader.take(">i"))]
    except struct.error as error:
        raise ValueError("the NDList ends too early") from error


def _array(reader: "_Reader") -> "np.ndarray[Any, Any]":
    import numpy as np

    if (magic := reader.text()) != MAGIC:
        raise ValueError(f"not an NDList: it says {magic!r} where {MAGIC!r} is due")
    if (version := reader.take(">i")) != VERSION:
        raise ValueError(f"NDList of version {version}; {VERSION} is read")
    if reader.take(">B"):
        reader.text()
    reader.text()
    dtype = np.dtype(reader.text().lower())
    shape = tuple(reader.take(">q") for _ in range(reader.take(">i")))
    for _ in range(reader.take(">i")):
        reader.take(">h")
    order = chr(reader.take(">B"))
    data = reader.bytes(reader.take(">i"))
    return np.frombuffer(data, dtype.newbyteorder("<" if order == "<" else ">")).reshape(shape)


class _Reader:
    """A place in a message."""

    def __init__(self, message: bytes) -> None:
        self._message, self._at = bytes(message), 0

    def take(self, form: str) -> int:
        (value,) = struct.unpack_from(form, self._message, self._at)
        self._at += struct.calcsize(form)
        return int(value)

    def bytes(self, length: int) -> bytes:
        data = self._message[self._at : self._at + length]
        if len(data) != length:
            raise ValueError("the NDList ends too early")
        self._at += length
        return data

    def text(self) -> str:
        return self.bytes(self.take(">h")).decode()


def _text(text: str) -> bytes:
    return struct.pack(">h", len(text.encode())) + text.encode()
