"""List the bodies of answers: each dialect's whole and streamed, errors, and other routes' own."""

from typing import Any

from lmi_chat.codec.json_text import Json
from lmi_chat.console.answers import ANSWERS as CONSOLE
from lmi_chat.dialects import DIALECTS, answer
from lmi_chat.dialects.answer import LmiError, OpenAIError, TgiLmiError, TgiOpenAIError
from lmi_chat.dialects.anthropic.answer import COUNTED
from lmi_chat.dialects.chat.answer import STORED
from lmi_chat.dialects.deployment import Deployment
from lmi_chat.dialects.responses.answer import STORED as STORED_RESPONSES
from lmi_chat.dialects.standard.answer import TgiGenerationErrorLine
from lmi_chat.http.answers import ANSWERS
from lmi_chat.http.openapi.shapes import one_of

ERRORS = {"OpenAIError": OpenAIError, "LmiError": LmiError}
TGI_ERRORS = {
    "OpenAIError": TgiOpenAIError,
    "LmiError": TgiLmiError,
    "GenerationErrorLine": TgiGenerationErrorLine,
}


def schemas(deployment: Deployment) -> Json:
    """All of them, by the names of components."""
    types: dict[str, Any] = {
        name: one for dialect in DIALECTS.values() for name, one in (*dialect.whole.items(), *dialect.items.items())
    }
    types |= ERRORS | COUNTED | STORED | STORED_RESPONSES | ANSWERS | CONSOLE
    types |= TGI_ERRORS if deployment.is_tgi else {}
    return answer.schemas(types, deployment)


def contents(dialects: tuple[str, ...], *, has_sessions: bool) -> Json:
    """A 200's bodies by media type: one document, or a stream of JSON texts (`x-item-schema` is each one's)."""
    answered = [DIALECTS[name] for name in (*dialects, *(["session"] if has_sessions else []))]
    whole = one_of(*(name for dialect in answered for name in dialect.whole))
    streamed = dict.fromkeys(name for dialect in answered for name in dialect.items)
    if not streamed:
        return {"application/json": {"schema": whole}}
    items = one_of(*streamed)
    lines = {"type": "string", "description": "one JSON text a line"}
    events = {"type": "string", "description": "server-sent events of one JSON text each; OpenAI's end with [DONE]"}
    return {
        "application/json": {"schema": whole},
        "application/jsonlines": {"schema": lines, "x-item-schema": items},
        "text/event-stream": {"schema": events, "x-item-schema": items},
    }
