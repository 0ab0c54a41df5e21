"""Parse embedding requests and render their answers: OpenAI's `input`, and LMI's `inputs` where the model embeds.

Shapes: OpenAI API reference, "Create embeddings"; DJL Serving's text embedding: a bare array of vectors. Beside the
inputs, or in `parameters`, may stand what vLLM and Text Embeddings Inference know.
"""

from base64 import b64encode
from collections.abc import Sequence

from lmi_chat.codec.json_text import Json, dump, floats
from lmi_chat.dialects import checks, openai
from lmi_chat.dialects.chat.options import NOT_RANKED
from lmi_chat.dialects.checks import Prompt
from lmi_chat.dialects.deployment import Deployment
from lmi_chat.dialects.embedding.answer import EmbeddingsEnd, EmbeddingUsage
from lmi_chat.dialects.embedding.body import EmbeddingBody, Pooling
from lmi_chat.dialects.openai import error_body
from lmi_chat.dialects.reader import BodyReader
from lmi_chat.dialects.task import ParsedRequest
from lmi_chat.errors import BadField, Error, Problem
from lmi_chat.job import Delta, Embedding, EmbeddingSpec, Finished, Job, PoolingParams
from lmi_chat.text import echo


def parse(body: Json, deployment: Deployment, request_id: str) -> ParsedRequest:
    """An embedding body → ParsedRequest. Raises BadField, NotFound or PromptTooLong; the paths are the caller's."""
    if deployment.space is None:
        text = "input cannot be served: this model generates text; send messages, inputs or prompt"
        raise BadField([Problem("input", text)])
    checks.check_model(body.get("model"), deployment)
    reader = BodyReader(deployment)
    reader.read(body, EmbeddingBody)
    user, name = reader.get("user"), "inputs" if "inputs" in body else "input"
    if name == "inputs" and "input" in body:
        reader.add_problem("inputs", "and input in one body: send one of them")
    prompts = checks.check_prompts(body.get(name), name, reader, deployment.limits.max_inputs)
    _check_parameters(body.get("parameters"), reader)
    openai.check_salt(reader)
    pooling, most = _check_pooling(reader, deployment.space), _check_cut(reader)
    unknown = reader.finish()

    priority, salt = reader.get("priority"), reader.get("cache_salt")
    jobs = []
    for place, (path, prompt) in enumerate(prompts):
        ids = _read(prompt, path, reader, most=most)
        text, job_id = prompt if isinstance(prompt, str) else "", f"{request_id}-{place}"
        jobs.append(
            Job(id=job_id, prompt_ids=ids, prompt_text=text, pooling=pooling, priority=priority, cache_salt=salt)
        )
    render = Vectors(
        len(jobs), deployment.model if name == "input" else None, is_base64=reader.get("encoding_format") == "base64"
    )
    task = ParsedRequest(dialect="embedding", jobs=tuple(jobs), is_stream=False, render=render, has_end=False)
    task.unknown, task.user = [*unknown, NOT_RANKED] if priority and not deployment.has_priority else unknown, user
    return task


def _check_parameters(parameters: object, reader: BodyReader) -> None:
    """LMI's clients put there what others put into the body."""
    if parameters is None:
        return
    if not isinstance(parameters, dict):
        reader.add_problem("parameters", f"must be an object, got {echo(parameters)}")
        return
    reader.prefix = "parameters."
    reader.read(parameters, Pooling)


def _check_pooling(reader: BodyReader, space: EmbeddingSpec) -> PoolingParams:
    dimensions = reader.extra.get("dimensions")
    if dimensions is not None and dimensions not in space.shorter:
        reader.add_problem(reader.paths["dimensions"], f"{_lengths(space)}, got {dimensions}")
    return PoolingParams(
        dimensions=dimensions, is_normalized=reader.given.get("is_normalized", reader.deployment.is_normalized)
    )


