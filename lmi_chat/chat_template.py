"""Render messages by the chat template and tokenise prompts; the only module that touches Jinja.

A template is configuration: it comes with the model or from `option.chat_template`, never from a request. It runs in
transformers' immutable sandbox. Text that spells a special token (`<|im_end|>`) is read as that token, as the model's
own `apply_chat_template` does, in both dialects.
"""

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from typing import Any, Protocol

from lmi_chat.errors import BadField, Problem, TemplateRefusal
from lmi_chat.text import one_line

TRIAL_S = 5.0
PROBE = "@@lmi-chat-probe@@"
TRIAL = [
    {"role": "user", "content": PROBE},
    {"role": "assistant", "content": f" {PROBE}\n"},
    {"role": "user", "content": f"{PROBE} <&> \u00e9"},
]


class Tokenizer(Protocol):
    """The methods of a transformers tokenizer that are used here."""

    chat_template: Any
    all_special_ids: list[int]

    def apply_chat_template(self, conversation: list[dict[str, Any]], **kwargs: Any) -> Any:
        """Render messages by a Jinja template."""

    def encode(self, text: str, **kwargs: Any) -> list[int]:
        """Tokenise a text."""

    def decode(self, token_ids: Sequence[int], **kwargs: Any) -> str:
        """Decode token ids."""

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str | None]:
        """Return the vocabulary's spelling of token ids."""

    def get_vocab(self) -> dict[str, int]:
        """Return the vocabulary, spelling → id."""


class BadTemplate(Exception):
    """The configured template cannot be used; the message says why. Stops the start."""


class Template:
    """The model's prompt format and its tokenizer, for one served model."""

    def __init__(self, tokenizer: Tokenizer, source: str | None = None) -> None:
        """Use `source` (Jinja text) instead of the model's own template; raises BadTemplate if it fails a trial."""
        self.tokenizer = tokenizer
        self._source = source
        self._backend = _backend(tokenizer)
        self._encode = _encoder(tokenizer, self._backend)
        self.longest_token_chars = max((len(token) for token in tokenizer.get_vocab()), default=1)
        self.has_chat = bool(source or tokenizer.chat_template)
        self._short: _Short | None = None
        self._takes_parts = self.has_chat and self._try_out()

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """Render checked messages as the prompt. Raises BadField without a template, or where it refuses them."""
        if not self.has_chat:
            text = "messages cannot be served: the model has no chat template; set option.chat_template, or use inputs"
            raise BadField([Problem("messages", text)])
        try:
            text = self._apply(
                [self._shaped(message) for message in messages],
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                **(variables or {}),
            )
        except _failures() as error:
            text = f"messages are refused by the model's chat template: {one_line(str(error), 200)}"
            raise TemplateRefusal([Problem("messages", text)]) from None
        return text

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Tokenise a text; `add_special_tokens` for plain prompts, not for rendered chats."""
        return self._encode(text, add_special_tokens)

    def encode_part(self, text: str, most: int, *, is_end: bool = False, add_special_tokens: bool) -> list[int]:
        """Tokenise the first part of `text` that gives at most `most` tokens, special ones included.

        `is_end`: the last part instead. Only with a Rust tokenizer are special tokens set around the part.
        """
        if self._backend is None:
            whole = self._encode(text, add_special_tokens)
            return whole[-most:] if is_end else whole[:most]
        around = self._backend.num_special_tokens_to_add(is_pair=False) if add_special_tokens else 0
        part = self._backend.encode(text, add_special_tokens=False)
        part.truncate(max(most - around, 0), direction="left" if is_end else "right")
        ids: list[int] = self._backend.post_process(part, None, add_special_tokens).ids
        return ids[:most]

    def decode(self, ids: Sequence[int]) -> str:
        """Decode token ids to text, special tokens included."""
        return self.tokenizer.decode(ids, skip_special_tokens=False)

    def _apply(
        self,
        messages: list[dict[str, Any]],
        *,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        **variables: Any,
    ) -> str:
        if self._short is not None and not continue_final_message and self._short.own.isdisjoint(variables):
            return self._short.render(messages, variables, add_generation_prompt=add_generation_prompt)
        return self._apply_whole(
            messages,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            **variables,
        )

    def _apply_whole(self, messages: list[dict[str, Any]], **kwargs: Any) -> str:
        if self._source is not None:
            return str(
                self.tokenizer.apply_chat_template(messages, chat_template=self._source, tokenize=False, **kwargs)
            )
        return str(self.tokenizer.apply_chat_template(messages, tokenize=False, **kwargs))

    def _shaped(self, message: Mapping[str, Any]) -> dict[str, Any]:
        content = message.get("content")
        if self._takes_parts or not isinstance(content, list):
            return dict(message)
        return {**message, "content": "\n".join(part["text"] for part in content)}

    def _try_out(self) -> bool:
        """Render a first chat within a time limit, then ask the template whether it understands content parts."""
        pool = ThreadPoolExecutor(1)
        try:
            pool.submit(self._apply, [{"role": "user", "content": PROBE}], add_generation_prompt=True).result(TRIAL_S)
            self._short = pool.submit(self._find_short).result(TRIAL_S)
            parts = [{"role": "user", "content": [{"type": "text", "text": PROBE}]}]
            text = pool.submit(self._render_probe, parts).result(TRIAL_S)
        except Late:
            raise BadTemplate(f"the chat template takes longer than {TRIAL_S:g} s for one short message") from None
        except _failures() as error:
            raise BadTemplate(f"the chat template fails for one user message: {one_line(str(error), 200)}") from None
        finally:
            pool.shutdown(wait=False)
        return PROBE in text and "'type'" not in text and '"type"' not in text

    def _find_short(self) -> "_Short | None":
        """Return a `_Short` if it renders every trial as transformers' own `apply_chat_template` does."""
        try:
            short = _Short.of(self.tokenizer, self._source)
            for count, has_head in ((1, True), (1, False), (len(TRIAL), True)):
                expected = self._apply_whole(TRIAL[-count:], add_generation_prompt=has_head)
                if short is None or short.render(TRIAL[-count:], {}, add_generation_prompt=has_head) != expected:
                    return None
        except _failures():  # as a template does that wants other roles
            return None
        return short

    def _render_probe(self, messages: list[dict[str, Any]]) -> str:
        try:
            return self._apply(messages, add_generation_prompt=True)
        except _failures():
            return ""


