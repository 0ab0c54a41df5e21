"""Force what the engine generates: what stands in the prompt behind PARROT, up to the end of that turn.

A logits processor of vLLM's own interface, for tests alone: the engine, its sampler and its streams are real, and the
model says what the test wants, token for token, special tokens too.
"""

import json
from pathlib import Path
from typing import Any

import torch
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

PARROT, END = "<empty_output>", "<|im_end|>"
NAME = "tests.support.parrot:Parrot"


class Parrot(LogitsProcessor):  # type: ignore[misc]  # vllm has no types here
    """Says after the prompt what it tells; leaves alone what has no PARROT in its prompt."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:  # noqa: ARG002, FBT001
        tokenizer = json.loads(Path(vllm_config.model_config.tokenizer, "tokenizer.json").read_text())
        ids = {added["content"]: added["id"] for added in tokenizer["added_tokens"]}
        self._mark, self._end = ids[PARROT], ids[END]
        self._told: dict[int, tuple[list[int], list[int]]] = {}

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        process_dict_updates(self._told, batch_update, self._read)

    def _read(
        self, _params: SamplingParams, prompt: list[int] | None, output: list[int]
    ) -> tuple[list[int], list[int]] | None:
        if not prompt or self._mark not in prompt:
            return None
        told = prompt[len(prompt) - prompt[::-1].index(self._mark) :]
        return [*told[: told.index(self._end)], self._end], output

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        for row, (told, output) in self._told.items():
            logits[row] = float("-inf")
            logits[row, told[min(len(output), len(told) - 1)]] = 0.0
        return logits
