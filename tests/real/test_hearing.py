"""Sound in chats on the real engine: a small Qwen2-Audio, beside vLLM's own `LLM.chat`."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.real import conftest, media_reference
from tests.real.conftest import Server
from tests.real.media_reference import MEMORY, Telling, asked, image, said, text, user
from tests.support.media import PNG, data_url
from tests.support.media_folders import hearing_folder
from tests.support.speech import recording

pytestmark = pytest.mark.slow

SETTINGS = {"limit_mm_per_prompt": {"audio": 2}}
ONE, OTHER = recording(1), recording(2, rate=22_050, seed=1)


def heard(data: bytes) -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": "wav"}}


def sound(url: str) -> dict[str, Any]:
    return {"type": "audio_url", "audio_url": {"url": url}}


CHATS: dict[str, list[dict[str, Any]]] = {
    "in the body": user(heard(ONE), text("What is heard?")),
    "by its URL": user(text("Listen:"), sound(data_url(ONE, "audio/wav"))),
    "two, another rate, text between": user(heard(ONE), text("or"), sound(data_url(OTHER, "audio/wav")), text("?")),
    "in turns": [*user(heard(OTHER)), {"role": "assistant", "content": "Noise."}, *user(text("Sure?"))],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hearing_folder(tmp_path_factory.mktemp("hearing") / "model")


@pytest.fixture(scope="module")
def reference(folder: Path) -> Iterator[Telling]:
    with media_reference.telling(folder, CHATS, max_model_len=512, **SETTINGS) as tells:
        yield tells


@pytest.fixture(scope="module")
def hearing(
    folder: Path,
    reference: Telling,  # noqa: ARG001 it runs meanwhile
) -> Iterator[Server]:
    files = folder.parent / "files"
    files.mkdir()
    (files / "one.wav").write_bytes(ONE)
    server = conftest.start(
        folder.parent / "log",
        *(
            "--model-id",
            str(folder),
            "--served-model-name",
            "hearer",
            "--kv-cache-memory-bytes",
            str(MEMORY),
            "--max-model-len",
            "512",
        ),
        *("--limit-mm-per-prompt", json.dumps(SETTINGS["limit_mm_per_prompt"])),
        *("--allowed-local-media-path", str(files)),
    )
    yield server
    conftest.end(server)


@pytest.mark.parametrize("name", CHATS)
def test_the_same_as_vllms_own(hearing: Server, reference: Telling, name: str) -> None:
    media_reference.check_same(hearing, CHATS[name], reference(name))


def test_the_usage_tells_the_tokens_of_sound(hearing: Server) -> None:
    """25 of a second."""
    for chat, tokens in ((CHATS["in the body"], 25), (CHATS["two, another rate, text between"], 75)):
        details = hearing.whole(asked(chat))["usage"]["prompt_tokens_details"]
        assert details["multimodal_tokens"] == {"audio": tokens}


def test_what_is_heard_counts(hearing: Server) -> None:
    one, other, again = (said(hearing, user(heard(recording(1, seed=seed)))) for seed in (0, 1, 0))
    assert one == again
    assert one[0] == other[0]
    assert one[2] != pytest.approx(other[2], abs=1e-3)


def test_every_way_to_send_a_sound_is_the_same(hearing: Server, folder: Path) -> None:
    question = text("What is heard?")
    expected = said(hearing, user(heard(ONE), question))
    for part in (
        sound(data_url(ONE, "audio/wav")),
        sound(f"file://{folder.parent}/files/one.wav"),
        {"type": "audio", "audio": data_url(ONE, "audio/wav")},
    ):
        assert said(hearing, user(part, question)) == expected, part
    chat: Any = user(heard(ONE), question)
    with openai.OpenAI(base_url=f"http://127.0.0.1:{hearing.port}/v1", api_key="none") as client:
        answer = client.chat.completions.create(model="hearer", messages=chat, max_tokens=6, temperature=0)
    assert answer.usage
    assert (answer.usage.prompt_tokens, answer.choices[0].message.content) == expected[:2]
    lmi = hearing.whole({"inputs": chat, "parameters": {"max_new_tokens": 6, "details": True}})
    assert (lmi["details"]["usage"]["prompt_tokens"], lmi["generated_text"]) == expected[:2]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a part of a recording": (heard(ONE[:40]), "is no whole WAV file"),
    "no sound": (heard(PNG), "must be audio, it is an image"),
    "an image": (image(data_url(PNG)), "the model hearer takes no images"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(hearing: Server, name: str) -> None:
    part, words = REFUSED[name]
    status, _, data = hearing.post(asked(user(text("a"), part)))
    error = json.loads(data)["error"]
    assert status == 400, data
    assert words in error["message"]
    assert error["param"].startswith("messages[0].content[1]")
