"""A browser for the whole run, and pages of it that forgive no error."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.sync_api import sync_playwright

from tests.support.console import shown
from tests.support.scripted import Scripted, Service, said

Opened = Callable[..., Any]
WATCHED = "addEventListener('securitypolicyviolation', e => console.error('policy: ' + e.violatedDirective))"
FAILED = "Failed to load resource:"
"""What Chromium writes for any answer of 400 and above, and for a server that is gone: the page itself shows it."""


@dataclass
class Seen:
    """What a page complained of, and what it asked for: path → bytes of each answer."""

    errors: list[str] = field(default_factory=list)
    loaded: dict[str, int] = field(default_factory=dict)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    program = shutil.which(os.environ.get("CHROMIUM", "chromium"))
    assert program, "these tests need Chromium; on Debian and Ubuntu: apt-get install chromium"
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=arguments)
        yield started
        started.close()


@contextmanager
def looking(browser: Any, service: Service, seen: Seen, hash_: str, options: dict[str, Any]) -> Iterator[Any]:
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}} | options)
    context.set_default_timeout(8_000)
    page = context.new_page()
    page.add_init_script(WATCHED)

    def on_console(message: Any) -> None:
        if message.type in {"error", "warning"} and not message.text.startswith(FAILED):
            seen.errors.append(message.text)

    def on_response(response: Any) -> None:
        if response.url.startswith(("data:", "blob:")):
            return
        host, _, path = response.url.removeprefix("http://").partition("/")
        if host != f"127.0.0.1:{service.port}":
            seen.errors.append(f"another host was asked: {response.url[:200]}")
        seen.loaded["/" + path] = int(response.headers.get("content-length", "0"))
        if path.startswith("console") and response.status not in {200, 304, 401}:
            seen.errors.append(f"{response.status} {path}")

    page.on("console", on_console)
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    page.on("response", on_response)
    page.goto(f"http://127.0.0.1:{service.port}/console{hash_}")
    try:
        yield page
    finally:
        context.close()


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def opened(browser: Any, seen: Seen) -> Iterator[Opened]:
    """Open the console of a server: its page, which may say no word to its console and ask no other host."""
    pages: list[Any] = []

    def open_(service: Service, hash_: str = "", **options: Any) -> Any:
        pages.append(looking(browser, service, seen, hash_, options))
        return pages[-1].__enter__()

    yield open_
    for page in reversed(pages):
        page.__exit__(None, None, None)
    assert seen.errors == []


@pytest.fixture
def service() -> Iterator[Service]:
    with shown(Scripted(said("Hello!"))) as running:
        yield running
