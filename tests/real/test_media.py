"""Images on the real engine: a small LLaVA with random weights, compared with vLLM's own `LLM.chat`."""

import base64
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.real import conftest, media_reference
from tests.real.conftest import Server
from tests.real.media_reference import Telling, asked, image, said, text, user
from tests.real.test_boto import boto
from tests.support.media import PNG, Host, data_url, host, png
from tests.support.media_folders import IMAGE_TOKEN, IMAGE_TOKENS, llava_folder

RED, BLUE = PNG, png(0, 0, 255, size=(40, 12))
MOST = 3


TWO = user(text("Compare"), image(data_url(RED)), text("with"), image(data_url(BLUE)), text("please."))
CHATS: dict[str, list[dict[str, Any]]] = {
    "one": user(image(data_url(RED)), text("What is it?")),
    "two, and text between": TWO,
    "in an earlier turn": [
        *user(image(data_url(BLUE))),
        {"role": "assistant", "content": "Blue."},
        *user(text("Sure?")),
    ],
    "text alone": user(text("Hello")),
    "beside a text that spells the image's token": user(text(f"{IMAGE_TOKEN} is"), image(data_url(RED))),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llava_folder(tmp_path_factory.mktemp("llava") / "model")


@pytest.fixture(scope="module")
def pictures() -> Iterator[Host]:
    with host() as running:
        yield running


@pytest.fixture(scope="module")
def reference(folder: Path) -> Iterator[Telling]:
    """What vLLM's own class says for the same chats."""
    with media_reference.telling(folder, CHATS, max_model_len=512, limit_mm_per_prompt={"image": MOST}) as tells:
        yield tells


@pytest.fixture(scope="module")
def seeing(
    folder: Path,
    pictures: Host,
    reference: Telling,  # noqa: ARG001 it runs meanwhile
) -> Iterator[Server]:
    """A server of it that may fetch from one host, whose address is not public, and read files of one folder."""
    files = folder.parent / "files"
    files.mkdir()
    (files / "red.png").write_bytes(RED)
    server = conftest.start(
        folder.parent / "log",
        *("--model-id", str(folder), "--max-model-len", "512", "--limit-mm-per-prompt", f'{{"image": {MOST}}}'),
        *("--allowed-media-domains", f"127.0.0.1:{pictures.port}", "--allowed-media-networks", "127.0.0.0/8"),
        *("--allowed-local-media-path", str(files), "--served-model-name", "seer", "--max-image-pixels", "20000000"),
    )
    yield server
    conftest.end(server)


@pytest.mark.parametrize("name", CHATS)
def test_the_same_as_vllms_own(seeing: Server, reference: Telling, name: str) -> None:
    media_reference.check_same(seeing, CHATS[name], reference(name))


def test_the_usage_tells_the_tokens_of_images(seeing: Server) -> None:
    details = seeing.whole(asked(TWO))["usage"]["prompt_tokens_details"]
    assert details["multimodal_tokens"] == {"image": 2 * IMAGE_TOKENS}
    assert "multimodal_tokens" not in seeing.whole(asked(CHATS["text alone"]))["usage"]["prompt_tokens_details"]


def test_what_is_in_an_image_counts(seeing: Server) -> None:
    red, blue, again = (said(seeing, user(image(data_url(one)))) for one in (RED, BLUE, RED))
    assert red == again
    assert red[2] != pytest.approx(blue[2], abs=1e-3)


def test_every_way_to_send_an_image_is_the_same(seeing: Server, pictures: Host, folder: Path) -> None:
    """Data URL, host, redirect, file; each part's form; curl, openai, boto3, LMI's schema."""
    question = text("What is it?")
    expected = said(seeing, user(image(data_url(RED)), question))
    served = f"http://127.0.0.1:{pictures.port}"
    there = f"{served}/to/{base64.urlsafe_b64encode(f'{served}/png'.encode()).decode()}"
    for url in (f"{served}/png", there, f"file://{folder.parent}/files/red.png"):
        assert said(seeing, user(image(url), question)) == expected, url
    for part in ({"type": "input_image", "image_url": data_url(RED)}, {"type": "image", "url": data_url(RED)}):
        assert said(seeing, user(part, question)) == expected, part
    chat = user(image(data_url(RED)), question)
    with openai.OpenAI(base_url=f"http://127.0.0.1:{seeing.port}/v1", api_key="none") as client:
        answer = client.chat.completions.create(model="seer", messages=chat, max_tokens=6, temperature=0)  # type: ignore[arg-type]
    assert (answer.usage and answer.usage.prompt_tokens, answer.choices[0].message.content) == expected[:2]
    with contextlib.closing(boto(seeing)) as runtime:
        reply = json.loads(runtime.invoke_endpoint(EndpointName="e", Body=json.dumps(asked(chat)))["Body"].read())
    assert reply["choices"][0]["message"]["content"] == expected[1]
    lmi = seeing.whole({"inputs": chat, "parameters": {"max_new_tokens": 6, "details": True}})
    assert (lmi["details"]["usage"]["prompt_tokens"], lmi["generated_text"]) == expected[:2]


def test_an_image_in_a_text(seeing: Server) -> None:
    """What TGI's clients send is the prompt that a template would have written."""
    written = f"<|im_start|>user\n![]({data_url(RED)})What is it?<|im_end|>\n<|im_start|>assistant\n"
    tokens, content, _ = said(seeing, CHATS["one"])
    answer = seeing.whole({"inputs": written, "parameters": {"max_new_tokens": 6, "details": True}})
    assert (answer["details"]["usage"]["prompt_tokens"], answer["generated_text"]) == (tokens, content)


def test_streamed_is_whole_and_takes_the_fast_path(seeing: Server) -> None:
    for chat in (TWO, CHATS["text alone"]):
        tokens, content, _ = said(seeing, chat)
        body = {"messages": chat, "max_tokens": 6, "temperature": 0, "stream_options": {"include_usage": True}}
        *chunks, last = seeing.lines(body)
        assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == content
        assert last["usage"]["prompt_tokens"] == tokens
    log = seeing.log.read_text()
    assert "own output loop runs" not in log
    assert "fast branch is off" not in log


def test_a_session_sees_its_first_image_again(seeing: Server) -> None:
    first = {"messages": user(image(data_url(RED))), "max_tokens": 3, "temperature": 0}
    _, headers, data = seeing.post(first, **{"X-Amzn-SageMaker-Session-Id": "NEW_SESSION"})
    opened = headers["x-amzn-sagemaker-new-session-id"].partition(";")[0]
    turn = {"messages": user(text("And?")), "max_tokens": 3, "temperature": 0}
    status, _, second = seeing.post(turn, **{"X-Amzn-SageMaker-Session-Id": opened})
    assert status == 200, second
    details = json.loads(second)["usage"]["prompt_tokens_details"]
    assert details["multimodal_tokens"] == {"image": IMAGE_TOKENS}
    assert json.loads(data)["usage"]["prompt_tokens"] < json.loads(second)["usage"]["prompt_tokens"]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "metadata": (image("http://169.254.169.254/"), "must be of a host that is allowed"),
    "another port": (image("http://127.0.0.1:22/"), "must be of a host that is allowed"),
    "a file elsewhere": (image("file:///etc/passwd"), "must name a file in the folder that is allowed"),
    "a bomb": (image(data_url(png(size=(50_000, 50_000), rows=1))), "must have at most 20000000 pixels, got far more"),
    "a part of an image": (image(data_url(RED[:50])), "cannot be decoded"),
    "no image": (image(data_url(b"<svg/>")), "its first bytes are of no format that is read"),
    "two things": (image(data_url(RED[:33] + b"%PDF-1.4" + RED[33:])), "its bytes are a PDF too"),
    "sound": ({"type": "input_audio", "input_audio": {"data": "AAAA"}}, "the model seer takes no audio"),
    "a video": ({"type": "video_url", "video_url": {"url": "x"}}, "the model seer takes no videos"),
    "embeddings": ({"type": "image_embeds", "image_embeds": "x"}, "option.enable_mm_embeds"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(seeing: Server, name: str) -> None:
    part, words = REFUSED[name]
    status, _, data = seeing.post(asked(user(text("a"), part)))
    error = json.loads(data)["error"]
    assert status == 400, data
    assert words in error["message"]
    assert error["param"].startswith("messages[0].content[1]")


def test_no_more_images_than_the_model_may_have(seeing: Server) -> None:
    status, _, data = seeing.post(asked(user(*[image(data_url(RED))] * (MOST + 1))))
    assert status == 400
    assert f"must have at most {MOST} images, got {MOST + 1}" in json.loads(data)["error"]["message"]


def test_an_image_beside_the_tokens_place_in_the_text(seeing: Server, tokenizer: Any) -> None:
    """The image stands at the first place, as vLLM has it; the other stays a token that stands for nothing."""
    token = tokenizer.convert_tokens_to_ids("<jupyter_text>")
    answer = seeing.whole(asked(CHATS["beside a text that spells the image's token"], return_token_ids=True))
    assert answer["choices"][0]["prompt_token_ids"].count(token) == IMAGE_TOKENS + 1
    assert answer["usage"]["prompt_tokens_details"]["multimodal_tokens"] == {"image": IMAGE_TOKENS}
    said(seeing, TWO)  # the engine goes on
