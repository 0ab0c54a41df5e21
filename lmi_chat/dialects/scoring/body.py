"""Declare the fields of requests to score pairs of texts and to rank documents."""

from typing import Annotated, Any

from lmi_chat.dialects.body import (
    MAX_INT,
    Adapters,
    AtMost,
    Flag,
    Integer,
    Model,
    Sets,
    Text,
    User,
    field,
)
from lmi_chat.dialects.classification.body import Activated

INSTRUCTION_CHARS = 4096
SEVERAL = "string, or array of strings"
_Texts = Annotated[Any, field("compared with the second ones: one with all, or each with its own", shown=SEVERAL)]
_Seconds = Annotated[Any, field("as many as the first ones, or any number", shown=SEVERAL), AtMost("max_inputs")]
_Documents = Annotated[
    Any,
    field("what is ranked", shown="array of strings or objects of text", allows={"minItems": 1}),
    AtMost("max_inputs"),
]


class PairFields(Activated, total=False):
    """How pairs are read, and who asks."""

    max_tokens_per_query: Annotated[Integer, field("queries are cut to so many; 0: not", default=0, ge=0, le=MAX_INT)]
    max_tokens_per_doc: Annotated[Integer, field("documents are cut to so many; 0: not", default=0, ge=0, le=MAX_INT)]
    instruction: Annotated[
        Text, field("the task, in words, for a template that reads it", max_length=INSTRUCTION_CHARS)
    ]
    model: Model
    adapters: Adapters
    user: User


class ScoreBody(PairFields, total=False):
    """A request to score pairs: two fields of vLLM's, or one pair as LMI has it."""

    text_1: _Texts
    text_2: _Seconds
    queries: _Texts
    documents: _Seconds
    items: _Seconds
    data_1: _Texts
    data_2: _Seconds
    text: Annotated[Text, field("the first text of one pair, as LMI has it", min_length=1)]
    text_pair: Annotated[Text, field("its second text")]


class RerankBody(PairFields, total=False):
    """A request to rank: `documents` of Cohere, Jina and vLLM, or `texts` of Text Embeddings Inference."""

    query: Annotated[Text, field("what documents are ranked for", min_length=1)]
    documents: _Documents
    texts: _Documents
    top_n: Annotated[Integer, field("documents that come back; 0: all", default=0, ge=0, le=MAX_INT)]
    return_documents: Annotated[Flag, field("with documents: they come back beside their scores", default=True)]
    return_text: Annotated[Flag, field("with texts: they come back beside their scores", default=False)]
    return_texts: Annotated[Flag, field("as return_text"), Sets("return_text", is_sampling=False)]
