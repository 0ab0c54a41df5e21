"""Define the nouns of media: kinds, an item's bytes, a prompt that has media, its renderer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, NamedTuple, Protocol

from lmi_chat.file_formats import Kind
from lmi_chat.job import MediaInput
from lmi_chat.limits import MediaLimits


@dataclass(slots=True)
class Room:
    """The bytes that are left to what the media of one request become."""

    bytes_left: int
    lock: Lock = field(default_factory=Lock)

    def take(self, count: int) -> bool:
        """Count `count` bytes, if there is room for them."""
        with self.lock:
            has_room = count <= self.bytes_left
            self.bytes_left -= count if has_room else 0
            return has_room


@dataclass(frozen=True, slots=True)
class MediaItem:
    """One image, audio or video as it came: `data` are its encoded bytes, `path` is where the request names it.

    `is_tensor`: they are a tensor of embeddings in its place.
    Whoever decodes it keeps to `limits`, and to the `room` that all media of its request share.
    """

    kind: Kind
    data: bytes
    path: str
    limits: MediaLimits
    room: Room
    is_tensor: bool = False


class MediaPrompt(NamedTuple):
    """A prompt with media: its token ids, those that stand for media included, its text, and the media themselves."""

    ids: list[int]
    text: str
    media: MediaInput


class MediaRenderer(Protocol):
    """Writes prompts with media for a model that takes them. Both calls may take seconds and come from any thread.

    Messages name an item by a key of `items` in place of its URL. Raises BadField for an item that cannot be read, and
    whatever the engine raises for a chat that it cannot render, as an Error.
    """

    @property
    def most(self) -> Mapping[Kind, int]:
        """How many of each kind one prompt may have; a kind that is absent, or 0, cannot be taken."""

    @property
    def takes_embeddings(self) -> bool:
        """Whether embeddings may stand in for media."""

    def render_chat(
        self, messages: Sequence[Mapping[str, Any]], items: Mapping[str, MediaItem], variables: Mapping[str, Any]
    ) -> MediaPrompt:
        """Render a chat; `variables` are what its template is given."""

    def render_text(self, pieces: Sequence[str], items: Mapping[str, MediaItem]) -> MediaPrompt:
        """Render a prompt without a template: pieces of text, and images by their keys."""
