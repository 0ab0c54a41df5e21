"""Build the application around a pipeline: its routes, and the words of its errors."""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lmi_chat import dialects
from lmi_chat.codec import json_text
from lmi_chat.errors import BadMethod, Error, ModelNotFound, NotFound
from lmi_chat.http import access, admin, errors, openapi, ping, sagemaker, stored_completions, tgi
from lmi_chat.http.answers import Models, ServedModelCard
from lmi_chat.http.endpoint import InferenceEndpoint
from lmi_chat.http.state import AppState, RequestContext
from lmi_chat.text import echo

POLLED = {
    "/metrics",
    "/server/metrics",
    "/execution-parameters",
    "/v1/models",
    "/v1/models/{model:path}",
    "/openapi.json",
}


def _json(value: object) -> Response:
    return Response(json_text.dump(value), media_type="application/json")


def _shape_of(state: AppState) -> errors.ShapeOf:
    def shape_of(request: Request, error: Error) -> errors.Refusal:
        """An Error in the words of the route, and of the request's dialect as far as that is known."""
        exchange: RequestContext | None = request.scope.get("lmi_chat.exchange")
        headers = {key.decode(): value.decode() for key, value in exchange.headers} if exchange else {}
        dialect = (exchange.request.dialect or exchange.request.forced or "") if exchange else ""
        body_of = partial(dialects.error_body, dialect=dialect, is_tgi=state.is_tgi)
        if request.url.path.startswith(sagemaker.PREFIX):
            status, kind, body = sagemaker.refusal(error, body_of, is_models=exchange is not None)
            return status, headers | {"x-amzn-errortype": kind}, body
        return error.status, headers, body_of(error)

    return shape_of


def _route_error(request: Request, error: HTTPException) -> Error:
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
    guarded = [
        Route("/invocations", lines, methods=post),  # the router asks one after the other: nearly all go to these two
        Route("/v1/chat/completions", chat, methods=post),
        Route("/predictions/{model}", lines, methods=post),
        Route("/models/{model}/invoke", lines, methods=post),
        Route("/v1/completions", completion, methods=post),
        Route("/v1/embeddings", embedding, methods=post),
        *sagemaker.routes(state),
        *stored_completions.routes(state.store),
        Route("/v1/models", _models(state), methods=["GET"]),
        Route("/v1/models/{model:path}", _models(state), methods=["GET"]),
        *admin.routes(state),
        *(tgi.routes(state) if state.is_tgi else ()),
        Route("/openapi.json", _openapi(state), methods=["GET"]),
    ]
    log = state.pipeline.request_log
    routes = [*access.guard(guarded, state.api_keys, log, _is_recorded), *ping.routes(state.pipeline, state.health)]
    return errors.application(routes, _shape_of(state), _route_error)


def _is_recorded(route: Route) -> bool:
    """Whether a route's requests are recorded by their heads: an inference has a record, what is polled needs none."""
    return not isinstance(route.endpoint, InferenceEndpoint) and route.path not in POLLED


def _models(state: AppState) -> Callable[[Request], Any]:
    created = int(time.time())

    async def answer(request: Request) -> Response:
        """OpenAI's list of models, one for each name of the served one, or one of them."""
        if state.pipeline.refusal:
            raise state.pipeline.refusal
        deployment = state.pipeline.deployment
        shown: dict[str, ServedModelCard] = {
            name: {
                "id": name,
                "object": "model",
                "created": created,
                "owned_by": "lmi-chat",
                "root": deployment.model,
                "max_model_len": deployment.context_tokens,
            }
            for name in (deployment.model, *deployment.aliases)
        }
        asked = request.path_params.get("model")
        if asked is None:
            models: Models = {"object": "list", "data": [*shown.values()]}
            return _json(models)
        if asked not in shown:
            raise ModelNotFound(f"model {echo(asked)} is not served here; {deployment.model} is", param="model")
        return _json(shown[asked])

    return answer


def _openapi(state: AppState) -> Callable[[Request], Any]:
    built: list[bytes] = []

    async def answer(_: Request) -> Response:
        """What this server takes and gives, with the model's bounds, as an OpenAPI document. Raises Loading."""
        deployment = state.pipeline.deployment
        if not built:
            make = partial(
                openapi.document,
                deployment,
                has_sessions=state.pipeline.has_sessions,
                has_async=state.async_requests is not None,
                has_keys=state.api_keys is not None,
                has_rates=state.pipeline.has_rates,
            )
            built.append(json_text.dump(await asyncio.to_thread(make)))
        return Response(built[0], media_type="application/json")

    return answer
