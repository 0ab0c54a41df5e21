"""Describe the bodies of requests as JSON Schema, from the types that the dialects check them by.

A rule between two fields stands here where a schema can say it; the others are sentences, in UNSAID.
"""

from lmi_chat.codec.json_text import Json
from lmi_chat.dialects import DIALECTS, openai
from lmi_chat.dialects.body import IDS, Usage
from lmi_chat.dialects.chat import messages, tools
from lmi_chat.dialects.chat.body import SESSIONS, ChatBody, MetadataBody, SessionBody
from lmi_chat.dialects.chat.reasoning import VARIABLE_CHARS
from lmi_chat.dialects.completion.body import CompletionBody
from lmi_chat.dialects.deployment import Deployment
from lmi_chat.dialects.embedding.body import EmbeddingBody, Pooling
from lmi_chat.dialects.standard.body import Parameters, StandardBody
from lmi_chat.http.openapi import structured_output
from lmi_chat.http.openapi.shapes import BOOLEAN, TEXT, if_then, nullable, record

UNSAID = (
    "the prompt has at least one token, and leaves room for one and for min_tokens in the model's context",
    "min_tokens is at most max_tokens",
    "max_length is above the prompt's tokens",
    "the model's chat template takes the messages",
    "token ids stand in the vocabulary",
    "two names of one field (max_tokens and max_completion_tokens, stop and stop_sequences) have the same value",
    "a field that stands both in parameters and beside it has the same value there; rules between fields hold for both",
    "n is at most best_of and num_beams, where these are above 1",
    "of several ways to ask for a form of the text all ask for the same one",
    "a beam search stands beside no form of the text, bias, penalty, list of tokens or words, prompt_logprobs or tools",
    "the prompts' tokens × (1 + prompt_logprobs) are within option.max_prompt_logprobs",
    "a schema, regex, choice or grammar is sound, compiles in time, and is within its bytes",
    "the body nests within option.max_json_depth",
    "tools and functions do not stand beside each other, nor do tool_choice and function_call that differ",
    "tools have different names, tool_choice names some of these, and all tools together are within their bytes",
    "reasoning_effort and chat_template_kwargs.reasoning_effort have the same value",
    "the session of X-Amzn-SageMaker-Session-Id is open, and n is 1 in it",
)
NULL: Json = {"type": "null"}
FUNCTION: Json = record({"name": TEXT, "arguments": {"type": ["string", "object", "null"]}}, ["name"])
CALL: Json = record(
    {"id": {"type": ["string", "null"]}, "type": {"const": "function"}, "function": FUNCTION}, ["function"]
)
NO_OBJECT: Json = {"type": ["null", "boolean", "number", "string", "array"]}
UNSET: Json = {"enum": [False, None]}


def _token(deployment: Deployment) -> Json:
    return {"type": "integer", "minimum": 0, "maximum": deployment.vocabulary_tokens - 1}


def _table(body: type, deployment: Deployment, insides: Json) -> Json:
    """All fields of a body; `insides` has what is more to be said of some."""
    rows = deployment.checkers[body].properties
    token = {"items": {"maximum": deployment.vocabulary_tokens - 1}}
    return {
        name: row | (token if row.get("title") == IDS else {}) | insides.get(name, {}) for name, row in rows.items()
    }


ADAPTERS: Json = {"type": ["string", "array", "null"], "maxLength": 0, "items": {"type": "string", "maxLength": 0}}
"""None is loaded, so that only what asks for none is answered."""


def _shared(deployment: Deployment) -> Json:
    usage = record(_table(Usage, deployment, {}), is_closed=deployment.is_strict)
    return structured_output.openai(deployment.limits, is_strict=deployment.is_strict) | {
        "model": {"examples": ["", *sorted(deployment.names)]},
        "adapters": ADAPTERS,
        "stream_options": {"anyOf": [usage, NULL]},
        "cache_salt": {"pattern": r"^[^@/\\\x00]*$"},
    }


