"""Let pages of other origins ask this server, as a deployment allows it (CORS)."""

from collections.abc import Sequence
from dataclasses import dataclass

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

ANY = "*"
SHOWN = ("X-Request-Id", "X-LMI-Chat-Warning", "X-Amzn-SageMaker-Custom-Attributes", "Retry-After", "Traceparent")
"""What of an answer's head a page may read, beside what every page may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossOrigin:
    """The origins whose pages may ask, and what they may send; "*" is any."""

    origins: Sequence[str]
    methods: Sequence[str] = (ANY,)
    headers: Sequence[str] = (ANY,)
    has_credentials: bool = False

    def around(self, app: ASGIApp) -> ASGIApp:
        """`app`, whose answers say what is allowed; a browser's question before a request is answered here."""
        return CORSMiddleware(
            app,
            allow_origins=self.origins,
            allow_methods=self.methods,
            allow_headers=self.headers,
            allow_credentials=self.has_credentials,
            expose_headers=SHOWN,
        )
