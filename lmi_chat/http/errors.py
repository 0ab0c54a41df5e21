"""Turn the errors of an application into responses, on the event loop."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeAlias

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lmi_chat.codec import json_text
from lmi_chat.errors import Error, Unauthorized, unforeseen
from lmi_chat.http.cross_origin import CrossOrigin

Refusal: TypeAlias = tuple[int, dict[str, str], object]
"""Status, headers and body of an Error."""
ShapeOf = Callable[[Request, Error], Refusal]
RouteError = Callable[[Request, HTTPException], Error]
Handler = Callable[[Request, Any], Awaitable[Response]]


def handlers(shape_of: ShapeOf, route_error: RouteError) -> dict[Any, Handler]:
    """An application's exception handlers: `shape_of` says an Error, `route_error` what no route takes.

    They are asynchronous: Starlette sends plain functions through a thread pool, behind which an overload would wait.
    """

    async def refuse(request: Request, error: Exception) -> Response:
        given: dict[str, str] = {}
        if isinstance(error, HTTPException):
            given.update(error.headers or {})
            error = route_error(request, error)
        if not isinstance(error, Error):
            error = unforeseen(error)
        if error.retry_after_s is not None:
            given["Retry-After"] = str(error.retry_after_s)
        if isinstance(error, Unauthorized):
            given["WWW-Authenticate"] = "Bearer"
        if error.status in {401, 413, 415} or error.code == "draining":
            given["Connection"] = "close"  # the rest of the body is not read; or another server takes the next request
        status, headers, body = shape_of(request, error)
        return Response(json_text.dump(body), status, headers | given, "application/json")

    return dict.fromkeys((Error, HTTPException, Exception), refuse)


class Application(Starlette):
    """Starlette, past whose layers a POST to one of its plain paths goes straight to its route.

    Two layers that wait for errors and a router that asks route after route cost a thirtieth of a chat's intake.
    """

    def __init__(
        self,
        routes: Sequence[BaseRoute],
        exception_handlers: Mapping[Any, Handler],
        cross_origin: CrossOrigin | None = None,
    ) -> None:
        """Serve `routes`; `exception_handlers` has one for Exception, which says any."""
        super().__init__(routes=routes, exception_handlers=exception_handlers)
        self.router.redirect_slashes = False  # it would send a client to whatever its Host header says
        self._refuse = exception_handlers[Exception]
        self._allowing = cross_origin.around(self._answer) if cross_origin else None
        self._direct: Mapping[str, ASGIApp] = {
            route.path: route.app
            for route in reversed(routes)
            if isinstance(route, Route) and route.methods == {"POST"} and not route.param_convertors
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, and tell a browser of the origins that are allowed, if any is."""
        await (self._allowing or self._answer)(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_plain = scope["type"] == "http" and scope["method"] == "POST" and not scope.get("root_path")
        app = self._direct.get(scope["path"]) if is_plain else None
        if app is None:
            await super().__call__(scope, receive, send)
            return
        scope["app"], scope["path_params"] = self, {}
        is_begun = False

        async def begin(message: Message) -> None:
            nonlocal is_begun
            is_begun = True
            await send(message)

        try:
            await app(scope, receive, begin)
        except Exception as error:
            if is_begun:
                raise
            response = await self._refuse(Request(scope), error)
            await response(scope, receive, send)
            if not isinstance(error, Error):
                raise  # the server logs it


def application(
    routes: Sequence[BaseRoute], shape_of: ShapeOf, route_error: RouteError, cross_origin: CrossOrigin | None = None
) -> Starlette:
    """Build an application of `routes` whose errors are said by `shape_of` and `route_error`."""
    return Application(routes, handlers(shape_of, route_error), cross_origin)
