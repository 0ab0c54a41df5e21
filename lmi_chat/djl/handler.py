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
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmi_chat.config.describe import warnings
from lmi_chat.dialects.formatters import Formatters
from lmi_chat.djl import formatters, library
from lmi_chat.djl.output_parts import Parts, refusal
from lmi_chat.engine import Engine
from lmi_chat.errors import BadField, Bug, Error, Problem
from lmi_chat.pipeline.parsing import warning
from lmi_chat.pipeline.pipeline import InferenceRequest, Pipeline
from lmi_chat.pipeline.request import of_headers
from lmi_chat.server import bootstrap
from lmi_chat.server.children import Processes
from lmi_chat.server.configuration import configure_merged

if TYPE_CHECKING:
    from djl_python import Input, Output

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


async def register_adapter(inputs: "Input") -> "Output":  # noqa: ARG001 DJL's signature
    """Refuse: adapters are not served by this version."""
    return _no_adapters()


async def update_adapter(inputs: "Input") -> "Output":  # noqa: ARG001 DJL's signature
    """Refuse: adapters are not served by this version."""
    return _no_adapters()


async def unregister_adapter(inputs: "Input") -> "Output":  # noqa: ARG001 DJL's signature
    """Refuse: adapters are not served by this version."""
    return _no_adapters()


async def _load(properties: Mapping[str, Any]) -> None:
    library.load()  # a start fails better than every answer
    settings = configure_merged(properties, "DJL Serving's properties")
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
    """The formatters that DJL found in the directory's model.py: its properties. Those of adapters are ours to find."""
    found = {name: properties.get(name) for name in ("input_formatter", "output_formatter")}
    functions = {name: function if callable(function) else None for name, function in found.items()}
    adapters = formatters.of_adapters(Path(properties["model_dir"])) if "model_dir" in properties else {}
    own = formatters.of_functions(functions["input_formatter"], functions["output_formatter"])
    return replace(own, adapters=adapters)


async def _end_with(engine: Engine, line: Pipeline, processes: Processes) -> None:
    """End this process with its engine, after the running answers have got their error."""
    await bootstrap.gone(engine, line)
    log.error("the engine is gone; ending, so that DJL starts a new process")
    await asyncio.sleep(bootstrap.LAST_WORDS_S)
    processes.end()
    os._exit(1)


async def _answer(inputs: "Input") -> "AsyncIterator[Output]":
    new_output: type[Output] = library.load().Output
    parts, call = Parts(), _call(inputs)
    work = asyncio.create_task(_run(call, parts))
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


async def _run(call: InferenceRequest, parts: Parts) -> None:
    try:
        with _lines[0].request_log.recording(call.record):
            await _lines[0].answer(call, parts)
    except Error as error:
        parts.refuse(error)
    except Exception:
        log.exception("request %s failed", call.id)
        parts.refuse(Bug("internal error"))


def _headers(call: InferenceRequest, content_type: str) -> dict[str, str]:
    headers = {"x-request-id": call.id, **call.headers}
    if content_type:
        headers["Content-Type"] = content_type
    if call.warnings:
        headers["x-lmi-chat-warning"] = warning(call.warnings)
    return headers


def _no_adapters() -> "Output":
    new_output: type[Output] = library.load().Output
    text = "adapter: LoRA is off; this version serves no adapters"
    return new_output().add(refusal(BadField([Problem("adapter", text)])), key="data")


def _call(inputs: "Input") -> InferenceRequest:
    """Headers arrive as properties with the caller's casing; a client can set any of them."""
    headers = {name.lower().encode(): text for name, text in inputs.get_properties().items() if isinstance(text, str)}
    return of_headers(headers, body=b"" if inputs.is_empty() else bytes(inputs.get_as_bytes()))


__all__ = ["handle", "register_adapter", "unregister_adapter", "update_adapter"]
