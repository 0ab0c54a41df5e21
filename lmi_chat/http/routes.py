"""List the inference routes, and find the one that a request's Custom-Attributes name by `route=`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from lmi_chat.codec.framing import Shape
from lmi_chat.errors import NotFound
from lmi_chat.pipeline.request import InferenceRequest
from lmi_chat.text import echo

HEADER = "X-Amzn-SageMaker-Custom-Attributes"
KEY = HEADER.lower().encode()
ATTRIBUTE = re.compile(r"(?:^|[,;])[ \t]*route[ \t]*=([^,;]*)")
"""Attributes stand between commas or semicolons; AWS's containers and their users write either."""
ATTRIBUTES_CHARS = 1024
"""SageMaker API reference, InvokeEndpoint: of visible ASCII, in a request and in an answer."""
WARNING = "lmi-chat-warning="
LEAST_CHARS = 20
"""Of a warning that is told in part."""


@dataclass(frozen=True, slots=True)
class InferenceRoute:
    """The rules of a route: its own way to stream, and the dialect that it insists on, None where a body's key says."""

    shape: Shape = "lines"
    forced: str | None = None
    id_headers: tuple[bytes, ...] = (b"x-request-id",)  # under which the request's id comes back


ANY = InferenceRoute()
"""Takes every dialect, and any other route's rules by `route=`."""
_POOLED = {
    "/v1/score": "score",
    "/score": "score",
    "/v1/rerank": "rerank",
    "/v2/rerank": "rerank",
    "/rerank": "rerank",
    "/classify": "classification",
    "/pooling": "pooling",
    "/predict": "predict",
}
"""The paths of models that pool, and the form of a body that each insists on."""
ANTHROPIC_IDS = (b"x-request-id", b"request-id")
"""Anthropic's clients read the second one."""
ROUTES: Mapping[str, InferenceRoute] = {
    "/invocations": ANY,
    "/v1/chat/completions": InferenceRoute("events", "chat"),
    "/v1/chat/completions/batch": InferenceRoute("lines", "chat_batch"),
    "/v1/completions": InferenceRoute("events", "completion"),
    "/v1/responses": InferenceRoute("events", "responses"),
    "/v1/messages": InferenceRoute("events", "anthropic", ANTHROPIC_IDS),
    "/v1/messages/count_tokens": InferenceRoute("lines", "count_tokens", ANTHROPIC_IDS),
    "/v1/embeddings": InferenceRoute("lines", "embedding"),
    **{path: InferenceRoute("lines", form) for path, form in _POOLED.items()},
    "/tokenize": InferenceRoute("lines", "tokenization"),
    "/detokenize": InferenceRoute("lines", "detokenization"),
    "/v1/audio/transcriptions": InferenceRoute("events", "transcription"),
    "/v1/audio/translations": InferenceRoute("events", "translation"),
}
TGI_ROUTES: Mapping[str, InferenceRoute] = {
    path: InferenceRoute("events", form)
    for path, form in {"/": "standard", "/generate": "generate", "/generate_stream": "generate_stream"}.items()
}
"""Those of a deployment for TGI's clients. `/` is `/invocations` for `inputs`; the others have one form of answer."""


def served(*, is_tgi: bool) -> Mapping[str, InferenceRoute]:
    """The routes of a deployment, by their paths."""
    return {**ROUTES, **TGI_ROUTES} if is_tgi else ROUTES


def follow(request: InferenceRequest, attributes: str, routes: Mapping[str, InferenceRoute]) -> None:
    """Let a request that may be of any dialect be answered as on the route that `attributes` name. Raises NotFound."""
    if request.forced is not None or not (found := ATTRIBUTE.search(attributes)):
        return
    path = found[1].strip()
    if path not in routes:
        raise NotFound(f"{HEADER} has route={echo(path)}; the inference routes are {', '.join(routes)}", param=HEADER)
    request.route_shape, request.forced = routes[path].shape, routes[path].forced


def with_warning(attributes: str, text: str) -> str:
    """Custom-Attributes of an answer: the request's own `attributes` as they came, then the warning up to the end.

    Its text may have commas and semicolons. It is cut to the room that is left, and absent where that is too small.
    """
    head = f"{attributes};{WARNING}" if attributes else WARNING
    return attributes if len(head) + LEAST_CHARS > ATTRIBUTES_CHARS else (head + text)[:ATTRIBUTES_CHARS]
