"""Fetching, from hosts with every bad manner; nothing here leaves the machine."""

import base64
import os
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmi_chat.errors import BadField
from lmi_chat.limits import MediaLimits
from lmi_chat.media import Fetcher, MediaAccess, http_get
from lmi_chat.media.fetcher import Source
from tests.support.media import LOOPBACK, PNG, Host, Names, certificate, data_url, fetcher, host, png

pytestmark = pytest.mark.processes


@pytest.fixture
def good() -> Iterator[Host]:
    with host() as running:
        yield running


def get(by: Fetcher, *urls: str) -> list[bytes]:
    sources = [Source("image", url, f"p[{at}]") for at, url in enumerate(urls)]
    return [item.data for item in by.fetch(sources, by.allowance())]


def refused(by: Fetcher, *urls: str) -> str:
    with pytest.raises(BadField) as caught:
        get(by, *urls)
    assert caught.value.param
    assert caught.value.param.startswith("p[")
    return caught.value.message


def to(url: str) -> str:
    return f"/to/{base64.urlsafe_b64encode(url.encode()).decode()}"


def test_several_at_once_in_their_order(good: Host) -> None:
    other = png(1, 2, 3)
    assert get(fetcher(good), good.url("/png"), data_url(other), good.url("/png")) == [PNG, other, PNG]
    assert get(fetcher(good)) == []


def test_redirects_are_followed_as_far_as_they_may_be(good: Host) -> None:
    assert get(fetcher(good), good.url(to("/png"))) == [PNG]
    assert "more than 3 redirects (option.max_media_redirects)" in refused(fetcher(good), good.url("/round"))
    assert len([path for path in good.asked if path.startswith("/round")]) == 4
    assert "more than 0 redirects" in refused(fetcher(good, redirects=0), good.url(to("/png")))


SSRF = {
    "metadata": "http://169.254.169.254/latest/meta-data/",
    "loopback": "http://127.0.0.2/",
    "loopback of IPv6": "http://[::1]/",
    "mapped": "http://[::ffff:169.254.169.254]/",
    "private": "http://10.0.0.1/",
    "a number": "http://2852039166/",
    "octal": "http://0251.0376.0251.0376/",
    "short": "http://127.1/",
    "hexadecimal": "http://0x7f000001/",
    "localhost": "http://localhost/",
    "localhost with a dot": "http://localhost./",
    "a user": "http://good.test@169.254.169.254/",
    "a backslash": "http://good.test\\@169.254.169.254/",
    "a line": "http://good.test/\r\nHost: x",
    "a space": "http://good.test/ x",
    "another port": "http://good.test:22/",
    "ftp": "ftp://good.test/x",
    "gopher": "gopher://good.test/x",
    "a file": "file:///etc/passwd",
    "no host": "http:///x",
    "no scheme": "//good.test/png",
    "no URL": "x",
    "empty": "",
    "a bad port": "http://good.test:99999/",
    "a bad address": "http://[::1/",
    "far too long": "http://good.test/" + "x" * 9000,
}


@pytest.mark.parametrize("name", SSRF)
def test_what_is_never_asked(good: Host, name: str) -> None:
    """At once, and behind a redirect of a host that is allowed."""
    numbers = {"2852039166": "169.254.169.254", "0251.0376.0251.0376": "169.254.169.254"}
    numbers |= {"127.1": "127.0.0.2", "0x7f000001": "127.0.0.2", "localhost": "127.0.0.2"}
    names = Names(good_test=[["127.0.0.1"]], **{key.replace(".", "_"): [[value]] for key, value in numbers.items()})
    by = fetcher(good, names)
    assert refused(by, SSRF[name])
    assert good.asked == []
    if name not in {"a line", "no scheme", "no URL", "empty", "no host", "far too long"}:  # the same host's paths there
        assert refused(by, good.url(to(SSRF[name])))
        assert good.asked == [to(SSRF[name])]


def test_a_name_that_changes_its_addresses(good: Host) -> None:
    """It is asked for once for each hop, and the connection goes to the address that was looked at."""
    names = Names(rebind_test=[["127.0.0.1"], ["169.254.169.254"]])
    by = fetcher(good, names)
    assert get(by, good.url("/png", "rebind.test")) == [PNG]
    assert names.asked == ["rebind.test"]
    assert "public addresses alone" in refused(by, good.url("/png", "rebind.test"))
    names = Names(rebind_test=[["127.0.0.1"], ["10.0.0.1"]])
    assert "public addresses alone" in refused(fetcher(good, names), good.url(to("/png"), "rebind.test"))
    assert names.asked == ["rebind.test", "rebind.test"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/html", "must be an image, its type is text/html"),
        ("/liar", "must be an image, its first bytes are of no format that is read"),
        ("/missing", "cannot be fetched: its host answered with status 404"),
        ("/short", "of its"),
        ("/packed", "cannot be fetched: its host compresses it (gzip)"),
        ("/large", "more than 100000 bytes (option.max_media_bytes)"),
        ("/chunked", "more than 100000 bytes (option.max_media_bytes)"),
        ("/junk", "cannot be fetched: its host's answer is no HTTP, or ended early"),
    ],
)
def test_hosts_that_misbehave(good: Host, path: str, words: str) -> None:
    assert words in refused(fetcher(good, all_bytes=100_000), good.url(path))


@pytest.mark.parametrize("path", ["/silent", "/drip"])
def test_hosts_that_take_their_time(good: Host, path: str) -> None:
    """A byte now and then wins no time: the bound is for all of it."""
    text = "p[1] was not fetched within 1.5 s (option.media_fetch_seconds)"
    assert text in refused(fetcher(good, fetch_s=1.5), good.url("/png"), good.url(path))


