"""Refuse bytes that never become a request: the errors and their whole response."""

import json
from collections.abc import Iterable

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from lmi_chat.errors import Error


class BadHttp(Error):
    """Not HTTP/1.1 or 1.0 as RFC 9112 writes it, or framed in two ways at once."""

    status, kind, code = 400, "invalid_request_error", "bad_http"


class MissingHost(BadHttp):
    """An HTTP/1.1 request without Host (RFC 9112 section 3.2)."""

    code = "missing_host"


class HeadersTooLarge(BadHttp):
    """Request line and headers over the limit (RFC 6585 section 5)."""

    status, code = 431, "headers_too_large"


class ReceiveTimeout(BadHttp):
    """Head or body came too slowly (RFC 9110 section 15.5.9)."""

    status, code = 408, "receive_timeout"


def render_refusal(error: Error, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Render the whole response, with `headers` and Connection: close."""
    fields = {"message": error.message, "type": error.kind, "param": error.param, "code": error.code}
    body = json.dumps({"error": fields}).encode()
    lines = [b"%b: %b\r\n" % pair for pair in headers]
    if error.retry_after_s is not None:
        lines.append(b"retry-after: %d\r\n" % error.retry_after_s)
    lines.append(b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body))
    return b"".join([STATUS_LINE[error.status], *lines, body])
