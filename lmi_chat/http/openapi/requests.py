"""Describe the bodies of requests as JSON Schema, from the types that the dialects check them by.

A rule between two fields stands here where a schema can say it; the others are sentences, in UNSAID.
"""

from lmi_chat.codec.json_text import Json
from lmi_chat.dialects import DIALECTS, SCORES, openai
from lmi_chat.dialects.body import IDS, Usage
from lmi_chat.dialects.chat import batch, media_parts, messages, tools
from lmi_chat.dialects.chat.body import SESSIONS, ChatBody, MetadataBody, SessionBody
from lmi_chat.dialects.chat.reasoning import VARIABLE_CHARS
from lmi_chat.dialects.completion.body import CompletionBody
from lmi_chat.dialects.deployment import Deployment
from lmi_chat.dialects.standard.body import Parameters, StandardBody
from lmi_chat.dialects.tokenization.body import DetokenizeBody, TokenizeBody
from lmi_chat.dialects.transcription.body import TranscriptionBody
from lmi_chat.dialects.transcription.form import FILE, SEVERAL
from lmi_chat.http.openapi import structured_output
from lmi_chat.http.openapi.shapes import BOOLEAN, TEXT, if_then, nullable, record, ref

PARTS = messages.PARTS
UNSAID = (
    "the prompt has at least one token, and leaves room for one and for min_tokens in the model's context",
    "texts of a model that pools have at least one token, and fit its context where nothing cuts them",
    "there are as many first texts as second ones, or one",
    "vectors for each token have no more numbers than option.max_pooled_numbers",
    "min_tokens is at most max_tokens",
    "max_length is above the prompt's tokens",
    "the model's chat template takes the messages, and one of these says something",
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
    "input has an item that says something, and each output of a call one with its call_id before it",
    "previous_response_id is of a response that is kept here",
    "tools have different names, tool_choice names some of these, and all tools together are within their bytes",
    "a namespace's tools have names of at most 128 characters with the namespace's own and two underscores before them",
    "all tools together are as many as option.max_tools, and some can be called where tool_choice forces a call",
    "reasoning_effort and chat_template_kwargs.reasoning_effort have the same value",
    "adapters, model and X-Amzn-SageMaker-Adapter-Identifier name the same adapter, if any, and one that is there",
    "adapters, where it is an array, has one name for each prompt",
    "the session of X-Amzn-SageMaker-Session-Id is open, and n is 1 in it",
)
NULL: Json = {"type": "null"}
FUNCTION: Json = record({"name": TEXT, "arguments": {"type": ["string", "object", "null"]}}, ["name"])
CALL: Json = record(
    {"id": {"type": ["string", "null"]}, "type": {"const": "function"}, "function": FUNCTION}, ["function"]
)
NO_OBJECT: Json = {"type": ["null", "boolean", "number", "string", "array"]}
TIMES = "timestamp_granularities"
UNSET: Json = {"enum": [False, None]}


def _token(deployment: Deployment) -> Json:
    return {"type": "integer", "minimum": 0, "maximum": deployment.vocabulary_tokens - 1}


def table(body: type, deployment: Deployment, insides: Json) -> Json:
    """All fields of a body; `insides` has what is more to be said of some."""
    rows = deployment.checkers[body].properties
    token = {"items": {"maximum": deployment.vocabulary_tokens - 1}}
    return {
        name: row | (token if row.get("title") == IDS else {}) | insides.get(name, {}) for name, row in rows.items()
    }


def _adapters(deployment: Deployment) -> Json:
    """One name or a list; where none can be loaded, only what asks for none is answered."""
    name: Json = {"type": "string"} | ({"maxLength": 0} if deployment.knows_adapter is None else {})
    return {**name, "type": ["string", "array", "null"], "items": name}


def shared(deployment: Deployment) -> Json:
    """What is more to be said of fields that several dialects have."""
    usage = record(table(Usage, deployment, {}), is_closed=deployment.is_strict)
    return structured_output.openai(deployment.limits, is_strict=deployment.is_strict) | {
        "model": {"examples": ["", *sorted(deployment.names)]},
        "adapters": _adapters(deployment),
        "stream_options": {"anyOf": [usage, NULL]},
        "cache_salt": {"pattern": r"^[^@/\\\x00]*$"},
    }


def _with_parameters(rows: Json, deployment: Deployment) -> Json:
    """All fields, which may stand in `parameters`, too."""
    inner = record({name: rows[name] for name in rows if name not in openai.OWN}, is_closed=deployment.is_strict)
    return rows | {"parameters": rows["parameters"] | {"anyOf": [inner, NULL]}}


def streams(deployment: Deployment) -> Json:
    """What a body that streams looks like."""
    if deployment.streams_by_default:
        return {"properties": {"stream": {"enum": [True, None]}}}
    return {"properties": {"stream": {"const": True}}, "required": ["stream"]}


