"""Parse requests in LMI's standard schema, `inputs` and `parameters`, which TGI's clients send too.

Shapes: DJL Serving's "LMI handlers inference API schema"; the streamed line is what LMI and TGI send.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lmi_chat.codec.json_text import Json
from lmi_chat.dialects import checks, structured_output
from lmi_chat.dialects.chat import prompt as chat_prompt
from lmi_chat.dialects.chat.messages import Message, check_messages
from lmi_chat.dialects.chat.prompt import Rendered
from lmi_chat.dialects.deployment import Deployment
from lmi_chat.dialects.reader import BodyReader
from lmi_chat.dialects.standard.body import MAX_NEW_TOKENS, Parameters, StandardBody
from lmi_chat.dialects.standard.response import Lines, Whole, WholeList, error_body
from lmi_chat.dialects.task import ParsedRequest, Renderer
from lmi_chat.errors import BadField, Problem
from lmi_chat.job import Job
from lmi_chat.text import echo

BESIDE = StandardBody.__annotations__
ANYWHERE = {name: f"parameters.{name}" for name in Parameters.__annotations__} | {name: name for name in BESIDE}
NOT_HAD: Mapping[str, tuple[object, str]] = {
    "typical_p": (1.0, "the engine has no typical sampling"),
    "watermark": (False, "the engine writes no watermark"),
}
"""What the engine cannot do and TGI's clients send by default: the value that asks for nothing, and why."""
Prompt = str | Sequence[Message]
SAMPLES = ("temperature", "top_p", "top_k", "min_p", "typical_p")


def parse(body: Json, deployment: Deployment, request_id: str) -> ParsedRequest:
    """A standard body → ParsedRequest. Raises BadField, NotFound or PromptTooLong; the paths are the caller's."""
    return _parse(body, deployment, request_id, streams=None)


def parse_by_path(body: Json, deployment: Deployment, request_id: str, *, streams: bool) -> ParsedRequest:
    """The same on TGI's own paths: each has one form of answer, an object or a stream, with details if asked for."""
    return _parse(body, deployment, request_id, streams=streams)


def _parse(body: Json, deployment: Deployment, request_id: str, *, streams: bool | None) -> ParsedRequest:
    """`streams` is the path's own word; None: it has none, and the body and the deployment say all."""
    checks.check_model(body.get("model"), deployment)
    parameters = _check_shape(body)
    reader = BodyReader(deployment, prefix="parameters.")
    reader.note_unknown((name for name in body if name not in BESIDE), ANYWHERE, "")
    reader.read(parameters, Parameters)
    prompts = _check_inputs(body.get("inputs"), reader)
    has_form = streams is None
    is_stream, by_path = _check_stream(body, reader, streams)
    prefills = deployment.is_tgi and reader.get("decoder_input_details")
    flags = {
        "details": reader.extra.get("details", deployment.is_tgi and has_form) or prefills,
        "return_full_text": reader.get("return_full_text"),
    }
    fixed = _check_sampling(reader, has_tokens=is_stream or flags["details"], has_details=flags["details"])
    fixed |= _check_prefill(reader, is_stream=is_stream, has_details=flags["details"])
    shape = _check_sequences(reader, is_stream=is_stream)
    structured_output.read(parameters, reader, has_grammar=True)
    checks.check_beams(reader, "parameters.num_beams", shape["beams"])
    _check_media(prompts, reader, beams=shape["beams"])
    checks.check_vocabulary(reader)
    _check_not_had(reader)
    reader.finish()
    reader.warnings += by_path
    reader.warnings += _without_details(reader, is_stream=is_stream, has_details=flags["details"])

    if shape["width"] > 1 and not is_stream and fixed["logprobs"] is None:
        fixed["logprobs"] = 0
    values = checks.sampling(reader, {"max_tokens": MAX_NEW_TOKENS}, **fixed)
    if deployment.media is not None and len(prompts) > 1:
        reader.deployment = replace(deployment, media=deployment.media.of_request())
    is_many = _is_many(body.get("inputs"))
    jobs = tuple(
        _job(prompt, place, request_id, reader, values, shape, is_many=is_many) for place, prompt in enumerate(prompts)
    )
    name = "prompt_logprobs" if "prompt_logprobs" in reader.given else "decoder_input_details"
    checks.check_prompt_logprobs(jobs, deployment, f"parameters.{name}")
    render: Renderer
    if is_stream:
        render = Lines(jobs, is_tgi=deployment.is_tgi, **flags)
    else:
        top = reader.given.get("prompt_logprobs")
        flags["is_tgi"] = deployment.is_tgi
        wholes = [Whole(job, returned=shape["returned"], prompt_logprobs=top, **flags) for job in jobs]
        render = WholeList(wholes) if is_many or (deployment.is_tgi and has_form) else wholes[0]
    return ParsedRequest(
        dialect="standard",
        jobs=jobs,
        is_stream=is_stream,
        render=render,
        has_end=False,
        shape="events" if deployment.is_tgi else None,
        unknown=reader.warnings,
    )


