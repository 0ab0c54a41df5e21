"""DJL Serving's side: `handle(Input)` as its asynchronous Python mode calls it.

The first call is an empty Input that carries the properties: the load. Every other call gives a generator of Outputs,
each with one part: DJL's pairs `data`, `last`, and `code` with `error` for a refusal. The generator never raises and
always ends with `last`. (DJL Serving, engines/python: async mode.)
"""

import asyncio
import sys
import uuid
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmi_chat import start
from lmi_chat.engine import arguments
from lmi_chat.errors import Bug, Error
from lmi_chat.explain import warnings
from lmi_chat.families import NOT_YET, RENAMED
from lmi_chat.flow import Call, Line
from lmi_chat.settings import OWN, read
from lmi_chat.sources import OWN_PREFIXES, environment

if TYPE_CHECKING:
    from djl_python import Input, Output

END = None
_lines: list[Line] = []


async def handle(inputs: "Input") -> "AsyncIterator[Output] | None":
    """Load at the first, empty call; answer every other one."""
    if inputs.is_empty():
        await _load(inputs.get_properties())
        return None
    return _answer(inputs)


async def _load(properties: Mapping[str, str]) -> None:
    """DJL has merged environment and serving.properties; what is neither ours nor the engine's is DJL's own."""
    kinds = arguments.kinds()
    known = OWN.keys() | RENAMED.keys() | NOT_YET.keys() | kinds.keys()
    given = {name: text for name, text in properties.items() if name in known}
    if folder := _own_folder(properties):
        given.setdefault("model_id", folder)
    others = {name: text for name, text in environment().items() if not name.startswith(OWN_PREFIXES)}
    settings = read(
        given, others, None, kinds, arguments.defaults(), gpus=arguments.gpus(), origin="DJL Serving's properties"
    )
    for text in warnings(settings):
        sys.stderr.write(f"note: {text}\n")
    line = Line(start.policy(settings))
    await start.load(settings, line, print, start.open_store(settings))
    _lines.append(line)


def _own_folder(properties: Mapping[str, str]) -> str:
    folder = Path(properties.get("model_dir", ""))
    return str(folder) if (folder / "config.json").is_file() else ""


class Parts:
    """flow's Out as a queue of (content type, data)."""

    def __init__(self) -> None:
        """Empty."""
        self.waiting: asyncio.Queue[tuple[str, bytes] | Error | None] = asyncio.Queue()
        self._content_type = ""

    async def whole(self, body: bytes, content_type: str) -> None:
        """One document."""
        self.waiting.put_nowait((content_type, body))

    async def start(self, content_type: str) -> None:
        """A stream begins."""
        self._content_type = content_type

    def write(self, data: bytes) -> None:
        """One frame."""
        self.waiting.put_nowait((self._content_type, data))

    def fail(self, error: Error, frame: bytes) -> None:  # noqa: ARG002 the frame says it
        """The frame of an error."""
        self.write(frame)

    async def end(self) -> None:
        """The stream is over; the queue's end says so."""


async def _answer(inputs: "Input") -> "AsyncIterator[Output]":
    from djl_python import Output

    parts, call = Parts(), _call(inputs)
    work = asyncio.create_task(_run(call, parts))
    is_first = True
    try:
        while (part := await parts.waiting.get()) is not END:
            output = Output()
            if isinstance(part, Error):
                output.add(Output.binary_encode(_refusal(part)))
            else:
                output.add(Output.binary_encode({"data": part[1], "last": False}))
                if is_first:
                    output.add_property("Content-Type", part[0])
                    output.add_property("x-request-id", call.id)
            is_first = False
            yield output
            if isinstance(part, Error):
                return
        output = Output()
        output.add(Output.binary_encode({"data": b"", "last": True}))
        yield output
    finally:
        work.cancel()


async def _run(call: Call, parts: Parts) -> None:
    try:
        await _lines[0].answer(call, parts)
    except Error as error:
        parts.waiting.put_nowait(error)
    except Exception:  # noqa: BLE001 the transport's edge: DJL never hears of a generator that raised
        parts.waiting.put_nowait(Bug("internal error"))
    parts.waiting.put_nowait(END)


def _refusal(error: Error) -> dict[str, Any]:
    return {"data": b"", "last": True, "code": error.status, "error": error.message}


def _call(inputs: "Input") -> Call:
    headers = {name.lower(): text for name, text in inputs.get_properties().items()}
    return Call(
        body=inputs.get_as_bytes(),
        id=headers.get("x-amzn-sagemaker-inference-id") or uuid.uuid4().hex,
        content_type=headers.get("content-type", ""),
        content_encoding=headers.get("content-encoding", ""),
        session_id=headers.get("x-amzn-sagemaker-session-id", ""),
        accept=headers.get("x-amzn-sagemaker-accept") or headers.get("accept", ""),
    )


__all__ = ["handle"]
