"""Store completions in a file, on one thread that works in order, so that a read sees every save before it.

Nothing here waits on the event loop, and no fault of the disk reaches an answer: it costs a log line, a count, and the
completion that was to be kept. The bytes belong to a dialect.
"""

import asyncio
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from lmi_chat.errors import Error, Unavailable
from lmi_chat.limits import StoreLimits
from lmi_chat.observability.metrics import STORE_FAILURES
from lmi_chat.storage import completions_db
from lmi_chat.storage.completions_db import COMPLETION, RESPONSE, Page, Query, StoredCompletion
from lmi_chat.text import one_line

WAITING_MOST = 1024
WAITING_BYTES = 64 * 2**20
ASK_S = 10.0
TIDY_S = 600.0  # the age limit holds without traffic too
LOG_S = 10.0
GRACE_S = 600.0  # nothing is too old so soon after the start
DAY_S = 86_400
UNUSABLE = "the store of completions cannot be used now; the server's log says why"
log = logging.getLogger(__name__)
Result = TypeVar("Result")


@dataclass(slots=True)
class _Work:
    do: Callable[[sqlite3.Connection], Any]
    bytes: int = 0
    future: "Future[Any] | None" = None  # None: nobody waits for it, and the limits are held after it
    is_read: bool = False


class _Clock:
    """Wall-clock time that does not run ahead of the time that has passed.

    A clock that is wrong for a moment would have everything deleted at once. One that is wrong from the start is given
    GRACE_S to be put right.
    """

    def __init__(self) -> None:
        self._wall, self._began = time.time(), time.monotonic()

    def now(self) -> float | None:
        """Seconds since 1970, None while nobody can tell yet."""
        passed = time.monotonic() - self._began
        return min(time.time(), self._wall + passed) if passed >= GRACE_S else None