def _job(
    prompt: Prompt,
    place: int,
    request_id: str,
    reader: BodyReader,
    values: Mapping[str, Any],
    shape: Mapping[str, int],
    *,
    is_many: bool,
) -> Job:
    path = f"inputs[{place}]" if is_many else "inputs"
    kept = reader.extra.get("truncate", 0)
    ids, text, media = _rendered(prompt, reader.deployment, path, is_cut=kept > 0)
    ids = ids[-kept:]
    if not ids:
        raise BadField([Problem(path, f"{path} must have at least 1 token, got {echo(text)}")])
    own = dict(values)
    copies = checks.expand_sequences(own, shape["width"], beams=shape["beams"])
    return Job(
        id=f"{request_id}-{place}" if is_many else request_id,
        prompt_ids=ids,
        prompt_text=text,
        media=media,
        sampling=checks.fit_context(ids, own, reader, path=path),
        copies=copies,
        beams=shape["beams"],
        length_penalty=reader.get("length_penalty"),
        stops_early=reader.get("early_stopping"),
    )


def _rendered(prompt: Prompt, deployment: Deployment, path: str, *, is_cut: bool) -> Rendered:
    """A prompt's token ids, text and media; a chat is rendered as everywhere else."""
    if not isinstance(prompt, str):
        return chat_prompt.render(prompt, deployment, path, is_cut=is_cut)
    return chat_prompt.render_text(prompt, deployment, path, is_cut=is_cut)


def _check_media(prompts: Sequence[Prompt], reader: BodyReader, *, beams: int) -> None:
    """Bound the media of all prompts together; those with media cannot be searched by beams."""
    media = reader.deployment.media
    if media is None:
        return
    count, most = sum(media.count(one) for one in prompts), media.limits.items
    if len(prompts) > 1 and count > most:
        text = f"must have at most {most} images, audio and videos in all, got {count} (option.max_media)"
        reader.add_problem("inputs", text)
    if beams and count:
        reader.add_problem("parameters.num_beams", "must ask for no beam search beside images, audio or videos")


def _is_many(inputs: object) -> bool:
    """Whether there are several prompts; an array of messages is one."""
    return isinstance(inputs, list) and not (inputs and isinstance(inputs[0], dict))


def _check_shape(body: Json) -> Json:
    parameters = body.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise BadField([Problem("parameters", f"parameters must be an object, got {echo(parameters)}")])
    return parameters


def _check_inputs(inputs: object, reader: BodyReader) -> list[Prompt]:
    """The prompts, each a text or the checked messages of a chat."""
    most = reader.deployment.limits.max_prompts
    is_many = _is_many(inputs)
    prompts: list[Any] = [*inputs] if is_many and isinstance(inputs, list) else [inputs]
    if not prompts or len(prompts) > most:
        reader.add_problem("inputs", f"must have at least 1 and at most {most} prompts, got {len(prompts)}")
        return []
    for place, prompt in enumerate(prompts):
        path = f"inputs[{place}]" if is_many else "inputs"
        if isinstance(prompt, list):
            prompts[place] = check_messages(prompt, reader, path)
        elif not isinstance(prompt, str):
            others = (
                " or a chat (array of messages)" if is_many else ", a chat (array of messages) or an array of these"
            )
            reader.add_problem(path, f"must be a string{others}, got {echo(prompt)}")
        elif not prompt:
            reader.add_problem(path, "must not be empty")
    return prompts


