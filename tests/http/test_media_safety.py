"""Media that mean harm, by HTTP: docs/media-safety.md says what each is answered."""

import base64
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest

from lmi_chat.limits import MediaLimits
from lmi_chat.media import Fetcher, Media, MediaAccess
from lmi_chat.testing import ScriptedEngine, application
from tests.support import media_bombs
from tests.support.media import LOOPBACK, FakeRenderer, Host, Names, host

PAGE = Path(__file__).parents[2] / "docs" / "media-safety.md"
PATH = "messages[0].content[0]"
ADDRESSES: dict[str, Any] = {
    "good_test": [["127.0.0.1"]],
    "private_test": [["192.168.0.7"]],
    "mixed_test": [["93.184.216.34", "10.0.0.1"]],
    "rebinding_test": [["127.0.0.1"], ["169.254.169.254"]],
    "localhost": [["127.0.0.2", "::1"]],
    "127_1": [["127.0.0.2"]],
    "127_0_0_1": [["127.0.0.2"]],  # not the one that the test's own host has
    "2852039166": [["169.254.169.254"]],
}


def rows(mark: str) -> list[list[str]]:
    """The rows of the table between a page's marks."""
    found = re.search(rf"<!-- {mark} -->\n(.*)<!-- /{mark} -->", PAGE.read_text(), re.DOTALL)
    assert found, mark
    _, _, *lines = found[1].strip().splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


@pytest.fixture
def good() -> Iterator[Host]:
    with host() as running:
        yield running


@pytest.mark.parametrize(("what", "url", "answer"), rows("urls"), ids=[row[0] for row in rows("urls")])
async def test_urls_that_are_not_fetched(good: Host, what: str, url: str, answer: str) -> None:
    first, _, target = url.strip("`").partition(" → ")
    asked = []
    if target:
        name = first.removeprefix("http://").removesuffix("/")
        target = target.replace("rebinding.test/", f"rebinding.test:{good.port}/")
        asked = [f"/to/{base64.urlsafe_b64encode(target.encode()).decode()}"]
        first = good.url(asked[0], name)
    hosts = frozenset({"*", f"good.test:{good.port}", f"rebinding.test:{good.port}"})
    access = MediaAccess(hosts=hosts, networks=LOOPBACK, resolve=Names(**ADDRESSES))
    taken = Media(FakeRenderer(image=1), Fetcher(access, MediaLimits()))
    chat = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": first}}]}]
    app = await application(ScriptedEngine(), media=taken)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as http:
        reply = await http.post("/invocations", json={"messages": chat})
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (400, PATH), what
    assert error["message"] == f"{PATH} {answer}"
    assert good.asked == asked


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.skipif(find_spec("vllm") is None, reason="the renderer is the engine's")
@pytest.mark.timeout(300)
def test_media_that_would_cost_dearly(tmp_path: Path) -> None:
    """Each row of the table, by the engine's own renderers; then an image as ever."""
    with media_bombs.serving_both(tmp_path) as ports:
        for what, answer, *_ in rows("bombs"):
            status, message = media_bombs.ask(ports, what, media_bombs.body_of(what))
            assert (status, message.partition(" ")[2]) == (400, answer), what
        assert media_bombs.ask(ports, "", media_bombs.body_of(""))[0] == 200
    assert {what for what, *_ in rows("bombs")} == set(media_bombs.BOMBS)
