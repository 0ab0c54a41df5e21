"""Read and write the SQLite file of stored completions; completions.py decides who waits for it.

All functions but `connect` belong into a transaction. They raise sqlite3.Error, and NotFound where an id is unknown.
"""

import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from lmi_chat.errors import NotFound
from lmi_chat.text import one_line

LOCK_S = 1.0  # another process may hold the file for so long
WAL_BYTES = 4 * 2**20
PAGE_BYTES = 4 * 2**20  # a list ends before more than that, and says that there is more
SCHEMA = """
CREATE TABLE IF NOT EXISTS completions (
    place INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, model TEXT NOT NULL, kept_at REAL NOT NULL,
    document BLOB NOT NULL, messages BLOB NOT NULL, metadata BLOB NOT NULL, owner TEXT NOT NULL DEFAULT '',
    kind TEXT NOT NULL DEFAULT 'completion');
CREATE INDEX IF NOT EXISTS completions_by_age ON completions (kept_at);
CREATE INDEX IF NOT EXISTS completions_by_model ON completions (model, place);
CREATE TABLE IF NOT EXISTS pairs (
    key TEXT NOT NULL, value TEXT NOT NULL, place INTEGER NOT NULL REFERENCES completions ON DELETE CASCADE,
    PRIMARY KEY (key, value, place)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS pairs_by_place ON pairs (place);
"""