def _check_sequences(reader: BodyReader, *, is_stream: bool) -> Mapping[str, int]:
    """How many sequences run and come back: `n`, the best of `best_of`, or `num_beams` beams."""
    given = {name: reader.extra.get(name, 1) for name in ("n", "best_of", "num_beams")}
    for name in ("best_of", "num_beams"):
        if given[name] > 1 and is_stream:
            reader.add_problem(f"parameters.{name}", f"must be 1 with stream true, got {given[name]}")
        if given[name] > 1 and given["n"] > given[name]:
            reader.add_problem("parameters.n", f"must be at most {name} = {given[name]}, got {given['n']}")
    if given["best_of"] > 1 and given["num_beams"] > 1:
        reader.add_problem(
            "parameters.num_beams", f"must be 1 with best_of = {given['best_of']}, got {given['num_beams']}"
        )
    beams = given["num_beams"] if given["num_beams"] > 1 else 0
    width = max(given.values())
    return {"beams": beams, "width": width, "returned": given["n"] if given["n"] > 1 else width}


def _check_stream(body: Json, reader: BodyReader, streams: bool | None) -> tuple[bool, list[str]]:  # noqa: FBT001 None too
    """The path's word counts; else the `stream` beside `inputs`, the one in the parameters, the deployment's way.

    Whether it streams, and what is to be said of a `stream` that the path overrules.
    """
    beside = BodyReader(reader.deployment, problems=reader.problems, unknown=reader.unknown)
    beside.read({name: value for name, value in body.items() if name in BESIDE}, StandardBody)
    asked = reader.extra | beside.extra
    if streams is None:
        return bool(asked.get("stream", reader.deployment.streams_by_default)), []
    overruled = asked.get("stream", streams) is not streams
    return streams, ["stream is ignored: the path says whether the answer streams"] if overruled else []


def _check_sampling(reader: BodyReader, *, has_tokens: bool, has_details: bool) -> dict[str, Any]:
    """`do_sample` decides; where it is absent, asking for a way of sampling does."""
    do_sample = reader.get("do_sample")
    if do_sample is None:
        do_sample = any(name in reader.given or name in reader.extra for name in SAMPLES)
    fixed: dict[str, Any] = {
        "logprobs": max(reader.get("logprobs") or 0, reader.get("top_n_tokens")) if has_tokens else None
    }
    if not do_sample:
        return fixed | {"temperature": 0.0}
    if has_details and reader.given.get("seed", checks.NO_SEED) == checks.NO_SEED:
        fixed["seed"] = secrets.randbits(53)
    return fixed


def _check_prefill(reader: BodyReader, *, is_stream: bool, has_details: bool) -> dict[str, Any]:
    """The prompt's own log-probabilities: they stand in the details of a whole answer."""
    if reader.get("decoder_input_details") and is_stream:
        reader.add_problem("parameters.decoder_input_details", "must be false with stream true, got true")
    top = reader.given.get("prompt_logprobs")
    if top is not None and is_stream:
        reader.add_problem("parameters.prompt_logprobs", f"must be absent with stream true, got {top}")
    if top is None and reader.get("decoder_input_details"):
        top = 0
    return {"prompt_logprobs": top if has_details else None}


def _check_not_had(reader: BodyReader) -> None:
    """What the engine cannot do is told, and refused where strict."""
    for name, (nothing, why) in NOT_HAD.items():
        if (value := reader.get(name)) == nothing:
            continue
        path = f"parameters.{name}"
        if reader.deployment.is_strict:
            reader.add_problem(path, f"must be {echo(nothing)}: {why}; got {echo(value)}")
        reader.warnings.append(f"{path} is ignored: {why}")


def _without_details(reader: BodyReader, *, is_stream: bool, has_details: bool) -> list[str]:
    """What is asked for and shows in the details alone, which are not asked for."""
    hidden = {"decoder_input_details", "prompt_logprobs"} | (set() if is_stream else {"logprobs", "top_n_tokens"})
    asked = sorted(name for name, value in (reader.extra | reader.given).items() if value and name in hidden)
    return [] if has_details else [f"parameters.{name} is ignored: it needs details true" for name in asked]


__all__ = ["error_body", "parse", "parse_by_path"]
