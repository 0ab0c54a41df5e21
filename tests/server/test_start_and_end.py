"""How a server process starts, fails to start, and ends: its lines, its exit code, what it leaves. Real processes."""

import re
import signal
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest
from pytest import param  # noqa: PT013 read in tables

from tests.support.served import NOISE, start

pytestmark = pytest.mark.processes

LOOP = "{% for i in range(99999) %}"
LOOPS, ENDS = LOOP * 6, "{% endfor %}" * 6
PLAIN = "{% for message in messages %}{{ message.role + ': ' + message.content }}{% endfor %}"
DOUBLED = "{% set n = namespace(a='x') %}{% for i in range(60) %}{% set n.a = n.a ~ n.a %}{% endfor %}{{ n.a }}"
OWN = re.compile(r"lmi-chat|\s+curl |\s+-d |$")
SLOW = pytest.mark.slow
LIMIT_S = 60  # of a test that would otherwise hang; nothing is measured


def ready(server: "subprocess.Popen[str]") -> list[str]:
    """Read the server's lines until it is ready."""
    assert server.stderr is not None
    lines = []
    for line in server.stderr:
        lines.append(line.rstrip("\n"))
        if line.startswith("    -d "):
            return lines
    raise AssertionError("\n".join(lines))


def stopped(server: "subprocess.Popen[str]") -> list[str]:
    server.send_signal(signal.SIGTERM)
    return failed(server, code=0)


def failed(server: "subprocess.Popen[str]", *, code: int = 1) -> list[str]:
    try:
        _, text = server.communicate(timeout=LIMIT_S)
    finally:
        server.kill()
    assert server.returncode == code, text
    return text.splitlines()


@pytest.mark.parametrize(
    ("template", "says"),
    [
        (f"{PLAIN}{LOOPS}{ENDS}", "takes more than 5 s of processor time for a few short messages"),
        param(f"{{% if messages|length > 2 %}}{LOOPS}{ENDS}{{% endif %}}{PLAIN}", "takes more than 5 s", marks=SLOW),
        param(f"{PLAIN}{DOUBLED}", "takes more than 1024 MiB of memory for a few short messages", marks=SLOW),
        (PLAIN + "{{ 'x' * 99999999999 }}", "takes more than 1024 MiB of memory"),
    ],
    ids=["never ends", "never ends for some", "takes all memory", "takes all memory when it is compiled"],
)
def test_a_template_that_cannot_be_rendered_ends_the_start(template: str, says: str, tmp_path: Path) -> None:
    lines = failed(start(tmp_path, template=template))
    assert lines[-1].startswith(f"lmi-chat: the chat template {says}")
    if find_spec("torch") is not None:  # without it transformers says so, and a failed start shows what others said
        assert all(OWN.match(line) for line in lines), lines


@pytest.mark.slow
@pytest.mark.parametrize("template", [PLAIN, "{{ raise_exception('no') if messages[0].role == 'system' }}" + PLAIN])
def test_a_template_that_comes_to_an_end_is_served(template: str, tmp_path: Path) -> None:
    server = start(tmp_path, template=template)
    ready(server)
    assert stopped(server)[-1] == "lmi-chat  stopped"


@pytest.mark.slow
def test_a_template_that_refuses_every_user_says_so(tmp_path: Path) -> None:
    lines = failed(start(tmp_path, template="{{ raise_exception('never') }}"))
    assert lines[-1] == "lmi-chat: the chat template fails for one user message: never"


def test_sigterm_ends_a_server_whose_template_is_being_tried(tmp_path: Path) -> None:
    server = start(tmp_path, template=PLAIN + LOOPS + ENDS)
    assert server.stderr is not None
    for line in server.stderr:
        if "loading the weights" in line:
            break
    assert stopped(server)[-1] == "lmi-chat  stopped while loading"


