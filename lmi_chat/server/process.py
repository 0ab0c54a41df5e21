"""Run one server process from start to end: bind, load, serve, drain, and the exit code."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any, NoReturn, Protocol, TypeVar

import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute

from lmi_chat.config import describe
from lmi_chat.config.settings import Settings
from lmi_chat.config.sources import BadSetting
from lmi_chat.dialects.formatters import Formatters
from lmi_chat.engine import Engine
from lmi_chat.errors import EngineDown
from lmi_chat.http import app, ping
from lmi_chat.http.state import AppState
from lmi_chat.http.transport.connections import Connections, most_connections
from lmi_chat.http.transport.protocol import protocol_class
from lmi_chat.limits import ConnectionLimits, ServerLimits
from lmi_chat.observability import startup
from lmi_chat.observability.access_log import RequestLog
from lmi_chat.observability.loop_hold import LOOP_HOLD
from lmi_chat.observability.startup import StartupProgress
from lmi_chat.pipeline.bodies import BodyBudget
from lmi_chat.pipeline.pipeline import Pipeline
from lmi_chat.server import bootstrap, terminal
from lmi_chat.server.children import Processes
from lmi_chat.server.terminal import print_status
from lmi_chat.text import one_line

STOPPED, FAILED = 0, 1
CLOSE_S, ENGINE_STOP_S, FILES_S = 1.0, 2.0, 1.0
LAST_S = 2.8
"""Seconds after `drain_seconds` in which the process ends, whatever still holds it up: the platform kills after 30."""
CHAT = '{"messages":[{"role":"user","content":"What is the capital of France?"}],"temperature":0}'
HEAR = "/v1/audio/transcriptions -F file=@speech.wav"
EMBED = '{"input":["The capital of France is Paris."]}'
log = logging.getLogger(__name__)
Result = TypeVar("Result")


class Stop:
    """A wish to end: the first signal drains, the second ends at once."""

    def __init__(self, last_s: float | None = None) -> None:
        """Nobody has asked yet. `last_s` after the first signal the process ends, should it still be there."""
        self.asked = asyncio.Event()
        self.now = asyncio.Event()
        self._last_s = last_s
        self._last: threading.Timer | None = None

    def signal(self) -> None:
        """A signal came."""
        (self.now if self.asked.is_set() else self.asked).set()
        if self._last is None and self._last_s is not None:
            # by a thread, since without memory every step of the event loop may take long; the guard ends the engine's
            # processes with this one
            self._last = threading.Timer(self._last_s, os._exit, [STOPPED])
            self._last.daemon = True
            self._last.start()

    def close(self) -> None:
        """Take that end back: the process has come to its own."""
        if self._last:
            self._last.cancel()


class Drained(Protocol):
    """What answers requests, and can be told to take no more."""

    @property
    def active(self) -> int:
        """Requests that run."""

    async def drain(self, seconds: float) -> None:
        """Take nothing more; wait up to `seconds` for what runs."""


async def run(settings: Settings, formatters: Formatters | None = None) -> int:
    """Serve until a signal or the engine's end. Gives the exit code. Raises StartFailed.

    `formatters` are the deployment's own formatters.
    """
    for text in describe.warnings(settings):
        print_status(f"note: {text}")
    console = bootstrap.open_console(settings)
    health, line = StartupProgress(), Pipeline(bootstrap.pipeline_config(settings, formatters, console))
    listener = bind(settings)
    store = bootstrap.open_store(settings)
    spool = bootstrap.open_async_requests(settings, line)
    most = settings.max_request_size
    state = AppState(pipeline=line, health=health, max_body_bytes=most, store=store, async_requests=spool)
    state.api_keys = bootstrap.api_keys(settings)
    state.bodies = BodyBudget(max(most, settings.server.body_bytes))
    state.is_tgi, state.shows_tokenizer = settings.tgi_compat, settings.enable_tokenizer_info_endpoint
    state.cross_origin = bootstrap.cross_origin(settings)
    state.console = console
    watching = console.watching(line) if console else contextlib.nullcontext()
    async with serving(settings, listener, app.build(state), line.request_log, watching) as stop:
        processes = Processes()
        try:
            engine = await until(stop, bootstrap.load(settings, line, _announce(health), store, reach=health.reach))
            if engine is None:
                _leave(processes)
            processes.note()
            if held := terminal.held():
                await asyncio.to_thread(held.drop)
            _say_ready(settings, health, line, listener.getsockname()[1])
            code = await _watch(engine, line, stop, settings)
            if held and code == STOPPED:
                await asyncio.to_thread(held.hold)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(until(stop, engine.stop(), is_hard=True), ENGINE_STOP_S)
            return code
        finally:
            processes.end()


@contextlib.asynccontextmanager
async def serving(
    settings: Settings,
    listener: socket.socket,
    application: Starlette,
    log: RequestLog,
    watching: contextlib.AbstractContextManager[None] = contextlib.nullcontext(),  # noqa: B008 it keeps nothing
) -> AsyncIterator[Stop]:
    """Serve `application` on `listener` until the block ends; what it is given hears the signals.

    `watching` lasts as long as the server.
    """
    stop = Stop(settings.drain_seconds + LAST_S)
    server = server_of(settings.connection, application, settings.server.connections, tls(settings), log)
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.signal)
    task = asyncio.create_task(server._serve(sockets=[listener]))  # noqa: SLF001 serve() would take the signals
    scheme = "https" if settings.ssl_certfile else "http"
    port = listener.getsockname()[1]
    print_status(f"listening on {scheme}://{settings.host}:{port} (not ready yet)")
    if settings.console:
        print_status(f"console: {_address(settings, port)}/console")
    try:
        with LOOP_HOLD.watching(), watching:
            yield stop
    finally:
        server.should_exit = True
        await asyncio.wait([task], timeout=CLOSE_S)
        stop.close()


async def drain(served: Drained, stop: Stop, seconds: float) -> None:
    """Take nothing more, and let what runs finish, unless a second signal ends it at once."""
    print_status(f"stopping: {served.active} running, up to {seconds:g} s for them")
    await until(stop, served.drain(seconds), is_hard=True)


def _leave(processes: Processes) -> NoReturn:
    """End while the engine is loaded: its thread cannot be stopped, would go on for a minute and start processes."""
    print_status("stopped while loading")
    processes.end()
    os._exit(STOPPED)


def leave(code: int) -> NoReturn:
    """End the process without the interpreter's own end, which waits for every thread and unloads the engine.

    The files are closed first, for up to FILES_S; so are the standard streams.
    """
    closing = threading.Thread(target=bootstrap.close_files, daemon=True)
    closing.start()
    closing.join(FILES_S)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


async def until(stop: Stop, work: Coroutine[Any, Any, Result], *, is_hard: bool = False) -> Result | None:
    """Do `work` unless a signal comes first (`is_hard`: unless the second one does); None if it did."""
    task = asyncio.create_task(work)
    wish = asyncio.create_task((stop.now if is_hard else stop.asked).wait())
    await asyncio.wait([task, wish], return_when=asyncio.FIRST_COMPLETED)
    wish.cancel()
    if task.done():
        return task.result()
    task.cancel()
    return None


async def _watch(engine: Engine, line: Pipeline, stop: Stop, settings: Settings) -> int:
    """Wait for a signal or for the engine's end; then let running answers finish, or fail them."""
    if await until(stop, bootstrap.gone(engine, line)):
        print_status("the engine is gone; ending")
        await asyncio.sleep(bootstrap.LAST_WORDS_S)
        return FAILED
    await drain(line, stop, settings.drain_seconds)
    line.fail_all(EngineDown("the server was told to end at once"))
    print_status("stopped")
    return STOPPED


