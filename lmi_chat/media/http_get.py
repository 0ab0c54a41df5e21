"""Fetch one URL from one address by HTTP/1.1, with a deadline that holds for all of it, not for each read."""

import http.client
import io
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import cache
from typing import Protocol
from urllib.parse import SplitResult, quote

SAFE = "/?&=%:;@!$'()*+,~-._"
"""What stands in a path and its query as it is."""
MOST_TRIED = 4
"""Of a host's addresses."""


class Answer:
    """The head of an answer, and its content by `read`."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        """Read from `response`, whose head has been read."""
        self.status, self.read = response.status, response.read
        self.location = response.getheader("location", "")
        self.encoding = response.getheader("content-encoding", "").strip().lower()
        self.media_type = response.getheader("content-type", "").partition(";")[0].strip().lower()
        self.length = response.length


class Readable(Protocol):
    """A connected socket, plain or with TLS."""

    def settimeout(self, value: float | None, /) -> None:
        """Bound each following call, in seconds."""

    def recv_into(self, buffer: memoryview, /) -> int:
        """Read what has come."""


class _UntilDeadline(io.RawIOBase):
    """A socket as a file, each read of which has only what is left of the time."""

    def __init__(self, connection: Readable, left: Callable[[], float]) -> None:
        self._connection, self._left = connection, left

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self._connection.settimeout(positive(self._left()))
        return self._connection.recv_into(buffer)


class _Opened:
    """What http.client takes for a socket."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file

    def makefile(self, _mode: str) -> io.BufferedReader:
        return self._file


def positive(seconds: float) -> float:
    """Return the seconds that are left. Raises TimeoutError."""
    if seconds <= 0:
        raise TimeoutError
    return seconds


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


@contextmanager
def get(
    parts: SplitResult, host: str, port: int, addresses: Sequence[str], left: Callable[[], float]
) -> Iterator[Answer]:
    """GET a URL of `host` from one of `addresses`; `left` tells the seconds that are left.

    Raises OSError, TimeoutError among them, and http.client.HTTPException.
    """
    plain = _connect(addresses, port, left)
    with plain:
        connection = plain
        if parts.scheme == "https":
            plain.settimeout(positive(left()))
            connection = _tls().wrap_socket(plain, server_hostname=host)
        with connection:
            connection.settimeout(positive(left()))
            connection.sendall(_head(parts))
            file = io.BufferedReader(_UntilDeadline(connection, left))
            with closing(http.client.HTTPResponse(_Opened(file), method="GET")) as response:  # type: ignore[arg-type]
                response.begin()
                yield Answer(response)


def _connect(addresses: Sequence[str], port: int, left: Callable[[], float]) -> socket.socket:
    """Connect to the first address that answers: no name is looked up again."""
    failure = OSError("no address")
    for address in addresses[:MOST_TRIED]:
        try:
            return socket.create_connection((address, port), timeout=positive(left()))
        except TimeoutError:
            raise
        except OSError as error:
            failure = error
    raise failure


def _head(parts: SplitResult) -> bytes:
    target = quote(parts.path or "/", SAFE) + (f"?{quote(parts.query, SAFE)}" if parts.query else "")
    lines = (
        f"GET {target} HTTP/1.1",
        f"Host: {parts.netloc.encode('idna').decode('ascii')}",
        "User-Agent: lmi-chat",
        "Accept: */*",
        "Accept-Encoding: identity",
        "Connection: close",
    )
    return "\r\n".join((*lines, "", "")).encode("ascii")
