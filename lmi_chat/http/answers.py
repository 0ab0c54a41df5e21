"""Declare the answers of the routes beside inference: health, models, SageMaker's runtime, operators."""

from typing import Annotated, Literal, NotRequired

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from lmi_chat.adapters import NAME_PATTERN
from lmi_chat.dialects.answer import Count

PipelineTag = Literal[
    "text-generation",
    "feature-extraction",
    "text-classification",
    "token-classification",
    "automatic-speech-recognition",
]


class Ready(TypedDict):
    """Requests are taken."""

    status: Literal["ready"]
    active: Count


class Live(TypedDict):
    """The process is there."""

    status: Literal["live"]


class NotReady(TypedDict):
    """Requests are not taken."""

    status: str
    phase: NotRequired[str]
    progress: NotRequired[float]
    seconds: NotRequired[float]
    active: NotRequired[Count]


class ServedModelCard(TypedDict):
    """The served model, under one of its names, or an adapter."""

    id: str
    object: Literal["model"]
    created: Count
    owned_by: str
    root: str
    max_model_len: Count
    parent: NotRequired[Annotated[str, Field(description="of an adapter: the model it belongs to")]]


class Version(TypedDict):
    """The engine's version, as vLLM's servers tell theirs, and this server's."""

    version: str
    lmi_chat: str


class Load(TypedDict):
    """How many requests run or wait to."""

    server_load: Count


class TokenizerInfo(TypedDict):
    """The tokenizer's configuration; beside its class stands whatever its model has."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    tokenizer_class: str


class Models(TypedDict):
    """The served model by all its names, then its adapters."""

    object: Literal["list"]
    data: list[ServedModelCard]


class Info(TypedDict):
    """The served model and its limits, by TGI's names."""

    model_id: str
    model_sha: str | None
    model_pipeline_tag: PipelineTag
    max_concurrent_requests: Count
    max_best_of: Count
    max_stop_sequences: Count
    max_input_length: Count
    max_input_tokens: Count
    max_total_tokens: Count
    validation_workers: Count
    max_client_batch_size: Count
    router: str
    version: str
    sha: str | None
    docker_label: str | None


class Accepted(TypedDict):
    """An asynchronous request that was taken."""

    InferenceId: str


class RuntimeFault(TypedDict):
    """An error of SageMaker's own."""

    Message: str


class ModelError(RuntimeFault):
    """An error of the model's, with its status and body inside."""

    OriginalStatusCode: int
    OriginalMessage: str
    LogStreamArn: str


class ExecutionParameters(TypedDict):
    """What batch transform may send."""

    MaxConcurrentTransforms: Count
    BatchStrategy: Literal["SINGLE_RECORD"]
    MaxPayloadInMB: Count


AdapterName = Annotated[str, Field(json_schema_extra={"pattern": f"^{NAME_PATTERN}$"})]


class KvEventSource(TypedDict):
    """What publishes a rank's cache events, in vLLM's words."""

    enable_kv_cache_events: bool
    publisher: Literal["null", "zmq"]
    endpoint: str
    replay_endpoint: str | None
    buffer_steps: int
    hwm: int
    max_queue_size: int
    topic: str


class LoadedModel(TypedDict):
    """A model that is loaded, in the words of the multi-model contract."""

    modelName: str
    modelUrl: str


class LoadedModels(TypedDict):
    """A page of the loaded models."""

    models: list[LoadedModel]


class ModelBody(TypedDict):
    """A model to load; this is a request's body."""

    model_name: Annotated[str, Field(min_length=1)]
    url: str


class LoadedAdapter(TypedDict):
    """An adapter that is registered; `preload`: its weights were loaded then, `pin`: they stay."""

    name: str
    src: str
    preload: bool
    pin: bool


class Adapters(TypedDict):
    """A page of the registered adapters; `nextPageToken` where there are more."""

    adapters: list[LoadedAdapter]
    nextPageToken: NotRequired[str]


class AdapterStatus(TypedDict):
    """What was done, in a sentence."""

    status: str


class AdapterBody(TypedDict):
    """An adapter to load; this is a request's body."""

    name: AdapterName
    src: str
    preload: NotRequired[bool | None]
    pin: NotRequired[bool | None]
    load_inplace: NotRequired[bool | None]


class AdapterUpdate(TypedDict):
    """What is to change of a registered adapter; without `src` its files are read again. This is a request's body."""

    src: NotRequired[str | None]
    preload: NotRequired[bool | None]
    pin: NotRequired[bool | None]


ANSWERS = {
    "Live": Live,
    "Ready": Ready,
    "NotReady": NotReady,
    "Model": ServedModelCard,
    "Models": Models,
    "Info": Info,
    "Version": Version,
    "Load": Load,
    "TokenizerInfo": TokenizerInfo,
    "Accepted": Accepted,
    "RuntimeError": RuntimeFault,
    "ModelError": ModelError,
    "ExecutionParameters": ExecutionParameters,
    "KvEventSources": dict[str, KvEventSource],
    "LoadedModel": LoadedModel,
    "LoadedModels": LoadedModels,
    "ModelBody": ModelBody,
    "Adapters": Adapters,
    "AdapterList": list[LoadedAdapter],
    "AdapterStatus": AdapterStatus,
    "Adapter": AdapterBody,
    "AdapterUpdate": AdapterUpdate,
}
"""By the names of their components in the OpenAPI document."""
