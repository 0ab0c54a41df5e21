"""Render scores: in the order of the pairs, or documents ranked by them."""

import time
from collections.abc import Sequence

from lmi_chat.codec.json_text import dump
from lmi_chat.dialects import pooled
from lmi_chat.dialects.deployment import Deployment
from lmi_chat.dialects.openai import error_body
from lmi_chat.dialects.scoring.answer import Ranked, RankedDocument, RankedRow, Scored
from lmi_chat.dialects.scoring.pairs import PairScores
from lmi_chat.errors import Error
from lmi_chat.job import Delta, Embedding, Finished


class ScoresRenderer:
    """One document, when all scores are there."""

    held_bytes = 0  # a number for each input, and a score cannot be cut

    def __init__(self, queries: int, documents: int, request_id: str, deployment: Deployment) -> None:
        """Render the scores of so many `documents`, with one of the `queries` each or with the only one."""
        self._request_id, self._model = request_id, deployment.model
        self._scores = [0.0] * documents
        self._pairs = PairScores(queries, documents, deployment, self._scores.__setitem__)

    def delta(self, delta: Delta) -> Sequence[bytes]:
        """Take the numbers of one job; nothing is sent yet."""
        if isinstance(delta, Embedding):
            self._pairs.take(delta)
        return ()

    def fail(self, error: Error) -> bytes:
        """The error in place of the document."""
        return dump(error_body(error))


class ScoreList(ScoresRenderer):
    """The scores in the pairs' order: vLLM's document."""

    def done(self, done: Finished) -> Sequence[bytes]:
        """The document."""
        shown: Scored = {
            "id": f"score-{self._request_id}",
            "object": "list",
            "created": int(time.time()),
            "model": self._model,
            "data": [{"index": place, "object": "score", "score": score} for place, score in enumerate(self._scores)],
            "usage": pooled.usage(done),
        }
        return (dump(shown),)


class BareScores(ScoresRenderer):
    """The scores alone, as LMI has them."""

    def done(self, done: Finished) -> Sequence[bytes]:  # noqa: ARG002 as all answers
        """The array."""
        return (dump(self._scores),)


class Ranking(ScoresRenderer):
    """The documents by their scores, the greatest first: those of Cohere, Jina and vLLM."""

    def __init__(
        self, texts: Sequence[str], request_id: str, deployment: Deployment, *, most: int, has_texts: bool
    ) -> None:
        """Rank `texts` and show `most` of them, with their texts or without."""
        super().__init__(1, len(texts), request_id, deployment)
        self._texts, self._most, self._has_texts = texts, most or len(texts), has_texts

    def done(self, done: Finished) -> Sequence[bytes]:
        """The document."""
        shown: Ranked = {
            "id": f"rerank-{self._request_id}",
            "model": self._model,
            "usage": pooled.usage(done),
            "results": [self._result(place) for place in self._ranked()],
        }
        return (dump(shown),)

    def _ranked(self) -> Sequence[int]:
        """The places of the most relevant; those of equal scores in the caller's order."""
        return sorted(range(len(self._scores)), key=self._scores.__getitem__, reverse=True)[: self._most]

    def _result(self, place: int) -> RankedDocument:
        score = self._scores[place]
        if not self._has_texts:
            return {"index": place, "relevance_score": score}
        return {"index": place, "document": {"text": self._texts[place]}, "relevance_score": score}


class RankingRows(Ranking):
    """The same as Text Embeddings Inference writes it: an array alone."""

    def done(self, done: Finished) -> Sequence[bytes]:  # noqa: ARG002 as all answers
        """The array."""
        return (dump([self._row(place) for place in self._ranked()]),)

    def _row(self, place: int) -> RankedRow:
        score = self._scores[place]
        return (
            {"index": place, "text": self._texts[place], "score": score}
            if self._has_texts
            else {"index": place, "score": score}
        )