def _lengths(space: EmbeddingSpec) -> str:
    """Which vectors the model has, as an error says it."""
    if not space.shorter:
        return f"must be absent: the served model is no Matryoshka model, its vectors have {space.dimensions} numbers"
    if isinstance(space.shorter, range):
        return f"must be at least 1 and at most {space.dimensions}"
    return f"must be one of {', '.join(map(str, space.shorter))}"


def _check_cut(reader: BodyReader) -> int:
    """Tokens that are kept of an input; 0: all of them, which must fit."""
    context = _context(reader.deployment)
    most = reader.extra.get("truncate_prompt_tokens")
    if most is not None and (most == 0 or most > context):
        path = reader.paths["truncate_prompt_tokens"]
        reader.add_problem(path, f"must be at least 1 and at most {context}, or -1 for as many as fit; got {most}")
    if most is None:
        return context if reader.get("truncate") else 0
    return context if most < 0 else int(most)


def _context(deployment: Deployment) -> int:
    """Tokens that an input may have."""
    return min(deployment.context_tokens, deployment.limits.max_input_tokens or deployment.context_tokens)


def _read(prompt: Prompt, path: str, reader: BodyReader, *, most: int) -> list[int]:
    """Token ids of an input, or of the part that is kept. Raises PromptTooLong, BadField."""
    deployment, is_end = reader.deployment, reader.given.get("side", "").lower() == "left"
    if isinstance(prompt, list):
        ids = (prompt[-most:] if is_end else prompt[:most]) if most else prompt
    else:
        ids = _encode(prompt, path, reader, most=most, is_end=is_end)
    if not ids:
        raise BadField([Problem(path, f"{path} must have at least 1 token, got {echo(prompt)}")])
    if len(ids) > (context := _context(deployment)):
        bound = "" if context == deployment.context_tokens else f"; this deployment takes at most {context}"
        raise checks.too_long(f"{path} has {len(ids)} tokens{bound} (truncate true cuts it)", deployment, path)
    return ids


def _encode(text: str, path: str, reader: BodyReader, *, most: int, is_end: bool) -> list[int]:
    """Long texts are cut by their characters first: a tokenizer takes a second for a megabyte."""
    deployment, has_special = reader.deployment, reader.get("add_special_tokens")
    if deployment.space and deployment.space.is_lower_case:
        text = text.lower()
    if not most:
        return checks.tokenize(text, deployment, path, add_special_tokens=has_special)
    chars = deployment.context_tokens * deployment.template.longest_token_chars
    part = text[-chars:] if is_end else text[:chars]
    return deployment.template.encode_part(part, most, is_end=is_end, add_special_tokens=has_special)


class Vectors:
    """The one document: each vector becomes JSON when it comes, so that no step has to write thousands."""

    def __init__(self, count: int, model: str | None, *, is_base64: bool) -> None:
        """`count` vectors; `model` None for LMI's bare array."""
        self._model, self._is_base64 = model, is_base64
        self._vectors = [b"null"] * count
        self.held_bytes = 0  # inputs × dimensions bound it, and a vector cannot be cut

    def delta(self, delta: Delta) -> Sequence[bytes]:
        """Keep a vector; nothing is sent yet."""
        if isinstance(delta, Embedding):
            written = b'"' + b64encode(delta.values) + b'"' if self._is_base64 else floats(delta.values)
            self._vectors[delta.index] = written
        return ()

    def done(self, done: Finished) -> Sequence[bytes]:
        """The document, vectors in the inputs' order."""
        if self._model is None:
            return (b"[" + b",".join(self._vectors) + b"]",)
        data = (
            b'{"object":"embedding","index":%d,"embedding":%b}' % (index, vector)
            for index, vector in enumerate(self._vectors)
        )
        usage: EmbeddingUsage = {"prompt_tokens": done.prompt_tokens, "total_tokens": done.prompt_tokens}
        end: EmbeddingsEnd = {"model": self._model, "usage": usage}
        return (b'{"object":"list","data":[' + b",".join(data) + b"]," + dump(end)[1:],)

    def fail(self, error: Error) -> bytes:
        """The error in place of the document."""
        return dump(error_body(error))


__all__ = ["error_body", "parse"]
