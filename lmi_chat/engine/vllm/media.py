"""Render prompts with images, audio and videos by vLLM's own renderer, from bytes that were fetched before.

vLLM has a connector fetch what a part's URL names; ours gives out what a request holds under that name, and nothing
else. The processor's results are kept here alone (`skip_mm_cache`): vLLM's other cache counts on each rendered prompt
reaching the engine, and here one may be refused in between.

Leans on: `MEDIA_CONNECTOR_REGISTRY`, `render_chat_async` and `render_cmpl_async` working on a loop of their own.
"""

import asyncio
import math
import os
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from io import BytesIO
from typing import Any

from lmi_chat.audio import decode
from lmi_chat.engine.vllm.errors import translate
from lmi_chat.errors import BadField, Error, Problem
from lmi_chat.file_formats import KINDS, Kind
from lmi_chat.job import MediaInput
from lmi_chat.media import MediaItem, MediaPrompt, formats
from lmi_chat.text import one_line

CONNECTOR = "lmi_chat"
CHUNK = "vision_chunk"
"""What a model that takes images and videos as one kind calls it."""
PIXEL_BYTES, FRAME_PIXEL_BYTES = 4, 3
FRAMES_A_SECOND = 2
"""That loaders take which are given no number."""
DECODED_KEY = "max_media_decoded_bytes"
_held: dict[str, MediaItem] = {}


def install() -> None:
    """Have vLLM ask our connector; to be called before it reads its environment for good."""
    _connector()
    os.environ["VLLM_MEDIA_CONNECTOR"] = CONNECTOR


def of(engine: Any) -> "Renderer | None":
    """Return what renders for an AsyncLLM's model; None where it takes text alone, or gives none for a chat."""
    config, processor = engine.model_config, engine.renderer.mm_processor
    if processor is None or config.is_encoder_decoder or config.runner_type == "pooling":
        return None
    return Renderer(engine.renderer)


def template(engine: Any) -> str:
    """Return the model's chat template where its processor has it, not its tokenizer; else ""."""
    from vllm.renderers.hf import HfRenderer, resolve_chat_template

    renderer = engine.renderer
    if renderer.mm_processor is None or not isinstance(renderer, HfRenderer):
        return ""
    found = resolve_chat_template(renderer.get_tokenizer(), None, None, model_config=engine.model_config)
    return found if found and found != getattr(renderer.get_tokenizer(), "chat_template", None) else ""


class Renderer:
    """See MediaRenderer."""

    def __init__(self, renderer: Any) -> None:
        """Render by vLLM's `renderer` of a multimodal model."""
        self._renderer = renderer
        self._model = renderer.model_config
        self.takes_embeddings = bool(self._model.get_multimodal_config().enable_mm_embeds)
        self.most = _most(renderer.mm_processor.info.allowed_mm_limits)

    def render_chat(
        self, messages: Sequence[Mapping[str, Any]], items: Mapping[str, MediaItem], variables: Mapping[str, Any]
    ) -> MediaPrompt:
        """See MediaRenderer."""
        from vllm.renderers.params import ChatParams
        from vllm.utils.mistral import is_mistral_tokenizer

        given = dict(variables)
        source = given.pop("chat_template", None)
        given["tools"] = list(given.get("tools") or ()) or None
        given["tokenize"] = is_mistral_tokenizer(self._renderer.tokenizer)  # it writes no text in between
        params = ChatParams(chat_template=source, chat_template_kwargs=given)
        chat = [_as_vllm(message) for message in messages]

        async def rendered() -> Any:
            _, prompts = await self._renderer.render_chat_async(
                [chat], params, self._lengths(add_special_tokens=False), skip_mm_cache=True
            )
            return prompts[0]

        return self._run(rendered, items)

    def render_text(self, pieces: Sequence[str], items: Mapping[str, MediaItem]) -> MediaPrompt:
        """See MediaRenderer."""
        from vllm.model_executor.model_loader import get_model_cls

        model, texts, count = get_model_cls(self._model), list[str](), 0
        for piece in pieces:
            count += piece in items
            texts.append(model.get_placeholder_str("image", count) or "" if piece in items else piece)

        async def rendered() -> Any:
            connector = _connector()()
            images = await asyncio.gather(*(connector.fetch_image_async(key) for key in items))
            prompt = {"prompt": "".join(texts), "multi_modal_data": {"image": images}}
            lengths = self._lengths(add_special_tokens=True)
            return (await self._renderer.render_cmpl_async([prompt], lengths, skip_mm_cache=True))[0]

        return self._run(rendered, items)

    def _lengths(self, *, add_special_tokens: bool) -> Any:
        """How a text becomes tokens; how many there may be is asked afterwards, as of any prompt."""
        from vllm.renderers.params import TokenizeParams

        own = self._renderer.default_chat_tok_params
        special = own.add_special_tokens and add_special_tokens
        return TokenizeParams(max_total_tokens=None, do_lower_case=own.do_lower_case, add_special_tokens=special)

    def _run(self, render: Callable[[], Coroutine[Any, Any, Any]], items: Mapping[str, MediaItem]) -> MediaPrompt:
        """Run on a loop of this thread, so that nothing of it holds up the server's own."""
        with _holding(items):
            try:
                _look(items.values())
                prompt = asyncio.run(render())
            except Error:
                raise
            except AssertionError as error:  # so it tells of a prompt without a place for one of the items
                held = next(iter(items.values()), None)
                path = held.path if held else "request"
                text = f"{path} finds no place in the prompt: {one_line(str(error), 160)}"
                raise BadField([Problem(path, text)]) from error
            except Exception as error:
                raise translate(error) from error
        features = {name: value for name, value in prompt.items() if name != "cache_salt"}
        placeholders = prompt.get("mm_placeholders") or {}
        tokens = {kind: sum(one.length for one in ranges) for kind, ranges in placeholders.items() if ranges}
        ids = list(prompt["prompt_token_ids"])
        text = prompt.get("prompt") or self._renderer.get_tokenizer().decode(ids)
        return MediaPrompt(ids, str(text), MediaInput(features, tokens, _size(prompt.get("mm_kwargs"))))


