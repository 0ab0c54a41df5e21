"""Declare the types of answers' fields, the parts that several dialects answer with, and their JSON Schema.

A dialect's answers are TypedDicts, as its bodies are: mypy holds the renderers' documents to them, and pydantic makes
their OpenAPI schema. What a deployment decides stands in them by ByDeployment. Nothing is validated when it is sent.
"""

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Annotated, Any, NotRequired, get_args

from pydantic import Field, GetJsonSchemaHandler, TypeAdapter
from typing_extensions import TypedDict

from lmi_chat.codec.json_text import Json
from lmi_chat.dialects.body import PlainJsonSchema
from lmi_chat.dialects.deployment import Deployment
from lmi_chat.errors import Kind
from lmi_chat.job import Reason

_deployment: ContextVar[Deployment] = ContextVar("deployment")  # whose answers are being described


@dataclass(frozen=True, slots=True)
class ByDeployment:
    """A field whose schema is the deployment's own."""

    shown: Callable[[Deployment], Json]

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> Json:
        """The schema in place of the type's."""
        return self.shown(_deployment.get())


def words(deployment: Deployment) -> list[str]:
    """The words of a deployment for why a sequence ended, in the order of the alphabet."""
    own = get_args(Reason) if deployment.finish_words is None else deployment.finish_words.values()
    return sorted(set(own))


Count = Annotated[int, Field(ge=0)]
Logprob = Annotated[float, Field(le=0, description="natural logarithm; -9999.0 stands for -infinity")]
ServedModel = Annotated[
    str,
    ByDeployment(
        lambda deployment: (
            {"const": deployment.model}
            if deployment.knows_adapter is None
            else {"type": "string", "description": "the model, or the adapter that answers"}
        )
    ),
]
FinishWord = Annotated[str | None, ByDeployment(lambda deployment: {"enum": [*words(deployment), None]})]
StopReason = Annotated[str | int | None, Field(description="what stopped it: a text or a token id")]
TokenIds = Annotated[list[Count], Field(description="with return_token_ids")]


class RankedToken(TypedDict):
    """One token that may stand at a place of the prompt."""

    logprob: Logprob
    rank: Count
    decoded_token: str


PromptLogprobs = Annotated[
    list[Annotated[dict[str, RankedToken], Field(description="by token id, the prompt's own first")] | None],
    Field(description="null for the first token"),
]


class PromptScores(TypedDict, total=False):
    """What `prompt_logprobs` asks for."""

    prompt_logprobs: PromptLogprobs


class PromptTokensDetails(TypedDict):
    """How many of the prompt's tokens the engine had kept, and how many stand for each kind of media, if it has any."""

    cached_tokens: Count
    multimodal_tokens: NotRequired[dict[str, Count]]


class CompletionTokensDetails(TypedDict):
    """How many tokens were no part of the answer."""

    reasoning_tokens: Count


class TokenCounts(TypedDict):
    """Tokens of the prompt and of the answer."""

    prompt_tokens: Count
    completion_tokens: Count
    total_tokens: Count


class CompletionUsage(TokenCounts):
    """The usage object, in tokens."""

    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class EmbeddingUsage(TypedDict):
    """Tokens of the inputs."""

    prompt_tokens: Count
    total_tokens: Count


Vector = list[float] | Annotated[str, Field(json_schema_extra={"contentEncoding": "base64"})]


class Choice(TypedDict):
    """One sequence of an answer, or a piece of it, as far as chat and completion have it alike."""

    index: Count
    token_ids: NotRequired[TokenIds]
    prompt_token_ids: NotRequired[TokenIds]


class Head(TypedDict):
    """What every object of one reply begins with, beside its kind."""

    id: str
    created: Count
    model: ServedModel
    system_fingerprint: str | None


class OpenAIFault(TypedDict):
    """What is wrong, and with which field."""

    message: str
    type: Kind
    param: str | None
    code: str


class OpenAIError(TypedDict):
    """An error in OpenAI's shape."""

    error: OpenAIFault


class LmiError(TypedDict):
    """An error in LMI's shape."""

    error: str
    code: int
    type: Kind
    param: str | None


ErrorType = Annotated[str, Field(description="as TGI's clients know it")]


class TgiOpenAIError(OpenAIError):
    """An error in OpenAI's shape, of a deployment for TGI's clients."""

    error_type: NotRequired[ErrorType]


class TgiLmiError(LmiError):
    """An error in LMI's shape, of a deployment for TGI's clients."""

    error_type: NotRequired[ErrorType]


def schemas(answers: Mapping[str, Any], deployment: Deployment) -> Json:
    """The JSON Schema of these types, and of those in them, by the names of components.

    Takes a tenth of a second: not for the event loop. Raises TypeError where two types have one name.
    """
    shown: Json = {}
    token = _deployment.set(deployment)
    for name, answer in answers.items():
        schema = TypeAdapter(answer).json_schema(
            ref_template="#/components/schemas/{model}", schema_generator=PlainJsonSchema
        )
        for part, shape in {**schema.pop("$defs", {}), name: schema | {"title": name}}.items():
            if shown.setdefault(part, shape) != shape:
                raise TypeError(f"two types of answers are called {part}")
    _deployment.reset(token)
    return shown
