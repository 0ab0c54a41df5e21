"""Serve the platform's and operators' routes: metrics, batch transform's parameters, adapters."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lmi_chat.codec import json_text
from lmi_chat.errors import AdaptersOff, BadField, ModelNotFound, NotFound, Problem
from lmi_chat.http.answers import ADAPTER_NAME, Adapters, ExecutionParameters
from lmi_chat.http.endpoint import read_body
from lmi_chat.http.state import AppState
from lmi_chat.observability import metrics
from lmi_chat.observability.loop_hold import LOOP_HOLD
from lmi_chat.text import echo

NAME = re.compile(ADAPTER_NAME)
KINDS: Mapping[str, str] = {"name": "a string", "src": "a string", "preload": "true or false", "pin": "true or false"}
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
    for prefix in ("/adapters", "/models/{model}/adapters"):
        table += [
            (prefix, "GET", _list),
            (prefix, "POST", _register),
            (prefix + "/{name}", "GET", _unknown),
            (prefix + "/{name}", "DELETE", _unknown),
            (prefix + "/{name}/update", "POST", _unknown),
        ]
    return [Route(path, _with(state, answer), methods=[method]) for path, method, answer in table]


def _with(state: AppState, answer: Answer) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        return await answer(state, request)

    return endpoint


def _json(value: object) -> Response:
    return Response(json_text.dump(value), media_type="application/json")


async def _metrics(state: AppState, _: Request) -> Response:
    """Print the engine's metrics and ours, in Prometheus' text format."""
    metrics.RUNNING.set(state.pipeline.active - state.pipeline.waiting)
    metrics.WAITING.set(state.pipeline.waiting)
    metrics.LOOP_HOLD.set(LOOP_HOLD.take())
    text = await asyncio.to_thread(generate_latest)  # some ten milliseconds
    return Response(text, media_type=CONTENT_TYPE_LATEST)


async def _parameters(state: AppState, _: Request) -> Response:
    """Answer batch transform's question before it begins: how many requests at once, and the largest body.

    Chat records are small, so that in SageMaker's product of both the payload gives way, down to 1 MB. One record a
    request: several would fill the payload, thousands of chats for one answer's time, and a request that fails is sent
    again with all of them; the engine is filled by requests at once. A job that says MultiRecord is served, too.
    """
    _check_open(state)
    most = state.pipeline.max_running
    payload_mb = max(1, min(state.max_body_bytes // 2**20, BATCH_MB // most))
    concurrent = min(most, BATCH_MB // payload_mb)
    answer: ExecutionParameters = {
        "MaxConcurrentTransforms": concurrent,
        "BatchStrategy": "SINGLE_RECORD",
        "MaxPayloadInMB": payload_mb,
    }
    return _json(answer)


def _check_open(state: AppState, model: str | None = None) -> None:
    if state.pipeline.refusal:
        raise state.pipeline.refusal
    if model is not None and model not in state.pipeline.deployment.names:
        raise ModelNotFound(
            f"model {echo(model)} is not served here; {state.pipeline.deployment.model} is", param="model"
        )


async def _list(state: AppState, request: Request) -> Response:
    """GET …/adapters: all of them."""
    _check_open(state, request.path_params.get("model"))
    answer: Adapters = {"adapters": []}
    return _json(answer)


async def _register(state: AppState, request: Request) -> Response:
    """POST …/adapters with name, src, preload and pin, in the body or (as LMI has it) in the query."""
    _check_open(state, request.path_params.get("model"))
    body = await read_body(request.scope, request.receive, state.max_body_bytes)
    given = json_text.read(body) if body else {}
    problems: list[Problem] = []
    for name, text in request.query_params.items():
        value: object = {"true": True, "false": False}.get(text, text) if name in {"preload", "pin"} else text
        if given.setdefault(name, value) != value:
            problems.append(Problem(name, f"{name} stands in the body and in the query with different values"))
    problems += [
        Problem(name, f"{name} must be {kind}, got {echo(given[name])}")
        for name, kind in KINDS.items()
        if given.get(name) is not None and not isinstance(given[name], str if kind == "a string" else bool)
    ]
    if isinstance(given.get("name", ""), str) and not NAME.fullmatch(given.get("name", "")):
        text = f"name must be 1 to 64 letters, digits, dots, hyphens or underscores, got {echo(given.get('name'))}"
        problems.append(Problem("name", text))
    if not given.get("src"):
        problems.append(Problem("src", "src must be given: where the adapter's files are"))
    if problems:
        raise BadField(problems)
    raise AdaptersOff("LoRA is off: this deployment loads no adapters")


async def _unknown(state: AppState, request: Request) -> Response:
    """GET and DELETE …/adapters/{name}, POST …/{name}/update: none is loaded."""
    _check_open(state, request.path_params.get("model"))
    raise NotFound(f"adapter {echo(request.path_params['name'])} is not loaded here", param="name")
