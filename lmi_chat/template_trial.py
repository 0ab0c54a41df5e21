"""Render a chat template's first chats in a process that can be killed: one that never ends, or takes all memory.

A thread cannot be ended, and a template is other people's code, of which Jinja's sandbox bounds neither time nor
memory. So before the server's own process compiles it, `python -m` this module does, within bounds that the kernel
keeps. One line of JSON in, `{"template", "variables", "chats"}`, one out: `{}`, whether it rendered or raised. It ends
with its standard input, that is with the server.
"""

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping, Sequence
from typing import Any

from lmi_chat.confinement import confine

CPU_S = 5.0
WALL_S = 60.0
"""For what sleeps; of a machine that has much to do, CPU_S is waited for."""
MEMORY_BYTES = 2**30
LINE_BYTES = 2**26
NICE = 5
log = logging.getLogger(__name__)


class Endless(Exception):
    """The template cannot be rendered within the bounds; the message says which one it broke."""


class Trial:
    """One trial; its process is started ahead, since it imports for a second what the engine imports meanwhile."""

    def __init__(self) -> None:
        """Begin without a process."""
        self._process: Process | None = None

    async def start(self) -> None:
        """Start the process."""
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", __name__),
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            limit=LINE_BYTES,
            start_new_session=True,  # Ctrl-C at the terminal is for the server alone
        )

    async def run(self, template: str, variables: Mapping[str, Any], chats: Sequence[Mapping[str, Any]]) -> None:
        """Render `chats`, each with its own variables, by `template`. Raises Endless."""
        if self._process is None or self._process.returncode is not None:
            await self.start()
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise Endless("cannot be tried out: its process has no pipes")
        line = json.dumps({"template": template, "variables": variables, "chats": chats}, default=str).encode() + b"\n"
        try:
            async with asyncio.timeout(WALL_S + CPU_S):
                with contextlib.suppress(ConnectionError):
                    process.stdin.write(line)
                    await process.stdin.drain()
                said = await process.stdout.read()
                code = await process.wait()
        except TimeoutError:
            raise Endless(f"does not end within {WALL_S:g} s for a few short messages") from None
        finally:
            await self.stop()
        match -code:
            case signal.SIGPROF | signal.SIGXCPU:
                raise Endless(f"takes more than {CPU_S:g} s of processor time for a few short messages")
            case signal.SIGALRM:
                raise Endless(f"does not end within {WALL_S:g} s for a few short messages")
        if not said and code > 0:
            log.warning("the chat template could not be tried out: the process ended with code %d", code)
            return
        if not said or "memory" in json.loads(said):
            raise Endless(f"takes more than {MEMORY_BYTES >> 20} MiB of memory for a few short messages")

    async def stop(self) -> None:
        """End the process, whatever it does."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.communicate()


def main() -> None:
    """Serve one trial."""
    from transformers.utils import chat_template_utils

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    task = json.loads(sys.stdin.readline() or "null")
    if task is None:  # the server has ended
        return
    _confine()
    verdict: dict[str, bool] = {}
    try:
        render = chat_template_utils._compile_jinja_template(task["template"]).render  # noqa: SLF001 as the server does
        for chat in task["chats"]:
            try:
                render(**{**task["variables"], **chat})
            except MemoryError:
                raise
            except Exception:  # noqa: BLE001, S110 what it refuses, it refuses the server too, which says so
                pass
    except MemoryError:
        verdict = {"memory": True}
    except Exception:  # noqa: BLE001 no template at all
        verdict = {}
    answers.write(json.dumps(verdict))
    answers.flush()
    os._exit(0)  # what it has made of memory need not be taken apart


def _confine() -> None:
    """Bound this process, and let the server go before it."""
    confine(cpu_s=CPU_S, wall_s=WALL_S, memory_bytes=MEMORY_BYTES)
    os.nice(NICE)


if __name__ == "__main__":
    main()
