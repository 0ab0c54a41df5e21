"""The page as such: its weight, its keyboard, a phone, what axe finds, and that nothing that comes becomes markup."""

from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe

from lmi_chat.console.files import FOLDER
from lmi_chat.http.access import ApiKeys
from tests.browser.acts import CHAT, TEMPLATE, ask, code_of, ready, see, words
from tests.browser.conftest import Opened, Seen
from tests.http.test_app import post
from tests.support.console import shown
from tests.support.media import media
from tests.support.scripted import Scripted, Service, reasoned, said

BYTES_MOST = 200 * 1024
HOSTILE = "<img src=x onerror=hit=1><script>hit=1</script>\"'><svg onload=hit=1>{{7*7}}"


def test_the_page_weighs_little_and_loads_all_of_its_files(opened: Opened, service: Service, seen: Seen) -> None:
    page = opened(service)
    ready(page)
    own = {path for path in seen.loaded if path.startswith("/console") and not path.startswith("/console/api/")}
    assert {path.removeprefix("/console/") for path in own} - {"/console"} == {
        path.name for path in FOLDER.iterdir() if path.name != "index.html"
    }
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= BYTES_MOST
    assert sum(seen.loaded[path] for path in own) <= BYTES_MOST


def test_nothing_that_anybody_says_becomes_markup(opened: Opened) -> None:
    """What a model, a user, an adapter, an id and an error say, by real requests; then all that could be answered."""
    with shown(Scripted(said(reasoned(HOSTILE), HOSTILE)), reasoning_parser="any") as service:
        headers = {"x-request-id": HOSTILE[:60], "x-amzn-sagemaker-inference-id": HOSTILE[:60]}
        post(service, CHAT | {"user": HOSTILE}, headers=headers)
        post(service, CHAT | {"user": HOSTILE, "model": HOSTILE})
        page = opened(service)
        ready(page)
        page.get_by_label("Show how likely each token was").check()
        assert HOSTILE in ask(page, HOSTILE).locator(".heat").inner_text()
        page.get_by_label("Show how likely each token was").uncheck()
        assert ask(page, HOSTILE).locator(".said").inner_text() == HOSTILE
        for name in ("curl", "boto3", "openai", "anthropic"):
            assert "onerror" in code_of(page, name)
        panel = see(page, "Why")
        panel.locator("tbody tr").nth(3).wait_for()
        assert panel.locator("tbody").inner_text().count("<img src=x onerror=hit=1>") >= 2
        for button in panel.locator("button.id").all():
            button.click()
        inert(page)
        answer_with_hostile_texts(page)
        page.reload()
        see(page, "Try")
        page.get_by_role("heading", name="onerror").wait_for()
        for view in ("Watch", "Why", "Configure"):
            see(page, view).get_by_text("<img src=x onerror=hit=1>").first.wait_for()
        page.locator("#tab-why").click()
        page.locator("button.id").first.click()
        page.locator("tr.detail dl", has_text="onerror").first.wait_for()
        inert(page)


def inert(page: Any) -> None:
    assert page.evaluate("typeof hit") == "undefined"
    assert page.locator("img, script:not([src]), svg[onload], iframe").count() == 0


