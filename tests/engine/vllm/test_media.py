"""Prompts with media by vLLM's renderer, without an engine: what is decoded, and what never is."""

import asyncio
import base64
import io
import re
import struct
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lmi_chat.engine.vllm import media
from lmi_chat.errors import BadField, Error
from lmi_chat.file_formats import Kind
from lmi_chat.limits import MediaLimits
from lmi_chat.media import MediaItem, Room
from tests.support.media import PNG, WAV, png
from tests.support.media_folders import IMAGE_TOKENS, LLAVA_TEMPLATE, SOUND_TOKEN, hearing_folder, llava_folder
from tests.support.rendering import media_of, rendering

pytestmark = [
    pytest.mark.skipif(find_spec("vllm") is None, reason="the renderer is the engine's"),
    pytest.mark.timeout(300),
    pytest.mark.processes,
]
KEY = "held:1"
OTHER_TEMPLATE = LLAVA_TEMPLATE.replace('"<|im_start|>" + message.role + "\\n"', '""').replace("<|im_end|>\\n", ".")
OTHER_TEMPLATE = OTHER_TEMPLATE.partition("{%- if add_generation_prompt")[0]
VARIABLES = {"add_generation_prompt": True, "continue_final_message": False}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder: Path = llava_folder(tmp_path_factory.mktemp("llava") / "model")
    with rendering(folder, limit_mm_per_prompt={"image": 3}) as found:
        yield found


@pytest.fixture
def renderer(engine: Any) -> media.Renderer:
    found = media.of(engine)
    assert found is not None
    return found


def item(data: bytes, kind: Kind = "image", **limits: Any) -> dict[str, MediaItem]:
    bounds = MediaLimits(**limits)
    return {KEY: MediaItem(kind, data, "messages[0].content[1]", bounds, Room(bounds.decoded_bytes))}


def chat(*keys: str) -> list[dict[str, Any]]:
    parts = [{"type": "image_url", "image_url": {"url": key}} for key in keys]
    return [{"role": "user", "content": [{"type": "text", "text": "a"}, *parts, {"type": "text", "text": "b"}]}]


def refusal(renderer: media.Renderer, items: dict[str, MediaItem]) -> str:
    with pytest.raises(BadField) as caught:
        renderer.render_chat(chat(*items), items, VARIABLES)
    assert caught.value.param == "messages[0].content[1]"
    return caught.value.message


def test_what_the_model_takes(renderer: media.Renderer, engine: Any) -> None:
    assert renderer.most == {"image": 3, "audio": 0, "video": 0}
    assert renderer.takes_embeddings is False
    assert media.template(engine) == LLAVA_TEMPLATE


def test_a_chat_and_a_text(renderer: media.Renderer) -> None:
    rendered = renderer.render_chat(chat(KEY), item(PNG), VARIABLES)
    assert rendered.text == "<|im_start|>user\na<image>b<|im_end|>\n<|im_start|>assistant\n"
    assert rendered.media.tokens == {"image": IMAGE_TOKENS}
    before, after = rendered.text.split("<image>")
    written = renderer.render_text([before, KEY, after], item(PNG))
    assert written.ids == rendered.ids
    assert written.media.tokens == rendered.media.tokens


def test_a_template_in_place_of_the_models(renderer: media.Renderer) -> None:
    rendered = renderer.render_chat(chat(KEY), item(PNG), VARIABLES | {"chat_template": OTHER_TEMPLATE})
    assert rendered.text == "a<image>b."


def test_a_prompt_without_a_place_for_the_image(renderer: media.Renderer) -> None:
    with pytest.raises(BadField, match="finds no place in the prompt") as caught:
        renderer.render_chat(chat(KEY), item(PNG), VARIABLES | {"chat_template": "Hi"})
    assert caught.value.param == "messages[0].content[1]"


def jpeg() -> bytes:
    from PIL import Image

    held = io.BytesIO()
    Image.effect_noise((64, 64), 50).convert("RGB").save(held, "JPEG")
    return held.getvalue()


