"""Helpers of the tests in a browser: scripts of answers, and what a person does to a page."""

import contextlib
import io
import subprocess
from collections.abc import Sequence
from typing import Any

from lmi_chat.job import Delta, Finish, Finished, Job, Token, TokenLogprob
from tests.support.scripted import Script, Service, Step

DIALECTS = ("Chat", "Standard", "Completions", "Messages", "Responses")
CHAT = {"messages": [{"role": "user", "content": "hi"}]}
TEMPLATE = "{tools}{turns}"
"""A chat template that reads tools."""


def words(*tokens: str, gap_s: float = 0.0) -> Script:
    """An answer whose tokens are words, each with two that might have stood there."""

    def script(job: Job) -> Sequence[Step]:
        steps: list[Step] = []
        for at, text in enumerate(tokens):
            own = TokenLogprob(at, -0.1 - at, text.encode())
            others = (TokenLogprob(90, -0.7, b" other"), TokenLogprob(91, -3.0, b" third"))
            token = Token(own, (own, *others))
            finish = Finish("stop") if at == len(tokens) - 1 else None
            wanted = [token] if job.sampling.logprobs is not None else []
            steps += [gap_s, Delta(0, text, [at], wanted, finish=finish)]
        end = Finished(prompt_tokens=len(job.prompt_ids), completion_tokens=len(tokens), reasons=("stop",))
        return [*steps, end]

    return script


def ask(page: Any, text: str = "What is it?") -> Any:
    """Send a message; its answer, once it is complete."""
    count = page.locator(".turn.answer").count()
    page.get_by_label("Message", exact=True).fill(text)
    page.keyboard.press("Enter")
    answer = page.locator(".turn.answer").nth(count)
    answer.locator("footer .actions").wait_for()
    return answer


def see(page: Any, view: str) -> Any:
    page.get_by_role("tab", name=view).click()
    return page.get_by_role("tabpanel", name=view)


def ready(page: Any) -> None:
    page.get_by_role("status").get_by_text("ready", exact=True).wait_for()
    page.locator(".sampling .field").first.wait_for()


def code_of(page: Any, name: str) -> str:
    page.locator(".side").get_by_label("Code", exact=True).check()
    page.locator(".codes").get_by_label(name, exact=True).check()
    text: str = page.locator("pre").inner_text()
    return text


def printed(code: str, name: str) -> str:
    """What code prints that a person copies."""
    if name == "curl":
        return subprocess.run(["bash", "-c", code], check=True, capture_output=True, text=True, timeout=20).stdout
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, name, "exec"), {})  # noqa: S102 that is what is tried
    return out.getvalue()


def sent(service: Service) -> list[Job]:
    """The jobs of requests, without the server's own look at whether the engine answers."""
    return [job for job in service.engine.jobs if job.id != "canary"]
