"""End the processes that the engine starts with this one, however it ends."""

import contextlib
import re
import subprocess
import time
from collections.abc import Iterable
from multiprocessing import resource_tracker
from pathlib import Path

import psutil

# Reads until the last writer of its input, this process, is gone; then ends those that were named to it.
GUARD = 'cat >/dev/null; kill -9 "$@" 2>/dev/null'

SHARED = Path("/dev/shm")  # noqa: S108 the kernel's shared memory, not a temporary file
TRACKED = {"psm_": "shared_memory", "sem.mp-": "semaphore"}
"""What Python's resource tracker, which all of these processes share, has a list of: how its names begin, its kind."""
SEGMENT = re.compile(rf"{SHARED}/((?:psm_|sem\.mp-|nccl-|torch_)[\w.-]+)$", re.MULTILINE)
ENDED_S = 1.0


class Processes:
    """The processes that this one has started and that must not outlive it."""

    def __init__(self) -> None:
        """Begin with none."""
        self._known: list[psutil.Process] = []
        self._guard: subprocess.Popen[bytes] | None = None
        self._segments: set[str] = set()

    def note(self) -> None:
        """Remember all children, and have them ended even if this process is killed and cannot do it itself."""
        self._known = [process for process in psutil.Process().children(recursive=True) if not _ends_itself(process)]
        self._segments |= _segments(self._known)
        words = ["/bin/sh", "-c", GUARD, "sh", *(str(process.pid) for process in self._known)]
        self._guard = subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True)

    def end(self) -> None:
        """End every orphan: of a start that was broken off, or the worker of a core that was killed.

        Killed processes leave their shared memory, which is removed: by Python's resource tracker it would be too,
        with a warning for each at the end of every server.
        """
        if self._guard is not None:
            self._guard.kill()
            self._guard.wait()
            self._guard = None
        end_children(self._known, self._segments)
        self._known, self._segments = [], set()


def end_children(known: Iterable[psutil.Process] = (), segments: Iterable[str] = ()) -> None:
    """End all children, and those that are `known`, and remove what shared memory they leave, `segments` too."""
    every = {*known, *psutil.Process().children(recursive=True)}
    alive = [process for process in every if not _ends_itself(process)]
    left = _segments(alive).union(segments)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
    limit = time.monotonic() + ENDED_S
    while any(map(_runs, alive)) and time.monotonic() < limit:
        time.sleep(0.01)
    for name in left:
        _remove(name)


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _segments(processes: Iterable[psutil.Process]) -> set[str]:
    """Name the shared memory that these processes have mapped."""
    found: set[str] = set()
    for process in processes:
        with contextlib.suppress(OSError):
            found |= {*SEGMENT.findall(Path(f"/proc/{process.pid}/maps").read_text(encoding="utf-8", errors="replace"))}
    return found


def _remove(name: str) -> None:
    """Remove a segment that is still there, and have the resource tracker forget it."""
    try:
        (SHARED / name).unlink()
    except OSError:
        return
    kind = next((kind for prefix, kind in TRACKED.items() if name.startswith(prefix)), None)
    tracker = getattr(resource_tracker, "_resource_tracker", None)
    if kind and getattr(tracker, "_fd", None) is not None:  # one that is started now knows no names
        # by the name that it was registered with: of a semaphore without the system's prefix
        resource_tracker.unregister("/" + name.removeprefix("sem."), kind)


def _ends_itself(process: psutil.Process) -> bool:
    """Whether it has ended, or is the resource tracker, which does after removing shared memory that others left."""
    try:
        return any("resource_tracker" in word for word in process.cmdline())
    except psutil.Error:  # gone, or a zombie
        return True
