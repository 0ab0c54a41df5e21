"""Hold a handler's Output: status, properties (they become headers), parts or a stream."""

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from io import BytesIO
from itertools import chain
from typing import Any

from djl_python import np_util
from djl_python.pair_list import PairList

Formatter = Callable[[Any], Any]


def lines(texts: Any) -> bytearray:
    """The default format of a stream: {"outputs": …} on a line of its own."""
    return bytearray(json.dumps({"outputs": texts}).encode() + b"\n")


class Output:
    """One answer. Setters give the Output back, so that they can be chained."""

    def __init__(self, code: int = 200, message: str = "OK") -> None:
        """An answer without parts."""
        self.code, self.message = code, message
        self.properties: dict[str, Any] = {}
        self.content = PairList()
        self.stream_content: Iterator[Any] | None = None
        self.stream_output_formatter: Formatter | None = None
        self.finalize_function: Callable[..., Any] | None = None
        self.finalize_args: tuple[Any, ...] = ()

    def __str__(self) -> str:
        """Status, properties and the kinds of the parts, for a log."""
        kinds = {key: f"type: {type(value)}" for key, value in zip(self.content.keys, self.content.values, strict=True)}
        shown = {"code": self.code, "message": self.message, "properties": self.properties, "content": kinds}
        return json.dumps(shown, indent=2, default=str)

    def set_code(self, code: int) -> "Output":
        """Set the status."""
        self.code = code
        return self

    def set_message(self, message: str) -> "Output":
        """Set the status line's text."""
        self.message = message
        return self

    def error(self, error: str, code: int = 424, message: str = "invoke handler failure") -> "Output":
        """Make this a failure with a JSON body."""
        self.code, self.message = code, message
        self.add_property("content-type", "application/json")
        return self.add_as_json({"code": code, "message": message, "error": error})

    def add_property(self, key: str, val: Any) -> "Output":
        """Set a property."""
        self.properties[key] = val
        return self

    def get_properties(self) -> dict[str, Any]:
        """All properties."""
        return self.properties

    def get_property(self, key: str) -> Any:
        """A property, or None."""
        return self.properties.get(key)

    def add(self, value: Any, key: str | None = None, batch_index: int | None = None) -> "Output":
        """Add a part: text, bytes, or anything JSON can tell."""
        if key is not None:
            key = str(key)
        if batch_index is not None:
            key = f"batch_{batch_index}.{key or ''}"
        if isinstance(value, str):
            value = value.encode()
        elif not isinstance(value, bytes | bytearray):
            value = self._encode_json(value)
        self.content.add(key=key, value=bytearray(value))
        return self

    def add_as_json(self, val: Any, key: str | None = None, batch_index: int | None = None) -> "Output":
        """Add a part in JSON."""
        return self.add(self._encode_json(val), key, batch_index)

    def add_as_string(self, val: str, key: str | None = None, batch_index: int | None = None) -> "Output":
        """Add a part of text."""
        return self.add(str(val), key, batch_index)

    def add_as_numpy(self, np_list: Any, key: str | None = None, batch_index: int | None = None) -> "Output":
        """Add arrays as DJL's NDList."""
        return self.add(np_util.to_nd_list(np_list), key, batch_index)

    def add_as_npz(self, np_list: Any, key: str | None = None, batch_index: int | None = None) -> "Output":
        """Add arrays as a npz file."""
        import numpy as np

        file = BytesIO()
        np.savez(file, *np_list)
        return self.add(file.getvalue(), key, batch_index)

    def add_stream_content(self, stream_content: Iterator[Any], output_formatter: Formatter | None = lines) -> "Output":
        """Stream what an iterator gives, each item through `output_formatter`."""
        self.stream_content, self.stream_output_formatter = stream_content, output_formatter
        return self

    def finalize(self, finalize_function: Callable[..., Any], *args: Any) -> "Output":
        """Have a function called when the answer was sent."""
        self.finalize_function, self.finalize_args = finalize_function, args
        return self

    def execute_finalize(self) -> Any:
        """Call it."""
        return self.finalize_function(*self.finalize_args) if self.finalize_function else None

    @staticmethod
    def binary_encode(data: Mapping[str, Any]) -> bytearray:
        """The one part of an asynchronous answer: pairs of texts, big-endian.

        i16 number of pairs, then for each pair key and value as i32 length and UTF-8. The keys: `data`, `last`, and
        for a refusal `code` and `error`.
        """
        encoded = bytearray(struct.pack(">h", len(data)))
        for text in chain.from_iterable(data.items()):
            part = str(text).encode()
            encoded += struct.pack(">i", len(part)) + part
        return encoded

    @staticmethod
    def _encode_json(val: Any) -> bytearray:
        text = json.dumps(val, ensure_ascii=False, allow_nan=False, indent=2, separators=(",", ":"), default=_plain)
        return bytearray(text.encode())


def _plain(value: Any) -> Any:
    """Arrays and numbers of numpy, and times, in JSON's own kinds. Raises TypeError."""
    if isinstance(value, datetime):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is nothing that JSON can tell")
