"""The bodies of answers as JSON Schema: of each dialect whole and streamed, errors, and what the other routes give."""

from lmi_chat.codec.json_text import Json
from lmi_chat.dialects.deployment import Deployment
from lmi_chat.dialects.sequence import LMI_FINISH
from lmi_chat.http.openapi.shapes import (
    BOOLEAN,
    COUNT,
    INTEGER,
    NUMBER,
    TEXT,
    answer,
    array,
    nullable,
    one_of,
    record,
    ref,
)

KINDS = ("invalid_request_error", "not_found_error", "unavailable_error", "timeout_error", "server_error")
IDS = array(COUNT)
STOP_REASON: Json = {"type": ["string", "integer", "null"], "description": "what stopped it: a text or a token id"}
VECTOR: Json = {"anyOf": [array(NUMBER), TEXT | {"contentEncoding": "base64"}]}
LOGPROB: Json = {"type": "number", "maximum": 0, "description": "natural logarithm; -9999.0 stands for -infinity"}


def schemas(deployment: Deployment) -> Json:
    """All of them, by the names of components."""
    return {
        "ChatCompletion": _chat(deployment, "chat.completion") | {"description": "a whole chat completion"},
        "ChatCompletionChunk": _chat(deployment, "chat.completion.chunk") | {"description": "one piece of a stream"},
        "ChatLogprobs": _chat_logprobs(),
        "PromptLogprobs": _prompt_logprobs(),
        "Completion": _completion(deployment),
        "Usage": _usage(),
        "Generation": _generation(),
        "Generations": array(ref("Generation")),
        "GenerationLine": _line(),
        "GenerationErrorLine": _error_line(deployment),
        "Embeddings": _embeddings(deployment),
        "Vectors": array(VECTOR),
        "Session": answer({"result": TEXT}),
        "OpenAIError": _openai_error(deployment),
        "LmiError": answer(_lmi_fields(deployment), ["error_type"]),
        "Accepted": answer({"InferenceId": TEXT}),
        "RuntimeError": answer({"Message": TEXT}),
        "ModelError": answer(
            {"Message": TEXT, "OriginalStatusCode": INTEGER, "OriginalMessage": TEXT, "LogStreamArn": TEXT}
        ),
    } | _others()


def _embeddings(deployment: Deployment) -> Json:
    one = answer({"object": {"const": "embedding"}, "index": COUNT, "embedding": VECTOR})
    usage = answer({"prompt_tokens": COUNT, "total_tokens": COUNT})
    return answer(
        {"object": {"const": "list"}, "data": array(one), "model": {"const": deployment.model}, "usage": usage}
    )


def _words(deployment: Deployment) -> list[str]:
    words = (
        {"stop", "length", "abort", "time_limit"}
        if deployment.finish_words is None
        else set(deployment.finish_words.values())
    )
    return sorted(words)


def _head(kind: str, deployment: Deployment) -> Json:
    return {
        "id": TEXT,
        "object": {"const": kind},
        "created": COUNT,
        "model": {"const": deployment.model},
        "system_fingerprint": nullable(TEXT),
    }


def _usage() -> Json:
    counts = dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), COUNT)
    details = {
        "prompt_tokens_details": answer({"cached_tokens": COUNT}),
        "completion_tokens_details": answer({"reasoning_tokens": COUNT}),
    }
    return answer(counts | details)


def _chat(deployment: Deployment, kind: str) -> Json:
    text = {"role": {"const": "assistant"}, "content": TEXT}
    said = {"delta": record(text, ["content"])}
    if kind == "chat.completion":
        said = {"message": answer(text | {"refusal": {"type": "null"}})}
    choice = {
        "index": COUNT,
        **said,
        "logprobs": {"anyOf": [ref("ChatLogprobs"), {"type": "null"}]},
        "finish_reason": {"enum": _words(deployment) if kind == "chat.completion" else [*_words(deployment), None]},
        "stop_reason": STOP_REASON,
        "token_ids": IDS | {"description": "with return_token_ids"},
        "prompt_token_ids": IDS | {"description": "with return_token_ids"},
    }
    optional = ["token_ids", "prompt_token_ids"] + (["stop_reason"] if kind == "chat.completion.chunk" else [])
    body = {"choices": array(answer(choice, optional))}
    body |= {"usage": {"anyOf": [ref("Usage"), {"type": "null"}]}, "service_tier": nullable(TEXT)}
    body |= {"metadata": record({}) | {"additionalProperties": TEXT, "description": "of a stored completion"}}
    if kind == "chat.completion":
        body |= {"usage": ref("Usage"), "prompt_logprobs": ref("PromptLogprobs")}
        return answer(_head(kind, deployment) | body, ["metadata", "prompt_logprobs"])
    del body["metadata"]
    return answer(_head(kind, deployment) | body, ["usage", "service_tier"])


