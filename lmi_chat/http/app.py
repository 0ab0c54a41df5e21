"""Build the HTTP application: its routes, and the one handler that turns an Error into a response."""

import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lmi_chat import dialects
from lmi_chat.codec import json_text
from lmi_chat.errors import BadMethod, Bug, Error, NotFound
from lmi_chat.http import admin, openapi, sagemaker, stored_completions
from lmi_chat.http.endpoint import InferenceEndpoint
from lmi_chat.http.state import AppState, RequestContext
from lmi_chat.text import echo


def _json(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(json_text.dump(value), status, headers, "application/json")


def _refusing(state: AppState) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def refuse(request: Request, error: Exception) -> Response:
        """The one place where an Error becomes a response."""
        exchange: RequestContext | None = request.scope.get("lmi_chat.exchange")
        headers = {key.decode(): value.decode() for key, value in exchange.headers} if exchange else {}
        if isinstance(error, HTTPException):
            headers |= error.headers or {}
            error = _of_route(request, error)
        if not isinstance(error, Error):
            error = Bug("internal error")
        if error.retry_after_s is not None:
            headers["Retry-After"] = str(error.retry_after_s)
        if error.status in {413, 415} or error.code == "draining":
            headers["Connection"] = "close"
        dialect = (exchange.call.dialect or exchange.call.forced or "") if exchange else ""
        body_of = partial(dialects.error_body, dialect=dialect, is_tgi=state.is_tgi)
        if request.url.path.startswith(sagemaker.PREFIX):
            status, kind, body = sagemaker.refusal(error, body_of, is_models=exchange is not None)
            return _json(body, status, headers | {"x-amzn-errortype": kind})
        return _json(body_of(error), error.status, headers)

    return refuse


def _of_route(request: Request, error: HTTPException) -> Error:
    path = echo(request.url.path)
    if error.status_code == BadMethod.status:
        return BadMethod(f"{request.method} is no method of {path}")
    return NotFound(f"there is no path {path} here")


def build(state: AppState) -> Starlette:
    """All routes of one server."""
    post = ["POST"]
    lines, chat = InferenceEndpoint(state, shape="lines"), InferenceEndpoint(state, shape="events", forced="chat")
    completion = InferenceEndpoint(state, shape="events", forced="completion")
    embedding = InferenceEndpoint(state, shape="lines", forced="embedding")
    routes = [
        Route("/ping", _ping(state), methods=["GET"]),
        Route("/invocations", lines, methods=post),
        Route("/predictions/{model}", lines, methods=post),
        Route("/models/{model}/invoke", lines, methods=post),
        Route("/v1/chat/completions", chat, methods=post),
        Route("/v1/completions", completion, methods=post),
        Route("/v1/embeddings", embedding, methods=post),
        *sagemaker.routes(state),
        *stored_completions.routes(state.store),
        Route("/v1/models", _models(state), methods=["GET"]),
        Route("/v1/models/{model:path}", _models(state), methods=["GET"]),
        *admin.routes(state),
        Route("/openapi.json", _openapi(state), methods=["GET"]),
    ]
    handlers: dict[Any, Any] = dict.fromkeys((Error, HTTPException, Exception), _refusing(state))
    return Starlette(routes=routes, exception_handlers=handlers)


def _ping(state: AppState) -> Callable[[Request], Any]:
    async def ping(_: Request) -> Response:
        """SageMaker's health check: 200 when requests are taken, else 503 with what the server is doing."""
        refusal = state.line.refusal
        if refusal is None and (seconds := state.line.stalled_s):
            return _json({"status": "stalled", "active": state.line.active, "seconds": round(seconds, 1)}, 503)
        if refusal is None:
            return _json({"status": "ready", "active": state.line.active})
        if refusal.code == "loading":
            return _json({"status": "loading"} | state.health.report(), 503)
        return _json({"status": refusal.code, "active": state.line.active}, 503)

    return ping


def _models(state: AppState) -> Callable[[Request], Any]:
    created = int(time.time())

    async def models(request: Request) -> Response:
        """OpenAI's list of models, or one of them."""
        if state.line.refusal:
            raise state.line.refusal
        deployment = state.line.deployment
        shown = {
            "id": deployment.model,
            "object": "model",
            "created": created,
            "owned_by": "lmi-chat",
            "max_model_len": deployment.context_tokens,
        }
        name = request.path_params.get("model")
        if name is None:
            return _json({"object": "list", "data": [shown]})
        if name not in deployment.names:
            raise NotFound(f"model {echo(name)} is not served here; {deployment.model} is", param="model")
        return _json(shown)

    return models


def _openapi(state: AppState) -> Callable[[Request], Any]:
    async def shown(_: Request) -> Response:
        """What this server takes and gives, with the model's bounds, as an OpenAPI document. Raises Loading."""
        line, has_async = state.line, state.spool is not None
        return _json(openapi.document(line.deployment, has_sessions=line.has_sessions, has_async=has_async))

    return shown
