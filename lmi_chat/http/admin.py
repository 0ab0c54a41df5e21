"""Serve the platform's and operators' routes: metrics, batch transform's parameters, adapters."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lmi_chat.adapters import changes
from lmi_chat.adapters.changes import AdapterChange
from lmi_chat.adapters.registry import AdapterEntry, AdapterRegistry
from lmi_chat.codec import json_text
from lmi_chat.errors import BadField, ModelNotFound, Problem
from lmi_chat.http.answers import Adapters, AdapterStatus, ExecutionParameters, LoadedAdapter
from lmi_chat.http.endpoint import read_body
from lmi_chat.http.state import AppState
from lmi_chat.observability import exposition, metrics
from lmi_chat.observability.loop_hold import LOOP_HOLD
from lmi_chat.text import echo

ALIAS = "X-Amzn-SageMaker-Adapter-Alias"
PAGE, PAGE_MOST = 100, 1000
NEXT = ":"
"""What the token of a page begins with, before a name; LMI's are numbers, of which FIRST is the first page's."""
FIRST = ("", "0")
WHOLE = re.compile(r"[1-9][0-9]{0,8}")
BATCH_MB = 100
"""MaxConcurrentTransforms × MaxPayloadInMB may be at most this (SageMaker API reference, CreateTransformJob)."""
Answer = Callable[[AppState, Request], Awaitable[Response]]


def routes(state: AppState) -> list[Route]:
    """List the routes of metrics, parameters and adapters; adapters also below their model."""
    table: list[tuple[str, str, Answer]] = [
        ("/metrics", "GET", _metrics),
        ("/server/metrics", "GET", _metrics),
        ("/execution-parameters", "GET", _parameters),
    ]
    for prefix in ("/adapters", "/models/{model:path}/adapters"):
        table += [
            (prefix, "GET", _list),
            (prefix, "POST", _register),
            (prefix + "/{name}", "GET", _describe),
            (prefix + "/{name}", "DELETE", _remove),
            (prefix + "/{name}/update", "POST", _update),
        ]
    return [Route(path, _with(state, answer), methods=[method]) for path, method, answer in table]


def _with(state: AppState, answer: Answer) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        return await answer(state, request)

    return endpoint


def _json(value: object) -> Response:
    return Response(json_text.dump(value), media_type="application/json")


async def _metrics(state: AppState, request: Request) -> Response:
    """Print the engine's metrics and ours, in Prometheus' text format or as OpenMetrics."""
    metrics.RUNNING.set(state.pipeline.active - state.pipeline.waiting)
    metrics.WAITING.set(state.pipeline.waiting)
    metrics.LOOP_HOLD.set(LOOP_HOLD.take())
    metrics.ADAPTERS.set(state.pipeline.adapter_count)
    chosen = exposition.choose(request.headers.get("accept", ""))
    text = await asyncio.to_thread(chosen.write)  # some milliseconds; more where many adapters are counted
    return Response(text, media_type=chosen.content_type)


async def _parameters(state: AppState, _: Request) -> Response:
    """Answer batch transform's question before it begins: how many requests at once, and the largest body.

    Chat records are small, so that in SageMaker's product of both the payload gives way, down to 1 MB. One record a
    request: several would fill the payload, thousands of chats for one answer's time, and a request that fails is sent
    again with all of them; the engine is filled by requests at once. A job that says MultiRecord is served, too.
    """
    check_open(state)
    most = state.pipeline.max_running
    payload_mb = max(1, min(state.max_body_bytes // 2**20, BATCH_MB // most))
    concurrent = min(most, BATCH_MB // payload_mb)
    answer: ExecutionParameters = {
        "MaxConcurrentTransforms": concurrent,
        "BatchStrategy": "SINGLE_RECORD",
        "MaxPayloadInMB": payload_mb,
    }
    return _json(answer)


def check_open(state: AppState, model: str | None = None) -> None:
    """Raises what every request is refused with, or ModelNotFound where `model` is not the served one."""
    if state.pipeline.refusal:
        raise state.pipeline.refusal
    if model is not None and model not in state.pipeline.deployment.names:
        raise ModelNotFound(
            f"model {echo(model)} is not served here; {state.pipeline.deployment.model} is", param="model"
        )


def _registry(state: AppState) -> AdapterRegistry | None:
    """The adapters; None where LoRA is off."""
    return state.pipeline.adapters if state.pipeline.deployment.knows_adapter else None


def _on(state: AppState) -> AdapterRegistry:
    """The adapters. Raises AdaptersOff."""
    return state.pipeline.adapters


def _shown(entry: AdapterEntry) -> LoadedAdapter:
    return {"name": entry.name, "src": entry.src, "preload": entry.preload, "pin": entry.pin}


async def _list(state: AppState, request: Request) -> Response:
    """GET …/adapters: a page of them by name, and the token of the next."""
    check_open(state, request.path_params.get("model"))
    limit, after = page(request.query_params)
    registry = _registry(state)
    entries, last = registry.listed(limit, after) if registry else ((), "")
    answer: Adapters = {"adapters": [_shown(entry) for entry in entries]}
    if last:
        answer["nextPageToken"] = NEXT + last
    return _json(answer)


def page(query: Mapping[str, str]) -> tuple[int, str]:
    """The length of a page, at most PAGE_MOST, and the name that it begins after. Raises BadField."""
    problems = []
    limit, token = query.get("limit", str(PAGE)), query.get("next_page_token", "")
    if not WHOLE.fullmatch(limit):
        problems.append(Problem("limit", f"limit must be a whole number from 1, got {echo(limit)}"))
    if token not in FIRST and not token.startswith(NEXT):
        text = f"next_page_token must be an answer's nextPageToken, got {echo(token)}"
        problems.append(Problem("next_page_token", text))
    if problems:
        raise BadField(problems)
    return min(int(limit), PAGE_MOST), "" if token in FIRST else token.removeprefix(NEXT)


async def _register(state: AppState, request: Request) -> Response:
    """POST …/adapters with name, src, preload and pin, in the body or (as LMI has it) in the query."""
    change = await _change(state, request, is_new=True)
    return _done(await change.register(_on(state)))


async def _update(state: AppState, request: Request) -> Response:
    """POST …/adapters/{name}/update: the same but the name; what is not said stays as it is."""
    change = await _change(state, request, is_new=False)
    change.check_known(_registry(state))
    return _done(await change.update(_on(state)))


async def _remove(state: AppState, request: Request) -> Response:
    """DELETE …/adapters/{name}."""
    change = _named(state, request)
    return _done(await change.remove(_on(state)))


async def _describe(state: AppState, request: Request) -> Response:
    """GET …/adapters/{name}: an array of one, as LMI has it."""
    change = _named(state, request)
    answer: list[LoadedAdapter] = [_shown(_on(state).describe(change.name))]
    return _json(answer)


def _done(sentence: str) -> Response:
    answer: AdapterStatus = {"status": sentence}
    return _json(answer)


def _named(state: AppState, request: Request) -> AdapterChange:
    """The registered adapter of a path. Raises NotFound."""
    check_open(state, request.path_params.get("model"))
    change = AdapterChange(name=request.path_params["name"], alias=request.headers.get(ALIAS, ""))
    change.check_known(_registry(state))
    return change


async def _change(state: AppState, request: Request, *, is_new: bool) -> AdapterChange:
    """Read a change from body and query. Raises BadField where the two, or a key, say different things."""
    check_open(state, request.path_params.get("model"))
    body = await read_body(request.scope, request.receive, state.max_body_bytes)
    given = json_text.read(body) if body else {}
    more = [*request.query_params.multi_items(), *(() if is_new else (("name", request.path_params["name"]),))]
    problems = []
    for name, text in more:
        value = changes.WORDS.get(text.lower(), text) if name in changes.FLAGS else text
        if given.setdefault(name, value) not in (value, text):
            problems.append(Problem(name, f"{name} is given twice, with different values"))
    if problems:
        raise BadField(problems)
    return changes.read(given, alias=request.headers.get(ALIAS, ""), is_new=is_new)
