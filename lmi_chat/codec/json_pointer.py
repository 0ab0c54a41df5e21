"""Find the part of a document that a JSON pointer names, as references in JSON Schemas do."""

from collections.abc import Mapping
from typing import Any


def resolve(root: Any, pointer: object) -> Any:
    """Find what a reference such as "#/$defs/x" points at; None for nothing.

    RFC 6901 in a URI fragment, as far as schemas use it: objects' keys and arrays' places.
    """
    if not isinstance(pointer, str) or not pointer.startswith("#"):
        return None
    node = root
    for part in pointer[1:].split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(node, list) and key.isdecimal() and int(key) < len(node):
            node = node[int(key)]
        elif isinstance(node, Mapping) and key in node:
            node = node[key]
        else:
            return None
    return node
