"""Take the pictures of the console in docs/pictures from a running server: `python -m tests.browser.pictures`."""

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import sync_playwright

from lmi_chat.job import Delta, Finish, Finished, Job, Times, Token, TokenLogprob
from lmi_chat.observability import startup
from tests.browser.acts import CHAT, ask, ready
from tests.support.console import shown
from tests.support.scripted import Script, Scripted, Service, Step

FOLDER = Path(__file__).parents[2] / "docs" / "pictures"
TEXT = "The| capital| of| France| is| Paris|,| a| city| on| the| Seine| with| about| two| million| people|."
DOUBTS = (0.1, 0.05, 0.01, 0.02, 0.01, 0.03, 1.9, 0.9, 2.8, 0.7, 0.1, 0.4, 2.1, 1.4, 0.8, 0.3, 1.1, 0.2)
OTHERS = (" the", " which", " one", " home")
NAME = "SmolLM2-135M-Instruct"
NAMED: Any = {"model": NAME, "names": frozenset({NAME, "lmi"})}


def told(queue_s: float, gap_s: float, times: int = 1) -> Script:
    """The answer, told `times` times over, with an engine's times."""

    def script(job: Job) -> Sequence[Step]:
        words, steps = TEXT.split("|") * times, list[Step]([queue_s])
        for at, word in enumerate(words):
            own = TokenLogprob(at, -DOUBTS[at % len(DOUBTS)], word.encode())
            others = [TokenLogprob(99 + at, -1.2 - 0.7 * at, other.encode()) for at, other in enumerate(OTHERS)]
            top = tuple(sorted((own, *others), key=lambda one: -one.logprob))
            tokens = [Token(own, top)] if job.sampling.logprobs is not None else []
            steps += [gap_s, Delta(0, word, [at], tokens, finish=Finish("stop") if at == len(words) - 1 else None)]
        times_ = Times(queue_s=queue_s * 0.8, prefill_s=queue_s * 0.2 + gap_s, decode_s=gap_s * (len(words) - 1))
        return [
            *steps,
            Finished(prompt_tokens=len(job.prompt_ids), completion_tokens=len(words), reasons=("stop",), times=times_),
        ]

    return script


async def load(service: Service, *, requests: int) -> None:
    """Ask so many streams at once, some of them wrongly."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{service.port}", timeout=60) as client:
        bodies = [CHAT | {"stream": True, "user": ("maria", "batch-7")[at % 2]} for at in range(requests)]
        wrong = [CHAT | {"temperature": 9}] * 3
        await asyncio.gather(*(client.post("/v1/chat/completions", json=body) for body in [*bodies, *wrong]))


def take(page: Any, name: str) -> None:
    page.screenshot(path=FOLDER / f"console-{name}.png")


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=arguments)
        wide: Any = {"viewport": {"width": 1200, "height": 720}}
        with shown(is_open=False, **NAMED) as service:
            for phase, ago_s in ((startup.IMPORTING, 0.3), (startup.STARTING, 12.4)):
                service.health.phase_began -= ago_s
                service.health.enter(phase)
            page = browser.new_page(**wide)
            page.goto(f"http://127.0.0.1:{service.port}/console")
            page.locator("#try .phases").wait_for()
            take(page, "loading")
            page.close()
        with shown(Scripted(told(0.05, 0.03), max_running=24), most=500, **NAMED) as service:
            page = browser.new_page(**wide)
            page.goto(f"http://127.0.0.1:{service.port}/console")
            ready(page)
            page.get_by_label("Show how likely each token was").check()
            ask(page, "What is the capital of France?").locator(".token").nth(8).hover()
            take(page, "chat")
            service.engine.script = told(0.3, 0.02, times=6)
            for _ in range(4):  # in a thread of its own: Playwright's loop runs in this one
                with ThreadPoolExecutor(1) as pool:
                    pool.submit(lambda: asyncio.run(load(service, requests=32))).result()
            page.goto(f"http://127.0.0.1:{service.port}/console#/watch")
            page.get_by_label("1 min").check()
            page.locator("#watch .stroke").nth(6).wait_for()
            page.wait_for_timeout(1500)
            take(page, "watch")
            page.get_by_role("tab", name="Why").click()
            page.get_by_label("Status", exact=True).select_option(label="answered")
            page.wait_for_timeout(600)
            page.locator("button.id").nth(1).click()
            page.locator("tr.detail").wait_for()
            take(page, "why")
            page.close()
            phone = browser.new_page(viewport={"width": 390, "height": 780}, color_scheme="dark")
            phone.goto(f"http://127.0.0.1:{service.port}/console")
            service.engine.script = told(0.05, 0.02)
            phone.get_by_role("heading", name=NAME).wait_for()
            ask(phone, "What is the capital of France?")
            take(phone, "phone")
        browser.close()


if __name__ == "__main__":
    main()
