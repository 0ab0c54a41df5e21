"""Choose the dialect of a body and parse it: one key decides, so that every error names a field the caller meant."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any

from lmi_chat.codec.json_text import Json
from lmi_chat.dialects import openai, tgi
from lmi_chat.dialects.chat import answer as chat_answer
from lmi_chat.dialects.chat import request as chat
from lmi_chat.dialects.chat import session
from lmi_chat.dialects.chat.body import ChatBody, SessionBody
from lmi_chat.dialects.completion import answer as completion_answer
from lmi_chat.dialects.completion import request as completion
from lmi_chat.dialects.completion.body import CompletionBody
from lmi_chat.dialects.deployment import Deployment
from lmi_chat.dialects.embedding import answer as embedding_answer
from lmi_chat.dialects.embedding import request as embedding
from lmi_chat.dialects.embedding.body import EmbeddingBody
from lmi_chat.dialects.reader import NAME_BYTES, UNKNOWN_SHOWN
from lmi_chat.dialects.standard import answer as standard_answer
from lmi_chat.dialects.standard import request as standard
from lmi_chat.dialects.standard.body import Parameters, StandardBody
from lmi_chat.dialects.task import ParsedRequest
from lmi_chat.errors import BadField, BadJson, Problem
from lmi_chat.text import nearest, one_line

Parse = Callable[[Json, Deployment, str], ParsedRequest]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One shape of bodies: `key` chooses it, `parse` reads a body that has it, `error_body` is how its errors look.

    `bodies`: the TypedDicts of its fields. `parse` None: nothing is generated (a session is opened or closed).
    `whole`, `items`: the types of its whole answers and of a stream's items, by their names in the OpenAPI document.
    """

    name: str
    key: str
    parse: Parse | None
    error_body: Callable[[Exception], Mapping[str, object]] = openai.error_body
    bodies: tuple[type, ...] = ()
    whole: Mapping[str, Any] = field(default_factory=dict)
    items: Mapping[str, Any] = field(default_factory=dict)


DIALECTS: dict[str, Dialect] = {}
"""All that are served, by their names."""


def register(dialect: Dialect) -> None:
    """Serve a dialect wherever a body may be of any. Raises ValueError for a name or a key that is taken."""
    if dialect.name in DIALECTS or any(dialect.key == other.key for other in DIALECTS.values()):
        text = f"dialect {dialect.name} with key {dialect.key}: a dialect has that name or key already"
        raise ValueError(text)
    DIALECTS[dialect.name] = dialect


for _each in (
    Dialect(
        name="chat",
        key="messages",
        parse=chat.parse,
        bodies=(ChatBody,),
        whole=chat_answer.WHOLE,
        items=chat_answer.ITEMS,
    ),
    Dialect(
        name="standard",
        key="inputs",
        parse=standard.parse,
        error_body=standard.error_body,
        bodies=(StandardBody, Parameters),
        whole=standard_answer.WHOLE,
        items=standard_answer.ITEMS,
    ),
    Dialect(
        name="completion",
        key="prompt",
        parse=completion.parse,
        bodies=(CompletionBody,),
        whole=completion_answer.WHOLE,
        items=completion_answer.ITEMS,
    ),
    Dialect(
        name="embedding",
        key="input",
        parse=embedding.parse,
        bodies=(EmbeddingBody,),
        whole=embedding_answer.WHOLE,
    ),
    Dialect(
        name="session",
        key="requestType",
        parse=None,
        error_body=standard.error_body,
        bodies=(SessionBody,),
        whole=chat_answer.SESSION,
    ),
):
    register(_each)


BY_PATH: dict[str, Dialect] = {
    name: replace(DIALECTS["standard"], parse=partial(standard.parse_by_path, streams=streams))
    for name, streams in (("generate", False), ("generate_stream", True))
}
"""Forms of a dialect that a path insists on, and no key chooses: TGI's own paths."""


def prepare(deployment: Deployment) -> None:
    """Build what checks the bodies: a tenth of a second, which no request should wait for."""
    for dialect in DIALECTS.values():
        for body in dialect.bodies:
            deployment.checkers[body]


def choose(body: Json, forced: str | None, deployment: Deployment) -> Dialect:
    """The dialect of a body, or the one that its route forces; a model that embeds speaks one of its own.

    Raises BadField when two dialects' keys stand in one body or the model is of another kind, BadJson when no key does.
    """
    dialect = _named(forced) if forced else _find(body)
    if deployment.space is None:
        return dialect
    if dialect.name in {"embedding", "standard"}:
        return DIALECTS["embedding"]
    key = dialect.key
    raise BadField([Problem(key, f"{key} cannot be served: this model embeds; send input or inputs")])


def _named(name: str) -> Dialect:
    return BY_PATH.get(name) or DIALECTS[name]


def _find(body: Json) -> Dialect:
    found = [dialect for dialect in DIALECTS.values() if dialect.key in body]
    if len(found) > 1:
        names = " and ".join(dialect.key for dialect in found)
        text = f"{names} in one body: each of them chooses another kind of request; send one of them"
        raise BadField([Problem(found[0].key, text)])
    if not found:
        keys = {dialect.key: dialect for dialect in DIALECTS.values()}
        hints = [
            f"; did you mean {near} by {one_line(name, NAME_BYTES)}?"
            for name in islice(body, UNKNOWN_SHOWN)
            if (near := _near(name, keys))
        ]
        text = f"the body has none of the keys that choose a kind of request: {', '.join(keys)}"
        raise BadJson(text + "".join(hints[:1]))
    return found[0]


def _near(name: str, keys: Mapping[str, Dialect]) -> str:
    return nearest(name, keys) if len(name) <= NAME_BYTES else ""


def error_body(error: Exception, dialect: str, *, is_tgi: bool = False) -> Json:
    """An Error in the shape of its dialect; OpenAI's where none was chosen yet ("").

    `is_tgi`: a deployment for TGI's clients, who are told `error_type`.
    """
    body = (_named(dialect).error_body if dialect else openai.error_body)(error)
    return tgi.typed(body, error, is_tgi=is_tgi)


__all__ = [
    "DIALECTS",
    "Deployment",
    "Dialect",
    "ParsedRequest",
    "choose",
    "error_body",
    "prepare",
    "register",
    "session",
]
