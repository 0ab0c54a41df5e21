"""Check the fields of a chat request that describe the request: user, labels, storing, priority, form.

Nothing of it reaches the model.

Shapes: OpenAI API reference, "Create chat completion": user, metadata, store, service_tier, modalities, audio.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lmi_chat.codec.json_text import Json
from lmi_chat.dialects.chat.body import KEY_CHARS, PAIRS_MOST, VALUE_CHARS
from lmi_chat.dialects.reader import BodyReader
from lmi_chat.text import echo, one_line

PRIORITIES: Mapping[str, int] = {"auto": 0, "default": 0, "flex": 1, "priority": -1}
NOT_STORED = "store is ignored: option.store names no file"
NOT_RANKED = "priority is ignored: the engine takes requests as they come (scheduling_policy=priority changes that)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """`priority` is added to the request's own; `tier` is the one given, None unless one was asked for."""

    user: str
    metadata: Mapping[str, str]
    is_stored: bool
    priority: int
    tier: str | None
    warnings: tuple[str, ...]


def check_account(body: Json, reader: BodyReader) -> Account:
    """Read these fields; what is wrong is noted in `reader`."""
    _check_modalities(body, reader)
    wants_store, tier = reader.get("store"), reader.get("service_tier")
    priority = PRIORITIES[tier or "default"] + reader.extra.get("priority", 0)
    is_ranked = reader.deployment.has_priority
    warnings = []
    if wants_store and reader.deployment.save is None:
        warnings.append(NOT_STORED)
    if reader.extra.get("priority") and not is_ranked:
        warnings.append(NOT_RANKED)
    return Account(
        user=reader.get("user"),
        metadata=check_metadata(body.get("metadata"), reader.add_problem),
        is_stored=wants_store and reader.deployment.save is not None,
        priority=priority,
        tier=tier and (tier if is_ranked and tier != "auto" else "default"),
        warnings=tuple(warnings),
    )


def _check_modalities(body: Json, reader: BodyReader) -> None:
    """The served model writes text and nothing else."""
    if (modalities := body.get("modalities")) not in (None, ["text"]):
        reader.add_problem("modalities", f'must be ["text"]: {_text_only(reader)}; got {_shown(modalities)}')
    if (audio := body.get("audio")) is not None:
        reader.add_problem("audio", f"must be absent or null: {_text_only(reader)}; got {echo(audio)}")


def _text_only(reader: BodyReader) -> str:
    return f"{one_line(reader.deployment.model, 80)} gives text only"


def _shown(value: object) -> str:
    """A short list of words as it came, anything else as errors show it."""
    if isinstance(value, list) and len(value) <= len(("text", "audio", "image")):
        return "[" + ", ".join(echo(item) for item in value) + "]"
    return echo(value)


def check_metadata(value: object, add_problem: Callable[[str, str], None]) -> Mapping[str, str]:
    """Labels: at most 16 pairs of short strings, null is none; `add_problem` notes path and fault of what is wrong."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        add_problem("metadata", f"must be an object of strings, got {echo(value)}")
        return {}
    if len(value) > PAIRS_MOST:
        add_problem("metadata", f"must have at most {PAIRS_MOST} pairs, got {len(value)}")
        return {}
    for key, text in value.items():
        if len(key) > KEY_CHARS:
            fault = f"must have a key of at most {KEY_CHARS} characters, got {len(key)}"
        elif not isinstance(text, str):
            fault = f"must be a string, got {echo(text)}"
        elif len(text) > VALUE_CHARS:
            fault = f"must have at most {VALUE_CHARS} characters, got {len(text)}"
        else:
            continue
        add_problem(f"metadata.{one_line(key, KEY_CHARS)}", fault)
    return value
