"""Render checked messages as the token ids and the text of a prompt, and the media that it has."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from lmi_chat.dialects.chat.messages import Message, text_of
from lmi_chat.dialects.checks import check_characters, tokenize
from lmi_chat.dialects.deployment import Deployment
from lmi_chat.errors import BadField, Problem
from lmi_chat.job import MediaInput
from lmi_chat.media.preparation import has_media

ENDING = {"add_generation_prompt": True, "continue_final_message": False}
"""How a prompt ends unless the request says it; as Template.render has it."""


class Rendered(NamedTuple):
    """A prompt's token ids, its text, and its media if it has any."""

    ids: list[int]
    text: str
    media: MediaInput | None = None


def render(chat: Sequence[Message], deployment: Deployment, path: str, *, is_cut: bool = False, **how: Any) -> Rendered:
    """Messages at `path` → token ids, of which a part is kept if it `is_cut`, and text; `how` as Template.render.

    A chat that has media takes seconds, and a thread. Raises BadField, PromptTooLong.
    """
    if deployment.media is not None and has_media(chat):
        return _with_media(chat, deployment, path, is_cut=is_cut, **how)
    if deployment.template.has_own_code:  # it may tokenise in the same step
        check_characters(sum(len(text_of(message)) for message in chat), deployment, path)
    if deployment.template_defaults:
        how.setdefault("variables", deployment.template_defaults)
    rendered = deployment.template.render(chat, path=path, **how)
    if not isinstance(rendered, str):
        return Rendered(rendered, deployment.template.decode(rendered))
    return Rendered(tokenize(rendered, deployment, path, add_special_tokens=False, is_cut=is_cut), rendered)


def render_text(text: str, deployment: Deployment, path: str, *, is_cut: bool) -> Rendered:
    """A text at `path` as a prompt; one that shows images takes them along. Raises as `render`."""
    if deployment.media is None or not deployment.media.has_images(text):
        return Rendered(tokenize(text, deployment, path, add_special_tokens=True, is_cut=is_cut), text)
    _check_whole(path, is_cut=is_cut)
    return Rendered(*deployment.media.render_text(text, path))


def _with_media(
    chat: Sequence[Message],
    deployment: Deployment,
    path: str,
    *,
    is_cut: bool,
    variables: dict[str, Any] | None = None,
    **how: Any,
) -> Rendered:
    """Check what can be checked before anything is fetched; then the engine's renderer writes the prompt."""
    _check_whole(path, is_cut=is_cut)
    check_characters(sum(len(text_of(message)) for message in chat), deployment, path)
    if deployment.media is None:
        raise TypeError("a deployment without media has none to render")
    return Rendered(*deployment.media.render_chat(chat, path, {**ENDING, **(variables or {}), **how}))


def _check_whole(path: str, *, is_cut: bool) -> None:
    """Refuse to cut a prompt that has media: a part of what stands for an image is no image. Raises BadField."""
    if is_cut:
        text = f"{path} must have text alone where the prompt is truncated, got images, audio or videos"
        raise BadField([Problem(path, text)])
