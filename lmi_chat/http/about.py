"""Tell the engine's version, load, tokenizer and sources of cache events, in the shapes of vLLM's servers."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lmi_chat import __version__
from lmi_chat.codec import json_text
from lmi_chat.errors import NotFound
from lmi_chat.http.answers import KvEventSource, Load, Version
from lmi_chat.http.state import AppState
from lmi_chat.pipeline.pipeline import Pipeline

FILES = ("vocab_file", "merges_file", "tokenizer_file", "special_tokens_map_file", "name_or_path")
"""Of a tokenizer's configuration, paths of this machine."""
MOST = 2**53


def routes(state: AppState) -> list[Route]:
    """List the routes: `/version`, `/load`, `/kv_event_sources` and `/tokenizer_info`."""
    shown = {
        "/version": _version,
        "/load": _load,
        "/kv_event_sources": _kv_event_sources,
        "/tokenizer_info": _tokenizer if state.shows_tokenizer else _no_tokenizer,
    }
    return [Route(path, _answer(state.pipeline, told), methods=["GET"]) for path, told in shown.items()]


def _answer(
    pipeline: Pipeline, told: Callable[[Pipeline], Mapping[str, Any]]
) -> Callable[[Request], Awaitable[Response]]:
    async def answer(_: Request) -> Response:
        return Response(json_text.dump(told(pipeline)), media_type="application/json")

    return answer


def _version(pipeline: Pipeline) -> Version:
    return {"version": pipeline.deployment.engine_version, "lmi_chat": __version__}


def _load(pipeline: Pipeline) -> Load:
    return {"server_load": pipeline.active}


def _kv_event_sources(pipeline: Pipeline) -> Mapping[str, KvEventSource]:
    """Where each data-parallel rank tells what its cache of prompts gains and loses. Raises Loading."""
    return pipeline.kv_event_sources()  # type: ignore[return-value]


def _no_tokenizer(_: Pipeline) -> Mapping[str, Any]:
    raise NotFound("/tokenizer_info is off; option.enable_tokenizer_info_endpoint=true serves it")


def _tokenizer(pipeline: Pipeline) -> Mapping[str, Any]:
    """The tokenizer's configuration without paths of this machine. Raises Loading."""
    tokenizer: Any = pipeline.deployment.template.tokenizer
    given = getattr(tokenizer, "init_kwargs", None) or {}
    shown = {name: _plain(value) for name, value in given.items() if name not in FILES}
    template = getattr(tokenizer, "chat_template", None)
    return shown | {"tokenizer_class": type(tokenizer).__name__} | ({"chat_template": template} if template else {})


def _plain(value: object) -> object:
    """A value as JSON has it: an added token is its text, and what JSON has no word for is left out as null."""
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    content = getattr(value, "content", value)
    if isinstance(content, int) and abs(content) > MOST:
        return float(content)  # as model_max_length often is: without an end
    return content if isinstance(content, str | int | float) else None
