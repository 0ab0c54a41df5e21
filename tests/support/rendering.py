"""Set up vLLM's renderer of a small model without its engine."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lmi_chat.engine.vllm import media
from lmi_chat.limits import MediaLimits
from lmi_chat.media import Fetcher, Media, MediaAccess


@contextlib.contextmanager
def rendering(folder: Path, **arguments: Any) -> Iterator[Any]:
    """What of an AsyncLLM renders."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.renderers import renderer_from_config

    media.install()
    args = EngineArgs(model=str(folder), dtype="float32", max_model_len=512, **arguments)
    config = args.create_engine_config()
    renderer = renderer_from_config(config)
    yield SimpleNamespace(renderer=renderer, model_config=config.model_config)
    renderer.shutdown()


def media_of(engine: Any, **limits: Any) -> Media:
    """What takes a request's media into prompts of `engine`'s model."""
    renderer = media.of(engine)
    assert renderer is not None
    return Media(renderer, Fetcher(MediaAccess(), MediaLimits(**limits)))
