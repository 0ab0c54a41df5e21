"""Describe the requests and paths of models that pool: embeddings, labels, scores, rankings and plain numbers."""

from lmi_chat.codec.json_text import Json
from lmi_chat.dialects import DIALECTS, OWN
from lmi_chat.dialects.classification.body import ClassificationBody, LabelOptions
from lmi_chat.dialects.deployment import Deployment
from lmi_chat.dialects.embedding.body import EmbeddingBody, Pooling
from lmi_chat.dialects.pooling.body import PoolingBody, PoolOptions
from lmi_chat.dialects.scoring.body import INSTRUCTION_CHARS, RerankBody, ScoreBody
from lmi_chat.dialects.scoring.request import NAMES, PAIRS
from lmi_chat.http.openapi.requests import NULL, prompts, shared, table
from lmi_chat.http.openapi.shapes import TEXT, record

SOME: Json = {"type": "string", "minLength": 1}
PATHS: Json = {
    "embedding": {"/v1/embeddings": "Embeddings"},
    "classification": {"/classify": "Labels of texts"},
    "pooling": {"/pooling": "The model's numbers, of texts or of each token"},
    "rerank": dict.fromkeys(("/rerank", "/v1/rerank", "/v2/rerank"), "Documents by their relevance to a query"),
    "score": dict.fromkeys(("/score", "/v1/score"), "Scores of pairs of texts"),
}
"""The paths of a dialect, and what each gives."""


def served(deployment: Deployment) -> dict[str, tuple[str, ...]]:
    """The dialects of a model that pools, each with the keys that choose it; the model's own one is chosen by input."""
    names = [name for name, dialect in DIALECTS.items() if name in PATHS and dialect.is_served_by(deployment)]
    own = OWN[deployment.pooler.task] if deployment.pooler else ""
    return {name: ("input", "inputs") if name == own else DIALECTS[name].keys for name in names}


def bodies(deployment: Deployment) -> Json:
    """The requests that the model serves, by the names of components."""
    made = {
        "embedding": _embedding,
        "classification": _classification,
        "pooling": _pooling,
        "rerank": _rerank,
        "score": _score,
    }
    shown = {f"{name.capitalize()}Request": made[name](deployment) for name in served(deployment)}
    if "ClassificationRequest" in shown:
        shown["PredictRequest"] = _classification(deployment, is_predict=True)
    return shown


def _options(deployment: Deployment) -> Json:
    """What a table does not say of the fields that all have."""
    context = deployment.context_tokens
    cut = {"anyOf": [{"enum": [-1]}, {"type": "integer", "minimum": 1, "maximum": context}, NULL]}
    return {"truncate_prompt_tokens": cut, "cache_salt": shared(deployment)["cache_salt"]}


def _names(deployment: Deployment) -> Json:
    return {name: shared(deployment)[name] for name in ("model", "adapters")}


def _dimensions(deployment: Deployment) -> Json:
    shorter = deployment.pooler.shorter if deployment.pooler else ()
    return {"dimensions": {"maximum": len(shorter)} if isinstance(shorter, range) else {"enum": [*shorter, None]}}


def _of_inputs(body: type, inner: type, deployment: Deployment, options: Json, texts: Json) -> Json:
    """A body of `input` or `inputs`, whose other fields may stand in `parameters`, too."""
    is_closed = deployment.is_strict
    within = record(table(inner, deployment, options), is_closed=is_closed)
    insides = options | {"parameters": {"anyOf": [within, NULL]}, **_names(deployment), **texts}
    whole = record(table(body, deployment, insides), is_closed=is_closed)
    return whole | {"oneOf": [{"required": ["input"]}, {"required": ["inputs"]}]}


def _embedding(deployment: Deployment) -> Json:
    texts = prompts(deployment, deployment.limits.max_inputs)
    options = _options(deployment) | _dimensions(deployment)
    return _of_inputs(EmbeddingBody, Pooling, deployment, options, {"input": texts, "inputs": texts})


def _pooling(deployment: Deployment) -> Json:
    texts = prompts(deployment, deployment.limits.max_inputs)
    task = {"enum": [deployment.pooler.task if deployment.pooler else None, None]}
    options = _options(deployment) | _dimensions(deployment) | {"task": task}
    return _of_inputs(PoolingBody, PoolOptions, deployment, options, {"input": texts, "inputs": texts})


def _classification(deployment: Deployment, *, is_predict: bool = False) -> Json:
    most = deployment.limits.max_inputs
    pair = record({"text": SOME, "text_pair": TEXT}, ["text"], is_closed=True)
    alone = record({"text": SOME}, ["text"], is_closed=True)
    two: Json = {"type": "array", "prefixItems": [SOME, TEXT], "minItems": 1, "maxItems": 2 if deployment.pairs else 1}
    one: list[Json] = [SOME, pair if deployment.pairs else alone, *([two] if is_predict else [])]
    several: Json = {"type": "array", "items": {"anyOf": one}, "minItems": 1, "maxItems": most}
    if is_predict:
        several["not"] = {"items": TEXT}
    texts = {"input": prompts(deployment, most), "inputs": {"anyOf": [*one, several]}}
    return _of_inputs(ClassificationBody, LabelOptions, deployment, _options(deployment), texts)


def _texts(deployment: Deployment) -> Json:
    """An array of texts, each as it is or in an object."""
    item = {"anyOf": [TEXT, record({"text": TEXT}, ["text"], is_closed=deployment.is_strict)]}
    return {"type": "array", "items": item, "minItems": 1, "maxItems": deployment.limits.max_inputs}


def _of_pairs(deployment: Deployment) -> Json:
    below: Json = {"maximum": deployment.context_tokens - 1}
    takes_words = deployment.pairs is not None and deployment.pairs.takes_instruction
    words = {"maxLength": INSTRUCTION_CHARS if takes_words else 0}
    return (
        _options(deployment)
        | _names(deployment)
        | {"max_tokens_per_query": below, "max_tokens_per_doc": below, "instruction": words}
    )


def _rerank(deployment: Deployment) -> Json:
    insides = _of_pairs(deployment) | {"query": SOME, "documents": _texts(deployment), "texts": _texts(deployment)}
    whole = record(table(RerankBody, deployment, insides), ["query"], is_closed=deployment.is_strict)
    return whole | {"oneOf": [{"required": ["documents"]}, {"required": ["texts"]}]}


def _score(deployment: Deployment) -> Json:
    either = {"anyOf": [TEXT, _texts(deployment)]}
    insides = _of_pairs(deployment) | dict.fromkeys(NAMES, either) | {"text": SOME, "text_pair": TEXT}
    ways = [{"required": [*pair], "properties": {name: False for name in NAMES if name not in pair}} for pair in PAIRS]
    return record(table(ScoreBody, deployment, insides), is_closed=deployment.is_strict) | {"oneOf": ways}
