"""Check the parts of a message that are images, audio or videos, and write all their forms as one.

Shapes: OpenAI API reference, "Create chat completion" (image_url, input_audio) and "Responses" (input_image); vLLM's
audio_url, video_url and embeddings; `{"type": "image", "url": …}` as transformers' templates have it.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lmi_chat.dialects.deployment import Deployment
from lmi_chat.dialects.reader import BodyReader
from lmi_chat.file_formats import KINDS, Kind
from lmi_chat.text import echo

Part = Mapping[str, Any]
URLS: Mapping[str, tuple[Kind, tuple[str, ...]]] = {
    "image_url": ("image", ("image_url",)),
    "input_image": ("image", ("image_url",)),
    "image": ("image", ("image", "url", "image_url")),
    "audio_url": ("audio", ("audio_url",)),
    "audio": ("audio", ("audio", "url", "audio_url")),
    "video_url": ("video", ("video_url",)),
    "video": ("video", ("video", "url", "video_url")),
}
"""The types of parts that have a URL, and the keys that it stands under."""
SOUND = "input_audio"
EMBEDDINGS: Mapping[str, Kind] = {f"{kind}_embeds": kind for kind in KINDS}
TYPES: Mapping[str, Kind] = {**{name: kind for name, (kind, _) in URLS.items()}, SOUND: "audio", **EMBEDDINGS}
INSIDE = ("url", "detail", "format")
SOUND_FORMAT = re.compile(r"[a-z0-9][a-z0-9.+-]{0,15}", re.IGNORECASE)
PLURAL: Mapping[Kind, str] = {"image": "images", "audio": "audio", "video": "videos"}


def types_of(deployment: Deployment) -> list[str]:
    """The types of parts with media that a deployment takes, embeddings apart unless it takes these."""
    media = deployment.media
    if media is None:
        return []
    hidden = () if media.takes_embeddings else EMBEDDINGS
    return [name for name, kind in TYPES.items() if media.most(kind) and name not in hidden]


def check_part(part: Part, path: str, reader: BodyReader) -> Part:
    """A part of one of TYPES as `image_url`, `audio_url`, `video_url` or embeddings; problems are noted."""
    name = part["type"]
    kind, media = TYPES[name], reader.deployment.media
    if media is None or not media.most(kind):
        taken = ", ".join(("text", *types_of(reader.deployment)))
        text = f"must be {'one of ' if ', ' in taken else ''}{taken}: the model {reader.deployment.model} takes"
        reader.add_problem(f"{path}.type", f"{text} no {PLURAL[kind]}; got {echo(name)}")
        return {}
    if name in EMBEDDINGS:
        return _check_embeddings(part, path, reader, is_on=media.takes_embeddings)
    url = _sound(part, path, reader) if name == SOUND else _url(part, path, reader)
    return {"type": f"{kind}_url", f"{kind}_url": {"url": url}}


def _url(part: Part, path: str, reader: BodyReader) -> str:
    """The URL of a part, a text or in an object with `url`."""
    names = URLS[part["type"]][1]
    reader.check_keys(part, ("type", "detail", *names), path)
    _note_detail(part, path, reader)
    name = next((name for name in names if part.get(name) is not None), names[0])
    value, place = part.get(name), f"{path}.{name}"
    if isinstance(value, dict):
        reader.check_keys(value, INSIDE, place)
        _note_detail(value, place, reader)
        value, place = value.get("url"), f"{place}.url"
    if isinstance(value, str) and value:
        return value
    reader.add_problem(place, f"must be a URL (https:, data: or file:), got {echo(value)}")
    return ""


def _note_detail(value: Part, path: str, reader: BodyReader) -> None:
    """Tell who asks for more or less of an image than the model takes of each: no engine here can do that."""
    if value.get("detail") not in {None, "auto"}:
        reader.warnings.append(f"{path}.detail is ignored: the model's processor says how large an image is taken")


def _sound(part: Part, path: str, reader: BodyReader) -> str:
    """The data: URL of audio that stands in the body."""
    reader.check_keys(part, ("type", SOUND), path)
    value, place = part.get(SOUND), f"{path}.{SOUND}"
    if not isinstance(value, dict):
        reader.add_problem(place, f'must be an object such as {{"data":"…","format":"wav"}}, got {echo(value)}')
        return ""
    reader.check_keys(value, ("data", "format"), place)
    data, form = value.get("data"), value.get("format", "wav")
    if not isinstance(data, str) or not data:
        reader.add_problem(f"{place}.data", f"must be audio in base64, got {echo(data)}")
        return ""
    if not isinstance(form, str) or not SOUND_FORMAT.fullmatch(form):
        reader.add_problem(f"{place}.format", f"must be a format such as wav or mp3, got {echo(form)}")
        return ""
    return data if data.startswith("data:") else f"data:audio/{form.lower()};base64,{data}"


def _check_embeddings(part: Part, path: str, reader: BodyReader, *, is_on: bool) -> Part:
    """Embeddings in place of media: base64 of a tensor, or an object of these."""
    name = part["type"]
    reader.check_keys(part, ("type", name), path)
    value, place = part.get(name), f"{path}.{name}"
    if not is_on:
        reader.add_problem(f"{path}.type", f"{name} are not taken: this deployment has no option.enable_mm_embeds")
    elif not isinstance(value, str | dict) or not value:
        reader.add_problem(place, f"must be a tensor in base64, or an object of these, got {echo(value)}")
    elif isinstance(value, dict) and not all(isinstance(one, str | list) for one in value.values()):
        reader.add_problem(place, f"must hold tensors in base64 and arrays of numbers alone, got {echo(value)}")
    return {"type": name, name: value}


def check_counts(contents: Sequence[object], path: str, reader: BodyReader) -> None:
    """Bound the media of checked messages, whose contents these are: of each kind by the model, in all by a limit."""
    media = reader.deployment.media
    if media is None:
        return
    types = [str(part["type"]) for content in contents if isinstance(content, list) for part in content if part]
    kinds = [kind for name in types if (kind := TYPES.get(name))]
    for kind in KINDS:
        count, most = kinds.count(kind), media.most(kind)
        if count > most > 0:
            text = f"must have at most {most} {PLURAL[kind]}, got {count} (option.limit_mm_per_prompt)"
            reader.add_problem(path, text)
    if len(kinds) > media.limits.items:
        text = f"must have at most {media.limits.items} images, audio and videos, got {len(kinds)} (option.max_media)"
        reader.add_problem(path, text)