def _announce(health: StartupProgress) -> Callable[[str], None]:
    def enter(phase: str) -> None:
        before = health.phase
        health.enter(phase)
        if before != startup.READING:
            print_status(f"  {before}: {health.done[before]:.1f} s")
        if phase != startup.READY:
            print_status(f"{phase} …")

    return enter


def bind(settings: Settings) -> socket.socket:
    """Take the port before anything slow begins. Raises BadSetting."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    except OSError as error:
        raise BadSetting(f"port {settings.port} of {settings.host} cannot be taken: {error.strerror}") from error


def server_of(
    connection: ConnectionLimits,
    application: Starlette,
    most: int = ServerLimits().connections,
    tls: Mapping[str, Any] | None = None,
    log: RequestLog | None = None,
) -> uvicorn.Server:
    """Build the server that everything is served by, with limits on what a connection and all of them may cost.

    `tls`: uvicorn's arguments for HTTPS. `log`: of what the transport refuses. Raises BadSetting for files that cannot
    be used.
    """
    sockets = [route.path for route in application.routes if isinstance(route, WebSocketRoute)]
    config = uvicorn.Config(
        application,
        http=protocol_class(connection, Connections(most_connections(most), ping.PATHS, log), sockets),
        ws="none",
        loop="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=int(connection.keep_alive_s),
        **(tls or {}),
    )
    if tls:
        try:
            config.load()
        except (OSError, ValueError) as error:  # an SSLError is an OSError
            raise BadSetting(f"HTTPS cannot be served with {', '.join(tls)}: {one_line(str(error), 200)}") from error
    return uvicorn.Server(config)


def tls(settings: Settings) -> Mapping[str, Any] | None:
    """Give uvicorn's arguments for HTTPS, None for HTTP. Raises BadSetting."""
    given = {name: text for name, text in settings.values().items() if name.startswith("ssl_") and text}
    reqs = int(str(given.pop("ssl_cert_reqs")))
    if not settings.ssl_certfile:
        if given or reqs:
            raise BadSetting(
                f"{', '.join(given) or 'ssl_cert_reqs'} needs ssl_certfile, a certificate to serve HTTPS with"
            )
        return None
    return given | {"ssl_cert_reqs": reqs}


def _address(settings: Settings, port: int) -> str:
    """Where a client on this machine finds the server."""
    host = "localhost" if settings.host in {"0.0.0.0", "127.0.0.1", "::"} else settings.host  # noqa: S104 compared, not bound
    return f"{'https' if settings.ssl_certfile else 'http'}://{host}:{port}"


def _say_ready(settings: Settings, health: StartupProgress, line: Pipeline, port: int) -> None:
    deployment = line.deployment
    is_hearing = deployment.speech is not None and deployment.speech.is_only
    body = EMBED if deployment.pooler else CHAT
    base = _address(settings, port)
    key = ' -H "authorization: Bearer $API_KEY"' if settings.api_key or settings.api_key_file else ""
    model, context = line.deployment.model, line.deployment.context_tokens
    print_status(f"ready after {health.seconds:.1f} s: {model}, {context} tokens of context. Try:")
    if is_hearing:
        terminal.write(f"\n  curl {base}{HEAR}{key}\n\n")
        return
    curl = f"curl {base}/invocations -H 'content-type: application/json'{key}"
    terminal.write(f"\n  {curl} \\\n    -d '{body}'\n\n")
