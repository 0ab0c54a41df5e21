"""Find the cache folder of models, and let one process at a time fill a part of it."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from lmi_chat.fetching import FetchFailed
from lmi_chat.server.progress import Progress


def root() -> Path:
    """Return the cache: $LMI_CHAT_CACHE, $XDG_CACHE_HOME/lmi-chat or ~/.cache/lmi-chat. Raises FetchFailed."""
    own, shared = os.environ.get("LMI_CHAT_CACHE", ""), os.environ.get("XDG_CACHE_HOME", "")
    try:
        cache = Path(own).expanduser() if own else (Path(shared) if shared else Path.home() / ".cache") / "lmi-chat"
    except RuntimeError as error:
        raise FetchFailed("There is no home folder to keep the model in: set LMI_CHAT_CACHE.") from error
    return cache.absolute()


@contextlib.contextmanager
def alone(target: Path, name: str, progress: Progress) -> Iterator[None]:
    """Hold the lock of `target` between processes; it falls with the process, however that ends. `name`: in words."""
    with target.with_name(f".{target.name}.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.print_status(f"Waiting for another process that is fetching {name} …")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
