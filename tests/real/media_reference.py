"""Chat about media with our server and by vLLM's own `LLM.chat`.

As a program it is the latter: its words are a model's folder and the engine's arguments, it reads the chats.
"""

import json
import os
import subprocess
import sys
import wave
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.real.conftest import Server

MARK = "TOLD"
MEMORY = 64 * 2**20
"""Bytes of the cache of keys and values."""
MAX_TOKENS = 6
Chat = Sequence[Mapping[str, Any]]
Telling = Callable[[str], dict[str, Any]]
"""See `telling`."""


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def user(*parts: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


def asked(chat: Chat, **more: Any) -> dict[str, Any]:
    """A body that asks what `answered` asks vLLM."""
    return {"messages": chat, "max_tokens": MAX_TOKENS, "temperature": 0, "logprobs": True, **more}


def said(server: Server, chat: Chat, **more: Any) -> tuple[int, str, list[float]]:
    """Prompt tokens, text and log-probabilities of our answer."""
    answer = server.whole(asked(chat, **more))
    (choice,) = answer["choices"]
    scores = [token["logprob"] for token in choice["logprobs"]["content"]]
    return answer["usage"]["prompt_tokens"], choice["message"]["content"], scores


def check_same(server: Server, chat: Chat, expected: Mapping[str, Any]) -> None:
    """The same prompt, token for token, and the same answer to it."""
    answer = server.whole(asked(chat, return_token_ids=True))
    assert answer["choices"][0]["prompt_token_ids"] == expected["ids"]
    tokens, content, scores = said(server, chat)
    assert (tokens, content) == (len(expected["ids"]), expected["text"]), (content, expected["text"])
    assert scores == pytest.approx(expected["logprobs"], abs=1e-4)


@contextmanager
def telling(folder: Path, chats: Mapping[str, Chat], **arguments: Any) -> Iterator[Telling]:
    """Tell what vLLM says to each chat, by its name: `ids` of the prompt, `text`, `logprobs`.

    It is asked in a process of its own, which runs while a server starts.
    """
    with ThreadPoolExecutor(1) as pool:
        answers = pool.submit(_told, folder, chats, arguments)
        yield lambda name: answers.result()[name]


def _told(folder: Path, chats: Mapping[str, Chat], arguments: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    words = [sys.executable, "-m", "tests.real.media_reference", str(folder), json.dumps(arguments)]
    own = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_MEDIA_CONNECTOR": "http"}
    environment = os.environ | own  # a test in this process may have installed our connector
    given = json.dumps([*chats.values()])
    done = subprocess.run(words, input=given, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert MARK in done.stdout, done.stderr[-3000:]
    answers = json.loads(done.stdout.partition(MARK)[2].splitlines()[0])
    return dict(zip(chats, answers, strict=True))


def answered(folder: str, arguments: Mapping[str, Any], chats: Sequence[Chat]) -> list[dict[str, Any]]:
    """The same, in this process."""
    from vllm import LLM, SamplingParams
    from vllm.multimodal.media import audio

    audio.load_audio = _samples
    llm = LLM(folder, dtype="float32", enforce_eager=True, kv_cache_memory_bytes=MEMORY, **arguments)
    params = SamplingParams(max_tokens=MAX_TOKENS, temperature=0, logprobs=0)
    answers = []
    for chat in chats:
        out = llm.chat(chat, params, use_tqdm=False)[0]
        last = out.outputs[0]
        scores = [one[token].logprob for one, token in zip(last.logprobs or (), last.token_ids, strict=True)]
        answers.append({"ids": list(out.prompt_token_ids or ()), "text": last.text, "logprobs": scores})
    return answers


def _samples(file: Any, **_: Any) -> Any:
    """Read a WAV file as soundfile does; vLLM without it reads by PyAV, and takes whole numbers for samples."""
    import numpy as np

    with wave.open(file) as read:
        found = np.frombuffer(read.readframes(read.getnframes()), "<i2").astype(np.float32)
        return found / 2**15, read.getframerate()


if __name__ == "__main__":
    found = answered(sys.argv[1], json.loads(sys.argv[2]), json.load(sys.stdin))
    sys.stdout.write(f"\n{MARK}{json.dumps(found)}\n")
