"""Images of any size and videos on the real engine: a small Qwen2-VL, beside vLLM's own `LLM.chat`."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.real import conftest, media_reference
from tests.real.conftest import Server
from tests.real.media_reference import MEMORY, Telling, asked, image, said, text, user
from tests.real.test_boto import boto
from tests.support.media import Host, certificate, data_url, host, png, video
from tests.support.media_folders import BEGIN, END, IMAGE_PAD, MERGED, PATCH, qwen_folder

pytestmark = pytest.mark.slow

SIDE = PATCH * MERGED
"""Pixels of a token's side."""
MOST_TOKENS = 36
"""Of a square image, by mm_processor_kwargs that would take 40; the model's own are more."""
SETTINGS = {
    "limit_mm_per_prompt": {"image": 2, "video": 1},
    "mm_processor_kwargs": {"max_pixels": 40 * SIDE**2},
}
RED, WIDE = png(255, size=(56, 84)), png(0, 0, 255, size=(140, 60))
MOVES, STANDS = (data_url(video(shade=shade), "video/mp4") for shade in (30, 0))


def film(url: str) -> dict[str, Any]:
    return {"type": "video_url", "video_url": {"url": url}}


SEEN = user(image(data_url(RED)), text("What is it?"))
TWO = user(text("Compare"), image(data_url(RED)), text("with"), image(data_url(WIDE)), text("please."))
LARGE = user(text("Look:"), image(data_url(png(9, 99, 9, size=(900, 900)))))
FILM = user(text("What"), film(MOVES), text("moves?"))
CHATS: dict[str, list[dict[str, Any]]] = {
    "one image": SEEN,
    "two, and text between": TWO,
    "one larger than it may be": LARGE,
    "a video": FILM,
    "a video and an image": user(film(STANDS), text("and"), image(data_url(WIDE)), text("?")),
    "a text that spells the tokens of an image": user(text(f"{BEGIN}{IMAGE_PAD}{END}"), image(data_url(RED))),
    "in turns": [*SEEN, {"role": "assistant", "content": "Red."}, *FILM],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return qwen_folder(tmp_path_factory.mktemp("qwen") / "model")


@pytest.fixture(scope="module")
def reference(folder: Path) -> Iterator[Telling]:
    with media_reference.telling(folder, CHATS, max_model_len=1024, **SETTINGS) as tells:
        yield tells


@pytest.fixture(scope="module")
def hosts(folder: Path) -> Iterator[tuple[Host, Host, Path]]:
    """One by http, one by https, and the certificate to trust."""
    tls = certificate(folder.parent, "IP:127.0.0.1")
    with host() as plain, host(tls) as safe:
        yield plain, safe, tls[1]


@pytest.fixture(scope="module")
def seeing(
    folder: Path,
    hosts: tuple[Host, Host, Path],
    reference: Telling,  # noqa: ARG001 it runs meanwhile
) -> Iterator[Server]:
    plain, safe, trusted = hosts
    files = folder.parent / "files"
    files.mkdir()
    (files / "red.png").write_bytes(png(255))
    server = conftest.start(
        folder.parent / "log",
        *(
            "--model-id",
            str(folder),
            "--served-model-name",
            "seer",
            "--kv-cache-memory-bytes",
            str(MEMORY),
            "--max-model-len",
            "1024",
        ),
        *(word for name, value in SETTINGS.items() for word in (f"--{name.replace('_', '-')}", json.dumps(value))),
        *("--allowed-media-domains", f"127.0.0.1:{plain.port},127.0.0.1:{safe.port}"),
        *("--allowed-media-networks", "127.0.0.0/8", "--allowed-local-media-path", str(files)),
        environment={"SSL_CERT_FILE": str(trusted)},
    )
    yield server
    conftest.end(server)


@pytest.mark.parametrize("name", CHATS)
def test_the_same_as_vllms_own(seeing: Server, reference: Telling, name: str) -> None:
    media_reference.check_same(seeing, CHATS[name], reference(name))


@pytest.mark.parametrize(
    ("chat", "tokens"),
    [
        (SEEN, {"image": 2 * 3}),
        (TWO, {"image": 2 * 3 + 5 * 2}),
        (LARGE, {"image": MOST_TOKENS}),
        (FILM, {"video": 2 * 2 * 2}),  # two frames of each second; two frames share their tokens
    ],
)
def test_the_usage_tells_the_tokens_of_each_kind(
    seeing: Server, chat: list[dict[str, Any]], tokens: dict[str, int]
) -> None:
    assert seeing.whole(asked(chat))["usage"]["prompt_tokens_details"]["multimodal_tokens"] == tokens


def test_what_moves_counts(seeing: Server) -> None:
    moves, stands, again = (said(seeing, user(film(url), text("?"))) for url in (MOVES, STANDS, MOVES))
    assert moves == again
    assert moves[0] == stands[0]
    assert moves[2] != pytest.approx(stands[2], abs=1e-3)


QUESTION = "What is it?"


def by_http(server: Server, url: str) -> tuple[int, str]:
    return said(server, user(image(url), text(QUESTION)))[:2]


def by_openai(server: Server, url: str) -> tuple[int, str]:
    chat: Any = user(image(url), text(QUESTION))
    with openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none") as client:
        answer = client.chat.completions.create(model="seer", messages=chat, max_tokens=6, temperature=0)
    assert answer.usage
    return answer.usage.prompt_tokens, answer.choices[0].message.content or ""


def by_boto(server: Server, url: str) -> tuple[int, str]:
    body = json.dumps(asked(user(image(url), text(QUESTION))))
    with contextlib.closing(boto(server)) as runtime:
        answer = json.loads(runtime.invoke_endpoint(EndpointName="e", Body=body)["Body"].read())
    return answer["usage"]["prompt_tokens"], answer["choices"][0]["message"]["content"]


def by_lmi(server: Server, url: str) -> tuple[int, str]:
    written = f"<|im_start|>user\n![]({url}){QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    answer = server.whole({"inputs": written, "parameters": {"max_new_tokens": 6, "details": True}})
    return answer["details"]["usage"]["prompt_tokens"], answer["generated_text"]


def test_every_home_and_every_source_are_the_same(seeing: Server, hosts: tuple[Host, Host, Path], folder: Path) -> None:
    plain, safe, _ = hosts
    urls = [data_url(png(255)), f"file://{folder.parent}/files/red.png", f"http://127.0.0.1:{plain.port}/png"]
    urls.append(f"https://127.0.0.1:{safe.port}/png")
    homes = (by_http, by_openai, by_boto, by_lmi)
    answers = {(home.__name__, url[:8]): home(seeing, url) for home in homes for url in urls}
    assert set(answers.values()) == {by_http(seeing, urls[0])}, answers
    assert (len(plain.asked), len(safe.asked)) == (len(homes), len(homes))


def test_streamed_is_whole(seeing: Server) -> None:
    for chat in (TWO, FILM):
        tokens, content, _ = said(seeing, chat)
        body = {"messages": chat, "max_tokens": 6, "temperature": 0, "stream_options": {"include_usage": True}}
        *chunks, last = seeing.lines(body)
        assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == content
        assert last["usage"]["prompt_tokens"] == tokens


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a part of a video": (film(data_url(video()[:400], "video/mp4")), "cannot be decoded"),
    "a video longer than it may be": (film(data_url(video(frames=700, rate=1), "video/mp4")), "must last at most"),
    "an image as a video": (film(data_url(RED)), "must be a video, its type is image/png"),
    "sound": ({"type": "input_audio", "input_audio": {"data": "AAAA"}}, "the model seer takes no audio"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(seeing: Server, name: str) -> None:
    part, words = REFUSED[name]
    status, _, data = seeing.post(asked(user(text("a"), part)))
    error = json.loads(data)["error"]
    assert status == 400, data
    assert words in error["message"]
    assert error["param"].startswith("messages[0].content[1]")