def _most(limits: Mapping[str, int]) -> Mapping[Kind, int]:
    """How many of each kind a prompt may have, as vLLM's processor tells it."""
    shared = limits.get(CHUNK, 0)
    return {kind: limits.get(kind, 0 if kind == "audio" else shared) for kind in KINDS}


def _size(kwargs: Any) -> int:
    """The bytes of what a processor made of media."""
    from vllm.multimodal.cache.base import MultiModalCache

    return int(MultiModalCache.get_item_size(kwargs)) if kwargs else 0


def _as_vllm(message: Mapping[str, Any]) -> dict[str, Any]:
    """Copy a message, since vLLM writes into it, in its words."""
    copied = dict(message)
    if isinstance(content := copied.get("content"), list):
        copied["content"] = [dict(part) for part in content]
    if "tool_calls" in copied:
        copied["tool_calls"] = [{**call, "function": dict(call["function"])} for call in copied["tool_calls"]]
    if reasoning := copied.get("reasoning") or copied.get("reasoning_content"):
        copied["reasoning"] = reasoning
    return copied


@contextmanager
def _holding(items: Mapping[str, MediaItem]) -> Iterator[None]:
    """Have the connector give out `items`, whose keys nobody else knows, while they are rendered."""
    _held.update(items)
    try:
        yield
    finally:
        for key in items:
            _held.pop(key, None)


@cache
def _connector() -> Any:
    """Build the connector and register it; imported here because the import takes seconds."""
    from vllm.multimodal.media import MEDIA_CONNECTOR_REGISTRY, MediaConnector
    from vllm.multimodal.media.connector import global_thread_pool

    @MEDIA_CONNECTOR_REGISTRY.register(CONNECTOR)
    class HeldMediaConnector(MediaConnector):
        """Gives out what is held, and fetches nothing."""

        def load_from_url(self, url: str, media_io: Any, *, fetch_timeout: int | None = None) -> Any:  # noqa: ARG002
            """Decode what is held under `url`. Raises BadField."""
            return _decoded(_held[url], media_io)

        async def load_from_url_async(self, url: str, media_io: Any, *, fetch_timeout: int | None = None) -> Any:  # noqa: ARG002
            """See load_from_url; in a thread."""
            return await asyncio.get_running_loop().run_in_executor(
                global_thread_pool, self.load_from_url, url, media_io
            )

        async def fetch_image_embedding_async(self, data: str) -> Any:
            """Read the tensor that is held under `data`, in a thread. Raises BadField."""
            return await asyncio.get_running_loop().run_in_executor(global_thread_pool, _tensor, _held[data])

        fetch_audio_embedding_async = fetch_image_embedding_async
        fetch_video_embedding_async = fetch_image_embedding_async

    return HeldMediaConnector


def _decoded(item: MediaItem, media_io: Any) -> Any:
    """Decode an item by vLLM's decoder for it, after a look at how large it becomes. Raises BadField."""
    decode_kind = {"image": _image, "audio": _audio, "video": _video}[item.kind]
    return _readable(item, partial(decode_kind, item, media_io))


def _look(items: Iterable[MediaItem]) -> None:
    """Look how large all images become before any is decoded: what is being decoded is not stopped. Raises BadField."""
    for item in items:
        if item.kind == "image" and not item.is_tensor:
            _readable(item, partial(_look_at_image, item))