@pytest.mark.parametrize(
    ("data", "limits", "words"),
    [
        (png(size=(50_000, 50_000), rows=1), {}, "must have at most 40000000 pixels, got far more (option."),
        (
            png(size=(8000, 8000), rows=1),
            {},
            "must have at most 40000000 pixels, got 8000 × 8000 (option.",
        ),
        (png(size=(9, 9)), {"pixels": 80}, "must have at most 80 pixels, got 9 × 9"),
        (PNG[:50], {}, "cannot be decoded"),
        (PNG[:8], {}, "cannot be decoded"),
        (b"GIF89a" + bytes(4), {}, "cannot be decoded"),
        (b"II*\0\xff\xff\xff\xff", {}, "cannot be decoded"),
    ],
)
def test_images_that_cannot_be_had(renderer: media.Renderer, data: bytes, limits: Any, words: str) -> None:
    assert words in refusal(renderer, item(data, **limits))


def test_an_image_that_was_cut(renderer: media.Renderer) -> None:
    says = refusal(renderer, item(jpeg()[:-200]))
    assert "cannot be decoded: Failed to load image: image file is truncated" in says


def test_nothing_is_held_afterwards(renderer: media.Renderer) -> None:
    renderer.render_chat(chat(KEY), item(PNG), VARIABLES)
    refusal(renderer, item(PNG[:50]))
    assert media._held == {}


def test_what_is_not_held_is_not_fetched(renderer: media.Renderer) -> None:
    """Whatever reaches vLLM in place of a key."""
    for url in ("http://127.0.0.1:9/", "file:///etc/passwd", "data:image/png;base64,AAAA", "held:2"):
        with pytest.raises(Error):
            renderer.render_chat(chat(url), item(PNG), VARIABLES)


def test_audio_and_videos_that_cannot_be_had() -> None:
    io_of: Any = SimpleNamespace(audio_backend=None, load_bytes=lambda data: data)
    for kind, data in (("audio", WAV), ("video", b"\0\0\0\x18ftypisom" + bytes(64))):
        (held,) = item(data, kind).values()  # type: ignore[arg-type]
        with pytest.raises(BadField, match=r"messages\[0\].content\[1\] (cannot be decoded|is no whole WAV file)"):
            media._decoded(held, io_of)


def sound_of(samples: bytes, *, rate: int = 8000, channels: int = 1) -> bytes:
    """A WAV file of 16 bits."""
    form = struct.pack("<HHIIHH", 1, channels, rate, 2 * rate * channels, 2 * channels, 16)
    return b"RIFF\0\0\0\0WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", len(samples)) + samples


def test_sound_is_decoded_within_our_own_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """As vLLM decodes it, at the rate of the file."""
    from vllm.multimodal.media import audio

    monkeypatch.setattr(audio, "load_audio", None)
    values = struct.pack("<8h", *range(-4000, 4000, 1000))
    (held,) = item(sound_of(values, channels=2), "audio").values()
    samples, rate = media._decoded(held, None)
    assert (rate, samples.tolist()) == (8000, [value / 32768 for value in (-3500, -1500, 500, 2500)])
    second = sound_of(bytes(16_000))
    for data, limits, words in (
        (second, {"seconds": 0.9}, "must have at most 0.9 seconds (option.max_media_seconds)"),
        (second, {"decoded_bytes": 31_999}, "become more than 31999 bytes (option.max_media_decoded_bytes)"),
        (second[:44], {}, "has no sound"),
        (b"fLaC" + bytes(50), {}, "cannot be decoded as FLAC"),
        (b"#EXTM3U\nfile:///etc/passwd", {}, "must be a recording"),
    ):
        (held,) = item(data, "audio", **limits).values()
        with pytest.raises(BadField, match=r"^messages\[0\].content\[1\] .*" + re.escape(words)):
            media._decoded(held, None)


