"""Render the answers of models that pool, which are given whole."""

from base64 import b64encode
from collections.abc import Sequence

from lmi_chat.codec.json_text import dump, floats
from lmi_chat.dialects.openai import error_body
from lmi_chat.errors import Error
from lmi_chat.job import Delta, Embedding, Finished


def vector(embedding: Embedding, *, is_base64: bool = False) -> bytes:
    """Write a vector, or those of all tokens: an array of numbers or of arrays, or one string of all their bytes."""
    if is_base64:
        return b'"' + b64encode(embedding.values) + b'"'
    return floats(embedding.values, embedding.rows)


class PooledAnswer:
    """The one document: each item becomes JSON when it comes, so that no step has to write thousands."""

    held_bytes = 0  # inputs × numbers bound it, and an item cannot be cut

    def __init__(self, count: int) -> None:
        """`count` items."""
        self._items = [b"null"] * count

    def delta(self, delta: Delta) -> Sequence[bytes]:
        """Keep an item; nothing is sent yet."""
        if isinstance(delta, Embedding):
            self._items[delta.index] = self._item(delta.index, delta)
        return ()

    def done(self, done: Finished) -> Sequence[bytes]:
        """The document, items in the inputs' order."""
        return (self._document(b"[" + b",".join(self._items) + b"]", done),)

    def fail(self, error: Error) -> bytes:
        """The error in place of the document."""
        return dump(error_body(error))

    def _item(self, index: int, embedding: Embedding) -> bytes:
        raise NotImplementedError

    def _document(self, items: bytes, done: Finished) -> bytes:
        raise NotImplementedError
