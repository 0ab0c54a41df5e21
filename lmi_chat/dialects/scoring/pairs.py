"""Turn pairs of texts into jobs, and their events into scores, by whichever way the model compares texts.

A model that classifies reads both texts as one prompt, and its number is the score. One that embeds reads each alone,
a query once for all of its documents, and the likeness of their vectors is the score.
"""

import struct
from collections.abc import Callable, Sequence

from lmi_chat.dialects import pooled
from lmi_chat.dialects.deployment import Deployment
from lmi_chat.dialects.pooled import Cut, Pair
from lmi_chat.dialects.reader import BodyReader
from lmi_chat.dialects.scoring.similarity import likeness
from lmi_chat.job import Embedding, Job, PoolingParams

Texts = Sequence[tuple[str, str]]
"""Texts with their paths."""


def check_pair(reader: BodyReader) -> Pair:
    """Read how two texts become one prompt."""
    context, bounds = reader.deployment.context_tokens, []
    for name in ("max_tokens_per_query", "max_tokens_per_doc"):
        bounds.append(reader.get(name))
        if bounds[-1] >= context:
            reader.add_problem(name, f"must be below the context's {context} tokens, got {bounds[-1]}")
    instruction, pairs = reader.extra.get("instruction", ""), reader.deployment.pairs
    if instruction and not (pairs and pairs.takes_instruction):
        model = reader.deployment.model
        reader.add_problem(
            "instruction", f"must be absent: {model} has no template that reads it (option.chat_template)"
        )
    return Pair(query_tokens=bounds[0], document_tokens=bounds[1], instruction=instruction)


def jobs_of(queries: Texts, documents: Texts, reader: BodyReader, request_id: str, cut: Cut, pair: Pair) -> list[Job]:
    """The jobs that score each document with its query; one query stands for all. Raises PromptTooLong, BadField."""
    task = pooled.spec_of(reader.deployment).task
    wanted = PoolingParams(task=task, is_normalized=pooled.activation(reader))
    if task != "classify":
        bounds = [pair.query_tokens] * len(queries) + [pair.document_tokens] * len(documents)
        alone = zip((*queries, *documents), bounds, strict=True)
        made = [(_read(text, path, reader, cut, most), text) for (path, text), most in alone]
        return [pooled.job_of(place, request_id, ids, text, wanted, reader) for place, (ids, text) in enumerate(made)]
    firsts = [text for _, text in queries] * (len(documents) if len(queries) == 1 else 1)
    jobs = []
    for place, (query, (path, document)) in enumerate(zip(firsts, documents, strict=True)):
        ids, params = pooled.read_pair(query, document, path, reader, cut, pair, wanted)
        jobs.append(pooled.job_of(place, request_id, ids, "", params, reader))
    return jobs


def _read(text: str, path: str, reader: BodyReader, cut: Cut, most: int) -> list[int]:
    """Token ids of a text that stands alone, of which at most `most` are the text's own, 0 for all."""
    if not most:
        return pooled.read(text, path, reader, cut)
    template = reader.deployment.template
    around = len(template.encode("", add_special_tokens=True))
    kept = min(most + around, cut.most or pooled.context_of(reader.deployment))
    return pooled.read(text, path, reader, Cut(kept, cut.side))


class PairScores:
    """Gives each pair's score as soon as the model's numbers for it are there.

    A query's vector is kept until the end, a document's until its query's has come: that was sent before it.
    """

    def __init__(
        self, queries: int, documents: int, deployment: Deployment, on_score: Callable[[int, float], None]
    ) -> None:
        """`on_score` is called with each document's place and score."""
        self._is_joint = pooled.spec_of(deployment).task == "classify"
        self._queries, self._documents = queries, documents
        self._on_score = on_score
        self._kept: dict[int, Embedding] = {}

    def take(self, embedding: Embedding) -> None:
        """Take the numbers of one job."""
        place = embedding.index
        if self._is_joint:
            self._on_score(place, struct.unpack("<f", embedding.values)[0])
        elif place < self._queries:
            self._kept[place] = embedding
            ready = range(self._documents) if self._queries == 1 else (place,)
            for document in ready:
                if (held := self._kept.pop(self._queries + document, None)) is not None:
                    self._on_score(document, likeness(embedding, held))
        else:
            self._compare(place - self._queries, embedding)

    def _compare(self, document: int, embedding: Embedding) -> None:
        query = self._kept.get(0 if self._queries == 1 else document)
        if query is None:
            self._kept[self._queries + document] = embedding
        else:
            self._on_score(document, likeness(query, embedding))