def _chat_logprobs() -> Json:
    one = {"token": TEXT, "logprob": LOGPROB, "bytes": array({"type": "integer", "minimum": 0, "maximum": 255})}
    return answer({"content": array(answer(one | {"top_logprobs": array(answer(one))}))})


def _prompt_logprobs() -> Json:
    ranked = answer({"logprob": LOGPROB, "rank": COUNT, "decoded_token": TEXT})
    by_id = record({}) | {"additionalProperties": ranked, "description": "by token id, the prompt's own first"}
    return array({"anyOf": [by_id, {"type": "null"}]}) | {"description": "null for the first token"}


def _completion(deployment: Deployment) -> Json:
    known: Json = {"anyOf": [LOGPROB, {"type": "null"}]}
    tops = {"anyOf": [record({}) | {"additionalProperties": LOGPROB}, {"type": "null"}]}
    scores = {"tokens": array(TEXT), "token_logprobs": array(known), "top_logprobs": array(tops), "text_offset": IDS}
    choice = {
        "index": COUNT,
        "text": TEXT,
        "logprobs": {"anyOf": [answer(scores), {"type": "null"}]},
        "finish_reason": {"enum": [*_words(deployment), None]},
        "stop_reason": STOP_REASON,
        "prompt_logprobs": ref("PromptLogprobs"),
        "token_ids": IDS | {"description": "with return_token_ids"},
        "prompt_token_ids": IDS | {"description": "with return_token_ids"},
    }
    optional = ["prompt_logprobs", "token_ids", "prompt_token_ids"]
    usage = {"anyOf": [ref("Usage"), {"type": "null"}]}
    body = _head("text_completion", deployment) | {"choices": array(answer(choice, optional)), "usage": usage}
    return answer(body, ["usage"]) | {"description": "a completion, or one piece of its stream"}


def _token(*names: str) -> Json:
    fields = {"id": INTEGER, "text": TEXT, "log_prob": LOGPROB, "logprob": LOGPROB, "special": BOOLEAN}
    return answer({name: fields[name] for name in names})


TOKEN = _token("id", "text", "log_prob", "logprob", "special")
TOPS = array(_token("id", "text", "logprob", "special"))


def _details() -> Json:
    finish: Json = {"enum": sorted(LMI_FINISH.values())}
    return {"finish_reason": finish, "generated_tokens": COUNT, "seed": nullable(INTEGER)}


def _generation() -> Json:
    sequence = _details() | {"tokens": array(TOKEN), "top_tokens": array(TOPS)}
    sequence |= {"prefill": array(_token("id", "text", "log_prob", "logprob"))}
    best = answer({"generated_text": TEXT} | sequence, ["top_tokens"])
    names = ("prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens")
    details = sequence | {
        "inputs": TEXT,
        "usage": answer(dict.fromkeys(names, COUNT)),
        "prompt_logprobs": ref("PromptLogprobs"),
        "best_of_sequences": array(best),
    }
    shown = {"generated_text": TEXT, "details": answer(details, ["top_tokens", "best_of_sequences", "prompt_logprobs"])}
    return answer(shown, ["details"])


def _line() -> Json:
    details = answer(_details() | {"input_length": COUNT})
    line = {
        "index": COUNT,
        "token": TOKEN,
        "generated_text": nullable(TEXT),
        "details": {"anyOf": [details, {"type": "null"}]},
        "top_tokens": TOPS,
    }
    return answer(line, ["top_tokens"]) | {"description": "one token; the last of a sequence has its whole text"}