def test_an_engine_that_dies_is_started_again(tmp_path: Path) -> None:
    server = start(tmp_path, dies=["torch.OutOfMemoryError: no memory left", "killed"])
    lines = ready(server)
    begins = "lmi-chat  the engine did not start: its process"
    first = f"{begins} ended with code 1; torch.OutOfMemoryError: no memory left; starting it again (2 of 3)"
    second = f"{begins} was ended by SIGKILL, as for want of memory; starting it again (3 of 3)"
    assert [line for line in lines if "starting it again" in line] == [first, second]
    assert stopped(server)[-1] == "lmi-chat  stopped"


@pytest.mark.parametrize(("attempts", "tries"), [("3", 3), param("2", 2, marks=SLOW), param("1", 1, marks=SLOW)])
def test_an_engine_that_dies_at_each_start_ends_the_server(attempts: str, tries: int, tmp_path: Path) -> None:
    server = start(tmp_path, "--start-attempts", attempts, dies=["RuntimeError: device gone"] * 9)
    lines = failed(server)
    assert sum("starting it again" in line for line in lines) == tries - 1
    count = f" ({tries} tries)" if tries > 1 else ""
    cause = "its process ended with code 1; RuntimeError: device gone"
    assert lines[-1] == f"lmi-chat: the engine did not start: {cause}{count}"


@pytest.mark.slow
def test_what_the_next_start_would_refuse_too_is_not_tried_again(tmp_path: Path) -> None:
    lines = failed(start(tmp_path, dies=["ValueError: the cache is too small"] * 9))
    assert not any("starting it again" in line for line in lines)
    assert lines[-1].endswith("its process ended with code 1; ValueError: the cache is too small")


def test_the_terminal_shows_this_servers_lines_alone(tmp_path: Path) -> None:
    server = start(tmp_path, noise=True)
    lines = ready(server)
    lines += stopped(server)
    assert all(OWN.match(line) for line in lines), lines
    assert server.stdout is not None
    assert lines[-1] == "lmi-chat  stopped"


@pytest.mark.parametrize("level", [param("debug", marks=SLOW), "warning"])
def test_other_codes_lines_are_shown_at_debug_and_when_a_start_failed(level: str, tmp_path: Path) -> None:
    dies = ["RuntimeError: gone"] if level == "warning" else []
    server = start(tmp_path, "--log-level", level, "--start-attempts", "1", noise=True, dies=dies)
    lines = failed(server) if dies else [*ready(server), *stopped(server)]
    assert sum(NOISE in line for line in lines) >= 2
    if dies:
        assert lines[-1].endswith("; RuntimeError: gone")


@pytest.mark.slow
def test_what_is_killed_can_be_started_again_at_once(tmp_path: Path) -> None:
    """On the same port, many times: nothing that a killed server leaves stands in the way."""
    port = "0"
    for _ in range(10):
        server = start(tmp_path, "--port", port)
        (line,) = [line for line in ready(server) if "listening on" in line]
        found = re.search(r":(\d+) ", line)
        assert found
        port = found[1]
        server.kill()
        server.communicate(timeout=LIMIT_S)


@pytest.mark.parametrize("way", [param("the engine's end", marks=SLOW), "a thread and the interpreter's end"])
def test_a_stop_waits_for_nothing_that_never_ends(way: str, tmp_path: Path) -> None:
    server = start(tmp_path, **({"stop_s": 600} if "engine" in way else {"thread": True}))
    ready(server)
    assert stopped(server)[-1] == "lmi-chat  stopped"


def test_what_holds_up_the_end_itself_is_ended_too(tmp_path: Path) -> None:
    """The event loop stands still, as it does without memory; a thread ends the process in time."""
    server = start(tmp_path, "--drain-seconds", "0.1", blocks=True)
    ready(server)
    assert stopped(server)[-1] == "lmi-chat  stopped"


def test_a_stop_leaves_no_shared_memory_and_no_warning(tmp_path: Path) -> None:
    server = start(tmp_path, "--log-level", "debug", shared=str(tmp_path / "name"))
    ready(server)
    name = (tmp_path / "name").read_text()
    assert (Path("/dev/shm") / name).exists()
    lines = stopped(server)
    assert not (Path("/dev/shm") / name).exists()
    assert not any("resource_tracker" in line for line in lines), lines
