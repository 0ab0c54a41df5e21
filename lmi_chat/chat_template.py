"""Render messages by the chat template and tokenise prompts; the only module that touches Jinja.

A template is configuration: it comes with the model or from `option.chat_template`, never from a request. It runs in
transformers' immutable sandbox. Text that spells a special token (`<|im_end|>`) is read as that token, as the model's
own `apply_chat_template` does, in both dialects.
"""

import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from contextlib import suppress
from typing import Any, Protocol

from lmi_chat.errors import BadField, Problem, TemplateRefusal
from lmi_chat.text import one_line
from lmi_chat.tokenization import Encoder

TRIAL_S = 5.0
PROBE = "@@lmi-chat-probe@@"
DUMP = re.compile(r"""['"]type['"]: ?['"]text['"]""")
"""A part that is printed and not read."""
TRIAL: list[dict[str, Any]] = [
    {"role": "user", "content": PROBE},
    {"role": "assistant", "content": f" {PROBE}\n"},
    {"role": "user", "content": f"{PROBE} <&> \u00e9"},
]
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "lmi_chat_probe",
        "description": "Try this.",
        "parameters": {
            "type": "object",
            "properties": {"probe": {"type": "string", "description": "A word."}},
            "required": ["probe"],
        },
    },
}
"""What is offered to a template to learn whether it shows tools; its name is one that every tokenizer takes."""
CALL_ID = "call00001"
"""Of nine letters and digits, as Mistral's templates want it."""
CHATS = {
    "user": ("user",),
    "system": ("system", "user"),
    "assistant": ("user", "assistant", "user"),
    "developer": ("developer", "user"),
}
"""The roles of the chat in which a message of each role is tried out."""
LATER = [
    *({"role": role, "content": "Hi"} for role in ("system", "user", "assistant", "user")),
    {"role": "system", "content": PROBE},
]
"""A chat with a system message that is not the first."""
RESERVED = frozenset(
    {
        *("messages", "conversation", "tools", "documents", "chat_template"),
        *("add_generation_prompt", "continue_final_message", "tokenize", "return_dict"),
        *("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"),
    }
)
"""What a request never sets as a variable of the template: a field of its own stands for it, or the tokenizer does."""
THINKING = "enable_thinking"
"""What clients send to every model, whether its template reads it or not."""
PLAIN = ("role", "content")
Message = dict[str, Any]


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


class ChatRenderer(Protocol):
    """Code that renders chats in place of a Jinja template, for tokenizers that come with such code."""

    @property
    def variables(self) -> frozenset[str]:
        """Name the variables that it takes."""

    def render(self, messages: list[Message], **kwargs: Any) -> str | list[int]:
        """Render messages as they came; token ids from code that also tokenises. Any exception is a refusal."""


class PairEncoder(Protocol):
    """Code that writes two texts into one prompt, for models that read both together. Any thread may call it."""

    @property
    def takes_instruction(self) -> bool:
        """Whether a template writes the prompt, which may read an instruction."""

    def encode(
        self,
        query: str,
        document: str,
        *,
        most: int,
        side: str = "",
        query_tokens: int = 0,
        document_tokens: int = 0,
        instruction: str = "",
    ) -> tuple[list[int], int | None]:
        """Tokenise both, `most` tokens in all: the first or last for `side` "right" or "left", "": less of the longer.

        Of each text at most `query_tokens` and `document_tokens` are kept, 0: all. Gives the ids, and the place of the
        second text's first one where the model is told it. Raises an Error.
        """


MakePairEncoder = Callable[[str | None], PairEncoder]
"""Makes a PairEncoder, with the chat template that writes both texts or without."""


class BadTemplate(Exception):
    """The configured template cannot be used; the message says why. Stops the start."""


