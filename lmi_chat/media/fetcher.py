"""Fetch the bytes of media by data:, https:, http: and file: URLs, each within the bounds of its request.

A host's addresses are asked for once for each hop, all of them checked, and the connection goes to one of these, so
that a name which changes its addresses in between changes nothing. A redirect is a new URL, checked as the first one.
"""

import base64
import binascii
import os
import stat
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from threading import Lock
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from lmi_chat.errors import BadField, Problem
from lmi_chat.file_formats import Kind
from lmi_chat.limits import MediaLimits
from lmi_chat.media import formats
from lmi_chat.media.access import PORTS, Forbidden, MediaAccess
from lmi_chat.media.formats import Unfit
from lmi_chat.media.http_get import Answer, get
from lmi_chat.media.items import MediaItem, Room
from lmi_chat.text import one_line

URL_CHARS = 8192
READ_BYTES = 2**16
OK = 200
REDIRECTS = frozenset({301, 302, 303, 307, 308})
UNWANTED = frozenset(map(chr, (*range(33), 127, ord("\\"))))
"""Characters that readers of URLs disagree about."""
DATA = "data:"
OPENED = Path("/proc/self/fd")
"""Where Linux tells what was opened."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where one item comes from: its kind, its URL, and the path of the URL in the request.

    A tensor of embeddings in the item's place has its base64 for a URL.
    """

    kind: Kind
    url: str
    path: str
    is_tensor: bool = False


@dataclass(slots=True)
class Allowance:
    """What is left to one request: bytes, seconds, room for what becomes of them.

    `deadline`, on the monotonic clock, is of what is being fetched.
    """

    bytes_left: int
    limit: int
    seconds_left: float
    room: Room
    deadline: float = 0.0
    lock: Lock = field(default_factory=Lock)

    def take(self, count: int) -> None:
        """Count bytes that have come. Raises Unfit."""
        with self.lock:
            self.bytes_left -= count
            if self.bytes_left < 0:
                raise Unfit(f"and all other media have more than {self.limit} bytes (option.max_media_bytes)")


class Fetcher:
    """Fetches for all requests."""

    def __init__(self, access: MediaAccess, limits: MediaLimits) -> None:
        """Fetch what `access` allows, within `limits`."""
        self._access, self.limits = access, limits
        self._pool = ThreadPoolExecutor(limits.at_once, "media-fetch")

    def allowance(self) -> Allowance:
        """What one request may have."""
        limits = self.limits
        return Allowance(limits.all_bytes, limits.all_bytes, limits.fetch_s, Room(limits.decoded_bytes))

    def fetch(self, sources: Sequence[Source], allowance: Allowance) -> list[MediaItem]:
        """Fetch items of one request, several at once. Raises BadField for the first that cannot be had."""
        began = time.monotonic()
        allowance.deadline = began + allowance.seconds_left
        tasks = [self._begin(source, allowance) for source in sources]
        done, late = wait(tasks, allowance.seconds_left, FIRST_EXCEPTION)
        for task in late:
            task.cancel()
        now = time.monotonic()
        allowance.seconds_left, allowance.deadline = allowance.deadline - now, now  # those under way end
        for task, source in zip(tasks, sources, strict=True):
            if task in done and (error := task.exception()):
                raise error
            if task in late and not any(other.exception() for other in done):
                raise _refused(source, self._late())
        return [task.result() for task in tasks]

    def _begin(self, source: Source, allowance: Allowance) -> Future[MediaItem]:
        """Fetch in a thread; what stands in the URL itself is read here, and waits for no host."""
        if source.url[: len(DATA)].lower() != DATA and not source.is_tensor:
            return self._pool.submit(self._fetch, source, allowance)
        task = Future[MediaItem]()
        try:
            task.set_result(self._fetch(source, allowance))
        except BadField as error:
            task.set_exception(error)
        return task

    def _late(self) -> str:
        return f"was not fetched within {self.limits.fetch_s:g} s (option.media_fetch_seconds)"

    def _fetch(self, source: Source, allowance: Allowance) -> MediaItem:
        try:
            if source.is_tensor:
                data = _of_base64(source.url, "a tensor in base64", allowance)
                formats.check_tensor(data)
            else:
                data, declared = self._read(source.url, allowance)
                formats.check(source.kind, data, declared)
        except (Unfit, Forbidden) as error:
            raise _refused(source, str(error)) from None
        except TimeoutError:
            raise _refused(source, self._late()) from None
        except (OSError, HTTPException) as error:
            raise _refused(source, f"cannot be fetched: {_why(error)}") from None
        return MediaItem(source.kind, data, source.path, self.limits, allowance.room, source.is_tensor)

    def _read(self, url: str, allowance: Allowance) -> tuple[bytes, str]:
        """The bytes that a URL stands for, and their media type where that is told."""
        if url[: len(DATA)].lower() == DATA:
            return _of_data(url, allowance)
        for _ in range(self.limits.redirects + 1):
            parts = _split(url)
            if parts.scheme == "file":
                return self._of_file(parts, allowance), ""
            host, port = _place(parts)
            self._access.check_host(parts.scheme, host, port)
            addresses = self._access.addresses(host, port)
            with get(parts, host, port, addresses, lambda: allowance.deadline - time.monotonic()) as answer:
                if answer.status not in REDIRECTS:
                    return _body(answer, allowance), answer.media_type
                url = _target(url, answer.location, parts.scheme)
        raise Forbidden(f"cannot be fetched: more than {self.limits.redirects} redirects (option.max_media_redirects)")

    def _of_file(self, parts: SplitResult, allowance: Allowance) -> bytes:
        """Read a file of the allowed folder. What lies elsewhere is told from what does not exist to nobody."""
        folder = self._access.folder
        if folder is None:
            raise Forbidden("cannot be read: this deployment reads no files (option.allowed_local_media_path)")
        if parts.netloc not in {"", "localhost"}:
            raise Forbidden("must name a file of this machine, as file:///folder/file")
        refused = Forbidden("must name a file in the folder that is allowed (option.allowed_local_media_path)")
        try:
            path = Path(unquote(parts.path)).resolve(strict=True)
            folder = folder.resolve()
            if not path.is_relative_to(folder):
                raise refused
            return _of_path(path, folder, allowance)
        except (OSError, ValueError, RuntimeError):
            raise refused from None


