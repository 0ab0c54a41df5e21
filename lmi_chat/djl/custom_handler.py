"""Call a model directory's own handler as DJL's Python engine does; no HTTP: properties and parts in, bytes out.

A handler that is a plain function answers one request at a time, as it does in DJL; one that is `async` many at once.
"""

import asyncio
import importlib
import inspect
import logging
import sys
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from lmi_chat.codec.json_text import dump
from lmi_chat.djl import library, output_parts
from lmi_chat.errors import HookFailed, TimedOut
from lmi_chat.text import one_line

HANDLE = "handle"
DETAIL_CHARS = 300
HEADER_CHARS = 8192
END = object()
log = logging.getLogger(__name__)


class BadDirectory(Exception):
    """A model directory that cannot be served; one sentence."""


class Out(Protocol):
    """Where an answer goes. A whole answer is one `send`."""

    async def head(self, code: int, headers: Mapping[str, str], *, is_stream: bool) -> None:
        """Begin."""

    async def send(self, data: bytes) -> None:
        """Send some of the body; waits while the reader is slow."""


def load(folder: Path, entry_point: str) -> ModuleType:
    """Import an entry point: a file of the folder, an absolute path, or a module's name. Raises BadDirectory."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    path = folder / entry_point
    if entry_point.endswith(".py") and not path.is_file():
        raise BadDirectory(f"there is no entry point {path}")
    try:
        if not entry_point.endswith(".py"):
            return importlib.import_module(entry_point)
        known = sys.modules.get(path.stem)
        if known is not None and known.__file__ == str(path):
            return known
        module = ModuleType(path.stem)
        module.__file__ = str(path)
        sys.modules[path.stem] = module
        SourceFileLoader(path.stem, str(path)).exec_module(module)
    except Exception as error:
        log.exception("the entry point failed")
        raise BadDirectory(f"entry point {entry_point} does not load: {_words(error)}") from error
    return module


class Foreign:
    """A module with a `handle(inputs)`, and the properties that each of its Inputs carries."""

    def __init__(self, module: ModuleType, properties: Mapping[str, str], deadline_s: float) -> None:
        """`properties` is the configuration, for the load; `deadline_s` bounds one whole answer."""
        self._handle, self._properties, self._deadline_s = getattr(module, HANDLE), dict(properties), deadline_s
        self._is_async = inspect.iscoroutinefunction(self._handle)
        self._thread = ThreadPoolExecutor(1, "handler")
        self._turn: AbstractAsyncContextManager[Any] = nullcontext() if self._is_async else asyncio.Lock()

    async def load(self) -> None:
        """The first, empty call. Raises BadDirectory."""
        try:
            output = await self._call(self._properties, {})
        except Exception as error:
            log.exception("the handler failed to load")
            raise BadDirectory(f"the handler failed to load: {_words(error)}") from error
        code = getattr(output, "code", 200)
        if code >= 300:  # noqa: PLR2004 DJL takes every 2xx
            raise BadDirectory(f"the handler refused to load with {code} {one_line(str(output.message), DETAIL_CHARS)}")

    async def answer(self, properties: Mapping[str, str], content: Mapping[str, bytes], out: Out) -> None:
        """One request. Raises HookFailed when the handler does, TimedOut; a part of the answer may have been sent."""
        try:
            async with asyncio.timeout(self._deadline_s), self._turn:
                output = await self._call(properties, content)
                if isinstance(output, AsyncGenerator):
                    await self._give_parts(output, out)
                else:
                    await self._give(output, out)
        except TimeoutError:
            raise TimedOut(f"the handler's answer was not complete within {self._deadline_s:g} s") from None
        except Exception as error:
            log.exception("the handler failed")
            raise HookFailed(f"the handler failed: {_words(error)}") from error

    async def _call(self, properties: Mapping[str, Any], content: Mapping[str, bytes]) -> Any:
        inputs = library.load().Input()
        inputs.properties = {**properties, "handler": HANDLE, "model_dir": self._properties.get("model_dir", "")}
        inputs.function_name = HANDLE
        for name, data in content.items():
            inputs.content.add(key=name, value=bytearray(data))
        return await self._handle(inputs) if self._is_async else await self._in_thread(self._handle, inputs)

    async def _in_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    async def _give_parts(self, outputs: AsyncGenerator[Any, None], out: Out) -> None:
        """An asynchronous generator: each Output has one part; the first one's properties are the headers."""
        has_begun = False
        async with aclosing(outputs):
            async for output in outputs:
                pairs = output_parts.read(bytes(output.content.value_at(0)))
                code = int(pairs.get("code") or output.code)
                if not has_begun:
                    await out.head(code, _headers(output), is_stream=pairs.get("last") != "True")
                has_begun = True
                data = _refused(code, pairs["error"]) if "code" in pairs else pairs.get("data", "").encode()
                if data:
                    await out.send(data)
                if pairs.get("last") == "True":
                    return
        raise ValueError("the handler's stream ended without a last part")

    async def _give(self, output: Any, out: Out) -> None:
        """One Output: a stream of its own, the one part of an asynchronous handler, or a document."""
        if output is None:
            await out.head(204, {}, is_stream=False)
            return
        if output.stream_content is not None:
            await out.head(output.code, _headers(output), is_stream=True)
            chunks = iter(output.stream_content)
            while (chunk := await self._in_thread(next, chunks, END)) is not END:
                await out.send(_bytes(chunk, output.stream_output_formatter))
        elif output.content.is_empty():
            await out.head(output.code, _headers(output), is_stream=False)
        elif self._is_async:

            async def once() -> AsyncGenerator[Any, None]:
                yield output

            await self._give_parts(once(), out)
        else:
            await out.head(output.code, _headers(output), is_stream=False)
            await out.send(bytes(output.content.value_at(0)))
        if output.finalize_function:
            await self._in_thread(output.execute_finalize)


def _bytes(chunk: Any, formatter: Callable[[Any], Any] | None) -> bytes:
    data = formatter(chunk) if formatter else chunk
    match data:
        case str():
            return data.encode()
        case bytes() | bytearray():
            return bytes(data)
        case _:
            return dump(data)


def _refused(code: int, error: str) -> bytes:
    """What DJL makes of a part with a code."""
    return dump({"error": error, "code": code})


def _headers(output: Any) -> dict[str, str]:
    return {str(name): one_line(str(value), HEADER_CHARS) for name, value in output.properties.items()}


def _words(error: BaseException) -> str:
    text = library.MISSING if library.is_missing(error) else f"{type(error).__name__}: {error}"
    return one_line(text, DETAIL_CHARS)
