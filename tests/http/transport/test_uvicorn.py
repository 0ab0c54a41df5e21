"""What the transport leans on in uvicorn: an upgrade that changes it fails here, with a sentence for each change.

On that day read uvicorn's httptools_impl.py again beside protocol.py and body_stream.py; then mend the table.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any

import uvicorn
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import Server, ServerState

from lmi_chat.http.transport import protocol
from lmi_chat.http.transport.body_stream import BodyStream
from lmi_chat.http.transport.writer import ConnectionWriter

ATTRIBUTE = ""
Names = Mapping[str, str]
"""A method by its parameters, an attribute of an object as ATTRIBUTE."""
LEANS: dict[type, Names] = {
    HttpToolsProtocol: {
        "__init__": "self, config, server_state, app_state, _loop",
        "connection_made": "self, transport",
        "connection_lost": "self, exc",
        "data_received": "self, data",
        "eof_received": "self",
        "pause_writing": "self",
        "resume_writing": "self",
        "on_message_begin": "self",
        "on_header": "self, name, value",
        "on_headers_complete": "self",
        "on_body": "self, body",
        "on_message_complete": "self",
        "on_response_complete": "self",
        "_start_asgi_task": "self, cycle, app",
        "_unset_keepalive_if_required": "self",
        **dict.fromkeys(["loop", "parser", "url", "headers", "flow", "pipeline", "cycle", "server_state"], ATTRIBUTE),
        "shutdown": "self",
        **dict.fromkeys(["client", "scope", "app", "tasks"], ATTRIBUTE),
    },
    RequestResponseCycle: {
        "send": "self, message",
        **dict.fromkeys(
            (
                *("scope", "message_event", "disconnected", "keep_alive", "waiting_for_100_continue", "more_body"),
                *("response_started", "response_complete", "chunked_encoding", "expected_content_length"),
            ),
            ATTRIBUTE,
        ),
    },
    FlowControl: {"read_paused": ATTRIBUTE, "resume_reading": "self"},
    ServerState: {"default_headers": ATTRIBUTE},
    Server: {
        "_serve": "self, sockets",
        **dict.fromkeys(["started", "should_exit", "server_state", "config"], ATTRIBUTE),
    },
}
CONFIG = (
    *("app", "http", "ws", "loop", "lifespan", "interface", "log_config", "access_log", "server_header"),
    *("proxy_headers", "timeout_keep_alive"),
)
# Of our classes: by which words they reach an object of uvicorn's.
REACHES: dict[type, dict[str, type]] = {
    protocol._Protocol: {
        "self": HttpToolsProtocol,
        "self.cycle": RequestResponseCycle,
        "outlet.cycle": RequestResponseCycle,
        "cycle": RequestResponseCycle,
        "self.flow": FlowControl,
        "self.server_state": ServerState,
    },
    BodyStream: {"cycle": RequestResponseCycle, "self.cycle": RequestResponseCycle},
}


def tree(kind: type) -> ast.AST:
    return ast.parse(textwrap.dedent(inspect.getsource(kind)))


def touched(kind: type, reach: str, context: type[ast.expr_context] = ast.expr_context) -> Iterator[str]:
    """The names that a class's source has behind `reach` and a dot."""
    for node in ast.walk(tree(kind)):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, context) and ast.unparse(node.value) == reach:
            yield node.attr


def names(kind: type) -> dict[str, str]:
    """All that a class and its objects have."""
    methods = {name: value for name, value in vars(kind).items() if inspect.isfunction(value)}
    attributes = dict.fromkeys(touched(kind, "self", ast.Store), ATTRIBUTE)
    return attributes | {name: ", ".join(inspect.signature(value).parameters) for name, value in methods.items()}


def changes(kind: type, has: Names, needs: Names) -> list[str]:
    """A sentence for each name that is not there any more or is something else."""
    found = []
    for name, takes in needs.items():
        what = f"uvicorn {uvicorn.__version__}: {kind.__name__}.{name}"
        if name not in has:
            found.append(f"{what} is gone")
        elif has[name] != takes:
            kinds = [f"a method that takes ({text})" if text else "an attribute" for text in (has[name], takes)]
            found.append(f"{what} is {kinds[0]}, no longer {kinds[1]}")
    return found


def test_all_names_are_what_they_were() -> None:
    assert [sentence for kind, needs in LEANS.items() for sentence in changes(kind, names(kind), needs)] == []


