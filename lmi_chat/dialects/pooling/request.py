"""Parse pooling requests and render their answers: the numbers that a model gives for a text, or for each token.

Shape: vLLM's server, "Pooling API"; `inputs` are answered by a bare array, as LMI's clients know it of embeddings.
"""

import time

from lmi_chat.codec.json_text import Json, dump
from lmi_chat.dialects import checks, pooled
from lmi_chat.dialects.deployment import Deployment
from lmi_chat.dialects.embedding.request import check_parameters, check_pooling
from lmi_chat.dialects.openai import error_body
from lmi_chat.dialects.pooled_answer import PooledAnswer, vector
from lmi_chat.dialects.pooling.answer import PooledHead
from lmi_chat.dialects.pooling.body import PoolingBody, PoolOptions
from lmi_chat.dialects.reader import BodyReader
from lmi_chat.dialects.task import ParsedRequest
from lmi_chat.job import Embedding, Finished, PoolingSpec


def parse(body: Json, deployment: Deployment, request_id: str) -> ParsedRequest:
    """A pooling body → ParsedRequest. Raises BadField, NotFound or PromptTooLong; the paths are the caller's."""
    spec, reader = pooled.spec_of(deployment), pooled.begin(body, PoolingBody, deployment)
    name = "inputs" if "inputs" in body else "input"
    if name == "inputs" and "input" in body:
        reader.add_problem("inputs", "and input in one body: send one of them")
    prompts = checks.check_prompts(body.get(name), name, reader, deployment.limits.max_inputs)
    check_parameters(body.get("parameters"), reader, PoolOptions)
    _check_task(reader, spec)
    pooling, cut = check_pooling(reader, spec), pooled.check_shared(reader)
    warnings = reader.finish()
    ids = {path: pooled.read(prompt, path, reader, cut) for path, prompt in prompts}
    if spec.task in {"token_embed", "token_classify"}:
        pooled.check_numbers({path: len(tokens) for path, tokens in ids.items()}, spec, deployment)
    jobs = [
        pooled.job_of(place, request_id, ids[path], prompt, pooling, reader)
        for place, (path, prompt) in enumerate(prompts)
    ]
    is_base64 = reader.extra.get("encoding_format") == "base64"
    head: PooledHead | None = None
    if name == "input":
        made = int(time.time())
        head = {"id": f"pool-{request_id}", "object": "list", "created": made, "model": deployment.model}
    return pooled.finish("pooling", jobs, PooledNumbers(len(jobs), head, is_base64=is_base64), reader, warnings)


def _check_task(reader: BodyReader, spec: PoolingSpec) -> None:
    """A model pools in one way; another one is a matter of configuration."""
    if reader.extra.get("task") not in (None, spec.task):
        model = reader.deployment.model
        text = f"must be {spec.task}, which is how {model} pools, got {reader.extra['task']} (option.pooler_config)"
        reader.add_problem(reader.paths["task"], text)


class PooledNumbers(PooledAnswer):
    """The numbers of each input, in vLLM's document or, without a `head`, in a bare array."""

    def __init__(self, count: int, head: PooledHead | None, *, is_base64: bool) -> None:
        """`count` inputs."""
        super().__init__(count)
        self._head, self._is_base64 = head, is_base64

    def _item(self, index: int, embedding: Embedding) -> bytes:
        numbers = vector(embedding, is_base64=self._is_base64)
        if self._head is None:
            return numbers
        return b'{"index":%d,"object":"pooling","data":%b}' % (index, numbers)

    def _document(self, items: bytes, done: Finished) -> bytes:
        if self._head is None:
            return items
        return dump(self._head)[:-1] + b',"data":' + items + b',"usage":' + dump(pooled.usage(done)) + b"}"


__all__ = ["error_body", "parse"]
