"""Render checked messages as the token ids and the text of a prompt."""

from collections.abc import Sequence
from typing import Any

from lmi_chat.dialects.chat.messages import Message, text_of
from lmi_chat.dialects.checks import check_characters, check_length
from lmi_chat.dialects.deployment import Deployment


def render(chat: Sequence[Message], deployment: Deployment, path: str, **how: Any) -> tuple[list[int], str]:
    """Messages at `path` → token ids and text; `how` as Template.render. Raises BadField, PromptTooLong."""
    if deployment.template.has_own_code:  # it may tokenise in the same step
        check_characters(sum(len(text_of(message)) for message in chat), deployment, path)
    rendered = deployment.template.render(chat, path=path, **how)
    if not isinstance(rendered, str):
        return rendered, deployment.template.decode(rendered)
    check_length(rendered, deployment, path)
    return deployment.template.encode(rendered, add_special_tokens=False), rendered