def test_a_model_that_hears_is_given_the_sound(tmp_path: Path) -> None:
    """Of two channels, at another rate than the model's. What vLLM decodes without soundfile lasts twice as long."""
    import numpy as np
    import torch

    beats = struct.pack("<16000h", *(9000 if place % 90 < 45 else place % 7 for place in range(16_000)))
    data = sound_of(beats, channels=2)
    parts = [{"type": "audio_url", "audio_url": {"url": KEY}}, {"type": "text", "text": "What is heard?"}]
    variables = {"add_generation_prompt": True}
    with rendering(hearing_folder(tmp_path / "model")) as engine:
        renderer = media.of(engine)
        assert renderer is not None
        assert renderer.most["image"] == renderer.most["video"] == 0
        found = renderer.render_chat([{"role": "user", "content": parts}], item(data, "audio"), variables)
        mono = np.frombuffer(beats, "<i2").reshape(-1, 2).mean(axis=1) / 32768
        given = {"audio": [(mono.astype(np.float32), 8000)]}
        prompt = {"prompt": found.text, "multi_modal_data": given}
        expected = asyncio.run(engine.renderer.render_cmpl_async([prompt], skip_mm_cache=True))[0]
        token = engine.renderer.get_tokenizer().convert_tokens_to_ids(SOUND_TOKEN)
    assert f"Audio 1: <|audio_bos|>{SOUND_TOKEN}<|audio_eos|>\nWhat is heard?" in found.text
    assert found.media.tokens == {"audio": found.ids.count(token)} == {"audio": 25}  # of a second
    assert found.ids == expected["prompt_token_ids"]
    (own,), (theirs,) = (one["mm_kwargs"]["audio"] for one in (found.media.features, expected))
    assert torch.equal(own["input_features"].data, theirs["input_features"].data)


def test_what_all_images_of_a_request_become_is_bounded(renderer: media.Renderer) -> None:
    """Small files of many pixels: each is taken, all of them are not."""
    data, limits = png(size=(100, 100)), MediaLimits(decoded_bytes=2 * 40_000)
    for count in (2, 3):
        room = Room(limits.decoded_bytes)
        items = {f"held:{at}": MediaItem("image", data, f"p[{at}]", limits, room) for at in range(count)}
        if count == 2:
            assert renderer.render_chat(chat(*items), items, VARIABLES).media.nbytes == 2 * 3 * 28 * 28 * 4
            continue
        with pytest.raises(BadField, match=r"all other media become more than 80000 bytes \(option\."):
            renderer.render_chat(chat(*items), items, VARIABLES)


@pytest.mark.parametrize("told", [{"RATE": 0.0}, {"COUNT": -9.2e18}, {"COUNT": 0.0}, {"RATE": float("nan")}])
def test_a_video_that_does_not_tell_how_long_it_is(told: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    """It would give room back, or be as long as it likes."""
    import cv2
    from vllm.multimodal.video_decoders.opencv import OpenCVVideoBackendMixin

    values = {cv2.CAP_PROP_FPS: told.get("RATE", 10.0), cv2.CAP_PROP_FRAME_COUNT: told.get("COUNT", 10.0)}
    video = SimpleNamespace(get=lambda name: values.get(name, 8.0))
    monkeypatch.setattr(OpenCVVideoBackendMixin, "open_video_capture", lambda _: video)
    (held,) = item(b"x", "video").values()
    with pytest.raises(BadField, match="does not tell its frames"):
        media._decoded(held, SimpleNamespace(load_bytes=None, num_frames=32))
    assert held.room.bytes_left == held.limits.decoded_bytes


def test_a_video_is_bounded(tmp_path: Path) -> None:
    """In the pixels of a frame and in its length, before any frame is decoded."""
    import cv2
    from vllm.multimodal.video import VIDEO_LOADER_REGISTRY

    path = tmp_path / "a.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no video")
    import numpy as np

    for _ in range(30):
        writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    data, taken = path.read_bytes(), list[bytes]()
    io_of: Any = SimpleNamespace(
        load_bytes=taken.append, num_frames=32, kwargs={}, video_loader=VIDEO_LOADER_REGISTRY.load("opencv")
    )
    for limits, words in (
        ({"frame_pixels": 64 * 48 - 1}, "at most 3071 pixels, got 64 × 48"),
        ({"seconds": 2.0}, "must last at most 2 s, got 30 frames at 10 per s"),
        ({"frames": 29}, "must have at most 29 frames, got 30 (option.max_video_frames)"),
        ({"decoded_bytes": 30 * 64 * 48 * 3 - 1}, "become more than 276479 bytes (option.max_media_decoded_bytes)"),
    ):
        (held,) = item(data, "video", **limits).values()
        with pytest.raises(BadField, match=re.escape(words)):
            media._decoded(held, io_of)
    assert taken == []
    (held,) = item(data, "video", seconds=3.0).values()
    media._decoded(held, io_of)
    assert taken == [data]
    assert media._frames_taken(io_of, 30, 10) == 30
    assert media._frames_taken(io_of, 300, 10) == 32
    by_rate: Any = SimpleNamespace(num_frames=32, kwargs={"fps": 4}, video_loader=None)
    assert media._frames_taken(by_rate, 300, 10) == 120