def _readable(item: MediaItem, read: Callable[[], Any]) -> Any:
    """Return what `read` makes of an item's bytes. Raises BadField."""
    try:
        return read()
    except Error:
        raise
    except ImportError as error:
        raise _unreadable(item, f"cannot be decoded here: {one_line(str(error), 120)}") from error
    except Exception as error:  # decoders raise whatever the bytes make them raise
        raise _unreadable(item, f"cannot be decoded: {one_line(str(error), 160)}") from error


def _tensor(item: MediaItem) -> Any:
    """Read embeddings, which run no code and become no larger than their file. Raises BadField."""
    import numpy as np
    import torch

    try:
        if item.data.startswith(formats.NUMPY):
            found = torch.from_numpy(np.load(BytesIO(item.data), allow_pickle=False))
        else:
            found = torch.load(BytesIO(item.data), map_location="cpu", weights_only=True)
    except Exception as error:  # libraries raise whatever the bytes make them raise
        raise _unreadable(item, f"cannot be read as a tensor: {type(error).__name__}") from error
    if not isinstance(found, torch.Tensor) or found.layout is not torch.strided:
        raise _unreadable(item, "must be one tensor, and not a sparse one")
    size = found.numel() * found.element_size()
    if size > len(item.data):  # a view that repeats what is stored
        raise _unreadable(item, f"must store all of its numbers: it would become {size} bytes")
    _count(item, size)
    return found


def _unreadable(item: MediaItem, why: str) -> BadField:
    return BadField([Problem(item.path, f"{item.path} {why}")])


def _look_at_image(item: MediaItem) -> None:
    from PIL import Image

    most, name = item.limits.pixels, "option.max_image_pixels"
    try:
        with Image.open(BytesIO(item.data)) as image:
            _check_pixels(item, image.size, most, name)
            _count(item, image.width * image.height * PIXEL_BYTES)
    except Image.DecompressionBombError:  # so many that the library itself does not open it
        raise _unreadable(item, f"must have at most {most} pixels, got far more ({name})") from None


def _image(item: MediaItem, media_io: Any) -> Any:
    return media_io.load_bytes(item.data)


def _check_pixels(item: MediaItem, size: tuple[int, int], most: int, name: str) -> None:
    width, height = size
    if width * height > most:
        raise _unreadable(item, f"must have at most {most} pixels, got {width} × {height} ({name})")


def _count(item: MediaItem, size: int) -> None:
    if not item.room.take(size):
        most = item.limits.decoded_bytes
        raise _unreadable(item, f"and all other media become more than {most} bytes (option.{DECODED_KEY})")


def _audio(item: MediaItem, _media_io: Any) -> Any:
    """Samples at the rate of the file: the processor makes the model's own of these."""
    limits = item.limits
    bounds = decode.Bounds(
        field=item.path,
        seconds=limits.seconds,
        decode_s=limits.decode_s,
        seconds_key="max_media_seconds",
        decode_key="media_decode_seconds",
        count=partial(_count, item),
    )
    return decode.sound(item.data, bounds)


def _video(item: MediaItem, media_io: Any) -> Any:
    import cv2
    from vllm.multimodal.video_decoders.opencv import OpenCVVideoBackendMixin

    video = OpenCVVideoBackendMixin.open_video_capture(item.data)  # OpenCV 5.0 crashes where that is released
    size = int(video.get(cv2.CAP_PROP_FRAME_WIDTH)), int(video.get(cv2.CAP_PROP_FRAME_HEIGHT))
    rate, frames = video.get(cv2.CAP_PROP_FPS), video.get(cv2.CAP_PROP_FRAME_COUNT)
    _check_pixels(item, size, item.limits.frame_pixels, "option.max_video_pixels")
    if not (rate > 0 and frames > 0):  # a container may leave out either, and say anything
        raise _unreadable(item, "cannot be decoded: it does not tell its frames and how many there are in a second")
    if frames > item.limits.seconds * rate:
        text = f"must last at most {item.limits.seconds:g} s, got {frames:g} frames at {rate:g} per s"
        raise _unreadable(item, f"{text} (option.max_media_seconds)")
    if frames > item.limits.frames:
        text = f"must have at most {item.limits.frames} frames, got {frames:g} (option.max_video_frames)"
        raise _unreadable(item, text)
    _count(item, size[0] * size[1] * FRAME_PIXEL_BYTES * _frames_taken(media_io, int(frames), rate))
    return media_io.load_bytes(item.data)


def _frames_taken(media_io: Any, frames: int, rate: float) -> int:
    """How many frames vLLM keeps of a video: so many of any, or of loaders that models have, so many of a second."""
    from vllm.multimodal.video import VideoBackend

    if type(media_io.video_loader) is not VideoBackend:
        return min(frames, math.ceil(frames / rate * float(media_io.kwargs.get("fps", FRAMES_A_SECOND))))
    most = int(media_io.num_frames)
    return min(frames, most) if most > 0 else frames
