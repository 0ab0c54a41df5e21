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
from lmi_chat.console.recorder import API
from lmi_chat.errors import BadMethod, Error, ModelNotFound, NotFound
from lmi_chat.http import (
    about,
    access,
    admin,
    bidirectional,
    console,
    errors,
    models,
    openapi,
    ping,
    sagemaker,
    stored_completions,
    stored_responses,
    tgi,
)
from lmi_chat.http.answers import Models, ServedModelCard
from lmi_chat.http.endpoint import InferenceEndpoint
from lmi_chat.http.request_metrics import counted
from lmi_chat.http.routes import ROUTES
from lmi_chat.http.state import AppState, RequestContext
from lmi_chat.text import echo

POLLED = {
    "/metrics",
    "/server/metrics",
    "/execution-parameters",
    *(prefix + path for prefix in ("", *sagemaker.OPENAI) for path in ("/v1/models", "/v1/models/{model:path}")),
    "/version",
    "/load",
    "/kv_event_sources",
    "/openapi.json",
}


def _json(value: object) -> Response:
    return Response(json_text.dump(value), media_type="application/json")


def _shape_of(state: AppState) -> errors.ShapeOf:
    def shape_of(request: Request, error: Error) -> errors.Refusal:
        """An Error in the words of the route, and of the request's dialect as far as that is known."""
        exchange: RequestContext | None = request.scope.get("lmi_chat.exchange")
        headers = {key.decode(): value.decode() for key, value in exchange.headers} if exchange else {}
        request_id = exchange.request.id if exchange else ""
        if exchange is not None:
            dialect = exchange.request.dialect or exchange.request.forced or ""
        else:  # refused before it was anybody's, for want of a key
            found = sagemaker.IS_OPENAI.match(request.url.path)
            route = ROUTES.get(request.url.path[found.end() - 1 :] if found else request.url.path)
            dialect = (route and route.forced) or ""
        body_of = partial(dialects.error_body, dialect=dialect, is_tgi=state.is_tgi, request_id=request_id)
        path = request.url.path
        if path.startswith(sagemaker.PREFIX) and not sagemaker.IS_OPENAI.match(path):
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
    by_any = InferenceEndpoint(state)
    guarded = [
        *(Route(path, InferenceEndpoint(state, route), methods=post) for path, route in ROUTES.items()),
        Route("/predictions/{model:path}", by_any, methods=post),
        Route("/models/{model:path}/invoke", by_any, methods=post),
        *sagemaker.routes(state),
        *sagemaker.openai_routes(state),
        *stored_completions.routes(state.store),
        *stored_responses.routes(state.store),
        *_models_routes(state),
        *about.routes(state),
        *admin.routes(state),
        *console.routes(state),
        *models.routes(state),
        *(tgi.routes(state) if state.is_tgi else ()),
        Route("/openapi.json", _openapi(state), methods=["GET"]),
    ]
    log = state.pipeline.request_log
    guarded = counted(access.guard(guarded, state.api_keys, log, _is_recorded))
    open_routes = [*ping.routes(state.pipeline, state.health), *console.pages(state)]
    routes = [*guarded, *open_routes, *bidirectional.sockets(state)]
    return errors.application(routes, _shape_of(state), _route_error, state.cross_origin)


def _models_routes(state: AppState) -> list[Route]:
    answer, paths = _models(state), ("/v1/models", "/v1/models/{model:path}")
    return [Route(prefix + path, answer, methods=["GET"]) for prefix in ("", *sagemaker.OPENAI) for path in paths]


def _is_recorded(route: Route) -> bool:
    """Whether a route's requests are recorded by their heads: an inference has a record, what is polled needs none."""
    return (
        not isinstance(route.endpoint, InferenceEndpoint)
        and route.path not in POLLED
        and not route.path.startswith(API)
    )


def _models(state: AppState) -> Callable[[Request], Any]:
    created = int(time.time())

    async def answer(request: Request) -> Response:
        """OpenAI's list of models, one for each name of the served one, or one of them."""
        if state.pipeline.refusal:
            raise state.pipeline.refusal
        deployment = state.pipeline.deployment
        shown = _cards(state, created)
        asked = request.path_params.get("model")
        if asked is None:
            listed: Models = {"object": "list", "data": [*shown.values()]}
            return _json(listed)
        if asked not in shown:
            raise ModelNotFound(f"model {echo(asked)} is not served here; {deployment.model} is", param="model")
        return _json(shown[asked])

    return answer


def _cards(state: AppState, created: int) -> dict[str, ServedModelCard]:
    """The served model by its names, and each adapter, by what they are called in requests."""
    deployment = state.pipeline.deployment
    same = {
        "object": "model",
        "created": created,
        "owned_by": "lmi-chat",
        "max_model_len": deployment.context_tokens,
    }
    names = (deployment.model, *deployment.aliases)
    shown: dict[str, Any] = {name: {"id": name, "root": deployment.model, **same} for name in names}
    if deployment.knows_adapter is not None:
        for entry in state.pipeline.adapters.entries():
            card = {"id": entry.name, "root": entry.src, "parent": deployment.model, **same}
            shown.setdefault(entry.name, card)
    return shown


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
                has_console=state.console is not None,
            )
            built.append(json_text.dump(await asyncio.to_thread(make)))
        return Response(built[0], media_type="application/json")

    return answer
