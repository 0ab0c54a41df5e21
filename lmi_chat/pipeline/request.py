"""Declare the request that a surface (HTTP, DJL) hands to the pipeline, and make it of headers."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from lmi_chat.codec.framing import Shape
from lmi_chat.observability import trace_context
from lmi_chat.observability.record import RequestRecord

REQUEST_ID = re.compile(r"[!-~](?:[ -~]{0,126}[!-~])?")
"""What a caller may name a request: up to 128 visible ASCII characters, blanks within."""

PREFIX_ID = re.compile(r"[!-~][ -~]{0,63}")
"""The id by which the platform sends requests with a common prefix to one instance (botocore: PrefixAwareId)."""

INFERENCE_ID = b"x-amzn-sagemaker-inference-id"
PREFIX_AWARE_ID = b"x-amzn-sagemaker-prefix-aware-id"
ATTRIBUTES = b"x-amzn-sagemaker-custom-attributes"
ID_BYTES = 16


@dataclass(slots=True, kw_only=True)
class InferenceRequest:
    """One request as a surface hands it in. `dialect` is filled in as soon as it is known, for an error's shape.

    `record` is made with it, so that its clock runs from the request's arrival.
    """

    body: bytes
    id: str
    content_type: str = "application/json"
    content_encoding: str = ""
    accept: str = ""
    owner: str = ""  # the name of the API key that came with it; "" where none is asked for
    session_id: str = ""
    prefix_id: str = ""  # of a group of requests whose prompts begin alike
    adapter: str = ""
    target_model: str = ""
    path_model: str = ""  # the name in its path, an endpoint's or a model's: one of the served model's for this request
    route_shape: Shape = "lines"
    forced: str | None = None
    dialect: str = ""
    deadline_s: float | None = None  # None: the deployment's
    is_promised: bool = False  # accepted earlier: answered in a drain too
    is_awaited: bool = True  # by a client, for which finish_before_seconds is there
    is_record: bool = False  # one of several in its body: it does not stream
    on_body_freed: Callable[[], None] | None = None
    on_held: Callable[[int], None] | None = None  # counts bytes that are kept until the answer's end
    warnings: list[str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    units: int = 0  # that its answer is billed by
    record: RequestRecord = field(default_factory=RequestRecord)

    def free_body(self) -> None:
        """Keep the body no longer: it is parsed, and may be large."""
        self.body = b""
        if self.on_body_freed is not None:
            self.on_body_freed()

    def hold(self, size: int) -> None:
        """Keep no body, and `size` bytes in its place until the answer's end. Raises Busy where there is no room."""
        self.free_body()
        if self.on_held is not None:
            self.on_held(size)
        self.on_body_freed = None


def of_headers(
    headers: Mapping[bytes, str],
    *,
    body: bytes = b"",
    route_shape: Shape = "lines",
    forced: str | None = None,
    owner: str = "",
) -> InferenceRequest:
    """The request that `headers`, names in lower case, ask for; `route_shape` and `forced` are the route's own.

    `owner`: the name of its API key.
    """
    asked = (headers.get(INFERENCE_ID, ""), headers.get(b"x-request-id", ""))
    request_id = next((text for text in asked if text and REQUEST_ID.fullmatch(text)), "") or os.urandom(ID_BYTES).hex()
    inference_id = asked[0] if request_id == asked[0] else ""
    traceparent, tracestate = trace_context.of_headers(headers, headers.get(ATTRIBUTES, ""))
    prefix_id = headers.get(PREFIX_AWARE_ID, "")
    prefix_id = prefix_id if PREFIX_ID.fullmatch(prefix_id) else ""
    return InferenceRequest(
        body=body,
        id=request_id,
        owner=owner,
        content_type=headers.get(b"content-type", ""),
        content_encoding=headers.get(b"content-encoding", "").strip().lower(),
        accept=headers.get(b"x-amzn-sagemaker-accept") or headers.get(b"accept", ""),
        session_id=headers.get(b"x-amzn-sagemaker-session-id", "").strip(),
        prefix_id=prefix_id,
        adapter=headers.get(b"x-amzn-sagemaker-adapter-identifier", "").strip(),
        target_model=headers.get(b"x-amzn-sagemaker-target-model", ""),
        route_shape=route_shape,
        forced=forced,
        record=RequestRecord(
            id=request_id,
            inference_id=inference_id,
            owner=owner,
            prefix_id=prefix_id,
            traceparent=traceparent,
            tracestate=tracestate,
        ),
    )