def answer_with_hostile_texts(page: Any) -> None:
    """Put a hostile text in place of each text that the console's routes answer."""

    def poisoned(value: Any, name: str = "") -> Any:
        if isinstance(value, dict):
            return {key: poisoned(one, key) for key, one in value.items()}
        if isinstance(value, list):
            return [poisoned(one, name) for one in value]
        is_free = isinstance(value, str) and name not in {"state", "columns", "task", "name"}
        return HOSTILE if is_free else value

    def answer(route: Any) -> None:
        document = poisoned(route.fetch().json())
        if "adapters" in document:
            document["adapters"] = [HOSTILE]
        for row in document.get("requests", []):
            row.update(adapter=HOSTILE, key=HOSTILE, error=HOSTILE, finish_reason=HOSTILE)
            row["spans"].append({"name": HOSTILE, "start_s": 0.0, "end_s": 0.1})
        for row in document.get("rows", []) if "columns" not in document else []:
            row["effect"] = HOSTILE
        if "errors" in document:
            document["errors"] = {HOSTILE: 3}
        route.fulfill(json=document)

    page.route("**/console/api/**", answer)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(opened: Opened, scheme: Any) -> None:
    with shown(
        Scripted(words("It", " is", " here")),
        media=media(),
        chat_template=TEMPLATE,
        tool_parser="any",
        reasoning_parser="any",
    ) as service:
        post(service, CHAT | {"temperature": 9})
        page = opened(service, color_scheme=scheme)
        ready(page)
        complain_of(page, "welcome")
        page.get_by_label("Show how likely each token was").check()
        page.locator("summary", has_text="More sampling").click()
        page.locator("summary", has_text="Form of the answer").click()
        page.locator("[name=temperature]").fill("9")
        page.locator("[name=temperature]").fill("")
        ask(page).locator(".token").last.hover()
        complain_of(page, "chat")
        code_of(page, "openai")
        complain_of(page, "code")
        for view in ("Watch", "Why", "Configure"):
            panel = see(page, view)
            if view == "Configure":
                panel.get_by_label("All", exact=True).check()
            panel.locator("tbody tr, .stroke").first.wait_for(state="attached")
            if view == "Why":
                for button in page.locator("button.id").all()[:1]:
                    button.click()
                page.locator("tr.detail").wait_for()
            complain_of(page, view)
    with shown(is_open=False, api_keys=ApiKeys({"a": "b"})) as service:
        page = opened(service, color_scheme=scheme)
        page.get_by_role("dialog").wait_for()
        complain_of(page, "key")
        page.get_by_label("API key").fill("b")
        page.keyboard.press("Enter")
        page.locator("#try .phases").wait_for()
        complain_of(page, "loading")


def complain_of(page: Any, where: str) -> None:
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    bad = [
        (one["id"], one["nodes"][0]["html"][:200], one["nodes"][0].get("failureSummary"))
        for one in found
        if one["impact"] in {"serious", "critical"}
    ]
    assert bad == [], where


def test_tabs_are_reached_by_the_keyboard(opened: Opened, service: Service) -> None:
    page = opened(service)
    ready(page)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "tab-try"
    for key, tab in (
        ("ArrowRight", "watch"),
        ("End", "configure"),
        ("ArrowRight", "try"),
        ("ArrowLeft", "configure"),
        ("Home", "try"),
    ):
        page.keyboard.press(key)
        assert page.evaluate("document.activeElement.id") == f"tab-{tab}"
        page.locator(f"#{tab}").wait_for()
        assert page.get_by_role("tabpanel").count() == 1
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    order = []
    for _ in range(30):
        page.keyboard.press("Tab")
        order.append(
            page.evaluate(
                "document.activeElement.name || document.activeElement.id || document.activeElement.textContent"
            )
        )
    assert {"say", "temperature", "top_p", "max_tokens"} <= {*order}


def test_it_fits_a_phone(opened: Opened) -> None:
    with shown(Scripted(words("It", " is", " here"))) as service:
        post(service, CHAT)
        page = opened(service, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
        page.get_by_role("heading", name="tiny").wait_for()
        page.get_by_role("button", name="Request").click()
        page.get_by_label("Show how likely each token was").check()
        page.get_by_role("button", name="Request").click()
        ask(page, "wide " * 40).locator(".token").last.tap()
        for view in ("Try", "Watch", "Why", "Configure"):
            see(page, view)
            if view == "Why":
                page.locator("button.id").first.click()
                page.locator("tr.detail").wait_for()
            width = page.evaluate("document.documentElement.scrollWidth")
            assert width <= 360, view


def test_motion_is_left_out_where_it_is_not_wanted(opened: Opened) -> None:
    with shown(is_open=False) as service:
        still, moving = (opened(service, reduced_motion=motion) for motion in ("reduce", "no-preference"))
        for page, name in ((still, "none"), (moving, "breathe")):
            dot = page.locator(".phases .running .dot").first
            dot.wait_for()
            assert dot.evaluate("e => getComputedStyle(e).animationName") == name