def _error_line(deployment: Deployment) -> Json:
    token = {"id": {"const": -1}, "text": {"const": ""}, "log_prob": NUMBER, "special_token": {"const": True}}
    details = {"finish_reason": {"const": "error"}, "generated_tokens": COUNT}
    line = {"token": answer(token), "generated_text": TEXT, "details": answer(details)}
    return answer(line | _lmi_fields(deployment), ["error_type"]) | {
        "description": "ends a stream that cannot be completed"
    }


def _openai_error(deployment: Deployment) -> Json:
    fields = {"message": TEXT, "type": {"enum": list(KINDS)}, "param": nullable(TEXT), "code": TEXT}
    return answer({"error": answer(fields)} | _tgi(deployment), ["error_type"])


def _lmi_fields(deployment: Deployment) -> Json:
    return {"error": TEXT, "code": INTEGER, "type": {"enum": list(KINDS)}, "param": nullable(TEXT)} | _tgi(deployment)


def _tgi(deployment: Deployment) -> Json:
    return {"error_type": TEXT | {"description": "as TGI's clients know it"}} if deployment.is_tgi else {}


def _page(item: Json) -> Json:
    ends = {"first_id": nullable(TEXT), "last_id": nullable(TEXT), "has_more": BOOLEAN}
    return answer({"object": {"const": "list"}, "data": array(item)} | ends)


INFO_COUNTS = (
    *("max_concurrent_requests", "max_best_of", "max_stop_sequences", "max_input_length", "max_input_tokens"),
    *("max_total_tokens", "validation_workers", "max_client_batch_size"),
)


def _others() -> Json:
    """Health, models, stored completions."""
    model = {
        "id": TEXT,
        "object": {"const": "model"},
        "created": COUNT,
        "owned_by": TEXT,
        "root": TEXT,
        "max_model_len": COUNT,
    }
    message: Json = record({"id": TEXT, "role": TEXT, "content": nullable(TEXT)}, ["id", "role", "content"])
    return {
        "Ready": answer({"status": {"const": "ready"}, "active": COUNT}),
        "NotReady": answer(
            {"status": TEXT, "phase": TEXT, "progress": NUMBER, "seconds": NUMBER, "active": COUNT},
            ["phase", "progress", "seconds", "active"],
        ),
        "Model": answer(model),
        "Info": answer(
            {
                "model_id": TEXT,
                "model_sha": nullable(TEXT),
                "model_pipeline_tag": TEXT,
                **dict.fromkeys(INFO_COUNTS, COUNT),
                "router": TEXT,
                "version": TEXT,
                "sha": nullable(TEXT),
                "docker_label": nullable(TEXT),
            }
        ),
        "Models": answer({"object": {"const": "list"}, "data": array(ref("Model"))}),
        "StoredCompletions": _page(ref("ChatCompletion")),
        "StoredMessages": _page(message | {"description": "as it was sent, with an id"}),
        "Deleted": answer(
            {"object": {"const": "chat.completion.deleted"}, "id": TEXT, "deleted": {"const": True}},
        ),
    }


ITEMS = {
    "chat": ("ChatCompletionChunk", "OpenAIError"),
    "standard": ("GenerationLine", "GenerationErrorLine"),
    "completion": ("Completion", "OpenAIError"),
}
"""What a stream's lines or events are, by dialect; the last one only where it breaks off."""
WHOLE = {
    "chat": ("ChatCompletion",),
    "standard": ("Generation", "Generations"),
    "completion": ("Completion",),
    "embedding": ("Embeddings", "Vectors"),
}


def contents(dialects: tuple[str, ...], *, has_sessions: bool) -> Json:
    """A 200's bodies by media type: one document, or a stream of JSON texts (`x-item-schema` is each one's)."""
    whole = [name for dialect in dialects for name in WHOLE[dialect]] + (["Session"] if has_sessions else [])
    streamed = [name for dialect in dialects for name in ITEMS.get(dialect, ())]
    if not streamed:
        return {"application/json": {"schema": one_of(*whole)}}
    items = one_of(*dict.fromkeys(streamed))
    lines = {"type": "string", "description": "one JSON text a line"}
    events = {"type": "string", "description": "server-sent events of one JSON text each; OpenAI's end with [DONE]"}
    return {
        "application/json": {"schema": one_of(*whole)},
        "application/jsonlines": {"schema": lines, "x-item-schema": items},
        "text/event-stream": {"schema": events, "x-item-schema": items},
    }
