"""Children end with their parent: when it ends them, and when it was killed and could not."""

import signal
import subprocess
import sys
import time

import psutil
import pytest

PARENT = """
import subprocess, sys
from lmi_chat.server.children import Processes
child = subprocess.Popen(["sleep", "600"])
processes = Processes()
processes.note()
print(child.pid, flush=True)
sys.stdin.read()
processes.end()
child.wait()
"""


def is_gone(pid: int) -> bool:
    limit = time.monotonic() + 5
    while psutil.pid_exists(pid):
        if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        if time.monotonic() > limit:
            return False
        time.sleep(0.01)
    return True


@pytest.mark.parametrize("is_killed", [False, True])
def test_children_end_with_their_parent(*, is_killed: bool) -> None:
    words = [sys.executable, "-c", PARENT]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        guards = [process.pid for process in psutil.Process(parent.pid).children() if process.pid != pid]
        assert psutil.pid_exists(pid)
        if is_killed:
            parent.kill()
        parent.communicate(timeout=10)
    assert parent.returncode == (-signal.SIGKILL if is_killed else 0)
    assert all(is_gone(each) for each in (pid, *guards))
