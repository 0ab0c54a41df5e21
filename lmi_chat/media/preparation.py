"""Find the media of a prompt in its messages or its text, fetch them, and have the prompt rendered."""

import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lmi_chat.errors import BadField, Problem
from lmi_chat.file_formats import KINDS, Kind
from lmi_chat.media.fetcher import Allowance, Fetcher, Source
from lmi_chat.media.items import MediaItem, MediaPrompt, MediaRenderer

Message = Mapping[str, Any]
MARKDOWN = re.compile(r"!\[[^\]\n]*\]\(((?:https?://|file://|data:image/)[^)\s]*)\)")
"""An image in a text, as TGI's clients write it."""
SIGNS = (b"image", b"audio", b"video", b"](", b"\\u00")
"""One of these stands in every body that has media: the name of a part, an image in a text, or a letter escaped."""
EMBEDDINGS = "_embeds"
"""How the names of parts end that have tensors in place of media."""


class Media:
    """What a model that takes more than text does with a request's media."""

    def __init__(self, renderer: MediaRenderer, fetcher: Fetcher, template: str | None = None) -> None:
        """Fetch by `fetcher`, render by the engine's `renderer`, with `template` in place of the model's own."""
        self._renderer, self._fetcher, self._template = renderer, fetcher, template
        self._allowance: Allowance | None = None
        self.limits = fetcher.limits
        self.takes_embeddings = renderer.takes_embeddings

    @property
    def kinds(self) -> Sequence[Kind]:
        """The kinds of media that the model takes."""
        return [kind for kind in KINDS if self.most(kind)]

    def most(self, kind: Kind) -> int:
        """How many of a kind one prompt may have; 0: none."""
        return self._renderer.most.get(kind, 0)

    def of_request(self) -> "Media":
        """What renders several prompts of one request, which share what it may cost."""
        media = Media(self._renderer, self._fetcher, self._template)
        media._allowance = self._fetcher.allowance()
        return media

    @staticmethod
    def may_be_in(body: bytes) -> bool:
        """Whether a body may have media; False only for one that has none."""
        return any(sign in body for sign in SIGNS)

    def render_chat(self, messages: Sequence[Message], path: str, variables: Mapping[str, Any]) -> MediaPrompt:
        """Render checked messages, which stand at `path`. Blocks for seconds: use a thread. Raises Errors."""
        written, sources = [], dict[str, Source]()
        for index, message in enumerate(messages):
            content = message.get("content")
            if isinstance(content, list):
                place = f"{path}[{index}].content"
                parts = [_keyed(part, f"{place}[{number}]", sources) for number, part in enumerate(content)]
                message = {**message, "content": parts}  # noqa: PLW2901 one that has the keys
            written.append(message)
        given = {**variables, "chat_template": self._template} if self._template else variables
        return self._renderer.render_chat(written, self._fetched(sources), given)

    def render_text(self, text: str, path: str) -> MediaPrompt:
        """Render a text with images in it, which stands at `path`. Blocks for seconds: use a thread. Raises Errors."""
        sources = {_key(): Source("image", found[1], path) for found in MARKDOWN.finditer(text)}
        keys, pieces = iter(sources), list[str]()
        for piece, is_url in _cut(text):
            pieces.append(next(keys) if is_url else piece)
        most, limit = self.most("image"), self.limits.items
        if len(sources) > min(most, limit):
            raise BadField([Problem(path, f"{path} must have at most {min(most, limit)} images, got {len(sources)}")])
        return self._renderer.render_text(pieces, self._fetched(sources))

    def has_images(self, text: str) -> bool:
        """Whether a text shows images that the model takes."""
        return bool(self.most("image")) and MARKDOWN.search(text) is not None

    def count(self, prompt: str | Sequence[Message]) -> int:
        """Count the media of a text or of checked messages."""
        if not isinstance(prompt, str):
            return sum(1 for _ in _parts(prompt))
        return sum(1 for _ in MARKDOWN.finditer(prompt)) if self.most("image") else 0

    def _fetched(self, sources: Mapping[str, Source]) -> dict[str, MediaItem]:
        allowance = self._allowance or self._fetcher.allowance()
        return dict(zip(sources, self._fetcher.fetch([*sources.values()], allowance), strict=True))


def has_media(messages: Sequence[Message]) -> bool:
    """Whether checked messages have anything but text."""
    return any(True for _ in _parts(messages))


def _parts(messages: Sequence[Message]) -> Iterator[Message]:
    """The parts of checked messages that are no text."""
    contents = (message.get("content") for message in messages)
    lists = (content for content in contents if isinstance(content, list))
    return (part for parts in lists for part in parts if part.get("type") != "text")


def _key() -> str:
    """A name that no caller can guess, since it stands in place of a URL."""
    return f"held:{secrets.token_hex(16)}"


def _keyed(part: Message, path: str, sources: dict[str, Source]) -> Message:
    """The part with a key in place of its URL or tensors, which are noted in `sources`; text stays."""
    name = str(part["type"])
    if name.endswith(EMBEDDINGS):
        return {"type": name, name: _keyed_tensors(part, f"{path}.{name}", sources)}
    kind = next((kind for kind in KINDS if name == f"{kind}_url"), None)
    if kind is None:
        return part
    key = _key()
    sources[key] = Source(kind, part[name]["url"], path)
    return {"type": name, name: {"url": key}}


def _keyed_tensors(part: Message, path: str, sources: dict[str, Source]) -> str | dict[str, Any]:
    """Embeddings with a key in place of each tensor; arrays of numbers beside them stay."""
    name = str(part["type"])
    given = part[name]
    named = given if isinstance(given, dict) else {"": given}
    kind = next(kind for kind in KINDS if name.startswith(kind))
    keyed = {inner: _key() if isinstance(value, str) else value for inner, value in named.items()}
    for inner, value in named.items():
        if isinstance(value, str):
            sources[keyed[inner]] = Source(kind, value, f"{path}.{inner}" if inner else path, is_tensor=True)
    return keyed if isinstance(given, dict) else str(keyed[""])


def _cut(text: str) -> Iterator[tuple[str, bool]]:
    """The pieces of a text around its images, each with whether it is an image's URL."""
    end = 0
    for found in MARKDOWN.finditer(text):
        yield text[end : found.start()], False
        yield found[1], True
        end = found.end()
    yield text[end:], False
