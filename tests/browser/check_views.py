"""The views Watch, Why and Configure in a real browser."""

from playwright.sync_api import expect

from lmi_chat.observability import startup
from tests.browser.acts import CHAT, ask, ready, see
from tests.browser.conftest import Opened
from tests.http.test_app import post
from tests.support.console import shown, until
from tests.support.scripted import Service


def test_watch_draws_the_last_minutes(opened: Opened, service: Service) -> None:
    post(service, CHAT)
    post(service, CHAT | {"temperature": 9})
    page = opened(service, "#/watch")
    panel = see(page, "Watch")
    page.locator(".chart .line-0 .stroke").first.wait_for(state="attached")
    panel.locator(".errors code", has_text="bad_field").wait_for()
    charts = panel.locator("figure.chart")
    assert [chart.locator("h3").inner_text() for chart in charts.all()] == [
        *("Requests", "Tokens a second", "First token", "Between tokens", "KV cache", "Answers a second", "Event loop"),
    ]
    until(lambda: panel.locator(".stroke").count() >= 5)
    first = charts.first.locator("svg")
    first.focus()
    page.keyboard.press("ArrowLeft")
    assert ":" in panel.locator(".when").nth(3).inner_text()  # the same moment in each of them
    assert "running 0" in (first.get_attribute("aria-label") or "")
    page.keyboard.press("Escape")
    assert panel.locator(".when").first.inner_text() == ""
    panel.get_by_label("1 min").check()
    panel.get_by_text("1 min ago").or_(panel.get_by_text("60 s ago")).first.wait_for()


def test_phases_are_shown_while_the_model_loads(opened: Opened) -> None:
    with shown(is_open=False) as service:
        service.health.enter(startup.IMPORTING)
        page = opened(service)
        page.locator("#try .phases li.running", has_text="importing the engine").wait_for()
        assert page.locator("#state").inner_text() == "starting"
        assert page.get_by_role("button", name="Send").is_disabled()
        service.health.enter(startup.STARTING)
        page.locator("#try .phases li.running", has_text="loading the weights").wait_for()
        assert page.locator("#try .phases li.done").count() == 2
        see(page, "Watch").locator(".phases li.running", has_text="loading the weights").wait_for()


def test_why_tells_where_a_requests_time_went_and_why_one_was_refused(opened: Opened, service: Service) -> None:
    _, headers, _ = post(service, CHAT | {"user": "maria"})
    post(service, CHAT | {"temperature": 9})
    page = opened(service)
    panel = see(page, "Why")
    rows = panel.locator("tbody tr:not(.detail)")
    rows.nth(1).wait_for()
    assert "temperature must be at least 0 and at most 2" in rows.first.inner_text()
    rows.nth(1).get_by_role("button").focus()
    page.keyboard.press("Enter")
    detail = panel.locator("tr.detail")
    detail.wait_for()
    assert rows.nth(1).get_by_role("button").get_attribute("aria-expanded") == "true"
    names = detail.locator(".waterfall b").all_inner_texts()
    assert {"received", "parsed", "queued"} <= {*names}
    assert headers["x-request-id"] in detail.locator("dl").inner_text()
    assert detail.locator(".verdict").inner_text() != ""
    panel.get_by_label("User", exact=True).fill("maria")
    expect(rows).to_have_count(1)
    panel.get_by_label("User", exact=True).fill("nobody")
    panel.get_by_text("No request that is kept is like that.").wait_for()
    panel.get_by_label("User", exact=True).fill("")
    panel.get_by_label("Status", exact=True).select_option(label="refused")
    expect(rows).to_have_count(1)
    assert "temperature must be" in rows.first.inner_text()
    again = opened(service, f"#/why?id={headers['x-request-id']}")
    again.locator("tr.detail .waterfall").wait_for()
    assert again.locator("#why tbody tr:not(.detail)").count() == 1


def test_from_an_answer_to_where_its_time_went(opened: Opened, service: Service) -> None:
    page = opened(service)
    ready(page)
    ask(page).get_by_role("button", name="Where the time went").click()
    page.locator("#why tr.detail .waterfall").wait_for()
    page.go_back()
    assert page.locator(".turn.answer").is_visible()


def test_configure_tells_values_and_where_they_are_from(opened: Opened, service: Service) -> None:
    page = opened(service)
    panel = see(page, "Configure")
    panel.get_by_label("All", exact=True).check()
    assert panel.locator("tbody tr").inner_text().split() == ["port", "8080", "default"]
    panel.get_by_label("Find", exact=True).fill("nothing")
    panel.get_by_text("0 of 1 settings").wait_for()


def test_a_server_that_goes_away_is_told(opened: Opened, service: Service) -> None:
    page = opened(service)
    ready(page)
    page.route("**/console/api/**", lambda route: route.abort())
    page.get_by_text("The server does not answer").wait_for()
    assert page.locator("#state").inner_text() == "no answer"
    page.unroute("**/console/api/**")
    ready(page)
    assert not page.locator("#trouble").is_visible()
