"""Hold a generation as LMI's per-token formatters read it: the request, and the sequences that grow token by token."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


class Token:
    """One generated token, or one of the prompt's."""

    def __init__(
        self,
        id: int,  # noqa: A002 the name that formatters use
        text: str,
        log_prob: float | None = None,
        special_token: bool | None = None,  # noqa: FBT001 the signature that handlers call
        error_msg: str | None = None,
    ) -> None:
        """`id` of the vocabulary, its text, the natural log of its probability."""
        self.id, self.text, self.log_prob = id, text, log_prob
        self.special_token, self.error_msg = special_token, error_msg
        self.request_id: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """As LMI's lines have it."""
        shown: dict[str, Any] = {"id": self.id, "text": self.text, "log_prob": self.log_prob}
        optional = {"special_token": self.special_token, "error_msg": self.error_msg}
        return shown | {name: value for name, value in optional.items() if value}

    def as_tgi_dict(self) -> dict[str, Any]:
        """As TGI has it."""
        shown: dict[str, Any] = {"id": self.id, "text": self.text, "logprob": self.log_prob}
        return shown | ({"special": self.special_token} if self.special_token else {})


@dataclass
class Sequence:
    """The tokens of one sequence so far, and a reader's place among them."""

    tokens: list[Token] = field(default_factory=list)
    top_tokens: list[list[Token]] = field(default_factory=list)
    cumulative_log_prob: float = 0.0
    finish_reason: str | None = None
    _last_token_index: int | None = None
    stop_reason: str | None = None
    _place: int = field(init=False, default=0, repr=False)
    _top_place: int = field(init=False, default=0, repr=False)

    def set_next_token(self, token: Token, is_last_token: bool = False) -> None:  # noqa: FBT001, FBT002 its signature
        """Add a token."""
        self.tokens.append(token)
        if is_last_token:
            self._last_token_index = len(self.tokens) - 1

    def set_next_top_tokens(self, top_tokens: list[Token]) -> None:
        """Add the likeliest tokens of a place."""
        self.top_tokens.append(top_tokens)

    def has_next_token(self) -> bool:
        """Whether there is a token that was not read."""
        return self._place < len(self.tokens)

    def has_next_top_tokens(self) -> bool:
        """Whether there are likeliest tokens that were not read."""
        return self._top_place < len(self.top_tokens)

    def get_next_token(self) -> tuple[Token | None, bool, bool]:
        """Read on by one token: it, whether it is the first one, whether it is the last one."""
        if not self.has_next_token():
            return None, False, False
        place, self._place = self._place, self._place + 1
        return self.tokens[place], place == 0, place == self._last_token_index

    def get_next_top_tokens(self) -> list[Token] | None:
        """Read on by one place; None at the end."""
        if not self.has_next_top_tokens():
            return None
        place, self._top_place = self._top_place, self._top_place + 1
        return self.top_tokens[place]


@dataclass
class RequestInput:
    """What was asked: `parameters` are the body's."""

    request_id: int | str
    output_formatter: Callable[..., Any] | str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    server_parameters: dict[str, Any] = field(default_factory=dict)
    tgi_compat: bool = False


@dataclass
class TextInput(RequestInput):
    """A prompt: its text, its token ids."""

    input_text: str | None = None
    input_ids: list[int] = field(default_factory=list)
    adapters: Any = None
    tokenizer: Any = None
    found_adapters: bool = False

    def prompt_tokens_length(self) -> int:
        """How many tokens the prompt has."""
        return len(self.input_ids)


@dataclass
class RequestOutput:
    """What came of a request so far."""

    request_id: int | str
    input: RequestInput
    finished: bool = False


@dataclass
class TextGenerationOutput(RequestOutput):
    """The sequences of a request by their index; `best_sequence_index` is the one to show."""

    sequences: dict[int, Sequence] = field(default_factory=dict)
    best_sequence_index: int = 0
    prompt_tokens_details: list[Token] = field(default_factory=list)
    other_sequences_indices: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Have the best sequence, empty."""
        self.sequences[self.best_sequence_index] = Sequence()

    def set_next_token(
        self,
        token: Token,
        sequence_index: int = 0,
        is_last_token: bool = False,  # noqa: FBT001, FBT002 the signature that handlers call
        finish_reason: str | None = None,
    ) -> None:
        """Add a token to a sequence, which is begun if need be."""
        sequence = self.sequences.setdefault(sequence_index, Sequence())
        sequence.set_next_token(token, is_last_token)
        if finish_reason:
            sequence.finish_reason = finish_reason

    def set_next_top_tokens(self, top_tokens: list[Token], sequence_index: int) -> None:
        """Add the likeliest tokens of a place of a sequence."""
        self.sequences[sequence_index].set_next_top_tokens(top_tokens)

    def set_best_sequence_index(self, sequence_index: int) -> None:
        """Say which sequence to show."""
        self.best_sequence_index = sequence_index

    def set_finish_reason(self, finish_reason: str, sequence_index: int = 0) -> None:
        """Say why a sequence ended."""
        self.sequences[sequence_index].finish_reason = finish_reason

    def get_tokens_as_dict(self, sequence_index: int = 0) -> list[dict[str, Any]]:
        """A sequence's tokens."""
        return self._shown(self.sequences[sequence_index].tokens)

    def get_prompt_tokens_as_dict(self) -> list[dict[str, Any]]:
        """The prompt's tokens."""
        return self._shown(self.prompt_tokens_details)

    def get_top_tokens_as_dict(self, sequence_index: int = 0) -> list[list[dict[str, Any]]]:
        """The likeliest tokens of each place of a sequence."""
        return [self._shown(tokens) for tokens in self.sequences[sequence_index].top_tokens]

    def _shown(self, tokens: list[Token]) -> list[dict[str, Any]]:
        return [token.as_tgi_dict() if self.input.tgi_compat else token.as_dict() for token in tokens]
