"""Call a model directory's own handler as DJL's Python engine does; no HTTP: properties and parts in, bytes out.

A handler that is a plain function answers one request at a time, as it does in DJL; one that is `async` many at once.
Of those that wait (for their turn, or for an asynchronous handler's first byte) there are so many and no more. What a
handler raises is in the log; its caller is told where.
"""

import asyncio
import importlib
import inspect
import json
import logging
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from lmi_chat.codec.json_text import dump
from lmi_chat.djl import library, output_parts
from lmi_chat.errors import Busy, Error, HookFailed, TimedOut
from lmi_chat.text import one_line

HANDLE = "handle"
REQUIREMENTS = "requirements.txt"
ROLLING = (
    "the handler batches by itself (rolling batch), which is not served: make it async, with an answer to each request"
)
DETAIL_CHARS = 300
HEADER_CHARS = 8192
DEFAULTS: Mapping[str, Any] = {"device_id": "-1", "cluster_size": 1}
"""What DJL adds to every Input on a machine without a GPU: texts and numbers as it has them."""
REFUSED = 300  # DJL takes every 2xx
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


def install(folder: Path) -> None:
    """Have pip install a folder's requirements.txt, as DJL does: a folder `requirements` may hold the packages.

    Where nothing can be written to the environment, as in a container with a read-only root, they go to a temporary
    folder, behind what is installed. Raises BadDirectory.
    """
    packages = ["--find-links", str(folder / "requirements")] if (folder / "requirements").is_dir() else []
    options: tuple[str, ...] = (
        "--quiet",
        "--no-input",
        "--disable-pip-version-check",
        "--requirement",
        str(folder / REQUIREMENTS),
    )
    if not os.access(sysconfig.get_path("purelib"), os.W_OK):
        sys.path.append(target := tempfile.mkdtemp(prefix="lmi-chat-requirements-"))
        options = (*options, "--target", target)
    command = [sys.executable, "-m", "pip", "install", *options, *packages]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    importlib.invalidate_caches()
    if done.returncode:
        log.error("%s", done.stdout + done.stderr)
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        why = one_line(said[-1], DETAIL_CHARS) if said else f"it ended with {done.returncode}"
        raise BadDirectory(f"pip could not install {folder / REQUIREMENTS}: {why}")