COMPLETION, RESPONSE = "completion", "response"
LATER = {"owner": "''", "kind": f"'{COMPLETION}'"}
"""Columns that a file of an older version lacks, and their defaults."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCompletion:
    """A completion to keep: its document and its messages as JSON, the document without its metadata.

    `kind`: a chat completion, or another dialect's answer, which no request for completions finds.
    """

    id: str
    model: str
    document: bytes
    messages: bytes
    metadata: Mapping[str, str] = field(default_factory=dict)
    owner: str = ""  # the name of the API key that asked for it
    kind: str = COMPLETION

    @property
    def bytes(self) -> int:
        """Its approximate size."""
        return len(self.document) + len(self.messages)


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """The completions to list: after the id `after`, in the order in which they were stored or against it."""

    model: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    after: str | None = None
    limit: int = 20
    is_descending: bool = False
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """The completions that a query found, and whether there are more."""

    found: Sequence[StoredCompletion]
    has_more: bool


def connect(path: Path) -> sqlite3.Connection:
    """Open or create the file. Raises sqlite3.Error, OSError."""
    path.touch(mode=0o600)  # conversations are nobody else's; SQLite's own files beside it take its mode
    db = sqlite3.connect(path, timeout=LOCK_S, isolation_level=None)
    try:
        for pragma in ("auto_vacuum=INCREMENTAL", "journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
            db.execute(f"PRAGMA {pragma}").fetchall()
        db.execute(f"PRAGMA journal_size_limit={WAL_BYTES}").fetchall()
        db.executescript(SCHEMA)
        known = {row[1] for row in db.execute("PRAGMA table_info(completions)")}
        for name, default in LATER.items():
            if name not in known:
                db.execute(f"ALTER TABLE completions ADD COLUMN {name} TEXT NOT NULL DEFAULT {default}")
    except sqlite3.Error:
        db.close()
        raise
    return db


def insert(kept: StoredCompletion, max_bytes: int, db: sqlite3.Connection) -> None:
    """Store one, in place of another of its id."""
    if kept.bytes > max_bytes // 2:
        raise sqlite3.DataError(f"{kept.id} has {kept.bytes} bytes, more than half of all that is kept")
    db.execute("DELETE FROM completions WHERE id = ?", (kept.id,))
    metadata = orjson.dumps(dict(kept.metadata))
    row = (kept.id, kept.model, time.time(), kept.document, kept.messages, metadata, kept.owner, kept.kind)
    columns = "(id, model, kept_at, document, messages, metadata, owner, kind)"
    place = db.execute(f"INSERT INTO completions {columns} VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row).lastrowid  # noqa: S608
    _insert_pairs(db, place, kept.metadata)


def _insert_pairs(db: sqlite3.Connection, place: int | None, metadata: Mapping[str, str]) -> None:
    db.executemany("INSERT INTO pairs VALUES (?, ?, ?)", [(key, value, place) for key, value in metadata.items()])


def trim(db: sqlite3.Connection, horizon: float, max_bytes: int) -> None:
    """Delete those stored before `horizon` (Unix seconds), then the oldest until at most `max_bytes` are used."""
    db.execute("DELETE FROM completions WHERE kept_at < ?", (horizon,))
    ends = ("SELECT min(place) FROM completions", "SELECT max(place) FROM completions")
    oldest = f"DELETE FROM completions WHERE place = ({ends[0]}) AND place < ({ends[1]})"  # noqa: S608
    while _used_bytes(db) > max_bytes and db.execute(oldest).rowcount:
        pass


def _used_bytes(db: sqlite3.Connection) -> int:
    pages, free, size = (
        db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


def _kept(row: Sequence[Any]) -> StoredCompletion:
    completion_id, model, document, messages, metadata = row
    return StoredCompletion(
        id=completion_id, model=model, document=document, messages=messages, metadata=orjson.loads(metadata)
    )


def _place(
    db: sqlite3.Connection, completion_id: str, owner: str, param: str | None = None, kind: str = COMPLETION
) -> int:
    wanted = "SELECT place FROM completions WHERE id = ? AND owner = ? AND kind = ?"
    row = db.execute(wanted, (completion_id, owner, kind)).fetchone()
    if row is None:
        raise NotFound(f'no {kind} "{one_line(completion_id, 200)}" is stored here', param=param)
    return int(row[0])


def get(completion_id: str, owner: str, kind: str, db: sqlite3.Connection) -> StoredCompletion:
    """Return one of `owner` with its messages."""
    place = _place(db, completion_id, owner, kind=kind)
    columns = "id, model, document, messages, metadata"
    return _kept(db.execute(f"SELECT {columns} FROM completions WHERE place = ?", (place,)).fetchone())  # noqa: S608


def page(query: Query, db: sqlite3.Connection) -> Page:
    """Return those that `query` asks for, without their messages."""
    wanted, values = ["owner = ?", "kind = ?"], list[Any]([query.owner, COMPLETION])
    if query.model is not None:
        wanted.append("model = ?")
        values.append(query.model)
    for pair in query.metadata.items():
        wanted.append("place IN (SELECT place FROM pairs WHERE key = ? AND value = ?)")
        values += pair
    if query.after is not None:
        wanted.append("place < ?" if query.is_descending else "place > ?")
        values.append(_place(db, query.after, query.owner, "after"))
    order = "DESC" if query.is_descending else "ASC"
    text = f"SELECT id, model, document, x'5b5d', metadata FROM completions WHERE {' AND '.join(wanted)}"  # noqa: S608
    rows = db.execute(f"{text} ORDER BY place {order} LIMIT ?", (*values, query.limit + 1))
    found: list[StoredCompletion] = []
    size = 0
    for row in rows:
        kept = _kept(row)
        size += kept.bytes
        if len(found) == query.limit or (found and size > PAGE_BYTES):
            return Page(found, has_more=True)
        found.append(kept)
    return Page(found, has_more=False)


def update(completion_id: str, owner: str, metadata: Mapping[str, str], db: sqlite3.Connection) -> StoredCompletion:
    """Replace the metadata of one of `owner`, and return it."""
    place = _place(db, completion_id, owner)
    db.execute("UPDATE completions SET metadata = ? WHERE place = ?", (orjson.dumps(dict(metadata)), place))
    db.execute("DELETE FROM pairs WHERE place = ?", (place,))
    _insert_pairs(db, place, metadata)
    return get(completion_id, owner, COMPLETION, db)


def delete(completion_id: str, owner: str, kind: str, db: sqlite3.Connection) -> None:
    """Delete one of `owner`."""
    db.execute("DELETE FROM completions WHERE place = ?", (_place(db, completion_id, owner, kind=kind),))
