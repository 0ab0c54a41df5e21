"""Declare the request that a surface (HTTP, DJL) hands to the pipeline."""

import re
from dataclasses import dataclass, field

from lmi_chat.codec.framing import Shape
from lmi_chat.observability.record import RequestRecord

REQUEST_ID = re.compile(r"[!-~](?:[ -~]{0,126}[!-~])?")
"""What a caller may name a request: up to 128 visible ASCII characters, blanks within."""


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
    session_id: str = ""
    adapter: str = ""
    target_model: str = ""
    route_shape: Shape = "lines"
    forced: str | None = None
    dialect: str = ""
    deadline_s: float | None = None  # None: the deployment's
    is_promised: bool = False  # accepted earlier: answered in a drain too
    warnings: list[str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    record: RequestRecord = field(default_factory=RequestRecord)
