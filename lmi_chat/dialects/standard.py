"""The standard dialect: LMI's `inputs` and `parameters`, which TGI's clients speak too. Its answers: generation.py.

Shapes: DJL Serving's "LMI handlers inference API schema"; the streamed line is what LMI and TGI send.
"""

import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lmi_chat.bounds import SAMPLING, Field
from lmi_chat.dialects import desk as common
from lmi_chat.dialects import guide
from lmi_chat.dialects.desk import Desk, Form, Task
from lmi_chat.dialects.generation import Lines, Whole, WholeList, error_body, tgi_type
from lmi_chat.errors import BadField, Problem, echo
from lmi_chat.job import Job
from lmi_chat.wire import Json

DEFAULT_NEW_TOKENS = 30
BOOLEAN = Field(kind="boolean", default=False, meaning="")
RENAMED = {
    "max_new_tokens": "max_tokens",
    "stop_sequences": "stop",
    "ignore_eos_token": "ignore_eos",
    "bad_sequences": "bad_words",
    "min_length": "min_tokens",
    "top_n_tokens": "top_logprobs",
    "truncate": "truncate_prompt_tokens",
}
FIELDS: Mapping[str, Field] = (
    {
        name: SAMPLING[name]
        for name in (
            *("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"),
            *("seed", "stop", "stop_token_ids", "include_stop_str_in_output", "skip_special_tokens", "min_tokens"),
            *("spaces_between_special_tokens", "logit_bias", "ignore_eos", "prompt_logprobs", "best_of", "num_beams"),
            *("length_penalty",),
        )
    }
    | {wire: SAMPLING[name] for wire, name in RENAMED.items()}
    | {"n": replace(SAMPLING["n"], sets="")}
)
OWN = guide.TGI_NAMES | {
    *("do_sample", "details", "decoder_input_details", "return_full_text", "stream", "logprobs"),
}
BODY_OWN = frozenset({"inputs", "parameters", "stream", "model"})
HARMLESS: Mapping[str, tuple[object, ...]] = {
    "early_stopping": (None, False, True),
    "typical_p": (None, 1, 1.0),
    "watermark": (None, False),
}
KNOWN = {name: f"parameters.{name}" for name in (*FIELDS, *OWN, *HARMLESS)}
ANYWHERE = KNOWN | {name: name for name in BODY_OWN}
SAMPLES = ("temperature", "top_p", "top_k", "min_p")


def parse(body: Json, desk: Desk, request_id: str) -> Task:
    """A standard body → Task. Raises BadField, NotFound or PromptTooLong; the paths are the caller's."""
    common.check_model(body.get("model"), desk)
    parameters = _check_shape(body)
    form = Form(desk, prefix="parameters.")
    form.ignore((name for name in body if name not in BODY_OWN), ANYWHERE, "")
    form.read(parameters, FIELDS, KNOWN)
    common.check_unserved(parameters, form, HARMLESS)
    prompts = _check_inputs(body.get("inputs"), form)
    is_stream = _check_stream(body, parameters, form)
    flags = {
        "details": form.value(parameters, "details", replace(BOOLEAN, default=desk.is_tgi)),
        "return_full_text": form.value(parameters, "return_full_text", BOOLEAN),
    }
    fixed = _check_sampling(parameters, form, has_tokens=is_stream or flags["details"], has_details=flags["details"])
    fixed |= _check_prefill(parameters, form, is_stream=is_stream)
    shape = _check_sequences(form, is_stream=is_stream)
    guide.read(parameters, form, has_grammar=True)
    guide.check_beams(form, "num_beams", shape["beams"])
    common.check_vocabulary(form)
    unknown = form.close()

    if shape["width"] > 1 and not is_stream and fixed["logprobs"] is None:
        fixed["logprobs"] = 0
    values = common.sampling(form, {"max_tokens": DEFAULT_NEW_TOKENS}, **fixed)
    is_many = isinstance(body.get("inputs"), list)
    jobs = tuple(
        _job(prompt, place, request_id, form, values, shape, is_many=is_many) for place, prompt in enumerate(prompts)
    )
    render: common.Render
    if is_stream:
        render = Lines(jobs, is_tgi=desk.is_tgi, **flags)
    else:
        wholes = [Whole(job, returned=shape["returned"], **flags) for job in jobs]
        render = WholeList(wholes) if is_many or desk.is_tgi else wholes[0]
    return Task(
        dialect="standard",
        jobs=jobs,
        is_stream=is_stream,
        render=render,
        has_end=False,
        shape="events" if desk.is_tgi else None,
        unknown=unknown,
    )