HIDDEN = 128
"""Numbers of an embedding, for llava_folder's model."""


def saved(tensor: Any, **how: Any) -> bytes:
    import torch

    held = io.BytesIO()
    torch.save(tensor, held, **how)
    return held.getvalue()


class _Runs:
    """What a pickle has run when it is read."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return open, (str(self._path), "w")


def compressed(data: bytes) -> bytes:
    """The archive again, each of its entries smaller."""
    held = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as given, zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as made:
        for entry in given.infolist():
            made.writestr(entry.filename, given.read(entry))
    return held.getvalue()


@pytest.fixture(scope="module")
def embedding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One that takes tensors in place of images."""
    folder = llava_folder(tmp_path_factory.mktemp("embeds") / "model")
    with rendering(folder, limit_mm_per_prompt={"image": 3}, enable_mm_embeds=True) as found:
        yield found


def by_tensor(engine: Any, data: bytes, **limits: Any) -> Any:
    """A prompt with embeddings, prepared as a request's are."""
    parts = [{"type": "image_embeds", "image_embeds": base64.b64encode(data).decode()}, {"type": "text", "text": "a"}]
    return media_of(engine, **limits).render_chat([{"role": "user", "content": parts}], "messages", VARIABLES)


def test_embeddings_in_place_of_an_image(embedding: Any) -> None:
    import numpy as np
    import torch

    assert media_of(embedding).takes_embeddings
    numbers = torch.randn(IMAGE_TOKENS, HIDDEN)
    written = io.BytesIO()
    np.save(written, numbers.numpy())
    for data in (saved(numbers), written.getvalue()):
        found = by_tensor(embedding, data)
        assert found.media.tokens == {"image": IMAGE_TOKENS}
        (one,) = found.media.features["mm_kwargs"]["image"]
        assert torch.equal(one["image_embeds"].data.reshape(IMAGE_TOKENS, HIDDEN), numbers)


def test_embeddings_run_no_code_and_become_no_larger(embedding: Any, tmp_path: Path) -> None:
    """What vLLM's own reader takes from 300 KB is 300 MB, or 2 GiB of a sparse tensor."""
    import torch

    ran = tmp_path / "ran"
    numbers = torch.zeros(IMAGE_TOKENS, HIDDEN)
    place = torch.zeros((2, 1), dtype=torch.int64)
    sparse = torch.sparse_coo_tensor(place, torch.ones(1), (20_000, 20_000), check_invariants=True)
    for data, words in (
        (saved(_Runs(ran)), "cannot be read as a tensor: UnpicklingError"),
        (
            saved(_Runs(ran), _use_new_zipfile_serialization=False),
            "must be a tensor as torch.save or numpy.save writes",
        ),
        (saved({"a": numbers}), "must be one tensor, and not a sparse one"),
        (saved(sparse), "must be one tensor, and not a sparse one"),
        (saved(torch.zeros(1).expand(20_000, HIDDEN)), "must store all of its numbers: it would become 10240000 bytes"),
        (compressed(saved(torch.zeros(1000, HIDDEN))), "its archive is compressed"),
        (saved(numbers)[:-30], "its archive cannot be read"),
        (b"\x93NUMPY\x01\0" + bytes(9), "cannot be read as a tensor"),
        (b"", "must be a tensor as"),
    ):
        with pytest.raises(BadField) as caught:
            by_tensor(embedding, data)
        assert caught.value.param == "messages[0].content[0].image_embeds"
        assert words in caught.value.message
    assert not ran.exists()
    with pytest.raises(BadField, match=r"become more than 65536 bytes \(option\.max_media_decoded_bytes"):
        by_tensor(embedding, saved(torch.zeros(200, HIDDEN)), decoded_bytes=2**16)
    with pytest.raises(Error) as refused:  # another model's
        by_tensor(embedding, saved(torch.zeros(IMAGE_TOKENS, HIDDEN + 1)))
    assert refused.value.status == 400