def _of_path(path: Path, folder: Path, allowance: Allowance) -> bytes:
    """Read a resolved path of `folder`; a link or a pipe may have taken its place. Raises OSError, Unfit."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError("no regular file")
        if OPENED.is_dir() and not (OPENED / str(descriptor)).resolve().is_relative_to(folder):
            raise OSError("a folder on the way has become a link")
        return _all(file.read, allowance)


def _of_data(url: str, allowance: Allowance) -> tuple[bytes, str]:
    """Read a data: URL (RFC 2397), of which base64 is the only form for media. Raises Unfit."""
    head, comma, text = url[len(DATA) :].partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise Unfit("must be a data: URL in base64, such as data:image/png;base64,…")
    return _of_base64(text, "a data: URL in base64", allowance), head.partition(";")[0].strip().lower()


def _of_base64(text: str, what: str, allowance: Allowance) -> bytes:
    """Read base64, which a refusal calls `what`. Raises Unfit."""
    allowance.take(len(text) * 3 // 4 - text[-2:].count("="))
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Unfit(f"must be {what}, its data are not") from None


def _split(url: str) -> SplitResult:
    """Take a URL apart that every reader takes apart alike. Raises Forbidden."""
    if len(url) > URL_CHARS:
        raise Forbidden(f"must be a URL of at most {URL_CHARS} characters, got {len(url)}")
    try:
        parts = urlsplit(url)
        is_clear = UNWANTED.isdisjoint(url) and "@" not in parts.netloc and parts.port != 0
    except ValueError:
        is_clear = False
    if not is_clear:
        raise Forbidden("must be a URL without spaces, backslashes and user names")
    if parts.scheme not in {*PORTS, "file"}:
        raise Forbidden("must be an https:, http:, data: or file: URL")
    return parts


def _target(url: str, location: str, scheme: str) -> str:
    """The URL that a redirect leads to. Raises Forbidden."""
    try:
        target = urljoin(url, location)
    except ValueError:
        target = ""
    if _split(target).scheme not in {"https", scheme}:
        raise Forbidden("cannot be fetched: it redirects to another kind of URL")
    return target


def _place(parts: SplitResult) -> tuple[str, int]:
    """The host and port of a URL. Raises Forbidden."""
    try:
        host = (parts.hostname or "").rstrip(".").encode("idna").decode("ascii").lower()
    except UnicodeError:
        host = ""
    if not host or "%" in host:
        raise Forbidden("must be a URL with a host")
    return host, parts.port or PORTS[parts.scheme]


def _body(answer: Answer, allowance: Allowance) -> bytes:
    """The content of a host's answer. Raises Unfit."""
    if answer.status != OK:
        raise Unfit(f"cannot be fetched: its host answered with status {answer.status}")
    if answer.encoding not in {"", "identity"}:
        raise Unfit(f"cannot be fetched: its host compresses it ({one_line(answer.encoding, 40)})")
    if answer.length is not None and answer.length > allowance.limit:
        allowance.take(answer.length)
    data = _all(answer.read, allowance)
    if answer.length is not None and len(data) < answer.length:
        raise Unfit(f"cannot be fetched: {len(data)} of its {answer.length} bytes came")
    return data


def _all(read: Callable[[int], bytes], allowance: Allowance) -> bytes:
    chunks = []
    while chunk := read(READ_BYTES):
        allowance.take(len(chunk))
        chunks.append(chunk)
    return b"".join(chunks)


def _why(error: Exception) -> str:
    """Say what went wrong on the way, without an address."""
    if isinstance(error, HTTPException):
        return "its host's answer is no HTTP, or ended early"
    return one_line(getattr(error, "strerror", None) or type(error).__name__, 120)


def _refused(source: Source, why: str) -> BadField:
    return BadField([Problem(source.path, f"{source.path} {why}")])
