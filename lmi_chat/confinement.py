"""Make this process one that ends by itself: bounded in processor time, in time by the clock, and in memory."""

import resource
import signal
from pathlib import Path


def confine(*, cpu_s: float, wall_s: float, memory_bytes: int) -> None:
    """End by SIGPROF after `cpu_s` of processor time and by SIGALRM after `wall_s`; allow `memory_bytes` more of it."""
    for timer, word, most in (
        (signal.ITIMER_PROF, signal.SIGPROF, cpu_s),
        (signal.ITIMER_REAL, signal.SIGALRM, wall_s),
    ):
        signal.signal(word, signal.SIG_DFL)
        signal.setitimer(timer, most)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
