"""Render checked messages as the token ids and the text of a prompt."""

from collections.abc import Sequence
from typing import Any

from lmi_chat.dialects.chat.messages import Message, text_of
from lmi_chat.dialects.checks import check_characters, tokenize
from lmi_chat.dialects.deployment import Deployment


def render(
    chat: Sequence[Message], deployment: Deployment, path: str, *, is_cut: bool = False, **how: Any
) -> tuple[list[int], str]:
    """Messages at `path` → token ids, of which a part is kept if it `is_cut`, and text; `how` as Template.render.

    Raises BadField, PromptTooLong.
    """
    if deployment.template.has_own_code:  # it may tokenise in the same step
        check_characters(sum(len(text_of(message)) for message in chat), deployment, path)
    rendered = deployment.template.render(chat, path=path, **how)
    if not isinstance(rendered, str):
        return rendered, deployment.template.decode(rendered)
    return tokenize(rendered, deployment, path, add_special_tokens=False, is_cut=is_cut), rendered
