"""Parse requests to classify and render the labels: vLLM's `input`, or `inputs` of LMI and Text Embeddings Inference.

Shapes: vLLM's server, "Classification API"; Hugging Face's text classification, which LMI's clients send; Text
Embeddings Inference, /predict. Of `inputs` a single one is answered by its labels, an array by an array for each.
"""

import struct
import time
from collections.abc import Sequence

from lmi_chat.codec.json_text import Json, dump, floats
from lmi_chat.dialects import checks, pooled
from lmi_chat.dialects.checks import Prompt
from lmi_chat.dialects.classification.answer import ClassifiedHead
from lmi_chat.dialects.classification.body import ClassificationBody, LabelOptions
from lmi_chat.dialects.deployment import Deployment
from lmi_chat.dialects.embedding.request import check_parameters
from lmi_chat.dialects.openai import error_body
from lmi_chat.dialects.pooled import Cut, Pair
from lmi_chat.dialects.pooled_answer import PooledAnswer
from lmi_chat.dialects.reader import BodyReader
from lmi_chat.dialects.task import ParsedRequest
from lmi_chat.job import Embedding, Finished, PoolingParams
from lmi_chat.text import echo

TEXT, SECOND = "text", "text_pair"
ALONE = Pair()
OneInput = Prompt | tuple[str, str]


def parse(body: Json, deployment: Deployment, request_id: str) -> ParsedRequest:
    """A body to classify → ParsedRequest. Raises BadField, NotFound or PromptTooLong; the paths are the caller's."""
    return _parse(body, deployment, request_id, is_predict=False)


def parse_predict(body: Json, deployment: Deployment, request_id: str) -> ParsedRequest:
    """The same for /predict, where two strings in an array are a pair and not two inputs."""
    return _parse(body, deployment, request_id, is_predict=True)


def _parse(body: Json, deployment: Deployment, request_id: str, *, is_predict: bool) -> ParsedRequest:
    reader = pooled.begin(body, ClassificationBody, deployment)
    name = "inputs" if "inputs" in body else "input"
    if name == "inputs" and "input" in body:
        reader.add_problem("inputs", "and input in one body: send one of them")
    most, given = deployment.limits.max_inputs, body.get(name)
    inputs: Sequence[tuple[str, OneInput]]
    if name == "input":
        inputs, is_several = checks.check_prompts(given, name, reader, most), True
    else:
        inputs, is_several = _check_inputs(given, reader, most, is_predict=is_predict)
    check_parameters(body.get("parameters"), reader, LabelOptions)
    cut, pooling = (
        pooled.check_shared(reader),
        PoolingParams(task="classify", is_normalized=pooled.activation(reader)),
    )
    warnings = reader.finish()
    jobs = []
    for place, (path, one) in enumerate(inputs):
        ids, wanted = _read(one, path, reader, cut, pooling)
        text = one if isinstance(one, str) else ""
        jobs.append(pooled.job_of(place, request_id, ids, text, wanted, reader))
    render: PooledAnswer
    labels = pooled.spec_of(deployment).labels
    if name == "input":
        render = Classes(len(jobs), request_id, deployment.model, labels)
    else:
        render = Labels(len(jobs), labels, reader.extra.get("labels") or len(labels), is_several=is_several)
    return pooled.finish("classification", jobs, render, reader, warnings)


def _read(
    one: OneInput, path: str, reader: BodyReader, cut: Cut, pooling: PoolingParams
) -> tuple[list[int], PoolingParams]:
    if isinstance(one, tuple):
        return pooled.read_pair(*one, path, reader, cut, ALONE, pooling)
    return pooled.read(one, path, reader, cut), pooling


def _check_inputs(
    value: object, reader: BodyReader, most: int, *, is_predict: bool
) -> tuple[Sequence[tuple[str, OneInput]], bool]:
    """The texts and pairs of `inputs` with their paths, and whether they stood in an array of several."""
    path = "inputs"
    if not isinstance(value, list) or (is_predict and _is_strings(value)):
        return [(path, _check_one(value, path, reader, is_predict=is_predict))], False
    if not 1 <= len(value) <= most:
        reader.add_problem(path, f"must have at least 1 and at most {most} inputs, got {len(value)}")
        return [], True
    places = ((f"{path}[{place}]", one) for place, one in enumerate(value))
    return [(place, _check_one(one, place, reader, is_predict=is_predict)) for place, one in places], True


def _is_strings(value: list[object]) -> bool:
    return bool(value) and all(isinstance(one, str) for one in value)


def _check_one(value: object, path: str, reader: BodyReader, *, is_predict: bool) -> OneInput:
    """A text, or a pair: an object of `text` and `text_pair`, of /predict's an array of one text or two."""
    match value:
        case str() if value:
            return value
        case {"text": str(text), **rest} if text and rest.keys() <= {SECOND} and isinstance(rest.get(SECOND, ""), str):
            return (text, str(rest[SECOND])) if rest else text
        case [str(text)] if is_predict and text:
            return text
        case [str(text), str(second)] if is_predict and text:
            return text, second
    pair = "an array of one text or two" if is_predict else f"an object of {TEXT} and {SECOND}"
    reader.add_problem(path, f"must be a text that is not empty, or {pair}; got {echo(value)}")
    return ""


class Classes(PooledAnswer):
    """vLLM's document: of each input the likeliest label, and the numbers of all."""

    def __init__(self, count: int, request_id: str, model: str, labels: Sequence[str | None]) -> None:
        """`count` inputs."""
        super().__init__(count)
        self._labels = labels
        self._head: ClassifiedHead = {
            "id": f"classify-{request_id}",
            "object": "list",
            "created": int(time.time()),
            "model": model,
        }

    def _item(self, index: int, embedding: Embedding) -> bytes:
        numbers = numbers_of(embedding)
        best = max(range(len(numbers)), key=numbers.__getitem__)
        label = dump(self._labels[best] if best < len(self._labels) else None)
        return b'{"index":%d,"label":%b,"probs":%b,"num_classes":%d}' % (
            index,
            label,
            floats(embedding.values),
            len(numbers),
        )

    def _document(self, items: bytes, done: Finished) -> bytes:
        return dump(self._head)[:-1] + b',"data":' + items + b',"usage":' + dump(pooled.usage(done)) + b"}"


class Labels(PooledAnswer):
    """The labels of each input with their numbers, the greatest first; of a single one without an array around it."""

    def __init__(self, count: int, labels: Sequence[str | None], most: int, *, is_several: bool) -> None:
        """`count` inputs, `most` labels of each."""
        super().__init__(count)
        self._labels, self._most, self._is_several = labels, most, is_several

    def _item(self, index: int, embedding: Embedding) -> bytes:  # noqa: ARG002 as all items
        numbers = numbers_of(embedding)
        ranked = sorted(range(len(numbers)), key=numbers.__getitem__, reverse=True)[: self._most]
        written = floats(embedding.values)[1:-1].split(b",")
        return (
            b"[" + b",".join(b'{"label":%b,"score":%b}' % (dump(self._name(at)), written[at]) for at in ranked) + b"]"
        )

    def _name(self, place: int) -> str:
        named = self._labels[place] if place < len(self._labels) else None
        return f"LABEL_{place}" if named is None else named

    def _document(self, items: bytes, done: Finished) -> bytes:  # noqa: ARG002 as all documents
        return items if self._is_several else items[1:-1]


def numbers_of(embedding: Embedding) -> Sequence[float]:
    """The numbers of a vector."""
    return struct.unpack(f"<{len(embedding.values) // 4}f", embedding.values)


__all__ = ["error_body", "parse", "parse_predict"]
