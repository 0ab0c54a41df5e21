"""Compute the likeness of two texts from their vectors."""

from typing import Any

from lmi_chat.job import Embedding


def likeness(query: Embedding, document: Embedding) -> float:
    """The cosine of two vectors; of vectors for each token, the sum of each query token's greatest dot product."""
    if query.rows is not None:
        return _max_sim(query, document)
    first, second = _numbers(query), _numbers(document)
    lengths = float((first @ first) * (second @ second)) ** 0.5
    return float(first @ second) / lengths if lengths else 0.0


def _max_sim(query: Embedding, document: Embedding) -> float:
    return float((_numbers(query) @ _numbers(document).T).max(axis=1).sum())


def _numbers(embedding: Embedding) -> Any:
    """The numbers of one vector in double precision, or the rows of all in single."""
    import numpy as np  # here so that servers of other models do without it

    numbers = np.frombuffer(embedding.values, "<f4")
    return numbers.astype("f8") if embedding.rows is None else numbers.reshape(embedding.rows, -1)
