"""Hold the state that the routes share, and the context of one request."""

from dataclasses import dataclass, field

from lmi_chat.async_requests import AsyncRequests
from lmi_chat.console.recorder import Console
from lmi_chat.http.access import ApiKeys
from lmi_chat.http.cross_origin import CrossOrigin
from lmi_chat.observability.startup import StartupProgress
from lmi_chat.pipeline.bodies import BodyBudget
from lmi_chat.pipeline.pipeline import InferenceRequest, Pipeline
from lmi_chat.storage.completions import Completions

Headers = list[tuple[bytes, bytes]]


@dataclass(slots=True, kw_only=True)
class AppState:
    """The state that the routes share."""

    pipeline: Pipeline
    health: StartupProgress
    max_body_bytes: int
    bodies: BodyBudget = field(default_factory=BodyBudget)
    store: Completions | None = None
    async_requests: AsyncRequests | None = None
    is_tgi: bool = False
    api_keys: ApiKeys | None = None
    shows_tokenizer: bool = False
    cross_origin: CrossOrigin | None = None
    console: Console | None = None


@dataclass(slots=True)
class RequestContext:
    """One request with the common headers of its reply."""

    request: InferenceRequest
    headers: Headers = field(default_factory=list)
    warns_in_attributes: bool = False