def _with_parameters(rows: Json, deployment: Deployment) -> Json:
    """All fields, which may stand in `parameters`, too."""
    inner = record({name: rows[name] for name in rows if name not in openai.OWN}, is_closed=deployment.is_strict)
    return rows | {"parameters": rows["parameters"] | {"anyOf": [inner, NULL]}}


def _streams(deployment: Deployment) -> Json:
    """What a body that streams looks like."""
    if deployment.streams_by_default:
        return {"properties": {"stream": {"enum": [True, None]}}}
    return {"properties": {"stream": {"const": True}}, "required": ["stream"]}


def _shared_rules(deployment: Deployment) -> list[Json]:
    plain = {"best_of": {"maximum": 1}, "use_beam_search": UNSET, "prompt_logprobs": NULL}
    return [
        {"if": _streams(deployment), "then": {"properties": plain}, "else": {"properties": {"stream_options": NULL}}},
        if_then({"best_of": {"minimum": 2, "type": "integer"}}, {"use_beam_search": UNSET}),
    ]


def of_chat(deployment: Deployment) -> Json:
    """A chat."""
    plain: Json = {"type": ["string", "number", "boolean", "null"], "maxLength": VARIABLE_CHARS}
    variables = record(dict.fromkeys(sorted(deployment.variables), plain)) | {"additionalProperties": False}
    most = deployment.limits.max_messages
    insides = _shared(deployment) | {
        "messages": {"type": "array", "items": _message(deployment), "minItems": 1, "maxItems": most},
        "modalities": {"enum": [["text"], None]},
        "audio": NULL,
        "chat_template_kwargs": nullable(variables),
        **_tools(deployment),
    }
    rules = [
        if_then({"top_logprobs": {"minimum": 1, "type": "integer"}}, {"logprobs": {"const": True}}, is_given=True),
        if_then({"continue_final_message": {"const": True}}, {"add_generation_prompt": UNSET}),
        *_tool_rules(deployment),
        *_shared_rules(deployment),
    ]
    if not deployment.reasoning_parser:
        insides["thinking_token_budget"] = {"enum": [-1, None]}
    rows = _with_parameters(_table(ChatBody, deployment, insides), deployment)
    return record(rows, ["messages"], is_closed=deployment.is_strict) | {"allOf": rules}


def _tools(deployment: Deployment) -> Json:
    """What the model may call, and the choice."""
    is_strict, most = deployment.is_strict, {"maxItems": deployment.limits.max_tools}
    properties = {
        "name": {"type": "string", "minLength": 1, "maxLength": tools.NAME_CHARS, "pattern": tools.NAME_PATTERN},
        "description": nullable(TEXT),
        "parameters": {"type": ["object", "null"], "description": "a JSON Schema"},
        "strict": nullable(BOOLEAN),
    }
    function = record(properties, ["name"], is_closed=is_strict)
    inside = {"type": {"enum": ["function", None]}, "function": function, "strict": nullable(BOOLEAN)}
    tool = record(inside, ["function"], is_closed=is_strict)
    one = record({"name": TEXT}, ["name"], is_closed=is_strict)
    named = record({"type": {"const": "function"}, "function": one}, ["function"], is_closed=is_strict)
    among = record(
        {"mode": {"enum": ["auto", "required"]}, "tools": {"type": "array", "items": named, "minItems": 1}},
        ["mode", "tools"],
    )
    allowed = record({"type": {"const": tools.ALLOWED}, tools.ALLOWED: among}, ["type", tools.ALLOWED])
    return {
        tools.TOOLS: {"anyOf": [{"type": "array", "items": tool} | most, NULL]},
        tools.FUNCTIONS: {"anyOf": [{"type": "array", "items": function} | most, NULL]},
        tools.CHOICE: {"anyOf": [{"enum": [*tools.WORDS, None]}, named, allowed]},
        tools.CALL: {"anyOf": [{"enum": ["none", "auto", None]}, one]},
    }


