"""Try the model in a real browser, in every dialect. Run by `make console-test`, by no other set of tests."""

import json
import urllib.request
from typing import Any

import pytest
from playwright.sync_api import expect

from lmi_chat.errors import Unavailable
from lmi_chat.http.access import ApiKeys
from lmi_chat.job import Delta
from tests.browser.acts import DIALECTS, TEMPLATE, ask, code_of, ready, sent
from tests.browser.conftest import Opened, Seen
from tests.support.console import shown, until
from tests.support.media import data_url, media, png
from tests.support.scripted import Scripted, Service, called, reasoned, said, token

WEATHER = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]


def test_the_first_look_tells_model_and_state_and_a_question_is_a_click_away(
    opened: Opened, service: Service, seen: Seen
) -> None:
    page = opened(service)
    expect(page.get_by_role("button", name="Send")).to_be_enabled()
    usable_ms = page.evaluate("performance.now()")
    page.get_by_role("heading", name="tiny").wait_for()
    assert page.locator("#state").inner_text() == "ready"
    assert "1,024 tokens of context" in page.locator(".welcome").inner_text()
    assert page.title() == "tiny · lmi-chat"
    page.get_by_role("button", name="What is the capital of France?").click()
    page.locator(".turn.answer .said", has_text="Hello!").wait_for()
    own = [size for path, size in seen.loaded.items() if path.startswith("/console") and "/api/" not in path]
    print(f"\nusable after {usable_ms:.0f} ms, {sum(own)} bytes in {len(own)} files")


