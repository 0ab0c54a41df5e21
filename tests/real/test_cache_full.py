"""A KV cache that holds two of five answers: all are given, each as it would be alone."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.real.conftest import Server, end, start

pytestmark = pytest.mark.slow
AT_ONCE, TOKENS, CONTEXT = 5, 120, 256
BLOCKS = 6  # of 128 tokens; the first is vLLM's own
PREEMPTED = re.compile(r"^vllm:num_preemptions_total\{[^}]*\} (\S+)", re.MULTILINE)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The default model with room for BLOCKS blocks; an answer grows to two."""
    words = ("--max-model-len", str(CONTEXT), "--num-gpu-blocks-override", str(BLOCKS))
    server = start(Path(tmp_path_factory.mktemp("narrow"), "log"), *words, "--enable-prefix-caching", "false")
    yield server
    end(server)


def test_answers_that_had_to_make_room_are_the_same(narrow: Server) -> None:
    def ask(place: int) -> Any:
        prompt = f"{place + 1} little birds sat in a tree, and the oldest of them began to tell this story:"
        body = {"prompt": prompt, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}
        answer = narrow.whole(body, "/v1/completions")
        assert answer["usage"]["completion_tokens"] == TOKENS
        return answer["choices"]

    alone = [ask(place) for place in range(AT_ONCE)]
    with ThreadPoolExecutor(AT_ONCE) as clients:
        together = list(clients.map(ask, range(AT_ONCE)))
    found = PREEMPTED.search(narrow.request("GET", "/metrics")[2].decode())
    assert found
    assert float(found[1]) > 0, "the cache was never full"
    assert together == alone
    assert narrow.in_engine() == 0
