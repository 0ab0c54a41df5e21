"""Choose the dialect of a body and parse it: one key decides, so that every error names a field the caller meant."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any, get_args

from lmi_chat.codec.json_text import Json
from lmi_chat.dialects import openai, tgi
from lmi_chat.dialects.anthropic import answer as anthropic_answer
from lmi_chat.dialects.anthropic import request as anthropic
from lmi_chat.dialects.anthropic.body import (
    MessagesBody,
    OutputOptions,
    RequestMetadata,
    ThinkingOptions,
    ToolChoiceOptions,
)
from lmi_chat.dialects.chat import answer as chat_answer
from lmi_chat.dialects.chat import batch, session
from lmi_chat.dialects.chat import request as chat
from lmi_chat.dialects.chat.body import ChatBody, SessionBody
from lmi_chat.dialects.classification import answer as classification_answer
from lmi_chat.dialects.classification import request as classification
from lmi_chat.dialects.classification.body import ClassificationBody, LabelOptions
from lmi_chat.dialects.completion import answer as completion_answer
from lmi_chat.dialects.completion import request as completion
from lmi_chat.dialects.completion.body import CompletionBody
from lmi_chat.dialects.deployment import Deployment
from lmi_chat.dialects.embedding import answer as embedding_answer
from lmi_chat.dialects.embedding import request as embedding
from lmi_chat.dialects.embedding.body import EmbeddingBody, Pooling
from lmi_chat.dialects.pooling import answer as pooling_answer
from lmi_chat.dialects.pooling import request as pooling
from lmi_chat.dialects.pooling.body import PoolingBody, PoolOptions
from lmi_chat.dialects.reader import NAME_BYTES, UNKNOWN_SHOWN
from lmi_chat.dialects.responses import answer as responses_answer
from lmi_chat.dialects.responses import request as responses
from lmi_chat.dialects.responses.body import ReasoningOptions, ResponsesBody, StreamOptions, TextOptions
from lmi_chat.dialects.scoring import answer as scoring_answer
from lmi_chat.dialects.scoring import request as scoring
from lmi_chat.dialects.scoring.body import RerankBody, ScoreBody
from lmi_chat.dialects.standard import answer as standard_answer
from lmi_chat.dialects.standard import request as standard
from lmi_chat.dialects.standard.body import Parameters, StandardBody
from lmi_chat.dialects.task import DirectAnswer, ParsedRequest
from lmi_chat.dialects.tokenization import answer as tokenization_answer
from lmi_chat.dialects.tokenization import request as tokenization
from lmi_chat.dialects.tokenization.body import DetokenizeBody, TokenizeBody
from lmi_chat.dialects.transcription import answer as transcription_answer
from lmi_chat.dialects.transcription import request as transcription
from lmi_chat.dialects.transcription.body import TranscriptionBody
from lmi_chat.errors import BadField, BadJson, Problem
from lmi_chat.job import PoolingTask
from lmi_chat.text import nearest, one_line

GENERATES, POOLS = frozenset({"generate"}), frozenset[str](get_args(PoolingTask))
SCORES = POOLS - {"token_classify"}
Parse = Callable[[Json, Deployment, str], ParsedRequest | DirectAnswer]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One shape of bodies: `key` chooses it, `parse` reads a body that has it, `error_body` is how its errors look.

    `bodies`: the TypedDicts of its fields. `parse` None: nothing is generated (a session is opened or closed).
    `whole`, `items`: the types of its whole answers and of a stream's items, by their names in the OpenAPI document.
    `more_keys` choose it as `key` does; without any its route or the model does. `tasks` are those of the models that
    serve it, and `asks` is what it asks of a model, in words.
    """

    name: str
    key: str | None
    more_keys: tuple[str, ...] = ()
    tasks: frozenset[str] = GENERATES
    asks: str = "to generate text"
    parse: Parse | None
    error_body: Callable[[Exception], Mapping[str, object]] = openai.error_body
    bodies: tuple[type, ...] = ()
    whole: Mapping[str, Any] = field(default_factory=dict)
    items: Mapping[str, Any] = field(default_factory=dict)

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that choose it."""
        return () if self.key is None else (self.key, *self.more_keys)

    def is_served_by(self, deployment: Deployment) -> bool:
        """Whether the model does what this asks for: scores take one that compares texts."""
        pooler = deployment.pooler
        if pooler is None:
            return "generate" in self.tasks
        return pooler.task in self.tasks and (self.tasks != SCORES or pooler.gives_scores)


DIALECTS: dict[str, Dialect] = {}
"""All that are served, by their names."""


def register(dialect: Dialect) -> None:
    """Serve a dialect wherever a body may be of any. Raises ValueError for a name or a key that is taken."""
    if dialect.name in DIALECTS or any({*dialect.keys} & {*other.keys} for other in DIALECTS.values()):
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
        name="anthropic",
        key=None,
        parse=anthropic.parse,
        error_body=anthropic.error_body,
        bodies=(MessagesBody, ThinkingOptions, OutputOptions, RequestMetadata, ToolChoiceOptions),
        whole=anthropic_answer.WHOLE,
        items=anthropic_answer.ITEMS,
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
        name="responses",
        key=None,
        parse=responses.parse,
        bodies=(ResponsesBody, TextOptions, ReasoningOptions, StreamOptions),
        whole=responses_answer.WHOLE,
        items=responses_answer.ITEMS,
    ),
    Dialect(
        name="embedding",
        key="input",
        parse=embedding.parse,
        bodies=(EmbeddingBody, Pooling),
        whole=embedding_answer.WHOLE,
        tasks=frozenset({"embed"}),
        asks="for embeddings",
    ),
    Dialect(
        name="classification",
        key=None,
        parse=classification.parse,
        bodies=(ClassificationBody, LabelOptions),
        whole=classification_answer.WHOLE,
        tasks=frozenset({"classify"}),
        asks="to classify texts",
    ),
    Dialect(
        name="pooling",
        key=None,
        parse=pooling.parse,
        bodies=(PoolingBody, PoolOptions),
        whole=pooling_answer.WHOLE,
        tasks=POOLS,
        asks="for pooled numbers",
    ),
    Dialect(
        name="rerank",
        key="query",
        parse=scoring.parse_rerank,
        bodies=(RerankBody,),
        whole=scoring_answer.RANKED,
        tasks=SCORES,
        asks="to rank texts",
    ),
    Dialect(
        name="score",
        key="text_1",
        more_keys=("queries", "data_1", "text_pair"),
        parse=scoring.parse_score,
        bodies=(ScoreBody,),
        whole=scoring_answer.SCORED,
        tasks=SCORES,
        asks="to score pairs of texts",
    ),
    Dialect(
        name="transcription",
        key="file",
        parse=transcription.parse,
        bodies=(TranscriptionBody,),
        whole=transcription_answer.WHOLE,
        items=transcription_answer.ITEMS,
    ),
    Dialect(
        name="tokenization",
        key=None,
        parse=tokenization.tokenize,
        bodies=(TokenizeBody, DetokenizeBody),
        whole=tokenization_answer.WHOLE,
        tasks=GENERATES | POOLS,
        asks="for tokens",
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
BY_PATH["count_tokens"] = replace(DIALECTS["anthropic"], parse=anthropic.count)
BY_PATH["predict"] = replace(DIALECTS["classification"], parse=classification.parse_predict)
BY_PATH["translation"] = replace(DIALECTS["transcription"], parse=partial(transcription.parse, task="translate"))
BY_PATH["chat_batch"] = replace(DIALECTS["chat"], parse=batch.parse)
BY_PATH["detokenization"] = replace(DIALECTS["tokenization"], parse=tokenization.detokenize)
"""Forms of a dialect that a path insists on, and no key chooses: TGI's own paths, TEI's, and a recording in English."""
OWN = {"embed": "embedding", "classify": "classification", "token_embed": "pooling", "token_classify": "pooling"}
"""The dialect of `input` and `inputs`, by the task of a model that pools."""
COUNTS = frozenset({"count_tokens", "tokenization", "detokenization"})
"""Forms of requests about tokens: they are of no session."""
RECORDINGS = frozenset({"transcription", "translation"})
"""Forms of the dialect whose bodies are no JSON."""


def prepare(deployment: Deployment) -> None:
    """Build what checks the bodies: a tenth of a second, which no request should wait for."""
    for dialect in DIALECTS.values():
        for body in dialect.bodies:
            deployment.checkers[body]


def choose(body: Json, forced: str | None, deployment: Deployment) -> Dialect:
    """The dialect of a body, or the one that its route forces; `input` and `inputs` ask a model for what it does.

    Raises BadField when two dialects' keys stand in one body or the model is of another kind, BadJson when no key does.
    """
    dialect = _named(forced) if forced else _find(body, deployment)
    if dialect.name == "transcription":
        return dialect  # its parser names a model that hears nothing
    if deployment.speech is not None and deployment.speech.is_only:
        raise _of_hearing(dialect, body, deployment)
    if deployment.pooler is None and dialect.name == "embedding" and not forced:
        return DIALECTS["responses"]
    if deployment.pooler is None and dialect.tasks is GENERATES:
        return dialect
    if deployment.pooler is not None and (dialect.name == "standard" or (dialect.name == "embedding" and not forced)):
        dialect = DIALECTS[OWN[deployment.pooler.task]]
    if dialect.is_served_by(deployment):
        return dialect
    key = next((key for key in dialect.keys or ("input", "inputs") if key in body), dialect.key or "input")
    text = f"{key} cannot be served: it asks {dialect.asks}, and the model {deployment.model} {_does(deployment)}"
    raise BadField([Problem(key, text)])


def _does(deployment: Deployment) -> str:
    """What the model does, and what to send it."""
    pooler = deployment.pooler
    if pooler is None:
        return "generates text; send messages, inputs or prompt"
    scores = " for that, text_1 and text_2 for scores, or query and documents to rank" if pooler.gives_scores else ""
    does = {"embed": "embeds", "classify": "classifies", "token_embed": "embeds each token"}
    labels = f" by {len(pooler.labels)} label{'s'[: len(pooler.labels) - 1]}" if pooler.labels else ""
    return f"{does.get(pooler.task, 'classifies each token')}{labels}; send input or inputs{scores}"


def _of_hearing(dialect: Dialect, body: Json, deployment: Deployment) -> BadField:
    """Say that the model does nothing but write what is said."""
    key = next((key for key in dialect.keys or ("input", "inputs") if key in body), dialect.key or "input")
    text = f"{key} cannot be served: the served model {deployment.model} writes what is said in recordings"
    return BadField([Problem(key, f"{text}; send a form with a file")])


def _named(name: str) -> Dialect:
    return BY_PATH.get(name) or DIALECTS[name]


def _find(body: Json, deployment: Deployment) -> Dialect:
    given = body.keys()
    found = [
        dialect
        for dialect in DIALECTS.values()
        if dialect.key in given or (dialect.more_keys and not given.isdisjoint(dialect.more_keys))
    ]
    if len(found) > 1:  # what asks for scores has everyday names, which are none elsewhere
        found = [each for each in found if each.tasks != SCORES or each.is_served_by(deployment)] or found
    if found == [DIALECTS["chat"]] and anthropic.is_own(body):
        return DIALECTS["anthropic"]
    if len(found) > 1:
        names = " and ".join(next(key for key in dialect.keys if key in body) for dialect in found)
        text = f"{names} in one body: each of them chooses another kind of request; send one of them"
        raise BadField([Problem(next(key for key in found[0].keys if key in body), text)])
    if not found:
        keys = {key: dialect for dialect in DIALECTS.values() for key in dialect.keys[:1]}
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


def error_body(error: Exception, dialect: str, *, is_tgi: bool = False, request_id: str = "") -> Json:
    """An Error in the shape of its dialect; OpenAI's where none was chosen yet ("").

    `is_tgi`: a deployment for TGI's clients, who are told `error_type`. `request_id` stands in it where a shape has it.
    """
    body = (_named(dialect).error_body if dialect else openai.error_body)(error)
    if "request_id" in body:
        return {**body, "request_id": request_id or None}
    return tgi.typed(body, error, is_tgi=is_tgi)


__all__ = [
    "DIALECTS",
    "RECORDINGS",
    "Deployment",
    "Dialect",
    "ParsedRequest",
    "choose",
    "error_body",
    "prepare",
    "register",
    "session",
]
