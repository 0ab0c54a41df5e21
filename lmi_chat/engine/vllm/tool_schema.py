"""Translate the schema of a tool's arguments for vLLM's parsers, so that they read its types right.

Parsers whose calls are not JSON, such as Qwen's, Z.ai's and DeepSeek's, take the type of each argument from the schema.
They know `type`, `enum`, `anyOf`, `oneOf` and `allOf`, and take a value for a string where they find none of these: an
integer that is described by `$ref` or `const` would come as a string, which does not fit the schema.
"""

from collections.abc import Mapping
from typing import Any

from lmi_chat.codec import json_pointer

NODES_MOST = 4096
"""A schema may refer to the same parts again and again, each time at the price of a copy."""
REF = "$ref"
TYPES: tuple[tuple[type, str], ...] = (
    *((bool, "boolean"), (int, "integer"), (float, "number")),
    *((str, "string"), (list, "array"), (dict, "object")),
)


def explicit(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Copy a schema with its references written out and each `const` as an `enum` too.

    What refers to itself keeps its reference, and says its type beside it. So does all beyond NODES_MOST.
    An `enum` gets the types of its values.
    """
    copied: dict[str, Any] = _Copy(schema).copy(schema, ())
    return copied


def moved(node: Any, place: str) -> Any:
    """Copy a schema for a `place` within another one, such as "#/$defs/x": its references follow it."""
    if isinstance(node, list):
        return [moved(one, place) for one in node]
    if not isinstance(node, Mapping):
        return node
    return {
        name: place + one[1:] if name == REF and isinstance(one, str) and one.startswith("#") else moved(one, place)
        for name, one in node.items()
    }


def type_of(value: Any) -> str:
    """Name the type of a JSON value as a schema does."""
    for kind, name in TYPES:
        if isinstance(value, kind):
            return name
    return "null"


class _Copy:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._nodes = 0

    def copy(self, node: Any, within: tuple[str, ...]) -> Any:
        """Copy `node`, which stands within what the references `within` point at."""
        if isinstance(node, list):
            return [self.copy(one, within) for one in node]
        if not isinstance(node, Mapping):
            return node
        self._nodes += 1
        if isinstance(pointer := node.get(REF), str):
            return self._referred(node, pointer, within)
        copied = {name: self.copy(one, within) for name, one in node.items()}
        if "const" in node and "enum" not in node:
            copied["enum"] = [node["const"]]
        if isinstance(values := copied.get("enum"), list) and values and "type" not in copied:
            copied["type"] = sorted({type_of(value) for value in values})
        return copied

    def _referred(self, node: Mapping[str, Any], pointer: str, within: tuple[str, ...]) -> dict[str, Any]:
        target = json_pointer.resolve(self._root, pointer)
        beside = {name: self.copy(one, within) for name, one in node.items() if name != REF}
        if not isinstance(target, Mapping):
            return beside
        if pointer in within or self._nodes > NODES_MOST:
            kept = {REF: pointer} | ({"type": target["type"]} if "type" in target else {})
            return kept | beside
        written = self.copy(target, (*within, pointer))
        return {"allOf": [written, beside]} if written.keys() & beside.keys() else written | beside