class Completions:
    """The file and its thread, which begins with the first work."""

    def __init__(self, path: Path, limits: StoreLimits = StoreLimits()) -> None:
        """Keep completions in `path`, within `limits`; the oldest go first."""
        self._path, self._age_s, self._max_bytes = path, limits.days * DAY_S, limits.max_bytes
        self._waiting: queue.Queue[_Work | None] = queue.Queue(WAITING_MOST)
        self._waiting_bytes = 0
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._db: sqlite3.Connection | None = None
        self._is_closed = False
        self._quiet_until = 0.0
        self._clock = _Clock()

    def save(self, kept: StoredCompletion) -> None:
        """Store a completion. Returns at once and never fails; one of the same id is replaced."""
        self._submit(_Work(partial(completions_db.insert, kept, self._max_bytes), kept.bytes))

    def tidy(self) -> None:
        """Delete old completions and those over the limit, as each save does too; a fault of the disk is logged."""
        self._submit(_Work(lambda _: None))

    async def page(self, query: Query) -> Page:
        """List completions. Raises NotFound for an unknown `after`, Unavailable."""
        return await self._ask(partial(completions_db.page, query), is_read=True)

    async def get(self, completion_id: str, owner: str = "", kind: str = COMPLETION) -> StoredCompletion:
        """Return one completion of `owner`. Raises NotFound, Unavailable."""
        return await self._ask(partial(completions_db.get, completion_id, owner, kind), is_read=True)

    def load(self, response_id: str, owner: str = "") -> StoredCompletion:
        """Return one response of `owner` to a thread, which waits for it. Raises NotFound, Unavailable."""
        future = self._handed(partial(completions_db.get, response_id, owner, RESPONSE), is_read=True)
        try:
            return future.result(ASK_S)
        except (sqlite3.Error, OSError):
            raise Unavailable(UNUSABLE) from None

    async def update(self, completion_id: str, metadata: Mapping[str, str], owner: str = "") -> StoredCompletion:
        """Replace the metadata of one completion of `owner` and return it. Raises NotFound, Unavailable."""
        return await self._ask(partial(completions_db.update, completion_id, owner, metadata))

    async def delete(self, completion_id: str, owner: str = "", kind: str = COMPLETION) -> None:
        """Delete one completion of `owner`. Raises NotFound, Unavailable."""
        await self._ask(partial(completions_db.delete, completion_id, owner, kind))

    def close(self, seconds: float = 2.0) -> None:
        """Do the waiting work, for up to `seconds`, and end the thread."""
        with self._lock:
            self._is_closed = True
            thread = self._thread
        if thread is None:
            return
        try:
            self._waiting.put(None, timeout=seconds)
        except queue.Full:
            self._fail("the disk is too slow; what waits is lost")
            return
        thread.join(seconds)

    async def _ask(self, do: Callable[[sqlite3.Connection], Result], *, is_read: bool = False) -> Result:
        future = self._handed(do, is_read=is_read)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), ASK_S)
        except (sqlite3.Error, OSError):  # a TimeoutError is an OSError
            raise Unavailable(UNUSABLE) from None

    def _handed(self, do: Callable[[sqlite3.Connection], Result], *, is_read: bool) -> "Future[Result]":
        future: Future[Result] = Future()
        if not self._submit(_Work(do, future=future, is_read=is_read)):
            raise Unavailable("the store of completions is busy; send the request again later")
        return future

    def _submit(self, work: _Work) -> bool:
        """Hand `work` to the thread; False if there is no room for it."""
        with self._lock:  # all that is put comes through here, so that room found is room kept
            is_full = self._waiting.full() or self._waiting_bytes + work.bytes > WAITING_BYTES
            if is_full or self._is_closed:
                self._fail("too much waits for the disk" if is_full else "the server is ending")
                return False
            self._waiting.put_nowait(work)
            self._waiting_bytes += work.bytes
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="store", daemon=True)
                self._thread.start()
        return True

    def _run(self) -> None:
        """Run the thread: one work after the other."""
        try:
            while (work := self._next()) is not None:
                with self._lock:
                    self._waiting_bytes -= work.bytes
                self._do(work)
        finally:
            self._disconnect()

    def _next(self) -> _Work | None:
        try:
            return self._waiting.get(timeout=TIDY_S)
        except queue.Empty:
            return _Work(lambda _: None)

    def _do(self, work: _Work) -> None:
        if work.future is not None and not work.future.set_running_or_notify_cancel():
            return
        try:
            self._db = self._db or completions_db.connect(self._path)
            result = self._transact(self._db, work)
        except Error as error:
            if work.future is not None:
                work.future.set_exception(error)
        except (sqlite3.Error, OSError) as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_BUSY:
                self._disconnect()  # the next work begins anew: the disk may have come back
            self._fail(str(error))
            if work.future is not None:
                work.future.set_exception(error)
        else:
            if work.future is not None:
                work.future.set_result(result)

    def _transact(self, db: sqlite3.Connection, work: _Work) -> Any:
        """Do `work` and hold the limits. Raises sqlite3.Error and leaves nothing half done, or the work's Error."""
        with db:
            db.execute("BEGIN" if work.is_read else "BEGIN IMMEDIATE")
            result = work.do(db)
            if work.future is None:
                now = self._clock.now()
                completions_db.trim(db, 0.0 if now is None else now - self._age_s, self._max_bytes)
        if work.future is None:
            db.executescript("PRAGMA incremental_vacuum")  # `execute` would free a single page
        return result

    def _disconnect(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            try:
                db.close()
            except sqlite3.Error as error:
                log.debug("the store's file did not close: %s", error)

    def _fail(self, why: str) -> None:
        """Count each failure, log one in LOG_S."""
        STORE_FAILURES.inc()
        now = time.monotonic()
        if now >= self._quiet_until:
            self._quiet_until = now + LOG_S
            log.warning("a completion was not stored or read: %s", one_line(why, 200))
