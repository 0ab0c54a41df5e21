"""What stands beside an answer in the console: how likely its tokens were, and the code that asks for it again."""

import pytest

from tests.browser.acts import DIALECTS, ask, code_of, printed, ready, words
from tests.browser.conftest import Opened
from tests.support.console import shown
from tests.support.scripted import Scripted, Service


@pytest.mark.parametrize("dialect", ["Chat", "Standard", "Completions", "Responses"])
def test_tokens_show_how_likely_they_were_and_their_alternatives(opened: Opened, dialect: str) -> None:
    with shown(Scripted(words("It", " is", "\n", " here"))) as service:
        page = opened(service)
        ready(page)
        page.get_by_label(dialect, exact=True).check()
        page.get_by_label("Show how likely each token was").check()
        answer = ask(page)
        tokens = answer.locator(".token")
        assert tokens.all_text_contents() == ["It", " is", "\n", " here"]
        doubts = [float(one.evaluate("e => getComputedStyle(e).getPropertyValue('--doubt')")) for one in tokens.all()]
        assert doubts == sorted(doubts)
        assert 0 < doubts[0] < doubts[-1] < 1
        tokens.nth(1).hover()
        card = page.get_by_role("tooltip")
        assert [row.inner_text().split() for row in card.locator(".row").all()] == [
            *(
                [["other", "50", "%"], ["is", "33", "%"]]
                if dialect == "Completions"
                else [["is", "33", "%"], ["other", "50", "%"]]
            ),
            ["third", "5.0", "%"],
        ]
        page.mouse.move(0, 0)
        tokens.first.focus()
        page.keyboard.press("ArrowRight")
        assert "is" in card.locator(".chosen").inner_text()
        page.keyboard.press("End")
        assert "here" in card.locator(".chosen").inner_text()
        page.keyboard.press("Escape")
        assert card.count() == 0


def test_messages_have_no_heat(opened: Opened, service: Service) -> None:
    page = opened(service)
    ready(page)
    page.get_by_label("Show how likely each token was").check()
    page.get_by_label("Messages", exact=True).check()
    assert page.get_by_label("Show how likely each token was").is_disabled()
    assert ask(page).locator(".said").inner_text() == "Hello!"


def test_a_long_answer_leaves_the_page_usable(opened: Opened) -> None:
    """Four thousand tokens with alternatives, as fast as they come."""
    with shown(Scripted(words(*(f" {at}" for at in range(4000)))), context_tokens=8192) as service:
        page = opened(service)
        ready(page)
        page.get_by_label("Show how likely each token was").check()
        answer = ask(page)
        assert answer.locator(".token").count() == 4000
        assert page.locator(".log").evaluate("e => e.scrollHeight - e.scrollTop - e.clientHeight") < 5


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("is_streamed", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_code_sends_what_was_sent(opened: Opened, service: Service, dialect: str, *, is_streamed: bool) -> None:
    text = 'It\'s "quoted" \\ and $HOME é 😀\nnext'
    page = opened(service)
    ready(page)
    page.get_by_label(dialect, exact=True).check()
    page.get_by_label("Stream the answer").set_checked(is_streamed)
    page.locator("[name=temperature]").fill("0.5")
    page.locator("[name^=max_]").fill("9")
    ask(page, text)
    sent = service.engine.jobs[-1]
    for name in ("curl", "boto3", "openai", "anthropic"):
        code = code_of(page, name)
        before = len(service.engine.jobs)
        out = printed(code, name)
        assert len(service.engine.jobs) == before + 1, code
        job = service.engine.jobs[-1]
        assert (job.sampling.temperature, job.sampling.max_tokens) == (0.5, 9)
        is_other = "here is the request in" in page.locator(".codes").inner_text()
        assert is_other or job.prompt_text == sent.prompt_text
        assert text in job.prompt_text
        assert name in {"curl", "boto3"} or out.strip() == "Hello!"
