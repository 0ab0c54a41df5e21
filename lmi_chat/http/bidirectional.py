"""Answer the messages of a WebSocket, each as a request of its own: SageMaker's bidirectional streams.

The platform opens `ws://localhost:8080/PATH?QUERY` for a client: PATH is its ModelInvocationPath, else
`invocations-bidirectional-stream`, and QUERY its ModelQueryString. Each message is given to the application as the body
of a POST, so that whatever holds for a route holds for it here; each write of the answer goes back as a message.
"""

from typing import Any
from urllib.parse import parse_qs

from starlette.routing import WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.types import Message as Event

from lmi_chat import dialects
from lmi_chat.codec import json_text
from lmi_chat.errors import Error, Forbidden, NotFound, TooLarge
from lmi_chat.http import routes
from lmi_chat.http.cross_origin import ANY
from lmi_chat.http.state import AppState
from lmi_chat.http.transport.body_stream import OUTLET
from lmi_chat.http.transport.refusals import render_refusal
from lmi_chat.http.transport.websocket import LARGE, LATER, SOCKET, FrameStream, Message, WebSocket
from lmi_chat.text import echo

PATH = "/invocations-bidirectional-stream"
DEFAULT = "/invocations"
OF_HANDSHAKE = frozenset({b"connection", b"upgrade", b"origin", b"content-length", b"expect"})
JSON = (b"content-type", b"application/json")


class Bidirectional:
    """A path that takes WebSockets, whose messages are answered as by `path`, or by the route that the query names."""

    def __init__(self, state: AppState, path: str) -> None:
        """Answer as `path` does."""
        self._state, self._path = state, path
        self._routes = routes.served(is_tgi=state.is_tgi)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 it has no ASGI messages
        """Answer one WebSocket until its client goes."""
        socket: WebSocket = scope["extensions"][SOCKET]
        try:
            owner, path = self._admit(scope)
        except Error as error:
            self._record(scope, error.status)
            socket.refuse(render_refusal(error, []))
            return
        self._record(scope, 101, owner)
        if not socket.accept(self._state.max_body_bytes):
            return
        while await socket.stirred():
            try:
                with self._state.bodies.body() as body, body.reading():
                    message = await socket.receive(body.add)
            except Error as error:
                said = dialects.error_body(error, "", is_tgi=self._state.is_tgi)
                socket.write(json_text.dump(said), is_text=True)
                socket.close(LARGE if isinstance(error, TooLarge) else LATER, error.code)
                return
            if message is None:
                return
            socket.is_answering = True
            await _answer(_inner(scope, path, message, socket), message, socket, scope["app"])
            socket.answered()

    def _admit(self, scope: Scope) -> tuple[str, str]:
        """Give the name of the API key, and the path that messages are for. Raises an Error."""
        keys, allowed = self._state.api_keys, self._state.cross_origin
        owner = keys.owner(scope) if keys is not None else ""
        given = dict(scope["headers"])
        origin = given.get(b"origin", b"").decode("latin-1")
        if origin and not (allowed and {ANY, origin} & set(allowed.origins)):
            raise Forbidden(f"pages of {echo(origin)} may open no WebSocket here (allowed_origins)")
        if self._state.pipeline.refusal is not None:
            raise self._state.pipeline.refusal
        named = parse_qs(scope["query_string"].decode("latin-1")).get("route", [self._path])[-1]
        if named not in self._routes:
            raise NotFound(f"there is no route={echo(named)}; the inference routes are {', '.join(self._routes)}")
        return owner, named

    def _record(self, scope: Scope, status: int, owner: str = "") -> None:
        peer = scope["client"][0] if scope.get("client") else ""
        log = self._state.pipeline.request_log
        log.audit(peer=peer, method="GET", path=scope["path"], status=status, owner=owner)


def _inner(scope: Scope, path: str, message: Message, socket: WebSocket) -> Scope:
    """The request that a message is: the head of the handshake, and the message's length."""
    kept = [
        pair for pair in scope["headers"] if pair[0] not in OF_HANDSHAKE and not pair[0].startswith(b"sec-websocket-")
    ]
    if not any(name == b"content-type" for name, _ in kept):
        kept.append(JSON)
    headers = [*kept, (b"content-length", str(len(message.data)).encode())]
    common = {name: scope[name] for name in ("asgi", "http_version", "server", "client", "scheme", "root_path")}
    return {
        **common,
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": headers,
        "state": dict(scope.get("state", {})),
        "extensions": {OUTLET: FrameStream(socket, is_text=message.is_text)},
    }


async def _answer(inner: Scope, message: Message, socket: WebSocket, app: ASGIApp) -> None:
    """Answer one message; a client that goes cancels it."""
    is_read = False

    async def receive() -> Event:
        nonlocal is_read
        if is_read:
            await socket.gone()
            return {"type": "http.disconnect"}
        is_read = True
        return {"type": "http.request", "body": message.data, "more_body": False}

    async def send(event: Event) -> None:
        if event["type"] == "http.response.body" and event.get("body"):
            socket.write(event["body"], is_text=message.is_text)

    try:
        await app(inner, receive, send)
    finally:
        socket.on_gone = None


def sockets(state: AppState) -> list[WebSocketRoute]:
    """The paths that take WebSockets: the platform's own, and those of the inference routes."""
    served: dict[str, Any] = {PATH: DEFAULT} | {path: path for path in routes.served(is_tgi=state.is_tgi)}
    return [WebSocketRoute(path, Bidirectional(state, default)) for path, default in served.items()]