def _shared_rules(deployment: Deployment) -> list[Json]:
    plain = {"best_of": {"maximum": 1}, "use_beam_search": UNSET, "prompt_logprobs": NULL}
    return [
        {"if": streams(deployment), "then": {"properties": plain}, "else": {"properties": {"stream_options": NULL}}},
        if_then({"best_of": {"minimum": 2, "type": "integer"}}, {"use_beam_search": UNSET}),
    ]


def variables(deployment: Deployment) -> Json:
    """Variables of the chat template."""
    plain: Json = {"type": ["string", "number", "boolean", "null"], "maxLength": VARIABLE_CHARS}
    shown = record(dict.fromkeys(sorted(deployment.variables), plain)) | {"additionalProperties": False}
    return nullable(shown)


def of_chat(deployment: Deployment) -> Json:
    """A chat."""
    most = deployment.limits.max_messages
    insides = shared(deployment) | {
        "messages": {"type": "array", "items": _message(deployment), "minItems": 1, "maxItems": most},
        "modalities": {"enum": [["text"], None]},
        "audio": NULL,
        "chat_template_kwargs": variables(deployment),
        **_tools(deployment),
    }
    rules = [
        if_then({"top_logprobs": {"minimum": 1, "type": "integer"}}, {"logprobs": {"const": True}}, is_given=True),
        if_then({"continue_final_message": {"const": True}}, {"add_generation_prompt": UNSET}),
        *tool_rules(deployment),
        *_shared_rules(deployment),
    ]
    if not deployment.reasoning_parser:
        insides["thinking_token_budget"] = {"enum": [-1, None]}
    rows = _with_parameters(table(ChatBody, deployment, insides), deployment)
    return record(rows, ["messages"], is_closed=deployment.is_strict) | {"allOf": rules}


def of_batch(deployment: Deployment) -> Json:
    """Several conversations, with a chat's fields but for those that only one may have."""
    chat = _as_chat(deployment)
    rows, most = chat["properties"], deployment.limits.max_prompts
    rows["messages"] = {"type": "array", "items": rows["messages"], "minItems": 1, "maxItems": most}
    rows |= {name: {"enum": list(nothing)} for name, nothing in batch.ALONE.items()}
    return chat


def _as_chat(deployment: Deployment) -> Json:
    """A chat whose fields are told by the schema of a chat, not once more."""
    chat = of_chat(deployment)
    return chat | {"properties": {name: ref(f"ChatRequest/properties/{name}") for name in chat["properties"]}}


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


NESTED: Json = {tools.ALLOWED: {"properties": {"mode": {"const": "auto"}}}}
SOME: Json = {"type": "array", "minItems": 1}


def tool_rules(
    deployment: Deployment,
    choices: tuple[str, ...] = (tools.CHOICE, tools.CALL),
    lists: tuple[str, ...] = (tools.TOOLS, tools.FUNCTIONS),
    auto: Json = NESTED,
    some: Json = SOME,
) -> list[Json]:
    """A choice that forces calls needs tools; and tools that may be called need a model that can call them.

    `choices` and `lists` are the fields that have them, `auto` is where an object says that it forces none, `some` is
    a list with tools that may be called.
    """
    naming: Json = {"anyOf": [{"const": "required"}, {"type": "object"}]}
    among: Json = {"properties": {"type": {"const": tools.ALLOWED}} | auto, "required": ["type"]}
    forcing: Json = {"anyOf": [{"const": "required"}, {"type": "object", "not": among}]}

    def one_is(names: tuple[str, ...], schema: Json) -> Json:
        return {"anyOf": [{"properties": {name: schema}, "required": [name]} for name in names]}

    has_tools, none = one_is(lists, some), one_is(choices, {"const": "none"})
    rules: list[Json] = [{"if": one_is(choices, naming), "then": has_tools}]
    if not (deployment.template.knows_tools and deployment.tool_parser):
        no_tools = {"properties": {name: {"not": some} for name in lists}}
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
    parts += [record({"type": {"enum": media_parts.types_of(deployment)}}, ["type"])] if deployment.media else []
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


def prompts(deployment: Deployment, most: int) -> Json:
    """A text or token ids, or an array of these."""
    one: list[Json] = [
        {"type": "string", "minLength": 1},
        {"type": "array", "items": _token(deployment), "minItems": 1},
    ]
    return {"anyOf": [*one, {"type": "array", "items": {"anyOf": one}, "minItems": 1, "maxItems": most}]}


