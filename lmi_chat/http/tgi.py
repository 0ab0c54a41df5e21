"""Serve TGI's own paths, where a deployment has TGI's clients: `POST /`, `/generate`, `/generate_stream`, `GET /info`.

Shapes: text-generation-inference, router/src/server.rs; the clients are text_generation and huggingface_hub.
"""

from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lmi_chat import __version__
from lmi_chat.codec import json_text
from lmi_chat.dialects.deployment import Deployment
from lmi_chat.http.answers import Info, PipelineTag
from lmi_chat.http.endpoint import InferenceEndpoint
from lmi_chat.http.routes import TGI_ROUTES
from lmi_chat.http.state import AppState
from lmi_chat.job import PoolingTask

TAGS: Mapping[PoolingTask, PipelineTag] = {
    "embed": "feature-extraction",
    "token_embed": "feature-extraction",
    "classify": "text-classification",
    "token_classify": "token-classification",
}


def routes(state: AppState) -> list[Route]:
    """List the routes."""
    return [
        *(Route(path, InferenceEndpoint(state, route), methods=["POST"]) for path, route in TGI_ROUTES.items()),
        Route("/info", _info(state), methods=["GET"]),
    ]


def _kind(deployment: Deployment) -> PipelineTag:
    if deployment.speech is not None and deployment.speech.is_only:
        return "automatic-speech-recognition"
    return TAGS[deployment.pooler.task] if deployment.pooler else "text-generation"


def _info(state: AppState) -> Callable[[Request], Awaitable[Response]]:
    async def info(_: Request) -> Response:
        """The served model and its limits, by TGI's names. Raises the pipeline's refusal."""
        pipeline = state.pipeline
        if pipeline.refusal:
            raise pipeline.refusal
        deployment, limits = pipeline.deployment, pipeline.deployment.limits
        longest = min(limits.max_input_tokens or deployment.context_tokens, deployment.context_tokens - 1)
        shown: Info = {
            "model_id": deployment.model,
            "model_sha": None,
            "model_pipeline_tag": _kind(deployment),
            "max_concurrent_requests": pipeline.max_held,
            "max_best_of": limits.max_n,
            "max_stop_sequences": limits.max_stop,
            "max_input_length": longest,
            "max_input_tokens": longest,
            "max_total_tokens": deployment.context_tokens,
            "validation_workers": 1,
            "max_client_batch_size": limits.max_prompts,
            "router": "lmi-chat",
            "version": __version__,
            "sha": None,
            "docker_label": None,
        }
        return Response(json_text.dump(shown), media_type="application/json")

    return info