class _Short:
    """`apply_chat_template` with its lookups per call done once.

    They are the template among the tokenizer's, the special tokens' spellings, and Jinja's globals, which it chains
    and copies: two thirds of its time for a short chat. The template is transformers' own, compiled in its sandbox.
    """

    def __init__(self, template: Any, variables: Mapping[str, Any], own: frozenset[str]) -> None:
        """`own`: variables that `apply_chat_template` takes as arguments of its own; they are not supported here."""
        self.own = own
        self._context, self._root, self._join = template.new_context, template.root_render_func, template.environment
        self._fixed = {**template.globals, "tools": None, "documents": None, **variables}

    @classmethod
    def of(cls, tokenizer: Any, source: str | None) -> "_Short | None":
        """Build one; None for a tokenizer of another library, and for a transformers that is built differently."""
        base: Any = next((kind for kind in type(tokenizer).__mro__ if kind.__name__ == "PreTrainedTokenizerBase"), None)
        if base is None:
            return None
        try:
            from transformers.utils.chat_template_utils import _compile_jinja_template as compiled
        except ImportError:
            return None
        own = frozenset(inspect.signature(base.apply_chat_template).parameters)
        return cls(compiled(tokenizer.get_chat_template(source)), tokenizer.special_tokens_map, own)

    def render(
        self, messages: list[dict[str, Any]], variables: Mapping[str, Any], *, add_generation_prompt: bool
    ) -> str:
        """Render messages as the prompt. Raises what the template raises."""
        given = {
            **self._fixed,
            **variables,
            "messages": messages,
            "add_generation_prompt": add_generation_prompt,
        }
        return str(self._join.concat(self._root(self._context(given, shared=True))))


def _failures() -> tuple[type[Exception], ...]:
    """List the exceptions that a template may raise over a conversation it cannot render."""
    from jinja2 import TemplateError  # here so that the wire runs in tests without Jinja

    return (TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError)


def _encoder(tokenizer: Tokenizer, backend: Any) -> Callable[[str, bool], list[int]]:
    """Return the fastest encoder: the Rust tokenizer where there is one (it is safe to share between threads)."""
    if backend is None:
        return lambda text, special: tokenizer.encode(text, add_special_tokens=special)
    return lambda text, special: backend.encode(text, add_special_tokens=special).ids


def _backend(tokenizer: Tokenizer) -> Any:
    """Return the Rust tokenizer, or None, without the padding and truncation that its file may ask for in training."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and (backend.padding or backend.truncation):
        backend = copy.copy(backend)
        backend.no_padding()
        backend.no_truncation()
    return backend
