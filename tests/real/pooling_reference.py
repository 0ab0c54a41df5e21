"""Answer requests twice on one engine: by our server, and by vLLM's own serving classes. A program of its own.

Arguments: a file of settings, one of requests (path and body each), one for the answers (status and body of ours, body
of vLLM's or the sentence of its refusal).
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import httpx
from pydantic import TypeAdapter

from lmi_chat.config import settings
from lmi_chat.engine.vllm import arguments
from lmi_chat.http import app
from lmi_chat.http.state import AppState
from lmi_chat.observability.startup import StartupProgress
from lmi_chat.pipeline.pipeline import Pipeline
from lmi_chat.server import bootstrap


async def serving_of(engine: Any, template: str | None) -> dict[str, tuple[Any, Any]]:
    """vLLM's own classes by path: what serves a request, and the request's type."""
    from vllm.entrypoints.openai.models.protocol import BaseModelPath
    from vllm.entrypoints.openai.models.serving import OpenAIServingModels
    from vllm.entrypoints.pooling.classify.protocol import ClassificationRequest
    from vllm.entrypoints.pooling.classify.serving import ServingClassification
    from vllm.entrypoints.pooling.pooling.protocol import PoolingRequest
    from vllm.entrypoints.pooling.pooling.serving import ServingPooling
    from vllm.entrypoints.pooling.scoring.protocol import RerankRequest, ScoreRequest
    from vllm.entrypoints.pooling.scoring.serving import ServingScores
    from vllm.entrypoints.pooling.utils import enable_scoring_api
    from vllm.renderers.chat_utils import ChatTemplateConfig

    tasks = await engine.get_supported_tasks()
    models = OpenAIServingModels(engine, [BaseModelPath(name="small", model_path="small")], lora_modules=None)
    given = {"request_logger": None, "chat_template_config": ChatTemplateConfig(chat_template=template)}
    found: dict[str, tuple[Any, Any]] = {
        "/pooling": (ServingPooling(engine, models, supported_tasks=tasks, **given), PoolingRequest)
    }
    if "classify" in tasks:
        found["/classify"] = ServingClassification(engine, models, **given), ClassificationRequest
    if enable_scoring_api(tasks, engine.model_config):
        scores = ServingScores(engine, models, supported_tasks=tasks, **given)
        found |= {"/score": (scores, ScoreRequest), "/rerank": (scores, RerankRequest)}
    return found


async def theirs(serving: dict[str, tuple[Any, Any]], path: str, body: Any) -> Any:
    """vLLM's answer; None where it has no such path, a sentence where it refuses."""
    if path not in serving:
        return None
    from vllm.exceptions import VLLMClientError

    serve, kind = serving[path]
    try:
        return json.loads((await serve(TypeAdapter(kind).validate_python(body))).body)
    except (ValueError, VLLMClientError) as error:
        return str(error)


async def answered(given: dict[str, str], asked: list[tuple[str, Any]]) -> list[tuple[int, Any, Any]]:
    """Start the engine, ask, stop; gives the answers."""
    chosen = settings.read(given, {}, None, arguments.kinds(), arguments.defaults())
    pipeline = Pipeline(bootstrap.pipeline_config(chosen))
    engine: Any = await bootstrap.load(chosen, pipeline, lambda _: None)
    site = app.build(AppState(pipeline=pipeline, health=StartupProgress(), max_body_bytes=2**24))
    answers = []
    try:
        serving = await serving_of(engine._engine, given.get("chat_template"))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=site), base_url="http://a") as client:
            for path, body in asked:
                mine = await client.post(path, json=body)
                answers.append((mine.status_code, mine.json(), await theirs(serving, path, body)))
    finally:
        await engine.stop()
    return answers


if __name__ == "__main__":
    given, asked, told = map(Path, sys.argv[1:])
    told.write_text(json.dumps(asyncio.run(answered(json.loads(given.read_text()), json.loads(asked.read_text())))))