def _job(
    prompt: str,
    place: int,
    request_id: str,
    form: Form,
    values: Mapping[str, Any],
    shape: Mapping[str, int],
    *,
    is_many: bool,
) -> Job:
    path = f"inputs[{place}]" if is_many else "inputs"
    common.check_length(prompt, form.desk, path)
    ids = form.desk.template.encode(prompt, add_special_tokens=True)[-form.extra.get("truncate", 0) :]
    if not ids:
        raise BadField([Problem(path, f"{path} must have at least 1 token, got {echo(prompt)}")])
    own = dict(values)
    copies = common.spread(own, shape["width"], beams=shape["beams"])
    return Job(
        id=f"{request_id}-{place}" if is_many else request_id,
        prompt_ids=ids,
        prompt_text=prompt,
        sampling=common.seat(ids, own, form, path=path),
        copies=copies,
        beams=shape["beams"],
        length_penalty=form.extra.get("length_penalty", 1.0),
    )


def _check_shape(body: Json) -> Json:
    parameters = body.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise BadField([Problem("parameters", f"parameters must be an object, got {echo(parameters)}")])
    return parameters


def _check_inputs(inputs: object, form: Form) -> list[str]:
    most = form.desk.limits.max_prompts
    prompts: list[Any] = inputs if isinstance(inputs, list) else [inputs]
    if not prompts or len(prompts) > most:
        form.wrong("inputs", f"must have at least 1 and at most {most} prompts, got {len(prompts)}")
        return []
    for place, prompt in enumerate(prompts):
        path = f"inputs[{place}]" if isinstance(inputs, list) else "inputs"
        if not isinstance(prompt, str):
            form.wrong(path, f"must be a string, got {echo(prompt)}")
        elif not prompt:
            form.wrong(path, "must not be empty")
    return prompts


def _check_sequences(form: Form, *, is_stream: bool) -> Mapping[str, int]:
    """How many sequences run and come back: `n`, the best of `best_of`, or `num_beams` beams."""
    given = {name: form.extra.get(name, 1) for name in ("n", "best_of", "num_beams")}
    for name in ("best_of", "num_beams"):
        if given[name] > 1 and is_stream:
            form.wrong(f"parameters.{name}", f"must be 1 with stream true, got {given[name]}")
        if given[name] > 1 and given["n"] > given[name]:
            form.wrong("parameters.n", f"must be at most {name} = {given[name]}, got {given['n']}")
    if given["best_of"] > 1 and given["num_beams"] > 1:
        form.wrong("parameters.num_beams", f"must be 1 with best_of = {given['best_of']}, got {given['num_beams']}")
    beams = given["num_beams"] if given["num_beams"] > 1 else 0
    width = max(given.values())
    return {"beams": beams, "width": width, "returned": given["n"] if given["n"] > 1 else width}


def _check_stream(body: Json, parameters: Json, form: Form) -> bool:
    for place, prefix in ((body, ""), (parameters, "parameters.")):
        if place.get("stream") is not None:
            return bool(Form(form.desk, prefix=prefix, problems=form.problems).value(place, "stream", BOOLEAN))
    return form.desk.streams_by_default


def _check_sampling(parameters: Json, form: Form, *, has_tokens: bool, has_details: bool) -> dict[str, Any]:
    """`do_sample` decides; where it is absent, asking for a way of sampling does."""
    do_sample = form.value(parameters, "do_sample", Field(kind="boolean", meaning=""))
    if do_sample is None:
        do_sample = any(name in form.given for name in SAMPLES)
    top = form.value(parameters, "logprobs", SAMPLING["top_logprobs"]) if "logprobs" in parameters else 0
    top = max(top, form.extra.get("top_n_tokens") or 0)
    fixed: dict[str, Any] = {"logprobs": top if has_tokens or top else None}
    if not do_sample:
        return fixed | {"temperature": 0.0}
    if has_details and "seed" not in form.given:
        fixed["seed"] = secrets.randbits(53)
    return fixed


def _check_prefill(parameters: Json, form: Form, *, is_stream: bool) -> dict[str, Any]:
    wanted = form.value(parameters, "decoder_input_details", BOOLEAN)
    if wanted and is_stream:
        form.wrong("parameters.decoder_input_details", "must be false with stream true, got true")
    return {"prompt_logprobs": 0} if wanted and "prompt_logprobs" not in form.given else {}


__all__ = ["error_body", "parse", "tgi_type"]