class Foreign:
    """A module with a handler, and the properties that its Inputs carry."""

    def __init__(
        self,
        module: ModuleType,
        properties: Mapping[str, Any],
        deadline_s: float,
        *,
        always: Mapping[str, Any] | None = None,
        queue: int = 256,
    ) -> None:
        """`properties` is the configuration, for the load; `always` is what DJL adds to every Input.

        `deadline_s` bounds one whole answer, `queue` the requests that wait. Raises BadDirectory.
        """
        self._name = str(properties.get("handler") or HANDLE)
        if not callable(function := getattr(module, self._name, None)):
            raise BadDirectory(f"{module.__name__} has no function {one_line(self._name, 80)}")
        self._handle: Callable[[Any], Any] = function
        self._properties, self._deadline_s, self._queue = dict(properties), deadline_s, queue
        named = {"model_dir": self._properties.get("model_dir", ""), "handler": self._name}
        self._always = named | dict(DEFAULTS if always is None else always)
        self._is_async = inspect.iscoroutinefunction(self._handle) or inspect.isasyncgenfunction(self._handle)
        self._thread = ThreadPoolExecutor(1, "handler")
        self._turn = asyncio.Lock()
        self._waiting = 0

    async def load(self) -> None:
        """The first, empty call. Raises BadDirectory."""
        try:
            output = await self._call(self._properties, {})
            if isinstance(output, AsyncGenerator):
                async for _ in output:
                    pass
        except Exception as error:
            log.exception("the handler failed to load")
            raise BadDirectory(f"the handler failed to load: {_words(error)}") from error
        code = getattr(output, "code", 200)
        if code >= REFUSED:
            raise BadDirectory(f"the handler refused to load with {code} {_reason(output)}")

    async def answer(self, properties: Mapping[str, str], content: Mapping[str, bytes], out: Out) -> None:
        """One request. Raises Busy, HookFailed when the handler fails, TimedOut; a part may have been sent."""
        try:
            with self._place() as leave:
                async with asyncio.timeout(self._deadline_s):
                    await self._answer(properties, content, _Begun(out, leave))
        except TimeoutError:
            raise TimedOut(f"the handler's answer was not complete within {self._deadline_s:g} s") from None
        except Error:
            raise
        except Exception as error:
            raise HookFailed.of("the handler", error) from error

    @contextmanager
    def _place(self) -> Iterator[Callable[[], None]]:
        """Hold a place among those that wait, until what is given is called. Raises Busy."""
        if (self._is_async or self._turn.locked()) and self._waiting >= max(self._queue, int(self._is_async)):
            raise Busy(f"{self._waiting} requests wait, which is job_queue_size; send the request again later")
        self._waiting += 1
        is_held = True

        def leave() -> None:
            nonlocal is_held
            self._waiting -= is_held
            is_held = False

        try:
            yield leave
        finally:
            leave()

    async def _answer(self, properties: Mapping[str, str], content: Mapping[str, bytes], out: "_Begun") -> None:
        if self._is_async:
            await self._give_any(await self._call(properties, content), out)
            return
        async with self._turn:
            out.leave()
            await self._give_any(await self._call(properties, content), out)

    async def _give_any(self, output: Any, out: Out) -> None:
        if isinstance(output, AsyncGenerator):
            await self._give_parts(output, out)
        elif output is None or isinstance(output, library.load().Output):
            await self._give(output, out)
        else:
            raise HookFailed(f"the handler must give an Output, got {type(output).__name__}")

    async def _call(self, properties: Mapping[str, Any], content: Mapping[str, bytes]) -> Any:
        inputs = library.load().Input()
        inputs.properties = {**properties, **self._always}
        inputs.function_name = self._name
        for name, data in content.items():
            inputs.content.add(key=name, value=bytearray(data))
        result = self._handle(inputs) if self._is_async else await self._in_thread(self._handle, inputs)
        return await result if inspect.isawaitable(result) else result

    async def _in_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    async def _give_parts(self, outputs: AsyncGenerator[Any, None], out: Out) -> None:
        """An asynchronous generator: each Output has one part; the first one's properties are the headers.

        A part that is no pairs of texts is sent as it is, and such a stream's end is its generator's.
        """
        has_begun = is_open = False
        async with aclosing(outputs):
            async for output in outputs:
                pairs = _pairs(output)
                code, is_last = int(pairs.get("code") or output.code), pairs.get("last") == "True"
                if not has_begun:
                    await out.head(code, _headers(output), is_stream=not is_last and code < REFUSED)
                has_begun, is_open = True, "last" in pairs
                if data := _data(output, pairs, code):
                    await out.send(data)
                if is_last:
                    return
        if is_open or not has_begun:
            raise HookFailed("the handler's stream ended without a last part")

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
        else:
            pairs = _pairs(output)
            if "last" in pairs and not self._is_async:
                raise HookFailed(ROLLING)
            pairs = pairs if self._is_async else {}
            code = int(pairs.get("code") or output.code)
            await out.head(code, _headers(output), is_stream=False)
            await out.send(_data(output, pairs, code))
        if output.finalize_function:
            await self._in_thread(output.execute_finalize)


class _Begun:
    """An Out that says when it is first used."""

    def __init__(self, out: Out, leave: Callable[[], None]) -> None:
        self._out, self.leave, self.send = out, leave, out.send

    async def head(self, code: int, headers: Mapping[str, str], *, is_stream: bool) -> None:
        self.leave()
        await self._out.head(code, headers, is_stream=is_stream)


def _first(output: Any) -> bytes:
    return b"" if output.content.is_empty() else bytes(output.content.value_at(0))


def _pairs(output: Any) -> Mapping[str, str]:
    """The pairs of texts in an Output's part, as Output.binary_encode makes them; none where it is anything else."""
    try:
        return output_parts.read(_first(output))
    except ValueError:  # UnicodeDecodeError is one
        return {}


def _data(output: Any, pairs: Mapping[str, str], code: int) -> bytes:
    """The bytes of an Output: its pairs' data, what DJL makes of pairs with a code, or its part as it is."""
    if "code" in pairs:
        return dump({"error": pairs.get("error", ""), "code": code})
    return pairs["data"].encode() if "data" in pairs else _first(output)


def _reason(output: Any) -> str:
    """Why an Output refuses: the `error` of its JSON, else its message."""
    try:
        told = json.loads(_first(output))
    except ValueError:
        told = None
    reason = told.get("error") if isinstance(told, dict) else None
    return one_line(str(reason or output.message), DETAIL_CHARS)


def _bytes(chunk: Any, formatter: Callable[[Any], Any] | None) -> bytes:
    data = formatter(chunk) if formatter else chunk
    match data:
        case str():
            return data.encode()
        case bytes() | bytearray():
            return bytes(data)
        case _:
            return dump(data)


def _headers(output: Any) -> dict[str, str]:
    return {str(name): one_line(str(value), HEADER_CHARS) for name, value in output.properties.items()}


def _words(error: BaseException) -> str:
    text = f"{type(error).__name__}: {error}"
    if library.is_missing(error):
        text = library.MISSING
    elif library.is_unserved(error):
        text = f"{error}: docs/djl.md lists what a handler can import, and what of DJL's own handlers is not served"
    return one_line(text, DETAIL_CHARS)
