"""Parse requests to score pairs of texts and to rank documents.

Shapes: vLLM's server, "Score API" and "Re-rank API", which is that of Jina and Cohere; Text Embeddings Inference,
/rerank; DJL Serving's cross encoder, of one pair.
"""

from lmi_chat.codec.json_text import Json
from lmi_chat.dialects import pooled
from lmi_chat.dialects.deployment import Deployment
from lmi_chat.dialects.openai import error_body
from lmi_chat.dialects.reader import BodyReader
from lmi_chat.dialects.scoring.body import RerankBody, ScoreBody
from lmi_chat.dialects.scoring.pairs import Texts, check_pair, jobs_of
from lmi_chat.dialects.scoring.response import BareScores, Ranking, RankingRows, ScoreList
from lmi_chat.dialects.task import ParsedRequest
from lmi_chat.errors import BadField, Problem
from lmi_chat.job import Job
from lmi_chat.text import echo

LMI = ("text", "text_pair")
PAIRS = (("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2"), LMI)
"""The names under which the first and the second texts stand."""
NAMES = tuple(dict.fromkeys(name for pair in PAIRS for name in pair))


def parse_score(body: Json, deployment: Deployment, request_id: str) -> ParsedRequest:
    """A body to score → ParsedRequest. Raises BadField, NotFound or PromptTooLong; the paths are the caller's."""
    reader, names = pooled.begin(body, ScoreBody, deployment), _names(body)
    most = deployment.limits.max_inputs
    queries, documents = (_check_texts(body.get(name), name, reader, most) for name in names)
    if not reader.problems and len(queries) not in {1, len(documents)}:
        text = f"must be one text, or as many as {names[1]} has ({len(documents)}), got {len(queries)}"
        reader.add_problem(names[0], text)
    jobs, warnings = _finish(queries, documents, reader, request_id)
    kind = BareScores if names == LMI else ScoreList
    render = kind(len(queries), len(documents), request_id, deployment)
    return pooled.finish("score", jobs, render, reader, warnings)


def parse_rerank(body: Json, deployment: Deployment, request_id: str) -> ParsedRequest:
    """A body to rank → ParsedRequest. Raises BadField, NotFound or PromptTooLong; the paths are the caller's."""
    reader = pooled.begin(body, RerankBody, deployment)
    name = "texts" if "texts" in body else "documents"
    if name == "texts" and "documents" in body:
        reader.add_problem("texts", "and documents in one body: send one of them")
    if body.get("query") is None:
        reader.add_problem("query", "must be a string, got null")
    queries = [("query", reader.extra.get("query", ""))]
    documents = _check_texts(body.get(name), name, reader, deployment.limits.max_inputs, is_ranked=True)
    jobs, warnings = _finish(queries, documents, reader, request_id)
    kind, shows = (RankingRows, "return_text") if name == "texts" else (Ranking, "return_documents")
    texts, most = [text for _, text in documents], reader.get("top_n")
    render = kind(texts, request_id, deployment, most=most, has_texts=reader.get(shows))
    return pooled.finish("rerank", jobs, render, reader, warnings)


def _finish(queries: Texts, documents: Texts, reader: BodyReader, request_id: str) -> tuple[list[Job], list[str]]:
    """The jobs of a body that is right in all, and what is to be told of it."""
    cut, pair = pooled.check_shared(reader), check_pair(reader)
    pooled.activation(reader)
    warnings = reader.finish()
    return jobs_of(queries, documents, reader, request_id, cut, pair), warnings


def _names(body: Json) -> tuple[str, str]:
    """The names under which the two texts stand. Raises BadField."""
    given = [name for name in NAMES if name in body]
    for names in PAIRS:
        if set(given) == set(names):
            return names
    ways = ", ".join(" and ".join(pair) for pair in PAIRS)
    path = given[0] if given else NAMES[0]
    raise BadField([Problem(path, f"{path} must stand in one of these pairs of fields and beside no other: {ways}")])


def _check_texts(value: object, name: str, reader: BodyReader, most: int, *, is_ranked: bool = False) -> Texts:
    """A text or an array of texts with their paths; of documents each may be an object of its text."""
    if isinstance(value, str) and not is_ranked:
        return [(name, value)]
    if not isinstance(value, list):
        reader.add_problem(name, f"must be {'' if is_ranked else 'a string or '}an array of strings, got {echo(value)}")
        return []
    if not 1 <= len(value) <= most:
        reader.add_problem(name, f"must have at least 1 and at most {most} texts, got {len(value)}")
        return []
    return [(f"{name}[{place}]", _check_text(one, f"{name}[{place}]", reader)) for place, one in enumerate(value)]


def _check_text(value: object, path: str, reader: BodyReader) -> str:
    match value:
        case str():
            return value
        case {"text": str(text), **others}:
            reader.check_keys({str(key): None for key in others}, ("text",), path)
            return text
    reader.add_problem(path, f"must be a string or an object with a text, got {echo(value)}")
    return ""


__all__ = ["error_body", "parse_rerank", "parse_score"]
