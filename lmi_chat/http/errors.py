"""Turn the errors of an application into responses, on the event loop."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from lmi_chat.codec import json_text
from lmi_chat.errors import Bug, Error, Unauthorized

Refusal: TypeAlias = tuple[int, dict[str, str], object]
"""Status, headers and body of an Error."""
ShapeOf = Callable[[Request, Error], Refusal]
RouteError = Callable[[Request, HTTPException], Error]


def handlers(shape_of: ShapeOf, route_error: RouteError) -> dict[Any, Callable[[Request, Any], Awaitable[Response]]]:
    """An application's exception handlers: `shape_of` says an Error, `route_error` what no route takes.

    They are asynchronous: Starlette sends plain functions through a thread pool, behind which an overload would wait.
    """

    async def refuse(request: Request, error: Exception) -> Response:
        given: dict[str, str] = {}
        if isinstance(error, HTTPException):
            given.update(error.headers or {})
            error = route_error(request, error)
        if not isinstance(error, Error):
            error = Bug("internal error")
        if error.retry_after_s is not None:
            given["Retry-After"] = str(error.retry_after_s)
        if isinstance(error, Unauthorized):
            given["WWW-Authenticate"] = "Bearer"
        if error.status in {401, 413, 415} or error.code == "draining":
            given["Connection"] = "close"  # the rest of the body is not read; or another server takes the next request
        status, headers, body = shape_of(request, error)
        return Response(json_text.dump(body), status, headers | given, "application/json")

    return dict.fromkeys((Error, HTTPException, Exception), refuse)


def application(routes: Sequence[BaseRoute], shape_of: ShapeOf, route_error: RouteError) -> Starlette:
    """Build an application of `routes` whose errors are said by `shape_of` and `route_error`."""
    built = Starlette(routes=routes, exception_handlers=handlers(shape_of, route_error))
    built.router.redirect_slashes = False  # it would send a client to whatever its Host header says
    return built
