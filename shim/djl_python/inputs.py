"""Hold a handler's Input: properties (headers, or at the load the configuration) and parts."""

import csv
import io
import json
from typing import Any

from djl_python import np_util
from djl_python.pair_list import PairList

BATCH, PREFIX, INDEX, NAME = "batch_size", "batch_", slice(6, 9), slice(10, None)


class Input:
    """One request. Properties keep the casing they came with; `get_property` does not mind it."""

    def __init__(self) -> None:
        """Empty, which is how a load looks."""
        self.function_name: str | None = None
        self.properties: dict[str, Any] = {}
        self.content = PairList()

    def __str__(self) -> str:
        """Properties and each part as `get_data` gives it, for a log. Raises what that raises."""
        return "\n".join(
            [f"properties: {self.properties}", *(f"{key}: {self.get_data(key)}" for key in self.content.keys)]
        )

    def is_batch(self) -> bool:
        """Whether DJL has joined several requests."""
        return BATCH in self.properties

    def get_batch_size(self) -> int:
        """How many it has joined."""
        return int(self.properties.get(BATCH, "1"))

    def get_batches(self) -> "list[Input]":
        """The single requests: `batch_001_name` is `name` of the second one."""
        if not self.is_batch():
            return [self]
        batch = [Input() for _ in range(self.get_batch_size())]
        for key, value in self.properties.items():
            if key.startswith(PREFIX) and key != BATCH:
                batch[int(key[INDEX])].properties[key[NAME]] = value
        for key, value in zip(self.content.keys, self.content.values, strict=True):
            batch[int(key[INDEX])].content.add(key[NAME], value)
        return batch

    def get_function_name(self) -> str | None:
        """The handler that DJL asks for."""
        return self.function_name

    def get_properties(self) -> dict[str, Any]:
        """All properties."""
        return self.properties

    def get_content(self) -> PairList:
        """All parts."""
        return self.content

    def get_property(self, key: str) -> Any:
        """A property by its name in any casing, or None."""
        return next((value for name, value in self.properties.items() if name.lower() == key.lower()), None)

    def contains_key(self, key: str) -> bool:
        """Whether there is such a part."""
        return self.content.get(key) is not None

    def is_empty(self) -> bool:
        """Whether there is no part at all: the load."""
        return self.content.is_empty()

    def get_data(self, key: str | None = None) -> Any:
        """A part as its content type says: arrays, JSON, text, an image, else bytes."""
        content_type = self.get_property("content-type") or ""
        if content_type == "tensor/ndlist":
            return self.get_as_numpy(key)
        if content_type == "tensor/npz":
            return self.get_as_npz(key)
        if content_type.startswith("application/json"):
            return self.get_as_json(key)
        if content_type.startswith("text/"):
            return self.get_as_string(key)
        if content_type.startswith("image/"):
            return self.get_as_image(key)
        return self.get_as_bytes(key)

    def get_as_bytes(self, key: str | None = None) -> Any:
        """The part `key`, else `data`, else the first one; None when there is none. Raises KeyError."""
        if self.content.is_empty():
            return None
        if key:
            value = self.content.get(key)
            if value is None:
                raise KeyError(f"the request has no part {key!r}")
            return value
        value = self.content.get("data")
        return self.content.value_at(0) if value is None else value

    def get_as_string(self, key: str | None = None) -> str:
        """A part as UTF-8 text."""
        return str(self.get_as_bytes(key).decode("utf-8"))

    def get_as_json(self, key: str | None = None) -> Any:
        """A part as JSON."""
        return json.loads(self.get_as_string(key))

    def get_as_image(self, key: str | None = None) -> Any:
        """A part as a PIL image; needs Pillow."""
        from PIL import Image

        return Image.open(io.BytesIO(self.get_as_bytes(key)))

    def get_as_numpy(self, key: str | None = None) -> list[Any]:
        """A part as arrays: DJL's NDList or npz."""
        return np_util.from_nd_list(self.get_as_bytes(key))

    def get_as_npz(self, key: str | None = None) -> list[Any]:
        """A part as the arrays of a npz file."""
        return np_util.from_nd_list(self.get_as_bytes(key))

    def get_as_csv(self, key: str | None = None) -> list[dict[str, Any]]:
        """A part as CSV with a header row."""
        return list(csv.DictReader(io.StringIO(self.get_as_string(key))))
