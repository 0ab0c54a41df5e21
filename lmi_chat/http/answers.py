"""Declare the answers of the routes beside inference: health, models, SageMaker's runtime, operators."""

from typing import Annotated, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from lmi_chat.dialects.answer import Count


class Ready(TypedDict):
    """Requests are taken."""

    status: Literal["ready"]
    active: Count


class NotReady(TypedDict):
    """Requests are not taken."""

    status: str
    phase: NotRequired[str]
    progress: NotRequired[float]
    seconds: NotRequired[float]
    active: NotRequired[Count]


class ServedModelCard(TypedDict):
    """The served model, under one of its names."""

    id: str
    object: Literal["model"]
    created: Count
    owned_by: str
    root: str
    max_model_len: Count


class Models(TypedDict):
    """The served model by all its names."""

    object: Literal["list"]
    data: list[ServedModelCard]


class Info(TypedDict):
    """The served model and its limits, by TGI's names."""

    model_id: str
    model_sha: str | None
    model_pipeline_tag: Literal["text-generation", "feature-extraction"]
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


ADAPTER_NAME = r"(?!\.+$)[A-Za-z0-9._-]{1,64}"
AdapterName = Annotated[str, Field(json_schema_extra={"pattern": f"^{ADAPTER_NAME}$"})]


class LoadedAdapter(TypedDict):
    """An adapter that is loaded."""

    name: AdapterName
    src: str


class Adapters(TypedDict):
    """The adapters that are loaded."""

    adapters: list[LoadedAdapter]


class AdapterBody(TypedDict):
    """An adapter to load; this is a request's body."""

    name: AdapterName
    src: str
    preload: NotRequired[bool | None]
    pin: NotRequired[bool | None]


ANSWERS = {
    "Ready": Ready,
    "NotReady": NotReady,
    "Model": ServedModelCard,
    "Models": Models,
    "Info": Info,
    "Accepted": Accepted,
    "RuntimeError": RuntimeFault,
    "ModelError": ModelError,
    "ExecutionParameters": ExecutionParameters,
    "Adapters": Adapters,
    "Adapter": AdapterBody,
}
"""By the names of their components in the OpenAPI document."""
