"""Keep a handler's data by session: in memory, in files, or in mapped files. `option.sessions` says which."""

import mmap
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any


def _option(properties: Mapping[str, Any], name: str) -> Any:
    """DJL hands a model's options over without the `option.` that they have in serving.properties."""
    return properties.get(f"option.{name}", properties.get(name))


class SessionManager:
    """What a handler calls; this one keeps nothing."""

    def __init__(self, properties: Mapping[str, Any]) -> None:
        """`option.sessions.limit` bounds how many sessions are kept."""
        limit = _option(properties, "sessions.limit")
        self.limit = None if limit is None else int(limit)

    def load(self, session_id: str) -> Any:
        """A session's data, or None."""

    def save(self, session_id: str, value: Any) -> None:
        """Keep a session's data."""

    def remove(self, session_id: str) -> Any:
        """Forget a session."""

    def prune(self, limit: int, backup: "SessionManager | None" = None) -> None:
        """Forget the oldest sessions beyond `limit`; `backup` keeps them."""


class LocalSessionManager(SessionManager):
    """Keeps data in this process."""

    def __init__(self, properties: Mapping[str, Any]) -> None:
        """Empty."""
        super().__init__(properties)
        self.sessions: OrderedDict[str, Any] = OrderedDict()

    def load(self, session_id: str) -> Any:
        """A session's data, or None."""
        return self.sessions.get(session_id)

    def save(self, session_id: str, value: Any) -> None:
        """Keep a session's data as the newest."""
        self.sessions[session_id] = value
        self.sessions.move_to_end(session_id)
        if self.limit is not None:
            self.prune(self.limit)

    def remove(self, session_id: str) -> Any:
        """Forget a session; gives its data. Raises KeyError."""
        return self.sessions.pop(session_id)

    def prune(self, limit: int, backup: SessionManager | None = None) -> None:
        """Forget the oldest sessions beyond `limit`; `backup` keeps them."""
        while len(self.sessions) > limit:
            session_id, value = self.sessions.popitem(last=False)
            if backup is not None:
                backup.save(session_id, value)


class FileSessionManager(SessionManager):
    """Keeps data in the files of the folder `option.sessions.path`, which nobody else may write to: it is pickled."""

    def __init__(self, properties: Mapping[str, Any]) -> None:
        """Raises ValueError where no folder is named."""
        super().__init__(properties)
        path = _option(properties, "sessions.path")
        if not path:
            raise ValueError("sessions in files need option.sessions.path, a folder")
        self.files_path = str(path)

    def load(self, session_id: str) -> Any:
        """A session's data, or None."""
        path = self._path(session_id)
        return pickle.loads(path.read_bytes()) if path.is_file() else None  # noqa: S301 its own files

    def save(self, session_id: str, value: Any) -> None:
        """Keep a session's data."""
        self._path(session_id).write_bytes(pickle.dumps(value))
        if self.limit is not None:
            self.prune(self.limit)

    def remove(self, session_id: str) -> None:
        """Forget a session. Raises FileNotFoundError."""
        self._path(session_id).unlink()

    def prune(self, limit: int, backup: SessionManager | None = None) -> None:
        """Forget the oldest sessions beyond `limit`; `backup` keeps them."""
        paths = sorted(Path(self.files_path).iterdir(), key=lambda path: path.stat().st_mtime_ns)
        for path in paths[: max(len(paths) - limit, 0)]:
            if backup is not None:
                backup.save(path.name, self.load(path.name))
            path.unlink()

    def _path(self, session_id: str) -> Path:
        """A name of one part: `..` would be the folder above."""
        name = session_id.replace("/", "-")
        if name in {"", ".", ".."}:
            raise ValueError(f"a session's id must be a name, got {session_id!r}")
        return Path(self.files_path) / name


class MmapSessionManager(FileSessionManager):
    """Keeps each session in a mapped file of `option.sessions.file_size` bytes."""

    def __init__(self, properties: Mapping[str, Any]) -> None:
        """Raises ValueError where no size is named."""
        super().__init__(properties)
        size = _option(properties, "sessions.file_size")
        if not size:
            raise ValueError("mapped sessions need option.sessions.file_size, a number of bytes")
        self.file_size = int(size)
        self.opened: dict[str, tuple[IO[bytes], mmap.mmap]] = {}

    def load(self, session_id: str) -> tuple[mmap.mmap, bool]:
        """The mapped file, and whether it is a new one."""
        path = self._path(session_id)
        is_new = not path.is_file()
        if is_new:
            path.write_bytes(bytes(self.file_size))
        file = path.open("r+b")
        mapped = mmap.mmap(file.fileno(), self.file_size)
        self.opened[session_id] = file, mapped
        return mapped, is_new

    def save(self, session_id: str, value: Any = None) -> None:  # noqa: ARG002 the map has it already
        """Close the session's map."""
        if session_id in self.opened:
            file, mapped = self.opened.pop(session_id)
            mapped.close()
            file.close()
        if self.limit is not None:
            self.prune(self.limit)


KINDS = {"local": LocalSessionManager, "files": FileSessionManager, "mmap": MmapSessionManager}


def get_session_manager(properties: Mapping[str, Any]) -> SessionManager | None:
    """What `option.sessions` names; None where it names nothing. Raises ValueError."""
    mode = _option(properties, "sessions")
    if mode is None:
        return None
    if (kind := KINDS.get(str(mode).lower())) is None:
        raise ValueError(f"option.sessions must be one of {', '.join(KINDS)}, got {mode!r}")
    return kind(properties)