class Template:
    """The model's prompt format and its tokenizer, for one served model.

    `knows_tools`: tools reach the prompt; `reads`: the variables of a request that do; `variables`: those that it may
    set. `takes_later_system`: a system message that stands amid the others reaches the prompt.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        source: str | None = None,
        own: ChatRenderer | None = None,
        *,
        is_for_tools: bool = False,
        encoder: Encoder | None = None,
    ) -> None:
        """Use `source` (Jinja text) instead of the model's own template, or `own`, code that needs none.

        `is_for_tools`: it renders chats with tools alone. `encoder`: the tokenizer's, if there is one. Raises
        BadTemplate if it fails a trial.
        """
        if source and own:
            raise BadTemplate(
                "option.chat_template cannot be used: the model's tokenizer renders chats by its own code"
            )
        self.tokenizer = tokenizer
        self._source, self._own = source, own
        self.has_own_code = own is not None
        self._encoder = encoder or Encoder(tokenizer)
        self.longest_token_chars = max((len(token) for token in tokenizer.get_vocab()), default=1)
        self._short: _Short | None = None
        self._jinja = None if own else jinja_text(tokenizer, source)
        self._with_parts: frozenset[str] = frozenset()  # roles whose content may be parts
        self._wrapped: frozenset[str] = frozenset()  # roles whose content must be
        self._knows_developer = True
        self._wordless: tuple[str | None, ...] = ("",)  # what may be the content beside calls, the best first
        self._writes_arguments = False  # calls have theirs as JSON text, not as an object
        self.knows_tools = False
        self.takes_later_system = False
        self._offered = [TOOL] if is_for_tools else []
        self.has_chat = self._try_out()
        with_tools = None if own or is_for_tools else jinja_text(tokenizer, source, has_tools=True)
        self._for_tools: Template | None = None
        if with_tools != self._jinja and with_tools is not None:  # several named templates
            with suppress(BadTemplate):
                self._for_tools = Template(tokenizer, with_tools, is_for_tools=True, encoder=self._encoder)
            self.knows_tools = self._for_tools is not None and self._for_tools.knows_tools
            self.takes_later_system &= self._for_tools is None or self._for_tools.takes_later_system
        self.reads = own.variables if own else _variables(tokenizer, self._jinja)
        self.reads |= self._for_tools.reads if self._for_tools else frozenset()
        self.variables = self.reads | {THINKING}

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Mapping[str, Any] | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
        path: str = "messages",
    ) -> str | list[int]:
        """Render checked messages, which stand at `path`, as the prompt; as token ids where `own` makes these.

        `tools` are in the form of OpenAI's API. Raises BadField without a template, or where it refuses them.
        """
        if not self.has_chat:
            other = "use inputs" if path == "messages" else "send a text"
            text = f"{path} cannot be served: the model has no chat template; set option.chat_template, or {other}"
            raise BadField([Problem(path, text)])
        chosen = self._for_tools if tools and self._for_tools else self
        try:
            return chosen._apply(  # noqa: SLF001 a Template too
                chosen._shape(messages),  # noqa: SLF001
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                tools=tools,
                **(variables or {}),
            )
        except Exception as error:  # noqa: BLE001 the template is foreign code
            raise TemplateRefusal([Problem(path, f"{path} {_refusal(error)}")]) from None

    def names_role(self, role: str) -> bool:
        """Whether the template asks for a message's role being this one."""
        text = str(self._source or self.tokenizer.chat_template)
        word = rf"""['"]{role}['"]"""
        return re.search(rf"""role['"\]\s]*(?:==\s*{word}|in\s*[\[(][^\])]*{word})""", text) is not None

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Tokenise a text; `add_special_tokens` for plain prompts, not for rendered chats."""
        return self._encoder.encode(text, add_special_tokens=add_special_tokens)

    def encode_part(self, text: str, most: int, *, is_end: bool = False, add_special_tokens: bool) -> list[int]:
        """Tokenise the first part of `text` that gives at most `most` tokens; see Encoder."""
        return self._encoder.encode_part(text, most, is_end=is_end, add_special_tokens=add_special_tokens)

    def decode(self, ids: Sequence[int]) -> str:
        """Decode token ids to text, special tokens included."""
        return self.tokenizer.decode(ids, skip_special_tokens=False)

    def _apply(
        self,
        messages: list[Message],
        *,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] = (),
        **variables: Any,
    ) -> str | list[int]:
        short = self._short
        is_short = short is not None and not continue_final_message and short.own.isdisjoint(variables)
        if short is not None and is_short and (short.takes_tools or not tools):
            return short.render(messages, variables, tools=tools, add_generation_prompt=add_generation_prompt)
        offered = {"tools": list(tools)} if tools else {}
        return self._apply_whole(
            messages,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            **offered,
            **variables,
        )

    def _apply_whole(self, messages: list[Message], **kwargs: Any) -> str | list[int]:
        if self._own is not None:
            return self._own.render(messages, **kwargs)
        if self._source is not None:
            return str(
                self.tokenizer.apply_chat_template(messages, chat_template=self._source, tokenize=False, **kwargs)
            )
        return str(self.tokenizer.apply_chat_template(messages, tokenize=False, **kwargs))

    def _shape(self, messages: Sequence[Mapping[str, Any]]) -> list[Message]:
        """Write messages as the template knows them; code of the tokenizer's own reads them as clients send them."""
        if not self._knows_developer and any(message["role"] == "developer" for message in messages):
            messages = _as_system(messages)
        if self._own is not None:
            return [dict(message) for message in messages]
        return [self._shaped(message) for message in messages]

    def _shaped(self, message: Mapping[str, Any]) -> Message:
        """Give content the form that the template understands; a missing one is empty, arguments are no JSON text."""
        role, content = message["role"], message.get("content")
        if len(message) == len(PLAIN) and isinstance(content, str) and role not in self._wrapped:
            return dict(message)  # nearly all are
        shaped = {**message, "content": content or ""}
        if "tool_calls" in message:
            written = _written_call if self._writes_arguments else _parsed_call
            shaped["tool_calls"] = [written(call) for call in message["tool_calls"]]
            if not content and message["tool_calls"]:
                shaped["content"] = content if content in self._wordless else self._wordless[0]
        if reasoning := message.get("reasoning") or message.get("reasoning_content"):
            shaped |= {"reasoning": reasoning, "reasoning_content": reasoning}
        if isinstance(content, list) and role not in self._with_parts:
            shaped["content"] = joined(content)
        elif isinstance(content, str | None) and role in self._wrapped:
            shaped["content"] = [{"type": "text", "text": content}] if content else []
        return shaped

    def _try_out(self) -> bool:
        """Learn by trial, each within a time limit, which roles and forms of content reach the prompt.

        Returns whether there is something to render chats with. Raises BadTemplate where a user's text gets lost.
        """
        is_configured = bool(self._source or self._own or getattr(self.tokenizer, "chat_template", None))
        pool = ThreadPoolExecutor(1)
        try:
            self._learn_forms(pool)
            self.takes_later_system = self._learn_later(pool)
            self._short = pool.submit(self._find_short).result(TRIAL_S)
            self.knows_tools = self._learn_tools(pool)
            pool.submit(self._learn_calls).result(TRIAL_S)
        except Late:
            raise BadTemplate(f"the chat template takes longer than {TRIAL_S:g} s for one short message") from None
        except BadTemplate:
            if is_configured:
                raise
            return False  # a tokenizer with neither template nor code
        finally:
            pool.shutdown(wait=False)
        return True

    def _learn_forms(self, pool: ThreadPoolExecutor) -> None:
        """Fill `_with_parts`, `_wrapped` and `_knows_developer`. Raises BadTemplate."""
        failures: list[Exception] = []

        def shows(role: str, *, has_parts: bool) -> bool:
            try:
                return pool.submit(self._shows, role, has_parts=has_parts).result(TRIAL_S)
            except Late:
                raise
            except Exception as error:  # noqa: BLE001 the template is foreign code
                failures.append(error)
                return False

        for role in CHATS:
            takes_text = shows(role, has_parts=False)
            takes_parts = self._own is None and shows(role, has_parts=True)
            if role == "user" and not (takes_text or takes_parts):
                text = f"fails for one user message: {one_line(str(failures[0]), 200)}" if failures else ""
                raise BadTemplate(f"the chat template {text or 'leaves the text of a user message out of the prompt'}")
            if takes_parts:
                self._with_parts |= {role}
                self._wrapped |= set() if takes_text else {role}
            if role == "developer":
                self._knows_developer = takes_text or takes_parts
        if self._jinja is not None:  # some print the name of any role, known or not
            self._knows_developer = "'developer'" in self._jinja or '"developer"' in self._jinja

    def _learn_later(self, pool: ThreadPoolExecutor) -> bool:
        chat = [self._shaped(message) for message in LATER]
        try:
            return PROBE in pool.submit(self._text, chat, self._offered).result(TRIAL_S).lower()
        except Late:
            raise
        except Exception:  # noqa: BLE001 the template is foreign code
            return False

    def _shows(self, role: str, *, has_parts: bool) -> bool:
        """Whether the content of a message of `role`, as text or as parts, is in the prompt."""
        content: Any = [{"type": "text", "text": PROBE}] if has_parts else PROBE
        chat = [{"role": one, "content": content if one == role else "Hi"} for one in CHATS[role]]
        others = [message if message["role"] == role else self._shaped(message) for message in chat]
        text = self._text(others, self._offered)
        return PROBE in text.lower() and not (has_parts and DUMP.search(text))

    def _text(self, messages: list[Message], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        rendered = self._apply(messages, add_generation_prompt=True, tools=tools)
        return rendered if isinstance(rendered, str) else self.decode(rendered)

    def _learn_tools(self, pool: ThreadPoolExecutor) -> bool:
        """Whether tools reach the prompt: the template reads them, or code shows one that is offered."""
        if self._jinja is not None and "tools" in _undeclared(self._jinja):
            return True
        try:
            text = pool.submit(self._text, self._shape([{"role": "user", "content": PROBE}]), [TOOL]).result(TRIAL_S)
        except Late:
            raise
        except Exception:  # noqa: BLE001 the template is foreign code
            return False
        return str(TOOL["function"]["name"]) in text

    def _learn_calls(self) -> None:
        """Fill `_wordless` and `_writes_arguments`: templates ask for no content beside calls, or want a text there."""
        if self._own is not None:
            return
        offered = [TOOL] if self.knows_tools else []
        for is_text in (False, True):
            said: dict[str | None, str] = {}
            for content in (None, ""):
                with suppress(Exception):  # the template is foreign code
                    said[content] = self._text(called(content, is_text=is_text), offered)
            found = [content for content, text in said.items() if _shows_call(text)]
            if None in found and said[None].count("None") > said.get("", said[None]).count("None"):
                found.remove(None)  # it has printed it
            if found:
                self._wordless, self._writes_arguments = tuple(found), is_text
                return

    def _find_short(self) -> "_Short | None":
        """Return a `_Short` if it renders every trial as transformers' own `apply_chat_template` does."""
        if self._jinja is None:
            return None
        try:
            short = _Short.of(self.tokenizer, self._source)
            for count, has_head in ((1, True), (1, False), (len(TRIAL), True)):
                if short is None or not self._agrees(short, TRIAL[-count:], self._offered, has_head=has_head):
                    return None
        except Exception:  # noqa: BLE001 as a template raises that wants other roles
            return None
        if short is not None:
            with suppress(Exception):  # as a template raises that wants no tools
                short.takes_tools = self._agrees(short, TRIAL[-1:], [TOOL], has_head=True)
        return short

    def _agrees(self, short: "_Short", chat: list[Message], tools: list[Message], *, has_head: bool) -> bool:
        trial, offered = self._shape(chat), {"tools": tools} if tools else {}
        expected = self._apply_whole(trial, add_generation_prompt=has_head, **offered)
        return short.render(trial, {}, tools=tools, add_generation_prompt=has_head) == expected


def joined(parts: Sequence[Mapping[str, Any]]) -> str:
    """Join text parts for a template that knows none; what else there is has no text."""
    return "\n".join(part["text"] for part in parts if "text" in part)


def _as_system(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Make developer messages system messages, and one of all of these, at the head: some templates know no other."""
    texts, others = [], []
    for message in messages:
        if message["role"] in {"system", "developer"}:
            content = message.get("content") or ""
            texts.append(joined(content) if isinstance(content, list) else content)
        else:
            others.append(message)
    return [{"role": "system", "content": "\n\n".join(text for text in texts if text)}, *others]


def _parsed_call(call: Mapping[str, Any]) -> Message:
    """Write a tool call as templates expect it: its arguments are an object, {} where the model wrote none."""
    arguments: Any = call["function"].get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            arguments = {}
    return {**call, "function": {**call["function"], "arguments": arguments if isinstance(arguments, dict) else {}}}


def _written_call(call: Mapping[str, Any]) -> Message:
    """Write a tool call for a template that puts its arguments behind another text: they are JSON."""
    arguments: Any = call["function"].get("arguments")
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments or {}, ensure_ascii=False)
    return {**call, "function": {**call["function"], "arguments": arguments}}


def called(content: str | None, *, is_text: bool) -> list[Message]:
    """Return a chat in which a tool has been called and has answered, for a trial; `is_text`: arguments are a text."""
    arguments: Any = {"probe": PROBE}
    function = {"name": TOOL["function"]["name"], "arguments": json.dumps(arguments) if is_text else arguments}
    return [
        {"role": "user", "content": "Hi"},
        {
            "role": "assistant",
            "content": content,
            "tool_calls": [{"id": CALL_ID, "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": CALL_ID, "name": TOOL["function"]["name"], "content": "7"},
    ]


def _shows_call(text: str) -> bool:
    """Whether a call's arguments are in a prompt, and not as Python would print an object, which is no JSON."""
    return PROBE in text and "'probe':" not in text


def _refusal(error: Exception) -> str:
    """Say why messages could not be rendered: in the template author's words where he raised it himself."""
    reason = one_line(str(error), 200) or type(error).__name__
    if isinstance(error, ValueError) or type(error).__name__ == "TemplateError":
        return f"are refused by the model's chat template: {reason}"
    return f"cannot be rendered by the model's chat template, which fails for them ({reason})"


def first_chats() -> list[dict[str, Any]]:
    """Return what a Template renders when it is made, for a trial of whether its template comes to an end."""
    chats: list[list[Message]] = [
        [{"role": one, "content": content if one == role else "Hi"} for one in roles]
        for role, roles in CHATS.items()
        for content in (PROBE, [{"type": "text", "text": PROBE}])
    ]
    chats += [TRIAL[-1:], TRIAL, LATER]
    chats += [called(content, is_text=is_text) for content in (None, "") for is_text in (True, False)]
    return [
        {"messages": chat, "add_generation_prompt": head, **offered}
        for chat in chats
        for head in (True, False)
        for offered in ({}, {"tools": [TOOL]})
    ]


def jinja_text(tokenizer: Any, source: str | None, *, has_tools: bool = False) -> str | None:
    """Return the text of the template; None for a tokenizer of another library, or without one.

    `has_tools`: the one for chats with tools, where there are several.
    """
    if _transformers_base(tokenizer) is None:
        return None
    with suppress(ValueError):  # it has none
        return str(tokenizer.get_chat_template(source, [TOOL] if has_tools else None))
    return None


def _undeclared(text: str) -> frozenset[str]:
    """List the names that a template reads and does not set; none for a transformers that is built differently."""
    compiled = _compiled(text)
    if compiled is None:
        return frozenset()
    from jinja2 import meta

    environment = compiled.environment
    return frozenset(meta.find_undeclared_variables(environment.parse(text)) - environment.globals.keys())


def _transformers_base(tokenizer: object) -> Any:
    return next((kind for kind in type(tokenizer).__mro__ if kind.__name__ == "PreTrainedTokenizerBase"), None)


def _variables(tokenizer: Any, text: str | None) -> frozenset[str]:
    """List the variables that a template reads and a request may set."""
    if text is None:
        return frozenset()
    own = inspect.signature(_transformers_base(tokenizer).apply_chat_template).parameters
    return frozenset(_undeclared(text) - own.keys() - tokenizer.special_tokens_map.keys() - RESERVED)


def _compiled(text: str) -> Any:
    """Compile a template in transformers' sandbox; None for a transformers that is built differently."""
    try:
        from transformers.utils.chat_template_utils import _compile_jinja_template as compiled
    except ImportError:
        return None
    return compiled(text)


class _Short:
    """`apply_chat_template` with its lookups per call done once.

    They are the template among the tokenizer's, the special tokens' spellings, and Jinja's globals, which it chains
    and copies: two thirds of its time for a short chat. The template is transformers' own, compiled in its sandbox.
    """

    def __init__(self, template: Any, variables: Mapping[str, Any], own: frozenset[str]) -> None:
        """`own`: variables that `apply_chat_template` takes as arguments of its own; they are not supported here."""
        self.own = own
        self.takes_tools = False
        self._context, self._root, self._join = template.new_context, template.root_render_func, template.environment
        self._fixed = {**template.globals, "tools": None, "documents": None, **variables}

    @classmethod
    def of(cls, tokenizer: Any, source: str | None) -> "_Short | None":
        """Build one; None for a tokenizer of another library, and for a transformers that is built differently."""
        base = _transformers_base(tokenizer)
        template = None if base is None else _compiled(tokenizer.get_chat_template(source))
        if template is None:
            return None
        own = frozenset(inspect.signature(base.apply_chat_template).parameters)
        return cls(template, tokenizer.special_tokens_map, own)

    def render(
        self,
        messages: list[dict[str, Any]],
        variables: Mapping[str, Any],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        add_generation_prompt: bool,
    ) -> str:
        """Render messages as the prompt. Raises what the template raises."""
        given = {
            **self._fixed,
            **variables,
            "messages": messages,
            "add_generation_prompt": add_generation_prompt,
        }
        if tools:
            given["tools"] = list(tools)
        return str(self._join.concat(self._root(self._context(given, shared=True))))
