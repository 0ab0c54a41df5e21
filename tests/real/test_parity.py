"""Greedy answers are token for token what vLLM itself gives for the same prompts, with the same log-probabilities."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.real.conftest import Server
from tests.real.test_answers import QUESTIONS, standard

REFERENCE = """
import json, sys
from vllm import LLM, SamplingParams

if __name__ == "__main__":
    prompts = json.load(open(sys.argv[2]))
    llm = LLM(sys.argv[1], dtype="float32", enforce_eager=True, max_model_len=1024)
    params = SamplingParams(temperature=0, max_tokens=16, logprobs=0)
    told = llm.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False)
    answers = [
        [[token, step[token].logprob] for token, step in zip(one.outputs[0].token_ids, one.outputs[0].logprobs)]
        for one in told
    ]
    json.dump(answers, open(sys.argv[3], "w"))
"""


@pytest.mark.slow
def test_forty_prompts_are_answered_as_vllm_answers_them(
    server: Server, model: Path, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    chats = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=True
        )["input_ids"]
        for question in QUESTIONS
    ]
    plain = [tokenizer.encode(question) for question in QUESTIONS]
    script, prompts, answers = tmp_path / "reference.py", tmp_path / "prompts.json", tmp_path / "answers.json"
    script.write_text(REFERENCE)
    prompts.write_text(json.dumps(chats + plain))
    subprocess.run([sys.executable, script, model, prompts, answers], check=True, timeout=400, capture_output=True)
    expected = json.loads(answers.read_text())

    def ask_chat(question: str) -> list[tuple[bytes, float]]:
        sent = {
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            "max_tokens": 16,
            "logprobs": True,
        }
        content = server.whole(sent)["choices"][0]["logprobs"]["content"]
        return [(bytes(token["bytes"]), token["logprob"]) for token in content]

    def ask_standard(question: str) -> list[tuple[int, float]]:
        tokens = server.whole(standard(question, max_new_tokens=16))["details"]["tokens"]
        return [(token["id"], token["logprob"]) for token in tokens]

    with ThreadPoolExecutor(20) as pool:
        chatted, told = list(pool.map(ask_chat, QUESTIONS)), list(pool.map(ask_standard, QUESTIONS))
    for question, mine, theirs in zip(QUESTIONS, told, expected[20:], strict=True):
        assert [token for token, _ in mine] == [token for token, _ in theirs], question
        assert [logprob for _, logprob in mine] == pytest.approx([logprob for _, logprob in theirs], abs=1e-4)
    for question, said, told_there in zip(QUESTIONS, chatted, expected[:20], strict=True):
        theirs = (
            told_there[:-1] if told_there[-1][0] == tokenizer.eos_token_id else told_there
        )  # what ended it, no text
        whole = b"".join(token for token, _ in said).decode("utf-8", "replace")
        assert whole == tokenizer.decode([token for token, _ in theirs]), question
        assert [logprob for _, logprob in said] == pytest.approx([logprob for _, logprob in theirs], abs=1e-4)