@pytest.mark.parametrize("is_streamed", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_is_tried(opened: Opened, service: Service, dialect: str, *, is_streamed: bool) -> None:
    page = opened(service)
    ready(page)
    page.get_by_label(dialect, exact=True).check()
    page.get_by_label("Stream the answer").set_checked(is_streamed)
    answer = ask(page)
    assert answer.locator(".said").inner_text() == "Hello!"
    assert "6 tokens" in answer.locator(".figures").inner_text()
    is_chat = dialect not in {"Standard", "Completions"}
    assert service.engine.jobs[-1].prompt_text.endswith("What is it?") is not is_chat
    ask(page, "And again?")
    told = service.engine.jobs[-1].prompt_text
    assert ("What is it?" in told, "Hello!" in told) == (is_chat, is_chat)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_is_set_reaches_the_engine(opened: Opened, service: Service, dialect: str) -> None:
    page = opened(service)
    ready(page)
    page.get_by_label(dialect, exact=True).check()
    page.locator("summary", has_text="More sampling").click()
    limit = {"Standard": "max_new_tokens", "Responses": "max_output_tokens"}.get(dialect, "max_tokens")
    stop = "stop_sequences" if dialect == "Messages" else "stop"
    for name, value in {"temperature": "0.5", limit: "7", "top_k": "3", "seed": "11"}.items():
        page.locator(f"[name={name}]").fill(value)
    page.locator(f"[name={stop}]").fill("one\ntwo")
    page.locator("summary", has_text="Form of the answer").click()
    page.get_by_label("JSON Schema", exact=True).fill('{"type": "object"}')
    ask(page)
    sampling = service.engine.jobs[-1].sampling
    assert (sampling.temperature, sampling.max_tokens, sampling.top_k, sampling.seed) == (0.5, 7, 3, 11)
    assert tuple(sampling.stop) == ("one", "two")
    assert sampling.constraint is not None
    if dialect not in {"Standard", "Completions"}:
        page.get_by_label("System prompt").fill("You are a pirate.")
        ask(page)
        assert "You are a pirate." in service.engine.jobs[-1].prompt_text


def test_bounds_are_those_of_the_document_and_what_is_beyond_is_not_sent(opened: Opened, service: Service) -> None:
    page = opened(service)
    ready(page)
    with urllib.request.urlopen(f"http://127.0.0.1:{service.port}/openapi.json") as reply:
        schemas = json.load(reply)["components"]["schemas"]
    page.locator("summary", has_text="More sampling").click()
    for name in ("temperature", "top_p", "min_p", "top_k", "repetition_penalty", "presence_penalty", "max_tokens"):
        bounds = schemas["ChatRequest"]["properties"][name]["anyOf"][0]
        field = page.locator(f"[name={name}]")
        shown_bounds = (field.get_attribute("data-least"), field.get_attribute("data-most"))
        assert shown_bounds == (str(bounds["minimum"]), str(bounds["maximum"])), name
    for text, sentence in {
        "3": "temperature must be at most 2, got 3",
        "-1": "temperature must be at least 0, got -1",
        "warm": "temperature must be a number, got “warm”",
    }.items():
        page.locator("[name=temperature]").fill(text)
        page.get_by_label("Message", exact=True).fill("hi")
        page.keyboard.press("Enter")
        page.locator(".composer .wrong", has_text=sentence).wait_for()
    page.locator("[name=temperature]").fill("")
    page.locator("summary", has_text="Form of the answer").click()
    page.get_by_label("JSON Schema", exact=True).fill("{")
    page.get_by_label("Message", exact=True).press("Enter")
    page.locator(".composer .wrong", has_text="this is no JSON").wait_for()
    assert sent(service) == []


def test_a_stopped_answer_ends_on_the_engine_and_what_came_stands(opened: Opened) -> None:
    with shown(Scripted(said("a" * 4000, gap_s=0.02))) as service:
        page = opened(service)
        ready(page)
        page.get_by_label("Message", exact=True).fill("go on")
        page.keyboard.press("Enter")
        page.locator(".said", has_text="aaa").wait_for()
        page.get_by_role("button", name="Stop").click()
        page.locator(".figures", has_text="stopped").wait_for()
        service.engine.script = said("Well.")
        assert ask(page, "so?").locator(".said").inner_text() == "Well."
        until(lambda: service.engine.left_early == 1)
        assert "aaa" in service.engine.jobs[-1].prompt_text


def test_regenerate_asks_the_same_and_replaces_the_answer(opened: Opened, service: Service) -> None:
    page = opened(service)
    ready(page)
    ask(page, "first?")
    ask(page, "second?")
    service.engine.script = said("Other.")
    page.get_by_role("button", name="Regenerate").first.click()
    page.locator(".said", has_text="Other.").wait_for()
    assert page.locator(".turn.answer").count() == 1
    first, _, again = (job.prompt_text for job in sent(service))
    assert again == first
    page.get_by_role("button", name="New chat").click()
    assert page.locator(".turn").count() == 0
    ask(page, "third?")
    assert "first?" not in service.engine.jobs[-1].prompt_text


def test_thoughts_and_calls_of_tools_are_told_apart_from_the_answer(opened: Opened) -> None:
    script = said(reasoned("Hmm."), "Well.", called("weather", {"city": "Paris"}))
    with shown(Scripted(script), chat_template=TEMPLATE, tool_parser="any", reasoning_parser="any") as service:
        page = opened(service)
        ready(page)
        page.locator("summary", has_text="Tools").click()
        page.get_by_label("Functions", exact=True).fill(json.dumps(WEATHER))
        for dialect in ("Chat", "Messages", "Responses"):
            page.get_by_label(dialect, exact=True).check()
            for is_streamed in (True, False):
                page.get_by_label("Stream the answer").set_checked(is_streamed)
                answer = ask(page)
                assert answer.locator(".thought p").inner_text() == "Hmm."
                assert answer.locator(".said").inner_text() == "Well."
                call = answer.locator(".call")
                assert (call.count(), call.locator("b").inner_text()) == (1, "weather")
                assert json.loads(call.locator("code").inner_text()) == {"city": "Paris"}
                parsing = service.engine.jobs[-1].parsing
                assert parsing is not None
                assert [tool.name for tool in parsing.tools] == ["weather"]


@pytest.mark.parametrize("dialect", ["Chat", "Messages", "Responses"])
def test_an_image_is_sent_where_the_model_takes_it(opened: Opened, dialect: str) -> None:
    picture = png(200, 30, 30)
    with shown(Scripted(said("Red.")), media=media()) as service:
        page = opened(service)
        ready(page)
        page.get_by_label(dialect, exact=True).check()
        file: Any = {"name": "red.png", "mimeType": "image/png", "buffer": picture}
        page.get_by_label("Images").set_input_files(file)
        page.get_by_role("button", name="Remove image 1").wait_for()
        assert ask(page, "Which colour?").locator(".said").inner_text() == "Red."
        assert f"[image:{len(picture)}]" in service.engine.jobs[-1].prompt_text
        assert page.locator(".turn.user img").get_attribute("src") == data_url(picture)
        page.locator(".side").get_by_label("Code", exact=True).check()
        assert "KiB…" in page.locator("pre").inner_text() or len(picture) < 200


def test_what_a_model_does_not_take_is_not_offered(opened: Opened, service: Service) -> None:
    page = opened(service)
    ready(page)
    assert not page.get_by_role("button", name="Add image").is_visible()
    assert not page.locator("summary", has_text="Tools").is_visible()


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_refusal_stands_in_the_conversation_in_the_servers_words(opened: Opened, dialect: str) -> None:
    with shown(Scripted(said("Hello!")), context_tokens=12) as service:
        page = opened(service)
        ready(page)
        page.get_by_label(dialect, exact=True).check()
        answer = ask(page, "much longer than twelve tokens")
        assert "12" in answer.locator(".wrong").inner_text()
        assert sent(service) == []


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_answer_that_breaks_off_is_never_shown_as_complete(opened: Opened, dialect: str) -> None:
    with shown(
        Scripted(lambda _job: [Delta(0, "H", [72], [token("H")]), 0.05, Unavailable("the engine broke")])
    ) as service:
        page = opened(service)
        ready(page)
        page.get_by_label(dialect, exact=True).check()
        answer = ask(page)
        assert answer.locator(".said").inner_text() == "H"
        assert answer.locator(".wrong").inner_text() != ""
        assert "failed" in (answer.get_attribute("class") or "")


def test_a_server_that_asks_for_a_key_gets_one(opened: Opened) -> None:
    with shown(Scripted(said("Hello!")), api_keys=ApiKeys({"someone": "right"})) as service:
        page = opened(service)
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("API key").fill("wrong")
        page.keyboard.press("Enter")
        dialog.locator(".wrong", has_text="key").wait_for()
        dialog.get_by_label("API key").fill("right")
        page.keyboard.press("Enter")
        ready(page)
        assert not dialog.is_visible()
        assert ask(page).locator(".said").inner_text() == "Hello!"
        assert "right" not in code_of(page, "curl")
        assert "$LMI_CHAT_KEY" in code_of(page, "curl")
        page.reload()
        ready(page)