def test_a_failure_does_not_wait_for_the_others(good: Host) -> None:
    began = time.monotonic()
    assert "p[1] cannot be fetched" in refused(fetcher(good, fetch_s=30), good.url("/silent"), good.url("/missing"))
    assert time.monotonic() - began < 30


def test_a_port_that_nobody_listens_at(good: Host) -> None:
    port = good.port
    good.server_close()
    access = MediaAccess(hosts=frozenset({f"*.test:{port}"}), networks=LOOPBACK, resolve=lambda *_: ["127.0.0.1"])
    says = refused(Fetcher(access, MediaLimits()), f"http://good.test:{port}/")
    assert "cannot be fetched: Connection re" in says, "refused, or reset by what was left of the listener"


def test_the_bytes_of_all_together(good: Host) -> None:
    """Whatever they come from; a bound for each alone would be the number of items times that."""
    urls = [data_url(PNG), good.url("/png"), good.url("/png")]
    assert get(fetcher(good, all_bytes=3 * len(PNG)), *urls)
    assert "bytes (option.max_media_bytes)" in refused(fetcher(good, all_bytes=3 * len(PNG) - 4), *urls)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("data:image/png,abc", "in base64"),
        ("data:image/png;base64", "in base64"),
        ("data:image/png;base64,???", "its data are not"),
        ("data:image/png;base64,iVBORw0", "its data are not"),
        ("data:text/html;base64,PGh0bWw+", "its type is text/html"),
        ("DATA:image/png;BASE64,", "it is empty"),
    ],
)
def test_data_urls(good: Host, url: str, words: str) -> None:
    assert words in refused(fetcher(good), url)


def test_files_of_the_folder_alone(tmp_path: Path) -> None:
    folder = tmp_path / "media"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a b.png").write_bytes(PNG)
    (tmp_path / "secret.png").write_bytes(PNG)
    (tmp_path / "media2").mkdir()
    (tmp_path / "media2" / "a.png").write_bytes(PNG)
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    os.mkfifo(folder / "pipe.png")
    by = Fetcher(MediaAccess(folder=folder), MediaLimits())
    assert get(by, f"file://{folder}/sub/a%20b.png") == [PNG]
    assert get(by, f"file://localhost{folder}/sub/../sub/a%20b.png") == [PNG]
    outside = {
        refused(by, f"file://{path}").replace(str(path), "")
        for path in (
            tmp_path / "secret.png",
            folder / ".." / "secret.png",
            f"{folder}/%2e%2e/secret.png",
            folder / "link.png",
            tmp_path / "media2" / "a.png",
            folder / "nothing.png",
            folder / "sub",
            folder / "pipe.png",
            f"{folder}/a%00.png",
        )
    }
    assert outside == {"p[0] must name a file in the folder that is allowed (option.allowed_local_media_path)"}
    assert "of this machine" in refused(by, f"file://elsewhere{folder}/sub/a.png")
    small = Fetcher(MediaAccess(folder=folder), MediaLimits(all_bytes=20))
    assert "more than 20 bytes" in refused(small, f"file://{folder}/sub/a%20b.png")
    assert "reads no files" in refused(Fetcher(MediaAccess(), MediaLimits()), f"file://{folder}/sub/a%20b.png")


def test_a_folder_that_becomes_a_link_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at a path and its opening."""
    folder, secret = tmp_path / "allowed", tmp_path / "secret"
    for place in (folder / "sub", secret):
        place.mkdir(parents=True)
        (place / "a.png").write_bytes(PNG)
    by, opened = Fetcher(MediaAccess(folder=folder), MediaLimits()), os.open
    assert get(by, f"file://{folder}/sub/a.png") == [PNG]

    def swapped(path: Path, flags: int) -> int:
        (folder / "sub").rename(tmp_path / "old")
        (folder / "sub").symlink_to(secret)
        return opened(path, flags)

    monkeypatch.setattr(os, "open", swapped)
    assert "must name a file in the folder that is allowed" in refused(by, f"file://{folder}/sub/a.png")


def test_what_stands_in_the_body_waits_for_no_host(good: Host) -> None:
    by = fetcher(good, at_once=1, fetch_s=1.0)
    slow = threading.Thread(target=refused, args=(by, good.url("/silent/")))
    slow.start()
    while not good.asked:
        time.sleep(0.01)
    assert get(by, data_url(PNG)) == [PNG]
    assert slow.is_alive()
    slow.join()


def test_no_host_is_asked_unless_one_is_configured(good: Host) -> None:
    by = Fetcher(MediaAccess(networks=LOOPBACK, resolve=lambda *_: ["127.0.0.1"]), MediaLimits())
    assert "fetches from no host" in refused(by, good.url("/png"))
    assert good.asked == []


def test_https_goes_to_the_pinned_address_under_the_hosts_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tls = certificate(tmp_path, "DNS:good.test")
    with host(tls) as running:
        trusting = ssl.create_default_context(cafile=str(tls[1]))
        monkeypatch.setattr(http_get, "_tls", lambda: trusting)
        names = Names(good_test=[["127.0.0.1"]], other_test=[["127.0.0.1"]])
        by = fetcher(running, names)
        assert get(by, running.url("/png").replace("http:", "https:")) == [PNG]
        assert "cannot be fetched" in refused(by, running.url("/png", "other.test").replace("http:", "https:"))
        down = to(running.url("/png"))
        words = refused(by, running.url(down).replace("http:", "https:"))
        assert "redirects to another kind of URL" in words
        monkeypatch.setattr(http_get, "_tls", ssl.create_default_context)
        assert "cannot be fetched" in refused(by, running.url("/png").replace("http:", "https:"))
