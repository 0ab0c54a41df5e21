"""Keep other code's lines off the terminal while the server starts and stops; show them when something failed.

The engine's libraries and processes write where they please: to standard output and standard error by descriptor, by
`print`, by `warnings`, by loggers of their own. So both descriptors become pipes, which the engine's processes inherit,
and this server's own lines go to what the descriptors were before.
"""

import contextlib
import fcntl
import logging
import os
import re
import selectors
import struct
import sys
import termios
import threading
import time
from collections.abc import Iterator
from typing import TextIO

OUT, ERR = 1, 2
HELD_BYTES = 256 * 1024
CHUNK_BYTES = 65536
SETTLE_S, SETTLED_S = 1.0, 0.05
OWN = "lmi_chat"
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
RAISED = re.compile(r"(?:^|[\s\]])((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt|Exit|Failure|Panic)): (.+)")
INDIRECT = re.compile(r"root cause|initialization failed|died unexpectedly", re.IGNORECASE)


class HeldBack:
    """What other code has written, of which the last part is kept; or, after `show`, what it writes."""

    def __init__(self) -> None:
        """Take over both descriptors, at the beginning of a start."""
        self.own = {OUT: os.dup(OUT), ERR: os.dup(ERR)}
        self.stream: TextIO = os.fdopen(os.dup(ERR), "w", buffering=1, encoding="utf-8", errors="backslashreplace")
        self._lock = threading.Lock()
        self._kept = bytearray()
        self._told = 0
        self._is_shown = False
        self._pipes: dict[int, int] = {}
        for name in (OUT, ERR):
            reader, writer = os.pipe()
            os.dup2(writer, name)  # the copy is inherited by the engine's processes, the original is not
            os.close(writer)
            self._pipes[reader] = name
        threading.Thread(target=self._run, name="terminal", daemon=True).start()

    def news(self) -> str:
        """Return what is kept and was not returned before, when everything that was written has arrived."""
        self._settle()
        with self._lock:
            begin, self._told = self._told, len(self._kept)
            return self._kept[begin:].decode("utf-8", "replace")

    def show(self) -> None:
        """Write what is kept, and from now on whatever comes."""
        self._settle()
        with self._lock:
            self._pass_on(ERR, bytes(self._kept))
            self._kept.clear()
            self._told = 0
            self._is_shown = True

    def drop(self) -> None:
        """Forget what is kept, since nothing failed, and pass on whatever comes."""
        self._settle()
        with self._lock:
            self._kept.clear()
            self._told = 0
            self._is_shown = True

    def hold(self) -> None:
        """Keep from now on whatever comes."""
        self._settle()
        with self._lock:
            self._is_shown = False

    def give_back(self) -> None:
        """Put the descriptors back; processes that still write find the pipes."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        self._settle()
        for name, own in self.own.items():
            os.dup2(own, name)  # the access log may still write to `own`
        self.stream.close()

    def _run(self) -> None:
        with selectors.DefaultSelector() as ready:
            for reader in [*self._pipes]:
                ready.register(reader, selectors.EVENT_READ)
            while ready.get_map():
                for key, _ in ready.select():
                    if not self._take(key.fd):
                        ready.unregister(key.fd)
                        del self._pipes[key.fd]
                        os.close(key.fd)

    def _take(self, reader: int) -> bool:
        with self._lock:  # from before the pipe is empty, so that `_settle` sees the last bytes too
            data = os.read(reader, CHUNK_BYTES)
            if self._is_shown:
                self._pass_on(self._pipes[reader], data)
            else:
                self._kept += data
                over = max(0, len(self._kept) - HELD_BYTES)
                del self._kept[:over]
                self._told = max(0, self._told - over)
        return bool(data)

    def _pass_on(self, name: int, data: bytes) -> None:
        with contextlib.suppress(OSError):  # nobody reads there any more
            while data:
                data = data[os.write(self.own[name], data) :]

    def _settle(self) -> None:
        """Wait until nothing waits in the pipes, or for SETTLE_S where somebody writes without an end."""
        limit, quiet_since = time.monotonic() + SETTLE_S, time.monotonic()
        while time.monotonic() < limit and time.monotonic() < quiet_since + SETTLED_S:
            if any(map(_waiting, list(self._pipes))):
                quiet_since = time.monotonic()
            time.sleep(0.005)


def _waiting(reader: int) -> int:
    """Count the bytes that wait in a pipe."""
    count: int = struct.unpack("i", fcntl.ioctl(reader, termios.FIONREAD, bytes(4)))[0]
    return count


_held: list[HeldBack] = []


@contextlib.contextmanager
def held_back(log_level: str) -> Iterator[None]:
    """Keep other code's lines in this block as a log level wants it, and set up the logs; debug shows all of them."""
    if log_level != "debug":
        _held.append(HeldBack())
    own = logging.StreamHandler(stream())
    own.addFilter(_is_own)
    others = logging.StreamHandler()
    others.addFilter(lambda record: not _is_own(record))
    logging.basicConfig(level=log_level.upper(), format=LOG_FORMAT, handlers=[own, others], force=True)
    try:
        yield
    except Exception:
        for held in _held:
            held.show()
        raise
    finally:
        own.setStream(sys.stderr)
        for held in _held:
            held.give_back()
        _held.clear()


def _is_own(record: logging.LogRecord) -> bool:
    return record.name.partition(".")[0] == OWN


def held() -> HeldBack | None:
    """Return what keeps other code's lines, if anything does."""
    return _held[0] if _held else None


def stream() -> TextIO:
    """Return where this server's own lines go."""
    return _held[0].stream if _held else sys.stderr


def descriptor(name: int) -> int:
    """Return the descriptor of this server's own lines on OUT or ERR."""
    return _held[0].own[name] if _held else name


def print_status(text: str) -> None:
    """Write one line for the person at the terminal."""
    write(f"lmi-chat  {text}\n")


def write(text: str) -> None:
    """Write to the person at the terminal; one who has gone is no reason to stop."""
    with contextlib.suppress(OSError):
        stream().write(text)
        stream().flush()


def cause(text: str) -> str:
    """Find in other code's lines the exception that began a failure, as `Kind: message`; "" without one.

    The engine's processes each tell of the failure of the one below; those lines name no cause of their own.
    """
    found = [(match[1], match[2].strip()) for line in text.splitlines() if (match := RAISED.search(line))]
    direct = [(kind, message) for kind, message in found if not INDIRECT.search(message)]
    return next((f"{kind}: {message}" for kind, message in reversed(direct or found)), "")