def _tool_rules(deployment: Deployment) -> list[Json]:
    """A choice that forces calls needs tools; and tools that may be called need a model that can call them."""
    choices, lists = (tools.CHOICE, tools.CALL), (tools.TOOLS, tools.FUNCTIONS)
    some: Json = {"type": "array", "minItems": 1}
    naming: Json = {"anyOf": [{"const": "required"}, {"type": "object"}]}
    auto = {"properties": {"mode": {"const": "auto"}}}
    among: Json = {"properties": {"type": {"const": tools.ALLOWED}, tools.ALLOWED: auto}, "required": ["type"]}
    forcing: Json = {"anyOf": [{"const": "required"}, {"type": "object", "not": among}]}

    def one_is(names: tuple[str, ...], schema: Json) -> Json:
        return {"anyOf": [{"properties": {name: schema}, "required": [name]} for name in names]}

    has_tools, none = one_is(lists, some), one_is(choices, {"const": "none"})
    rules: list[Json] = [{"if": one_is(choices, naming), "then": has_tools}]
    if not (deployment.template.knows_tools and deployment.tool_parser):
        no_tools = {"properties": {name: {"maxItems": 0} for name in lists}}
        rules.append({"if": none, "then": {}, "else": no_tools})
    elif not deployment.calls_tools:
        rules.append({"if": has_tools, "then": {"anyOf": [none, one_is(choices, forcing)]}})
    return rules


def _message(deployment: Deployment) -> Json:
    """A message: its content is text, or for an assistant a refusal or the calls of tools."""
    parts = [
        record({"type": {"const": kind}, name: TEXT}, ["type", name], is_closed=deployment.is_strict)
        for kind, name in messages.PARTS.items()
    ]
    said = {"anyOf": [TEXT, {"type": "array", "items": {"anyOf": parts}, "minItems": 1}]}
    unserved: Json = NULL if deployment.is_strict else {}
    properties: Json = {
        "role": {"enum": list(messages.ROLES)},
        "content": {"anyOf": [said, NULL]},
        **dict.fromkeys(messages.STRINGS, nullable(TEXT)),
        "tool_calls": {"description": "of an assistant", "anyOf": [{"type": "array", "items": CALL}, NULL]},
        **{name: {"description": "of an answer that comes back"} for name in messages.ANSWERED},
        **{name: unserved | {"description": "not served by this version"} for name in messages.UNSERVED},
        messages.CALL: {
            "description": "of an assistant, as tool_calls",
            "anyOf": [FUNCTION, NULL if deployment.is_strict else NO_OBJECT],
        },
    }
    own = {"role": {"const": "assistant"}, "content": NULL}
    ways = [
        {"properties": {"content": said}, "required": ["content"]},
        {"properties": own | {"refusal": {"type": "string", "minLength": 1}}, "required": ["refusal"]},
        *(
            {
                "properties": own | {name: {"type": ["array", "string"], "minItems": 1, "minLength": 1}},
                "required": [name],
            }
            for name in messages.WORDLESS
        ),
        {"properties": own | {messages.CALL: FUNCTION}, "required": [messages.CALL]},
    ]
    return record(properties, ["role"], is_closed=deployment.is_strict) | {"anyOf": ways}


def _prompts(deployment: Deployment, most: int) -> Json:
    """A text or token ids, or an array of these."""
    one: list[Json] = [
        {"type": "string", "minLength": 1},
        {"type": "array", "items": _token(deployment), "minItems": 1},
    ]
    return {"anyOf": [*one, {"type": "array", "items": {"anyOf": one}, "minItems": 1, "maxItems": most}]}


def of_embedding(deployment: Deployment) -> Json:
    """Texts to embed, as `input` or as `inputs`."""
    shared, texts = _shared(deployment), _prompts(deployment, deployment.limits.max_inputs)
    shorter = deployment.space.shorter if deployment.space else ()
    cut = {"anyOf": [{"enum": [-1]}, {"type": "integer", "minimum": 1, "maximum": deployment.context_tokens}, NULL]}
    options: Json = {
        "dimensions": {"maximum": len(shorter)} if isinstance(shorter, range) else {"enum": [*shorter, None]},
        "truncate_prompt_tokens": cut,
        "cache_salt": shared["cache_salt"],
    }
    inner = record(_table(Pooling, deployment, options), is_closed=deployment.is_strict)
    insides = options | {
        "parameters": {"anyOf": [inner, NULL]},
        **{name: shared[name] for name in ("model", "adapters")},
    }
    whole = record(
        _table(EmbeddingBody, deployment, insides | {"input": texts, "inputs": texts}), is_closed=deployment.is_strict
    )
    return whole | {"oneOf": [{"required": ["input"]}, {"required": ["inputs"]}]}


