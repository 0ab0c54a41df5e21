"""Tokenise by bytes, for tests: a prompt can be read in its token ids, and no model is needed."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

END = "<|im_end|>"
END_ID = 256
VOCABULARY_TOKENS = 257
TURNS, TOOLS = "{turns}", "{tools}"


class _Decoder:
    def __getstate__(self) -> bytes:
        return json.dumps({"type": "ByteFallback"}).encode()


@dataclass
class _Encoding:
    ids: list[int]

    def truncate(self, most: int, *, direction: str) -> None:
        self.ids = self.ids[:most] if direction == "right" else self.ids[len(self.ids) - most :]


class _Backend:
    """The used part of the `tokenizers` library: encoding, and the decoder's state, which shows the spelling."""

    decoder = _Decoder()
    padding = truncation = None

    def __init__(self, tokenizer: "ByteTokenizer") -> None:
        self._tokenizer = tokenizer

    def encode(self, text: str, **kwargs: Any) -> Any:
        """Tokenise a text into an encoding."""
        return _Encoding(self._tokenizer.encode(text, **kwargs))

    def encode_batch_fast(self, texts: Sequence[str], **kwargs: Any) -> list[Any]:
        """Tokenise several texts."""
        return [self.encode(text, **kwargs) for text in texts]

    def num_special_tokens_to_add(self, **_: bool) -> int:
        return 0

    def post_process(self, part: "_Encoding", *_: object) -> "_Encoding":
        return part


class ByteTokenizer:
    """Token id = byte, and 256 = <|im_end|>. A chat template is a text with {turns} in it; None: no template.

    Turns are role, newline, text and <|im_end|> each; the prompt ends with the role "assistant" and a newline. One with
    {tools} in it shows tools and calls too, as JSON.
    """

    def __init__(self, chat_template: str | None = TURNS) -> None:
        self.chat_template = chat_template
        self.all_special_ids = [END_ID]
        self.backend_tokenizer = _Backend(self)

    def apply_chat_template(
        self,
        conversation: list[dict[str, Any]],
        *,
        chat_template: str | None = None,
        tokenize: bool = True,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tools: Sequence[dict[str, Any]] | None = None,
        **_: Any,
    ) -> str | list[int]:
        """Render messages as the prompt, or as its token ids."""
        if add_generation_prompt and continue_final_message:
            raise ValueError("continue_final_message and add_generation_prompt are not compatible")
        source = str(chat_template or self.chat_template)
        text = "\n".join(_turn(message, has_calls=TOOLS in source) for message in conversation)
        if continue_final_message:
            text = text.removesuffix(END)
        if add_generation_prompt:
            text += "\nassistant\n"
        shown = json.dumps(tools, ensure_ascii=False) if tools else ""
        prompt = source.replace(TOOLS, shown).replace(TURNS, text)
        return self.encode(prompt) if tokenize else prompt

    def encode(self, text: str, **_: Any) -> list[int]:
        """Tokenise a text."""
        parts = re.split(f"({re.escape(END)})", text)
        return [token for part in parts for token in ([END_ID] if part == END else part.encode())]

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False, **_: Any) -> str:
        """Decode token ids."""
        special = b"" if skip_special_tokens else END.encode()
        data = b"".join(special if token == END_ID else bytes([token]) for token in token_ids)
        return data.decode("utf-8", "replace")

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str | None]:
        """Return the vocabulary's spelling of token ids."""
        words = {token: word for word, token in self.get_vocab().items()}
        return [words.get(token) for token in ids]

    def get_vocab(self) -> dict[str, int]:
        """Return the vocabulary, spelling → id."""
        return {f"<0x{byte:02X}>": byte for byte in range(256)} | {END: END_ID}


def _turn(message: dict[str, Any], *, has_calls: bool) -> str:
    calls = message.get("tool_calls", ()) if has_calls else ()
    written = "".join(json.dumps(call["function"], ensure_ascii=False) for call in calls)
    return str(message["role"] + "\n" + message["content"] + written + END)
