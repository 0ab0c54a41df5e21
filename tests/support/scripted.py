"""A real HTTP server around the scripted engine. Never in place of the real one where that can run."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import uvloop
from uvicorn import Server

from lmi_chat.adapters.registry import AdapterRegistry
from lmi_chat.async_requests import AsyncRequests
from lmi_chat.console.recorder import Console
from lmi_chat.http import app
from lmi_chat.http.access import ApiKeys
from lmi_chat.http.cross_origin import CrossOrigin
from lmi_chat.http.state import AppState
from lmi_chat.limits import ConnectionLimits
from lmi_chat.observability.access_log import RequestLog
from lmi_chat.observability.startup import StartupProgress
from lmi_chat.pipeline.bodies import BodyBudget
from lmi_chat.pipeline.pipeline import Pipeline, PipelineConfig
from lmi_chat.server.process import server_of
from lmi_chat.storage.completions import Completions
from lmi_chat.testing import Script, Step, called, deployment, embedded, reasoned, said, token
from lmi_chat.testing import ScriptedEngine as Scripted

__all__ = ["Script", "Scripted", "Service", "Step", "called", "embedded", "reasoned", "said", "serving", "token"]


@dataclass
class Service:
    """A running HTTP server in a thread of its own."""

    port: int
    pipeline: Pipeline
    engine: Scripted
    health: StartupProgress
    loop: asyncio.AbstractEventLoop
    bodies: BodyBudget
    server: Server

    def do(self, work: Any) -> Any:
        """Run a coroutine on the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(10)


@contextlib.contextmanager
def serving(  # noqa: PLR0913 each is a part of the server that some test needs
    engine: Scripted | None = None,
    *,
    policy: PipelineConfig | None = None,
    is_open: bool = True,
    max_body_bytes: int = 2**20,
    bodies: BodyBudget | None = None,
    api_keys: ApiKeys | None = None,
    tls: Mapping[str, Any] | None = None,
    store: Completions | None = None,
    spool: Callable[[Pipeline], AsyncRequests] | None = None,
    adapters: Callable[[Scripted, Pipeline], AdapterRegistry] | None = None,
    shows_tokenizer: bool = False,
    cross_origin: CrossOrigin | None = None,
    console: Console | None = None,
    **desk_changes: Any,
) -> Iterator[Service]:
    """An HTTP server around a scripted engine; the server is the one of production."""
    engine, policy = engine or Scripted(), policy or PipelineConfig(request_log=RequestLog(listener=console))
    state = AppState(pipeline=Pipeline(policy), health=StartupProgress(), max_body_bytes=max_body_bytes, store=store)
    state.bodies, state.api_keys = bodies or state.bodies, api_keys
    state.async_requests = spool(state.pipeline) if spool else None
    state.is_tgi = desk_changes.get("is_tgi", False)
    state.shows_tokenizer, state.cross_origin, state.console = shows_tokenizer, cross_origin, console
    pairs = engine.pairs(None) if engine.pairs else None
    desk_changes = {
        "save": store.save if store else None,
        "load": store.load if store else None,
        "pairs": pairs,
    } | desk_changes
    server = server_of(
        ConnectionLimits(receive_s=2.0, write_stall_s=1.0), app.build(state), tls=tls, log=policy.request_log
    )
    listener = socket.create_server(("127.0.0.1", 0))
    loop = uvloop.new_event_loop()

    async def serve() -> None:
        if is_open:
            registry = adapters(engine, state.pipeline) if adapters else None
            spec: dict[str, Any] = {"limits": policy.limits, "pooler": engine.pooler, "speech": engine.speech}
            described = deployment(**spec, **desk_changes)
            await state.pipeline.open(engine, described, registry)
        with console.watching(state.pipeline) if console else contextlib.nullcontext():
            await server._serve(sockets=[listener])

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    while not server.started:
        threading.Event().wait(0.005)
    try:
        yield Service(listener.getsockname()[1], state.pipeline, engine, state.health, loop, state.bodies, server)
    finally:
        server.should_exit = server.force_exit = True
        thread.join(5)
