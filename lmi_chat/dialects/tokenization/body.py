"""Declare the fields of requests for token ids and for their text."""

from typing import Annotated, Any

from typing_extensions import TypedDict

from lmi_chat.dialects.body import IDS, Flag, Model, field
from lmi_chat.dialects.chat.body import Messages


class TokenStrings(TypedDict, total=False):
    """What is asked about the token ids of a prompt."""

    add_special_tokens: Annotated[
        Flag, field("the tokenizer adds the model's special tokens; absent: to a prompt, not to a chat")
    ]
    return_token_strs: Annotated[Flag, field("each token as the vocabulary writes it, too", default=False)]


class TokenizeBody(TokenStrings, total=False):
    """Asks for the token ids of a text or a chat: beside `messages` stand a chat's own fields."""

    model: Model
    prompt: Annotated[Any, field("the text", shown="string")]
    messages: Messages


class DetokenizeBody(TypedDict, total=False):
    """Asks for the text of token ids."""

    model: Model
    tokens: Annotated[Any, field("the token ids", shown=IDS)]
