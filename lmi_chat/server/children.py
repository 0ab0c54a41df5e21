"""End the processes that the engine starts with this one, however it ends."""

import contextlib
import subprocess

import psutil

# Reads until the last writer of its input, this process, is gone; then ends those that were named to it.
GUARD = 'cat >/dev/null; kill -9 "$@" 2>/dev/null'


class Processes:
    """The processes that this one has started and that must not outlive it."""

    def __init__(self) -> None:
        """Begin with none."""
        self._known: list[psutil.Process] = []
        self._guard: subprocess.Popen[bytes] | None = None

    def note(self) -> None:
        """Remember all children, and have them ended even if this process is killed and cannot do it itself."""
        self._known = [process for process in psutil.Process().children(recursive=True) if not _ends_itself(process)]
        words = ["/bin/sh", "-c", GUARD, "sh", *(str(process.pid) for process in self._known)]
        self._guard = subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True)

    def end(self) -> None:
        """End every orphan: of a start that was broken off, or the worker of a core that was killed."""
        if self._guard is not None:
            self._guard.kill()
            self._guard.wait()
        for process in {*self._known, *psutil.Process().children(recursive=True)}:
            with contextlib.suppress(psutil.Error):
                if not _ends_itself(process):
                    process.kill()


def _ends_itself(process: psutil.Process) -> bool:
    """Whether it is the resource tracker, which ends itself after it has removed shared memory that others left."""
    return any("resource_tracker" in word for word in process.cmdline())