def of_transcription(deployment: Deployment) -> Json:
    """A form with a recording. Numbers and switches are texts in it, which OpenAPI writes as what they say."""
    speech = deployment.speech
    codes = sorted({*speech.languages, *speech.others}) if speech else []
    insides: Json = {
        FILE: {"type": "string", "contentMediaType": "application/octet-stream"},
        "model": {"examples": ["", *sorted(deployment.names)]},
        **{name: {"examples": codes} for name in ("language", "to_language")},
    }
    rows = table(TranscriptionBody, deployment, insides)
    times: Json = {"type": "array", "items": {"const": "segment"}}
    rows[f"{TIMES}{SEVERAL}"] = rows.pop(TIMES) | times
    return record(rows, [FILE], is_closed=deployment.is_strict)


def of_completion(deployment: Deployment) -> Json:
    """A completion."""
    insides = shared(deployment) | {"prompt": prompts(deployment, deployment.limits.max_prompts)}
    scored = {"use_beam_search": {"const": True}, "echo": {"const": True}}
    rules = [
        if_then({"max_tokens": {"const": 0}}, {"echo": {"const": True}}, is_given=True),
        if_then({"max_tokens": {"const": 0}}, {"min_tokens": {"enum": [0, None]}}),
        if_then(scored, {"logprobs": NULL}),
        *_shared_rules(deployment),
    ]
    rows = _with_parameters(table(CompletionBody, deployment, insides), deployment)
    return record(rows, ["prompt"], is_closed=deployment.is_strict) | {"allOf": rules}


def of_tokenization(deployment: Deployment) -> Json:
    """A text or a chat whose token ids are asked for, and token ids whose text is."""
    strings = {name: row for name, row in table(TokenizeBody, deployment, {}).items() if name != "messages"}
    is_closed = deployment.is_strict
    text = record(strings | {"prompt": TEXT, "messages": False}, ["prompt"], is_closed=is_closed)
    tokens = table(DetokenizeBody, deployment, {}) | {"tokens": {"type": "array", "items": _token(deployment)}}
    shown = {"TokenizeRequest": text, "DetokenizeRequest": record(tokens, ["tokens"], is_closed=is_closed)}
    if deployment.pooler is None and not (deployment.speech and deployment.speech.is_only):
        chat = _as_chat(deployment)
        chat["properties"] |= strings | {"prompt": False, "add_special_tokens": UNSET}
        shown["TokenizeRequest"] = {"anyOf": [text, chat]}
    return shown


def of_standard(deployment: Deployment) -> Json:
    """A standard request."""
    forms = structured_output.openai(deployment.limits, is_strict=deployment.is_strict)
    forms["grammar"] = structured_output.tgi(deployment.limits, is_strict=deployment.is_strict)
    if deployment.is_strict:
        forms |= {"typical_p": {"enum": [1, None]}, "watermark": UNSET}
    beams = if_then({"best_of": {"minimum": 2, "type": "integer"}}, {"num_beams": {"maximum": 1}})
    inner = record(table(Parameters, deployment, forms), is_closed=deployment.is_strict) | {"allOf": [beams]}
    prompt = {"type": "string", "minLength": 1}
    messages_most = deployment.limits.max_messages
    chat = {"type": "array", "items": _message(deployment), "minItems": 1, "maxItems": messages_most}
    either = {"anyOf": [prompt, chat]}
    several = {"type": "array", "items": either, "minItems": 1, "maxItems": deployment.limits.max_prompts}
    insides: Json = {
        "inputs": {"anyOf": [prompt, chat, several]},
        "parameters": {"anyOf": [inner, NULL]},
        "model": shared(deployment)["model"],
        "adapters": _adapters(deployment),
    }
    whole = record(table(StandardBody, deployment, insides), ["inputs"], is_closed=deployment.is_strict)
    return whole | {"allOf": [_standard_stream(deployment)]}


def _standard_stream(deployment: Deployment) -> Json:
    """`stream` may stand in the body, where it counts first, or in `parameters`."""
    unset = {"properties": {"stream": NULL}}
    inside = {"properties": {"parameters": streams(deployment) | {"type": "object"}}, "required": ["parameters"]}
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
    kinds = {"requestType": {"enum": list(SESSIONS)}, "model": shared(deployment)["model"]}
    return record(table(SessionBody, deployment, kinds), ["requestType"], is_closed=True)


def of_update(deployment: Deployment) -> Json:
    """New labels for a stored completion."""
    return record(table(MetadataBody, deployment, {}), ["metadata"])


def at_any_door(name: str, keys: tuple[str, ...], deployment: Deployment) -> Json:
    """The body of that component, where another dialect's key would choose the other dialect."""
    others = [dialect for dialect in DIALECTS.values() if dialect.tasks != SCORES or dialect.is_served_by(deployment)]
    chosen: Json = {key: False for other in others if not {*keys} & {*other.keys} for key in other.keys}
    return {"allOf": [{"$ref": f"#/components/schemas/{name}"}, {"properties": chosen}]}
