"""Show a payload to a deployment's formatter: a dict that is read by attribute, too, as LMI's responses are.

LMI hands a formatter the engine's response objects, and what is documented reads `response.choices[0].message.content`.
A key that an OpenAI-shaped object may lack is None there, so it is here; any other attribute that is no key is none.
LMI's formatters meet an answer to `inputs` as a completion, so it has `choices` with a text here, which is its own.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, TypeAlias

Keys: TypeAlias = Iterable[str] | None


class Payload(dict[str, Any]):
    """A JSON object whose keys are attributes as well, with what pydantic's models are asked for.

    `_optional` are the keys that may be absent and are None then.
    """

    __slots__ = ()
    _optional: ClassVar[frozenset[str]] = frozenset()

    def __getattr__(self, name: str) -> Any:
        """A key's value. Raises AttributeError."""
        try:
            return self[name]
        except KeyError:
            pass
        if name in self._optional:
            return None
        if name == "choices" and (held := _text_holder(self)):
            return [_TextChoice(self, *held)]
        raise AttributeError(f"the answer has no {name!r}: it has {', '.join(self)}")

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a key."""
        self[name] = value

    def __delattr__(self, name: str) -> None:
        """Remove a key. Raises AttributeError."""
        try:
            del self[name]
        except KeyError:
            raise AttributeError(name) from None

    def model_dump(
        self, *, include: Keys = None, exclude: Keys = None, exclude_none: bool = False, **_: Any
    ) -> dict[str, Any]:
        """A plain dict of plain dicts; further arguments of pydantic's have no meaning here."""
        kept = {
            name: value
            for name, value in self.items()
            if (include is None or name in set(include)) and name not in set(exclude or ())
        }
        return {
            name: plain(value, exclude_none=exclude_none)
            for name, value in kept.items()
            if not (exclude_none and value is None)
        }

    def model_dump_json(self, *, indent: int | None = None, **how: Any) -> str:
        """The same as JSON."""
        separators = (",", ":") if indent is None else None
        return json.dumps(self.model_dump(**how), indent=indent, ensure_ascii=False, separators=separators)

    def dict(self, **how: Any) -> "dict[str, Any]":
        """Model_dump by its name in pydantic 1."""
        return self.model_dump(**how)

    def json(self, **how: Any) -> str:
        """Model_dump_json by its name in pydantic 1."""
        return self.model_dump_json(**how)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> "Payload":
        """A copy; with `deep` of all that it holds."""
        copied = type(self)(payload(plain(self)) if deep else self)
        copied.update(update or {})
        return copied


class _Top(Payload):
    __slots__ = ()
    _optional = frozenset(
        {"usage", "system_fingerprint", "service_tier", "prompt_logprobs", "prompt_token_ids", "model"}
    )


class _Choice(Payload):
    __slots__ = ()
    _optional = frozenset({"finish_reason", "stop_reason", "logprobs", "prompt_logprobs", "token_ids"})


class _Message(Payload):
    __slots__ = ()
    _optional = frozenset(
        {"role", "content", "refusal", "tool_calls", "function_call", "reasoning", "reasoning_content", "audio"}
    )


class _Call(Payload):
    __slots__ = ()
    _optional = frozenset({"id", "type"})


class _Function(Payload):
    __slots__ = ()
    _optional = frozenset({"name"})


KINDS: Mapping[str, type[Payload]] = {
    "": _Top,
    "choices": _Choice,
    "message": _Message,
    "delta": _Message,
    "tool_calls": _Call,
    "function": _Function,
}
"""By the key under which an object stands."""


class _TextChoice:
    """The one choice of an answer to `inputs`: its text stands in the answer itself."""

    index, logprobs, stop_reason = 0, None, None

    def __init__(self, whole: Payload, holder: Payload, key: str) -> None:
        self._whole, self._holder, self._key = whole, holder, key

    @property
    def text(self) -> str:
        return str(self._holder[self._key])

    @text.setter
    def text(self, text: str) -> None:
        self._holder[self._key] = text

    @property
    def finish_reason(self) -> Any:
        return (self._whole.get("details") or {}).get("finish_reason")


def _text_holder(whole: Payload) -> tuple[Payload, str] | None:
    """Where an answer to `inputs` has its text: a line of a stream its token's, a document all of it."""
    token = whole.get("token")
    if isinstance(token, Payload):
        return token, "text"
    return (whole, "generated_text") if isinstance(whole.get("generated_text"), str) else None


def payload(value: Any, key: str = "") -> Any:
    """JSON → the same with Payloads for its objects; `key` is the one it stands under, the items' of a list too."""
    if isinstance(value, dict):
        return KINDS.get(key, Payload)((name, payload(each, name)) for name, each in value.items())
    return [payload(each, key) for each in value] if isinstance(value, list) else value


def plain(value: Any, *, exclude_none: bool = False) -> Any:
    """Payloads → plain dicts."""
    if isinstance(value, dict):
        return {
            name: plain(each, exclude_none=exclude_none)
            for name, each in value.items()
            if not (exclude_none and each is None)
        }
    return [plain(each, exclude_none=exclude_none) for each in value] if isinstance(value, list | tuple) else value
