"""Force what the engine generates: what stands in the prompt behind PARROT, up to the end of that turn.

Logits processors of vLLM's own interface, for tests alone: the engine, its sampler and its streams are real, and the
model says what the test wants, token for token, special tokens too.
"""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

PARROT, END = "<empty_output>", "<|im_end|>"
NAME = "tests.support.parrot:Parrot"
HARMONY_NAME = "tests.support.parrot:HarmonyParrot"


class Parrot(LogitsProcessor):  # type: ignore[misc]  # vllm has no types here
    """Says after the prompt what it tells; leaves alone what has no PARROT in its prompt."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:  # noqa: ARG002, FBT001
        self._folder = Path(vllm_config.model_config.tokenizer)
        self._told: dict[int, tuple[list[int], list[int]]] = {}

    @cached_property
    def _ids(self) -> dict[str, int]:
        tokenizer = json.loads((self._folder / "tokenizer.json").read_text())
        return {added["content"]: added["id"] for added in tokenizer["added_tokens"]}

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        process_dict_updates(self._told, batch_update, self._read)

    def _read(
        self, _params: SamplingParams, prompt: list[int] | None, output: list[int]
    ) -> tuple[list[int], list[int]] | None:
        told = self._find(prompt or [])
        return (told, output) if told else None

    def _find(self, prompt: list[int]) -> list[int]:
        """What is to be said; empty for nothing."""
        mark, end = self._ids[PARROT], self._ids[END]
        if mark not in prompt:
            return []
        told = prompt[len(prompt) - prompt[::-1].index(mark) :]
        return [*told[: told.index(end)], end]

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        for row, (told, output) in self._told.items():
            logits[row] = float("-inf")
            logits[row, told[min(len(output), len(told) - 1)]] = 0.0
        return logits


class HarmonyParrot(Parrot):
    """Does it for harmony, whose renderer takes no mark in a message for one: they are spelled, and read here."""

    def _find(self, prompt: list[int]) -> list[int]:
        from vllm.entrypoints.openai.parser.harmony_utils import get_encoding

        encoding = get_encoding()
        [end], stops = encoding.encode("<|end|>", allowed_special="all"), encoding.stop_tokens_for_assistant_actions()
        told: list[int] = []
        while end in prompt:
            place = prompt.index(end)
            _, mark, text = encoding.decode(prompt[:place]).partition(PARROT)
            if mark:
                told = encoding.encode(text, allowed_special="all")
            prompt = prompt[place + 1 :]
        [return_] = encoding.encode("<|return|>", allowed_special="all")
        return told if not told or told[-1] in stops else [*told, return_]
