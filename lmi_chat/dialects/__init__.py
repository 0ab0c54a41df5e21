"""Choose the dialect of a body and parse it: one key decides, so that every error names a field the caller meant."""

from collections.abc import Callable, Mapping
from itertools import islice

from lmi_chat.bounds import nearest
from lmi_chat.codec.json_text import Json
from lmi_chat.dialects import adapter, embedding, openai
from lmi_chat.dialects.chat import request as chat
from lmi_chat.dialects.chat import session
from lmi_chat.dialects.completion import request as completion
from lmi_chat.dialects.desk import NAME_BYTES, UNKNOWN_SHOWN, Deployment, ParsedRequest
from lmi_chat.dialects.standard import request as standard
from lmi_chat.errors import BadField, BadJson, Problem, one_line

Parse = Callable[[Json, Deployment, str], ParsedRequest]

KEYS = {
    "messages": "chat",
    "inputs": "standard",
    "prompt": "completion",
    "input": "embedding",
    "requestType": "session",
}
PARSERS: Mapping[str, Parse] = {
    "chat": chat.parse,
    "standard": standard.parse,
    "completion": completion.parse,
    "embedding": embedding.parse,
}


def choose(body: Json, forced: str | None, desk: Deployment) -> str:
    """The dialect of a body, or the one that its route forces; a model that embeds speaks one of its own.

    Raises BadField when two dialects' keys stand in one body or the model is of another kind, BadJson when no key does.
    """
    name = forced or _find(body)
    if desk.space is None:
        return name
    if name in {"embedding", "standard"}:
        return "embedding"
    key = next(key for key, dialect in KEYS.items() if dialect == name)
    raise BadField([Problem(key, f"{key} cannot be served: this model embeds; send input or inputs")])


def _find(body: Json) -> str:
    found = [key for key in KEYS if key in body]
    if len(found) > 1:
        names = " and ".join(found)
        text = f"{names} in one body: each of them chooses another kind of request; send one of them"
        raise BadField([Problem(found[0], text)])
    if not found:
        hints = [
            f"; did you mean {near} by {one_line(name, NAME_BYTES)}?"
            for name in islice(body, UNKNOWN_SHOWN)
            if (near := _near(name))
        ]
        text = f"the body has none of the keys that choose a kind of request: {', '.join(KEYS)}"
        raise BadJson(text + "".join(hints[:1]))
    return KEYS[found[0]]


def _near(name: str) -> str:
    return nearest(name, KEYS) if len(name) <= NAME_BYTES else ""


def parse(body: Json, desk: Deployment, request_id: str, forced: str | None = None) -> ParsedRequest:
    """A checked body → the task it asks for. Raises an Error that names the field; takes no slot."""
    dialect = choose(body, forced, desk)
    adapter.check(body, "", desk)
    return PARSERS[dialect](body, desk, request_id)


def error_body(error: Exception, dialect: str, *, is_tgi: bool = False) -> Json:
    """An Error in the shape of its dialect: LMI's for standard and session, else OpenAI's ("": none was chosen yet).

    `is_tgi`: a deployment for TGI's clients, who are told `error_type` wherever they may be the ones that asked.
    """
    body = standard.error_body(error) if dialect in {"standard", "session"} else openai.error_body(error)
    return body | {"error_type": standard.tgi_type(error)} if is_tgi and dialect in {"standard", ""} else body


__all__ = ["Deployment", "ParsedRequest", "choose", "error_body", "parse", "session"]
