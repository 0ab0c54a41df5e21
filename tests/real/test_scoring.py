"""Scores, labels and vectors of tokens are those of vLLM's own serving classes on the same, real engine."""

import base64
import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import pooling_folders

pytestmark = pytest.mark.slow

CAT, BANK, SEA = "A cat is a small animal.", "The bank raised its rates.", "Grüße aus Köln, 東京 and 🌍!"
LONG = "word " * 40
SHARED = [
    ("/score", {"text_1": "What is a cat?", "text_2": [CAT, BANK, SEA]}),
    ("/score", {"queries": ["What is a cat?", "the sea"], "documents": [BANK, SEA]}),
    ("/score", {"text_1": "what is a cat and what is it not", "text_2": [LONG], "max_tokens_per_doc": 5}),
    ("/score", {"text_1": "what is a cat and what is it not", "text_2": [LONG], "max_tokens_per_query": 3}),
    ("/score", {"text_1": "What is a cat?", "text_2": [LONG], "truncate_prompt_tokens": 9}),
    ("/rerank", {"query": "What is a cat?", "documents": [BANK, CAT, SEA], "top_n": 2}),
]
Answers = list[tuple[int, Any, Any]]


def ask(model: Path, requests: list[tuple[str, Any]], tmp_path: Path, **settings: str) -> Answers:
    """The answers of ours and of vLLM to each request, on one engine of that model."""
    given, asked, told = tmp_path / "settings.json", tmp_path / "asked.json", tmp_path / "told.json"
    own = {"model_id": str(model), "served_model_name": "small", "dtype": "float32", "max_model_len": "256"}
    given.write_text(json.dumps(own | settings))
    asked.write_text(json.dumps(requests))
    command = [sys.executable, "-m", "tests.real.pooling_reference", *map(str, (given, asked, told))]
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1"}
    done = subprocess.run(command, env=environment, timeout=200, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    answers: Answers = json.loads(told.read_text())
    return answers


def same(mine: Any, theirs: Any) -> None:
    """The same numbers to 1e-5, under the same names, and the same count of tokens; vLLM's names of nothing aside."""
    assert mine["usage"]["prompt_tokens"] == theirs["usage"]["prompt_tokens"]
    for key in ("data", "results"):
        assert len(mine.get(key, ())) == len(theirs.get(key, ()))
        for one, other in zip(mine.get(key, ()), theirs.get(key, ()), strict=True):
            for name, value in one.items():
                if isinstance(value, float | list):
                    assert flat(value) == pytest.approx(flat(other[name]), abs=1e-5)
                elif name == "document":
                    assert value["text"] == other[name]["text"]
                else:
                    assert value == other[name]


def flat(value: Any) -> list[float]:
    return [number for item in value for number in flat(item)] if isinstance(value, list) else [value]


def check(answers: Answers, requests: list[tuple[str, Any]]) -> None:
    for (status, mine, theirs), asked in zip(answers, requests, strict=True):
        assert status == 200, (asked, mine)
        same(mine, theirs)


def test_a_cross_encoders_scores_are_vllms_own(tmp_path: Path) -> None:
    model = pooling_folders.write("scorer", tmp_path / "model")
    pair = {"text_1": "What is a cat?", "text_2": [CAT, BANK]}
    end = {"truncate_prompt_tokens": 7, "truncation_side": "left"}  # of a text alone ours keeps the special tokens, too
    requests: list[tuple[str, Any]] = [
        *SHARED,
        ("/score", pair | {"use_activation": False}),
        ("/score", pair | end),
        ("/classify", {"input": [CAT, BANK]}),
    ]
    more: list[tuple[str, Any]] = [
        ("/rerank", {"query": "What is a cat?", "texts": [BANK, CAT, SEA], "return_text": True}),
        ("/invocations", {"text": "What is a cat?", "text_pair": CAT}),
        ("/predict", {"inputs": ["What is a cat?", CAT]}),
        ("/v1/embeddings", {"input": "a"}),
    ]
    *answers, ranked, alone, predicted, refused = ask(model, [*requests, *more], tmp_path, task="reranking")
    check(answers, requests)
    scores = [item["score"] for item in answers[0][1]["data"]]
    assert len(set(scores)) == 3
    assert all(0 < score < 1 for score in scores)
    by_text = {CAT: scores[0], BANK: scores[1], SEA: scores[2]}
    assert [row["text"] for row in ranked[1]] == sorted(by_text, key=by_text.__getitem__, reverse=True)
    assert [row["score"] for row in ranked[1]] == pytest.approx(sorted(scores, reverse=True), abs=1e-5)
    assert alone[1] == pytest.approx(scores[:1], abs=1e-5)
    assert predicted[1] == [{"label": "LABEL_0", "score": pytest.approx(scores[0], abs=1e-5)}]
    assert (refused[0], "the model small classifies by 1 label" in refused[1]["error"]["message"]) == (400, True)


def test_a_template_may_write_the_pair(tmp_path: Path) -> None:
    model = pooling_folders.write("scorer", tmp_path / "model")
    template = "{{ instruction or 'Compare' }}: {{ messages[0].content }} [SEP] {{ messages[1].content }}"
    body = {"text_1": "What is a cat?", "text_2": [CAT, SEA]}
    requests: list[tuple[str, Any]] = [("/score", body), ("/score", body | {"instruction": "Find the sea"})]
    answers = ask(model, requests, tmp_path, chat_template=template)
    check(answers, requests)
    plain, instructed = (answer[1]["usage"]["prompt_tokens"] for answer in answers)
    assert instructed == plain + 4, "two more tokens in each pair"


def test_a_bi_encoders_scores_are_vllms_own(tmp_path: Path) -> None:
    answers = ask(pooling_folders.encoder(), SHARED, tmp_path)
    check(answers, SHARED)
    cat, bank, _ = (item["score"] for item in answers[0][1]["data"])
    assert cat > bank


def test_vectors_of_tokens_are_vllms_own(tmp_path: Path) -> None:
    pooled: list[tuple[str, Any]] = [("/pooling", {"input": [CAT, SEA]})]
    more: list[tuple[str, Any]] = [
        ("/pooling", {"input": CAT, "encoding_format": "base64"}),
        ("/pooling", {"input": CAT, "task": "embed"}),
    ]
    settings = {"pooler_config": '{"task": "token_embed"}'}
    *answers, encoded, refused = ask(pooling_folders.encoder(), [*SHARED, *pooled, *more], tmp_path, **settings)
    check(answers, SHARED + pooled)
    rows = answers[-1][1]["data"][0]["data"]
    assert {len(row) for row in rows} == {384}
    values = base64.b64decode(encoded[1]["data"][0]["data"])
    assert struct.unpack(f"<{len(values) // 4}f", values) == pytest.approx(flat(rows), abs=1e-5)
    assert (refused[0], refused[1]["error"]["param"]) == (400, "task")


def test_a_classifiers_answers_are_vllms_own(tmp_path: Path) -> None:
    model = pooling_folders.write("classifier", tmp_path / "model")
    requests: list[tuple[str, Any]] = [
        ("/classify", {"input": [CAT, BANK, SEA]}),
        ("/classify", {"input": [CAT, BANK], "use_activation": False}),
        ("/pooling", {"input": [CAT, BANK]}),
    ]
    more: list[tuple[str, Any]] = [("/invocations", {"inputs": CAT}), ("/rerank", {"query": "a", "documents": ["b"]})]
    *answers, labels, refused = ask(model, requests + more, tmp_path, task="text-classification")
    check(answers, requests)
    first = answers[0][1]["data"][0]
    assert sum(first["probs"]) == pytest.approx(1)
    assert labels[1][0] == {"label": first["label"], "score": pytest.approx(max(first["probs"]), abs=1e-5)}
    assert {item["label"] for item in labels[1]} == {"dull", "middling", "bright"}
    assert (refused[0], "classifies by 3 labels" in refused[1]["error"]["message"]) == (400, True)


def test_labels_of_tokens_are_vllms_own(tmp_path: Path) -> None:
    model = pooling_folders.write("tagger", tmp_path / "model")
    requests: list[tuple[str, Any]] = [
        ("/pooling", {"input": [CAT, SEA]}),
        ("/pooling", {"input": CAT, "task": "token_classify"}),
        ("/pooling", {"input": CAT, "use_activation": False}),
        ("/pooling", {"input": LONG, "truncate_prompt_tokens": 9}),
    ]
    more: list[tuple[str, Any]] = [
        ("/pooling", {"input": CAT, "encoding_format": "base64"}),
        ("/classify", {"input": CAT}),
        ("/score", {"text_1": CAT, "text_2": SEA}),
        ("/v1/embeddings", {"input": CAT}),
    ]
    found = ask(model, requests + more, tmp_path, task="token-classification")
    answers, (encoded, *refused) = found[: len(requests)], found[len(requests) :]
    check(answers, requests)
    assert [status for status, *_ in refused] == [400, 400, 400], refused
    rows = answers[1][1]["data"][0]["data"]
    values = base64.b64decode(encoded[1]["data"][0]["data"])
    assert struct.unpack(f"<{len(values) // 4}f", values) == pytest.approx(flat(rows), abs=1e-5)
    assert len(rows) == answers[1][1]["usage"]["prompt_tokens"]
    assert all(sum(row) == pytest.approx(1, abs=1e-5) and len(row) == 2 for row in rows)
    assert len(answers[3][1]["data"][0]["data"]) == 9
