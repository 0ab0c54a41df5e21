"""Take the text of engine steps apart into its tokens' own, so that the split into steps makes no difference."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from lmi_chat.engine.vllm.vocabulary import Vocabulary
from lmi_chat.job import Delta, SamplingParams, Token

INCOMPLETE = "\ufffd"
FREE = re.compile(r"reserved|unused|extra_id|placeholder", re.IGNORECASE)
PARTIAL_BYTES = 1024  # of text that never becomes whole characters


@dataclass(slots=True)
class Piece:
    """One token with the text that it completes; at a sequence's end also text without a token."""

    text: str
    ids: list[int]
    tokens: list[Token] = field(default_factory=list)


class Cutter:
    """Cuts one sequence's deltas into pieces.

    Where stop strings hold text back, tokens wait for theirs. Deltas must come in order.
    """

    def __init__(self, vocabulary: Vocabulary, sampling: SamplingParams) -> None:
        """Begin without text; `sampling` is what the engine was given."""
        self._vocabulary = vocabulary
        self._is_held_back, self._hides_special = bool(sampling.stop), sampling.skip_special_tokens
        self._partial = b""  # what the last tokens have of a character
        self._text = ""
        self._waiting: list[tuple[Piece, int]] = []  # with the number of characters

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits for more, and nothing will be held back."""
        return not (self._partial or self._text or self._waiting or self._is_held_back)

    def take(self, delta: Delta) -> list[Piece]:
        """Return the pieces whose text is there; with the finish, all."""
        if len(delta.ids) == 1 and delta.text and not (self._is_held_back or self._text or self._waiting):
            self._partial = b""  # the text is the token's own, whatever bytes others before it had of that
            return [Piece(delta.text, delta.ids[:], delta.tokens[:1])]
        self._text += delta.text
        for place, token_id in enumerate(delta.ids):
            piece = Piece("", [token_id], delta.tokens[place : place + 1])
            self._waiting.append((piece, self._length(token_id)))
        if self._is_held_back and delta.finish is None:
            return self._fitting()
        pieces = [self._cut(piece, length) for piece, length in self._waiting]
        self._waiting.clear()
        if self._text:
            if pieces:
                pieces[-1].text += self._text
            else:
                pieces.append(Piece(self._text, []))
            self._text = ""
        return pieces

    def _fitting(self) -> list[Piece]:
        """Return the waiting pieces whose text is all there."""
        pieces = []
        while self._waiting and self._waiting[0][1] <= len(self._text):
            pieces.append(self._cut(*self._waiting.pop(0)))
        return pieces

    def _cut(self, piece: Piece, length: int) -> Piece:
        piece.text, self._text = self._text[:length], self._text[length:]
        return piece

    def _length(self, token_id: int) -> int:
        """Count the characters that the token completes: as the engine's text grows, none where it ends with a part."""
        if self._hides_special and self._vocabulary.is_special(token_id):
            return 0
        self._partial += self._vocabulary.spell(token_id)
        text = self._partial.decode("utf-8", "replace")
        if text.endswith(INCOMPLETE) and len(self._partial) < PARTIAL_BYTES:
            return 0
        self._partial = b""
        return len(text)


class Markers:
    """The texts of a tokenizer's added tokens with their ids; built once, for they may be thousands."""

    def __init__(self, known: Mapping[str, int]) -> None:
        """Leave out the places that a tokenizer keeps free."""
        self.ids = {text: token_id for text, token_id in known.items() if len(text) > 1 and not FREE.search(text)}
        self.known = frozenset(self.ids.values())
        self.beginnings = frozenset(text[:end] for text in self.ids for end in range(1, len(text)))
        self.first = frozenset(text[0] for text in self.ids)


class MarkerReader:
    """Reads markers that are spelled in ordinary tokens as the tokens that they are.

    A grammar spells them so, and some parsers of streams look at ids alone, while those of whole texts see no
    difference. Text that may be the beginning of a marker is held.
    """

    def __init__(self, markers: Markers) -> None:
        """Begin with nothing held."""
        self._markers, self._first, self._beginnings = markers.ids, markers.first, markers.beginnings
        self._ids = markers.known
        self._held: list[Piece] = []

    def passes(self, text: str) -> bool:
        """Whether a token's text begins no marker and goes on none."""
        return not self._held and self._first.isdisjoint(text)

    def read(self, piece: Piece) -> list[Piece]:
        """Return what comes of one more piece."""
        if not self._held and (not self._first & set(piece.text) or self._is_marker(piece)):
            return [piece]
        if self._is_marker(piece):
            return [*self.flush(), piece]
        given: list[Piece] = []
        self._held.append(replace(piece))  # what is held is cut, and the caller has its own ids still to tell
        text = "".join(held.text for held in self._held)
        start = 0
        while (start := self._next_start(text, start)) < len(text):
            if marker := self._marker_at(text, start):
                given += self._release(start)
                given.append(Piece(marker, [self._markers[marker]]))
                self._drop(len(marker))
                text, start = text[start + len(marker) :], 0
            elif text[start:] in self._beginnings:
                break
            else:
                start += 1
        return given + self._release(start)

    def flush(self) -> list[Piece]:
        """Return what is held."""
        held, self._held = self._held, []
        return held

    def _is_marker(self, piece: Piece) -> bool:
        return len(piece.ids) == 1 and piece.ids[0] in self._ids

    def _next_start(self, text: str, start: int) -> int:
        return next((place for place in range(start, len(text)) if text[place] in self._first), len(text))

    def _marker_at(self, text: str, start: int) -> str:
        """Find the longest marker that begins there; "" for none."""
        if text[start : start + 2] not in self._beginnings:
            return ""
        return max((marker for marker in self._markers if text.startswith(marker, start)), key=len, default="")

    def _release(self, length: int) -> list[Piece]:
        """Take the first `length` characters off what is held; a cut piece gives its ids with its first part."""
        given = []
        while self._held and length >= len(self._held[0].text):
            length -= len(self._held[0].text)
            given.append(self._held.pop(0))
        if length:
            first = self._held[0]
            given.append(Piece(first.text[:length], first.ids))
            first.text, first.ids = first.text[length:], []
        return given

    def _drop(self, length: int) -> None:
        """Forget the first `length` characters of what is held, which are a marker's."""
        while self._held and length >= len(self._held[0].text):
            length -= len(self._held.pop(0).text)
        if length:
            self._held[0].text, self._held[0].ids = self._held[0].text[length:], []
