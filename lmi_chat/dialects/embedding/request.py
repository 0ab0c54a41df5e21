"""Parse embedding requests and render their answers: OpenAI's `input`, and LMI's `inputs` where the model embeds.

Shapes: OpenAI API reference, "Create embeddings"; DJL Serving's text embedding: a bare array of vectors. Beside the
inputs, or in `parameters`, may stand what vLLM and Text Embeddings Inference know.
"""

from lmi_chat.codec.json_text import Json, dump
from lmi_chat.dialects import checks, pooled
from lmi_chat.dialects.deployment import Deployment
from lmi_chat.dialects.embedding.answer import EmbeddingsEnd
from lmi_chat.dialects.embedding.body import EmbeddingBody, Pooling
from lmi_chat.dialects.openai import error_body
from lmi_chat.dialects.pooled_answer import PooledAnswer, vector
from lmi_chat.dialects.reader import BodyReader
from lmi_chat.dialects.task import ParsedRequest
from lmi_chat.job import Embedding, Finished, PoolingParams, PoolingSpec
from lmi_chat.text import echo


def parse(body: Json, deployment: Deployment, request_id: str) -> ParsedRequest:
    """An embedding body → ParsedRequest. Raises BadField, NotFound or PromptTooLong; the paths are the caller's."""
    spec, reader = pooled.spec_of(deployment), pooled.begin(body, EmbeddingBody, deployment)
    name = "inputs" if "inputs" in body else "input"
    if name == "inputs" and "input" in body:
        reader.add_problem("inputs", "and input in one body: send one of them")
    prompts = checks.check_prompts(body.get(name), name, reader, deployment.limits.max_inputs)
    check_parameters(body.get("parameters"), reader, Pooling)
    pooling, cut = check_pooling(reader, spec), pooled.check_shared(reader)
    warnings = reader.finish()
    jobs = [
        pooled.job_of(place, request_id, pooled.read(prompt, path, reader, cut), prompt, pooling, reader)
        for place, (path, prompt) in enumerate(prompts)
    ]
    is_base64 = reader.get("encoding_format") == "base64"
    render = Vectors(len(jobs), deployment.model if name == "input" else None, is_base64=is_base64)
    return pooled.finish("embedding", jobs, render, reader, warnings)


def check_parameters(parameters: object, reader: BodyReader, kind: type) -> None:
    """LMI's clients put there what others put into the body."""
    if parameters is None:
        return
    if not isinstance(parameters, dict):
        reader.add_problem("parameters", f"must be an object, got {echo(parameters)}")
        return
    reader.prefix = "parameters."
    reader.read(parameters, kind)


def check_pooling(reader: BodyReader, spec: PoolingSpec) -> PoolingParams:
    """How vectors are made, as far as the model can."""
    dimensions = reader.extra.get("dimensions")
    if dimensions is not None and dimensions not in spec.shorter:
        reader.add_problem(reader.paths["dimensions"], f"{_lengths(spec)}, got {dimensions}")
    return PoolingParams(
        task=spec.task,
        dimensions=dimensions,
        is_normalized=reader.given.get("is_normalized", reader.deployment.is_normalized),
    )


def _lengths(spec: PoolingSpec) -> str:
    """Which vectors the model has, as an error says it."""
    if not spec.shorter:
        return f"must be absent: the served model is no Matryoshka model, its vectors have {spec.dimensions} numbers"
    if isinstance(spec.shorter, range):
        return f"must be at least 1 and at most {spec.dimensions}"
    return f"must be one of {', '.join(map(str, spec.shorter))}"


class Vectors(PooledAnswer):
    """Each vector as it comes, in OpenAI's document or, without a `model`, LMI's bare array."""

    def __init__(self, count: int, model: str | None, *, is_base64: bool) -> None:
        """`count` vectors; `model` None for LMI's bare array."""
        super().__init__(count)
        self._model, self._is_base64 = model, is_base64

    def _item(self, index: int, embedding: Embedding) -> bytes:
        numbers = vector(embedding, is_base64=self._is_base64)
        if self._model is None:
            return numbers
        return b'{"object":"embedding","index":%d,"embedding":%b}' % (index, numbers)

    def _document(self, items: bytes, done: Finished) -> bytes:
        if self._model is None:
            return items
        end: EmbeddingsEnd = {"model": self._model, "usage": pooled.usage(done)}
        return b'{"object":"list","data":' + items + b"," + dump(end)[1:]


__all__ = ["error_body", "parse"]
