"""Run `lmi-chat serve` with vLLM's own speech server beside it, on the same engine: `python -m` this, then its words.

`POST /reference/{task}` takes a JSON object, `audio` (a WAV file in base64) and vLLM's fields; it answers as vLLM does.
"""

import base64
import sys
from typing import Any
from unittest.mock import patch

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lmi_chat.audio import wav
from lmi_chat.cli import main
from lmi_chat.http import app
from lmi_chat.http.state import AppState

BUILD = app.build


def build(state: AppState) -> Starlette:
    """All routes, and the reference's."""
    built = BUILD(state)
    built.router.routes.append(Route("/reference/{task}", _reference(state), methods=["POST"]))
    return built


def _reference(state: AppState) -> Any:
    async def answer(request: Request) -> Response:
        given = orjson.loads(await request.body())
        audio, is_translation = base64.b64decode(given.pop("audio")), request.path_params["task"] == "translate"
        return Response(await _asked(state.pipeline._engine, audio, given, is_translation=is_translation))

    return answer


async def _asked(engine: Any, audio: bytes, fields: dict[str, Any], *, is_translation: bool) -> bytes:
    from vllm.entrypoints.openai.models.protocol import BaseModelPath
    from vllm.entrypoints.openai.models.serving import OpenAIServingModels
    from vllm.entrypoints.speech_to_text.base import serving
    from vllm.entrypoints.speech_to_text.transcription.protocol import TranscriptionRequest
    from vllm.entrypoints.speech_to_text.transcription.serving import OpenAIServingTranscription
    from vllm.entrypoints.speech_to_text.translation.protocol import TranslationRequest
    from vllm.entrypoints.speech_to_text.translation.serving import OpenAIServingTranslation

    client = engine._engine
    models = OpenAIServingModels(client, [BaseModelPath(name=engine.model.name, model_path=engine.model.name)])
    with patch.object(serving, "load_audio", lambda *_, **__: wav.read(audio, 600)):
        if is_translation:
            translation = OpenAIServingTranslation(client, models, request_logger=None)
            asked = TranslationRequest.model_construct(file=None, **fields)
            answer = await translation.create_translation(audio, asked, None)
        else:
            transcription = OpenAIServingTranscription(client, models, request_logger=None)
            asked = TranscriptionRequest.model_construct(file=None, **fields)
            answer = await transcription.create_transcription(audio, asked, None)
        if hasattr(answer, "model_dump_json"):
            return bytes(answer.model_dump_json(), "utf-8")
        return b"".join([part.encode() async for part in answer])


if __name__ == "__main__":
    with patch.object(app, "build", build):
        sys.exit(main.main(sys.argv[1:]))
