"""The trial of a template in a process of its own, by its parts; whole starts are in server/test_start_and_end.py."""

import sys
from pathlib import Path

import pytest

from lmi_chat import template_trial
from lmi_chat.chat_template import first_chats
from lmi_chat.template_trial import Endless, Trial

pytestmark = pytest.mark.processes

PLAIN = "{% for message in messages %}{{ message.role ~ message.content ~ bos_token }}{% endfor %}"
LOOPS = "{% for i in range(99999) %}" * 6 + "{% endfor %}" * 6


async def test_what_ends_passes_whether_it_renders_or_raises() -> None:
    for template in (PLAIN, "{{ raise_exception('no') }}", "{{ 1 / 0 }}", "{% no template"):
        trial = Trial()
        await trial.start()
        await trial.run(template, {"bos_token": object()}, first_chats())


async def test_a_process_that_has_gone_meanwhile_is_started_again() -> None:
    trial = Trial()
    await trial.start()
    assert trial._process is not None
    trial._process.kill()
    await trial._process.communicate()
    await trial.run(PLAIN, {}, first_chats())


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGPROF)", "takes more than 5 s of processor time"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGALRM)", "does not end within 60 s"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "takes more than 1024 MiB of memory"),
        ("print('{\"memory\": true}')", "takes more than 1024 MiB of memory"),
        ("import time; time.sleep(600)", "does not end within 0.1 s"),
    ],
)
async def test_each_way_to_end_has_its_sentence(
    script: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stand_in.py").write_text(script)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(template_trial, "__name__", "stand_in")
    if "sleep" in script:
        monkeypatch.setattr(template_trial, "WALL_S", 0.1)
        monkeypatch.setattr(template_trial, "CPU_S", 0.0)
    with pytest.raises(Endless, match=says):
        await Trial().run(PLAIN, {}, [])


async def test_a_trial_that_cannot_be_held_is_no_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "stand_in.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(template_trial, "__name__", "stand_in")
    await Trial().run(PLAIN, {}, [])
    assert "could not be tried out: the process ended with code 1" in caplog.text


async def test_a_trial_that_is_given_up_leaves_no_process() -> None:
    trial = Trial()
    await trial.start()
    process = trial._process
    assert process is not None
    await trial.stop()
    assert process.returncode is not None
    await trial.stop()


def test_the_bounds_are_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the test's own process nothing may be bound: the calls are looked at."""
    calls: list[tuple[object, ...]] = []
    for module, name in (("signal", "setitimer"), ("signal", "signal"), ("resource", "setrlimit"), ("os", "nice")):
        monkeypatch.setattr(sys.modules[module], name, lambda *given, name=name: calls.append((name, *given)))
    template_trial._confine()
    assert {call[0] for call in calls} == {"setitimer", "signal", "setrlimit", "nice"}