def test_the_configuration_takes_what_the_server_gives() -> None:
    has = inspect.signature(Config).parameters
    assert [f"uvicorn.Config has no parameter {name}" for name in CONFIG if name not in has] == []


def test_a_change_is_told_in_a_sentence() -> None:
    has = names(HttpToolsProtocol) | {"on_header": "self, name, value, index", "flow": "self"}
    del has["on_body"]
    where = f"uvicorn {uvicorn.__version__}: HttpToolsProtocol."
    kept = "a method that takes (self, name, value)"
    assert changes(HttpToolsProtocol, has, LEANS[HttpToolsProtocol]) == [
        f"{where}on_header is a method that takes (self, name, value, index), no longer {kept}",
        f"{where}on_body is gone",
        f"{where}flow is a method that takes (self), no longer an attribute",
    ]


def test_the_table_has_all_that_we_touch() -> None:
    missing = [
        f"{ours.__name__} uses {reach}.{name}: add it to LEANS[{theirs.__name__}]"
        for ours, reaches in REACHES.items()
        for reach, theirs in reaches.items()
        for name in {*touched(ours, reach)}
        if name not in LEANS[theirs] and (name in names(theirs) or theirs is not HttpToolsProtocol)
    ]
    overridden = vars(protocol._Protocol).keys() & names(HttpToolsProtocol).keys() - LEANS[HttpToolsProtocol].keys()
    assert (missing, overridden) == ([], set())


def test_no_name_of_ours_means_something_there() -> None:
    """An attribute that uvicorn begins to use under the name of one of ours would be overwritten."""
    own = {*touched(protocol._Protocol, "self", ast.Store)} | {
        name for name, value in vars(protocol._Protocol).items() if inspect.isfunction(value)
    }
    shared = own & names(HttpToolsProtocol).keys() - LEANS[HttpToolsProtocol].keys()
    assert [f"HttpToolsProtocol has a {name} of its own now: rename ours" for name in sorted(shared)] == []
    # `parser` is given a new one when an upgrade is ignored; nothing else of theirs is set on the protocol.
    stored = {*touched(protocol._Protocol, "self", ast.Store)} & names(HttpToolsProtocol).keys()
    assert stored == {"parser"}


def test_our_transport_has_all_that_uvicorn_asks_of_one() -> None:
    """For its own WebSockets, in place of which ours stay with this protocol, it asks for `set_protocol` as well."""
    asked = {
        *touched(HttpToolsProtocol, "self.transport"),
        *touched(RequestResponseCycle, "self.transport"),
        *touched(FlowControl, "self._transport"),
    }
    extra = asked - vars(ConnectionWriter).keys() - {"set_protocol"}
    assert [f"uvicorn calls transport.{name}, which ConnectionWriter has not" for name in sorted(extra)] == []


def test_status_lines_are_there() -> None:
    assert STATUS_LINE[HTTPStatus.REQUEST_TIMEOUT] == b"HTTP/1.1 408 Request Timeout\r\n"


async def test_the_objects_are_made_as_we_take_them() -> None:
    """The state of an answer before, between and after its messages, on a protocol of uvicorn's own."""
    states: list[dict[str, Any]] = []

    async def app(scope: Any, _receive: Any, send: Any) -> None:
        assert "extensions" not in scope
        cycle = connection.cycle
        told = ("more_body", "response_started", "response_complete", "chunked_encoding", "keep_alive", "disconnected")

        def note() -> None:
            states.append({name: getattr(cycle, name) for name in told})

        note()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        note()
        await send({"type": "http.response.body", "body": b""})
        note()

    class Transport:
        def __getattr__(self, _: str) -> Any:
            return lambda *_args: None

    connection: Any = HttpToolsProtocol(Config(app, ws="none", interface="asgi3"), ServerState(), {}, None)
    connection.connection_made(Transport())
    connection.data_received(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n")
    (task,) = connection.tasks
    await task
    connection._unset_keepalive_if_required()
    fresh = {"more_body": True, "disconnected": False, "keep_alive": True}
    assert states == [
        fresh | {"response_started": False, "response_complete": False, "chunked_encoding": None},
        fresh | {"response_started": True, "response_complete": False, "chunked_encoding": True},
        fresh | {"response_started": True, "response_complete": True, "chunked_encoding": True},
    ]
