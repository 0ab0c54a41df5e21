"""Serve a scripted engine, or a model directory around one, as an ASGI application in the test's own event loop."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from lmi_chat.chat_template import Template
from lmi_chat.dialects import Deployment
from lmi_chat.dialects.formatters import Formatters
from lmi_chat.djl import custom_handler, formatters, handler
from lmi_chat.engine import Engine
from lmi_chat.http import app
from lmi_chat.http import custom_handler as site
from lmi_chat.http.state import AppState
from lmi_chat.observability.startup import StartupProgress
from lmi_chat.pipeline.pipeline import Pipeline, PipelineConfig
from lmi_chat.testing.engine import ScriptedEngine
from lmi_chat.testing.tokenizer import TURNS, VOCABULARY_TOKENS, ByteTokenizer

Application = Callable[[Any, Any, Any], Awaitable[None]]
BODY_BYTES = 2**20


@cache
def _template(chat_template: str | None) -> Template:
    """Build a template once: it keeps nothing of what it renders, and is tried in a thread of its own first."""
    return Template(ByteTokenizer(chat_template))


def deployment(*, chat_template: str | None = TURNS, **changes: Any) -> Deployment:
    """Build the deployment that dialects see around ScriptedEngine: "tiny" (also "lmi"), 1,024 tokens of context."""
    values: dict[str, Any] = {
        "model": "tiny",
        "names": frozenset({"tiny", "lmi"}),
        "aliases": ("lmi",),
        "template": _template(chat_template),
        "context_tokens": 1024,
        "vocabulary_tokens": VOCABULARY_TOKENS,
    }
    return Deployment(**values | changes)


async def application(engine: ScriptedEngine, config: PipelineConfig | None = None, **changes: Any) -> Application:
    """Build all routes of a ready server on `engine`; `changes` are the deployment's."""
    return _routes(await _opened(engine, config or PipelineConfig(), **changes))


@contextlib.asynccontextmanager
async def model_directory(
    folder: str | Path,
    engine: ScriptedEngine,
    properties: Mapping[str, str] | None = None,
    *,
    deadline_s: float = 480.0,
) -> AsyncIterator[Application]:
    """Build a model directory's server as `djl-serving` does: by its model.py's formatters, or by its `handle`.

    `engine` answers, and so it does where a handler calls `lmi_chat.djl.handle`. `properties` are given to a handler
    of its own when it is loaded, which may take `deadline_s` seconds for one answer.
    The folder is the current one meanwhile.
    Raises BadDirectory.
    """
    with contextlib.chdir(folder):
        module, found = _load(Path())
        async with _directory(
            module, found, engine, {**(properties or {}), "model_dir": str(Path.cwd())}, deadline_s
        ) as app:
            yield app


@contextlib.asynccontextmanager
async def _directory(
    module: ModuleType | None,
    found: Formatters,
    engine: ScriptedEngine,
    properties: Mapping[str, str],
    deadline_s: float,
) -> AsyncIterator[Application]:
    config = PipelineConfig(formatters=found)
    if module is None or getattr(module, custom_handler.HANDLE, handler.handle) is handler.handle:
        yield await application(engine, config)
        return
    with handler.answered_by(await _opened(engine, config)):
        foreign = custom_handler.Foreign(module, properties, deadline_s)
        await foreign.load()
        place = site.Site(health=StartupProgress(), max_body_bytes=BODY_BYTES, handler=foreign, refusal=None)
        yield site.build(place)


def _load(folder: Path) -> tuple[ModuleType | None, Formatters]:
    folder = folder.resolve()
    found = replace(formatters.of_folder(folder), load=formatters.of_adapter)
    has_entry = (folder / formatters.ENTRY).is_file()
    return (custom_handler.load(folder, formatters.ENTRY) if has_entry else None), found


async def _opened(engine: Engine, config: PipelineConfig, **changes: Any) -> Pipeline:
    pipeline = Pipeline(config)
    model = engine.model
    given = {
        "pooler": model.pooler,
        "speech": model.speech,
        "pairs": model.pairs(None) if model.pairs else None,
    } | changes
    await pipeline.open(engine, deployment(limits=config.limits, **given))
    return pipeline


def _routes(pipeline: Pipeline) -> Application:
    return app.build(AppState(pipeline=pipeline, health=StartupProgress(), max_body_bytes=BODY_BYTES))
