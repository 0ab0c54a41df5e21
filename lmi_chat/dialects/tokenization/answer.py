"""Declare the answers to requests for token ids and for their text."""

from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from lmi_chat.dialects.answer import Count


class Tokens(TypedDict):
    """The token ids of a prompt, in the shape of vLLM's servers."""

    count: Count
    max_model_len: Count
    tokens: list[Count]
    token_strs: Annotated[list[str] | None, Field(description="each token as the vocabulary writes it, if asked for")]


class Text(TypedDict):
    """The text of token ids, special tokens included."""

    prompt: str


WHOLE = {"Tokens": Tokens, "DetokenizedText": Text}
