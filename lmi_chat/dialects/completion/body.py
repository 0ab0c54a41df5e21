"""Declare the fields of a completion."""

from typing import Annotated, Any

from lmi_chat.dialects.body import MAX_INT, AtMost, Flag, Integer, Logprobs, OpenAI, Refused, SpecialTokens, field

MAX_TOKENS = 16


class CompletionBody(OpenAI, total=False):
    """A completion: OpenAI's legacy completions, and vLLM's fields beyond them."""

    prompt: Annotated[
        Any,
        field("what is to be continued", shown="string, array of token ids, or array of these", allows={"minItems": 1}),
        AtMost("max_prompts"),
    ]
    max_tokens: Annotated[Integer, field("tokens to generate; 0 only with echo", default=MAX_TOKENS, ge=0, le=MAX_INT)]
    logprobs: Logprobs
    echo: Annotated[Flag, field("the prompt comes back before its continuation", default=False)]
    suffix: Annotated[Any, field("is not supported by the served model"), Refused("")]
    add_special_tokens: SpecialTokens
    prompt_embeds: Annotated[Any, field("is not served: a prompt is text or token ids"), Refused()]
