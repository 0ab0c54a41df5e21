"""Answer the token ids of a prompt, or the text of token ids, without an engine.

Shapes: vLLM's `/tokenize` and `/detokenize`.
"""

from typing import Any

from lmi_chat.codec.json_text import Json, dump
from lmi_chat.dialects import checks
from lmi_chat.dialects.chat import request as chat
from lmi_chat.dialects.deployment import COUNTED_CONTEXTS, Deployment
from lmi_chat.dialects.reader import BodyReader
from lmi_chat.dialects.task import DirectAnswer
from lmi_chat.dialects.tokenization.answer import Text, Tokens
from lmi_chat.dialects.tokenization.body import DetokenizeBody, TokenizeBody, TokenStrings
from lmi_chat.text import echo


def tokenize(body: Json, deployment: Deployment, request_id: str) -> DirectAnswer:
    """A text or a chat → its token ids. Raises BadField, NotFound or PromptTooLong."""
    if "messages" in body:
        ids, has_strings, warnings = _of_chat(body, deployment, request_id)
    else:
        ids, has_strings, warnings = _of_text(body, deployment)
    written = deployment.template.tokenizer.convert_ids_to_tokens
    shown: Tokens = {
        "count": len(ids),
        "max_model_len": deployment.context_tokens,
        "tokens": ids,
        "token_strs": [token or "" for token in written(ids)] if has_strings else None,  # None: of no token
    }
    return DirectAnswer(dump(shown), warnings)


def _of_text(body: Json, deployment: Deployment) -> tuple[list[int], bool, list[str]]:
    """The ids of a text, which may be longer than the context: its length is what is asked for."""
    checks.check_model(body.get("model"), deployment)
    reader = BodyReader(deployment)
    reader.read(body, TokenizeBody)
    text: Any = body.get("prompt")
    if not isinstance(text, str):
        reader.add_problem("prompt", f"must be a string, got {echo(text)}; or send messages")
    elif len(text) > (most := deployment.context_tokens * checks.FIRST_CHARS * COUNTED_CONTEXTS):
        reader.add_problem("prompt", f"must have at most {most} characters to be tokenised, got {len(text)}")
    warnings = reader.finish()
    has_special = reader.extra.get("add_special_tokens", True)
    ids = checks.tokenize(text, deployment, "prompt", add_special_tokens=has_special, is_cut=True)
    return ids, reader.get("return_token_strs"), warnings


def _of_chat(body: Json, deployment: Deployment, request_id: str) -> tuple[list[int], bool, list[str]]:
    """The ids of a chat, as they would go to the model: all of its own fields count."""
    own = {name: body[name] for name in TokenStrings.__annotations__ if name in body}
    reader = BodyReader(deployment)
    reader.read(own, TokenizeBody)
    if reader.extra.get("add_special_tokens"):
        reader.add_problem("add_special_tokens", "must be false beside messages, got true: the template writes them")
    if "prompt" in body:
        reader.add_problem("prompt", "and messages in one body: send one of them")
    reader.finish()
    rest = {name: value for name, value in body.items() if name not in own}
    with checks.counting(deployment, "messages") as wide:
        parsed = chat.parse(rest | {"stream": False, "store": False}, wide, request_id)
    return list(parsed.job.prompt_ids), reader.get("return_token_strs"), parsed.unknown


def detokenize(body: Json, deployment: Deployment, request_id: str) -> DirectAnswer:  # noqa: ARG001 as every parser
    """Token ids → their text. Raises BadField or NotFound."""
    checks.check_model(body.get("model"), deployment)
    reader = BodyReader(deployment)
    reader.read(body, DetokenizeBody)
    tokens: Any = body.get("tokens")
    if not isinstance(tokens, list):
        reader.add_problem("tokens", f"must be an array of token ids, got {echo(tokens)}")
    elif len(tokens) > (most := deployment.context_tokens):
        reader.add_problem("tokens", f"must have at most {most} token ids, as many as the context, got {len(tokens)}")
    else:
        checks.check_ids(tokens, "tokens", reader)
    reader.finish()
    text: Text = {"prompt": deployment.template.decode(tokens)}
    return DirectAnswer(dump(text), reader.warnings)