def of_completion(deployment: Deployment) -> Json:
    """A completion."""
    insides = _shared(deployment) | {"prompt": _prompts(deployment, deployment.limits.max_prompts)}
    scored = {"use_beam_search": {"const": True}, "echo": {"const": True}}
    rules = [
        if_then({"max_tokens": {"const": 0}}, {"echo": {"const": True}}, is_given=True),
        if_then({"max_tokens": {"const": 0}}, {"min_tokens": {"enum": [0, None]}}),
        if_then(scored, {"logprobs": NULL}),
        *_shared_rules(deployment),
    ]
    rows = _with_parameters(_table(CompletionBody, deployment, insides), deployment)
    return record(rows, ["prompt"], is_closed=deployment.is_strict) | {"allOf": rules}


def of_standard(deployment: Deployment) -> Json:
    """A standard request."""
    forms = structured_output.openai(deployment.limits, is_strict=deployment.is_strict)
    forms["grammar"] = structured_output.tgi(deployment.limits, is_strict=deployment.is_strict)
    if deployment.is_strict:
        forms |= {"typical_p": {"enum": [1, None]}, "watermark": UNSET}
    beams = if_then({"best_of": {"minimum": 2, "type": "integer"}}, {"num_beams": {"maximum": 1}})
    inner = record(_table(Parameters, deployment, forms), is_closed=deployment.is_strict) | {"allOf": [beams]}
    prompt = {"type": "string", "minLength": 1}
    messages_most = deployment.limits.max_messages
    chat = {"type": "array", "items": _message(deployment), "minItems": 1, "maxItems": messages_most}
    either = {"anyOf": [prompt, chat]}
    several = {"type": "array", "items": either, "minItems": 1, "maxItems": deployment.limits.max_prompts}
    insides: Json = {
        "inputs": {"anyOf": [prompt, chat, several]},
        "parameters": {"anyOf": [inner, NULL]},
        "model": _shared(deployment)["model"],
        "adapters": ADAPTERS,
    }
    whole = record(_table(StandardBody, deployment, insides), ["inputs"], is_closed=deployment.is_strict)
    return whole | {"allOf": [_standard_stream(deployment)]}


def _standard_stream(deployment: Deployment) -> Json:
    """`stream` may stand in the body, where it counts first, or in `parameters`."""
    unset = {"properties": {"stream": NULL}}
    inside = {"properties": {"parameters": _streams(deployment) | {"type": "object"}}, "required": ["parameters"]}
    ways = [{"properties": {"stream": {"const": True}}, "required": ["stream"]}, {"allOf": [unset, inside]}]
    if deployment.streams_by_default:
        ways.append({"allOf": [unset, {"properties": {"parameters": NULL}}]})
    single = {
        "decoder_input_details": UNSET,
        "best_of": {"maximum": 1},
        "num_beams": {"maximum": 1},
        "prompt_logprobs": NULL,
    }
    return {"if": {"anyOf": ways}, "then": {"properties": {"parameters": {"properties": single}}}}


def of_session(deployment: Deployment) -> Json:
    """Begin or end a session."""
    kinds = {"requestType": {"enum": list(SESSIONS)}, "model": _shared(deployment)["model"]}
    return record(_table(SessionBody, deployment, kinds), ["requestType"], is_closed=True)


def of_update(deployment: Deployment) -> Json:
    """New labels for a stored completion."""
    return record(_table(MetadataBody, deployment, {}), ["metadata"])


def at_any_door(name: str, *keys: str) -> Json:
    """The body of that component, where another dialect's key would choose the other dialect."""
    others: Json = {other.key: False for other in DIALECTS.values() if other.key not in keys}
    return {"allOf": [{"$ref": f"#/components/schemas/{name}"}, {"properties": others}]}
