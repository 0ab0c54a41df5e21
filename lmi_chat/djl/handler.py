"""Answer `handle(Input)`, the function that DJL's asynchronous Python engine calls.

The first call is an empty Input that carries the properties: the load. Every other call gives a generator of Outputs,
each with one part. The generator never raises and always ends with a last part. No word comes when a client goes, so
`predict_timeout` is what bounds an answer. When the engine dies, so does this process: DJL then starts a new one.
"""

import asyncio
import atexit
import contextlib
import logging
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmi_chat.adapters import changes
from lmi_chat.adapters.changes import AdapterChange
from lmi_chat.adapters.registry import AdapterRegistry
from lmi_chat.config import secure_mode
from lmi_chat.config.describe import warnings
from lmi_chat.config.sources import MODEL_FOLDER, environment
from lmi_chat.dialects.formatters import Formatters
from lmi_chat.djl import formatters, library
from lmi_chat.djl.output_parts import Parts, part, refusal
from lmi_chat.engine import Engine
from lmi_chat.errors import Error, Loading, unforeseen
from lmi_chat.http import routes
from lmi_chat.pipeline.parsing import warning
from lmi_chat.pipeline.pipeline import InferenceRequest, Pipeline
from lmi_chat.pipeline.request import of_headers
from lmi_chat.server import bootstrap
from lmi_chat.server.children import Processes
from lmi_chat.server.configuration import configure_merged

if TYPE_CHECKING:
    from djl_python import Input, Output

CLOSE_S = 5.0
log = logging.getLogger(__name__)
_lines: list[Pipeline] = []
_tasks: set["asyncio.Task[None]"] = set()


async def handle(inputs: "Input") -> "AsyncIterator[Output] | None":
    """Load at the first, empty call; answer every other one."""
    if not _lines and inputs.is_empty():
        await _load(inputs.get_properties())
        return None
    return _answer(inputs)


@contextlib.contextmanager
def answered_by(line: Pipeline) -> Iterator[None]:
    """Have `handle` answer by a line that is open already."""
    before, _lines[:] = list(_lines), [line]
    try:
        yield
    finally:
        _lines[:] = before


async def register_adapter(inputs: "Input") -> "Output":
    """Register the adapter that the properties `name`, `src`, `preload` and `pin` say; `alias`: its name in answers."""
    return await _changed(inputs, AdapterChange.register, is_new=True)


async def update_adapter(inputs: "Input") -> "Output":
    """Update the adapter `name`; what the properties do not say stays as it is."""
    return await _changed(inputs, AdapterChange.update)


async def unregister_adapter(inputs: "Input") -> "Output":
    """Unregister the adapter `name`."""
    return await _changed(inputs, AdapterChange.remove)


async def _changed(
    inputs: "Input", carry_out: Callable[[AdapterChange, AdapterRegistry], Awaitable[str]], *, is_new: bool = False
) -> "Output":
    """Carry out a change of the adapters: one part, with its sentence or its error, as LMI's handler gives it."""
    new_output: type[Output] = library.load().Output
    given = inputs.get_properties()
    try:
        change = changes.read(given, alias=str(given.get("alias") or ""), is_new=is_new)
        encoded = part((await carry_out(change, _registry())).encode(), is_last=True)
    except Error as error:
        encoded = refusal(error)
    except Exception as failure:
        log.exception("a change of the adapters failed")
        encoded = refusal(unforeseen(failure))
    return new_output().add(encoded, key="data")


def _registry() -> AdapterRegistry:
    """The adapters. Raises Loading, AdaptersOff."""
    if not _lines:
        raise Loading("the model is still loading")
    return _lines[0].adapters


async def _load(properties: Mapping[str, Any]) -> None:
    library.load()  # a start fails better than every answer
    settings = configure_merged(properties, "DJL Serving's properties")
    if secure := secure_mode.of(environment(), MODEL_FOLDER):
        secure.check_files(Path(properties["model_dir"]) if "model_dir" in properties else MODEL_FOLDER)
    for text in warnings(settings):
        sys.stderr.write(f"note: {text}\n")
    line = Pipeline(bootstrap.pipeline_config(settings, find_formatters(properties)))
    processes = Processes()
    atexit.register(processes.end)
    engine = await bootstrap.load(settings, line, print, bootstrap.open_store(settings))
    processes.note()
    watch = asyncio.create_task(_end_with(engine, line, processes))
    _tasks.add(watch)
    _lines.append(line)


def find_formatters(properties: Mapping[str, Any]) -> Formatters:
    """The formatters that DJL found in the directory's model.py: its properties. Adapters' are ours to find."""
    found = {name: properties.get(name) for name in ("input_formatter", "output_formatter")}
    functions = {name: function if callable(function) else None for name, function in found.items()}
    own = formatters.of_functions(functions["input_formatter"], functions["output_formatter"])
    return replace(own, load=formatters.of_adapter)


async def _end_with(engine: Engine, line: Pipeline, processes: Processes) -> None:
    """End this process with its engine, after the running answers have got their error."""
    await bootstrap.gone(engine, line)
    log.error("the engine is gone; ending, so that DJL starts a new process")
    await asyncio.sleep(bootstrap.LAST_WORDS_S)
    processes.end()
    try:
        await asyncio.wait_for(asyncio.to_thread(bootstrap.close_files), CLOSE_S)
    finally:
        os._exit(1)


async def _answer(inputs: "Input") -> "AsyncIterator[Output]":
    new_output: type[Output] = library.load().Output
    parts, call = Parts(), _call(inputs)
    work = asyncio.create_task(_run(call, _properties(inputs).get(routes.KEY, ""), parts))
    is_first = True
    try:
        while (encoded := await parts.get()) is not None:
            output = new_output().add(encoded)
            if is_first:
                for name, text in _headers(call, parts.content_type).items():
                    output.add_property(name, text)
                is_first = False
            yield output
    finally:
        work.cancel()


async def _run(call: InferenceRequest, attributes: str, parts: Parts) -> None:
    try:
        with _lines[0].request_log.recording(call.record):
            if attributes:
                routes.follow(call, attributes, routes.served(is_tgi=_lines[0].deployment.is_tgi))
            await _lines[0].answer(call, parts)
    except Error as error:
        parts.refuse(error)
    except Exception as failure:
        log.exception("request %s failed", call.id)
        parts.refuse(unforeseen(failure))


def _headers(call: InferenceRequest, content_type: str) -> dict[str, str]:
    headers = {"x-request-id": call.id, **call.headers}
    if call.record.trace is not None:
        headers |= call.record.trace.headers()
    if content_type:
        headers["Content-Type"] = content_type
    if call.warnings:
        headers["x-lmi-chat-warning"] = text = warning(call.warnings)
        if _lines[0].warns_in_attributes:  # the request's own come split into properties, and are not repeated
            headers[routes.HEADER] = routes.with_warning("", text)
    return headers


def _properties(inputs: "Input") -> dict[bytes, str]:
    """Headers arrive as properties with the caller's casing; a client can set any of them."""
    return {name.lower().encode(): text for name, text in inputs.get_properties().items() if isinstance(text, str)}


def _call(inputs: "Input") -> InferenceRequest:
    return of_headers(_properties(inputs), body=b"" if inputs.is_empty() else bytes(inputs.get_as_bytes()))


__all__ = ["handle", "register_adapter", "unregister_adapter", "update_adapter"]
