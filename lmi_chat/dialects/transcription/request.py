"""Parse transcription requests: a recording becomes text, in its own language or in English.

Shapes: OpenAI API reference, "Create transcription" and "Create translation". The recording is decoded last, when
nothing else is wrong.
"""

from typing import Any

from lmi_chat.codec.json_text import Json
from lmi_chat.dialects import checks
from lmi_chat.dialects.deployment import Deployment
from lmi_chat.dialects.openai import error_body
from lmi_chat.dialects.reader import BodyReader
from lmi_chat.dialects.task import ParsedRequest
from lmi_chat.dialects.transcription import form
from lmi_chat.dialects.transcription.body import TIMED, TranscriptionBody
from lmi_chat.dialects.transcription.form import FILE, Upload
from lmi_chat.dialects.transcription.response import Events, Wanted, Whole, framing
from lmi_chat.errors import BadField, Problem
from lmi_chat.job import Job, SamplingParams, SpeechParams, SpeechSpec, SpeechTask
from lmi_chat.text import echo

IDS: dict[SpeechTask, str] = {"transcribe": "trsc", "translate": "trsl"}
MARK = "<|"
"""How a special token begins."""


def parse(body: Json, deployment: Deployment, request_id: str, *, task: SpeechTask = "transcribe") -> ParsedRequest:
    """A form with a recording → ParsedRequest. Raises BadField, NotFound. May take seconds."""
    if deployment.speech is None:
        kind = "pools texts" if deployment.pooler else "generates text"
        text = f"{FILE} cannot be served: the served model {deployment.model} {kind} and hears no recordings"
        raise BadField([Problem(FILE, text)])
    checks.check_model(body.get("model"), deployment)
    reader = BodyReader(deployment)
    reader.read(form.typed(body, deployment.checkers[TranscriptionBody].properties), TranscriptionBody)
    is_stream = reader.get("stream")
    upload = _check_file(reader)
    _check_format(reader, deployment.speech, is_stream=is_stream)
    _check_words(reader, deployment.speech)
    warnings = reader.finish()
    recording = deployment.speech.read(upload.data, deployment.limits)
    recording.language = reader.extra.get("language", "").lower()
    wanted = Wanted(
        id=f"{IDS[task]}-{request_id}",
        task=task,
        recording=recording,
        format=reader.get("response_format"),
        temperature=reader.given.get("temperature", 0.0),
        has_usage=reader.get("stream_continuous_usage_stats"),
    )
    jobs = _jobs(wanted, reader, request_id)
    render = Events(wanted, deployment) if is_stream else Whole(wanted, deployment)
    parsed = ParsedRequest(dialect="transcription", jobs=jobs, is_stream=is_stream, render=render, has_end=True)
    parsed.whole, parsed.unknown, parsed.user = framing(wanted), warnings, reader.get("user")
    return parsed


def _jobs(wanted: Wanted, reader: BodyReader, request_id: str) -> tuple[Job, ...]:
    """A job for each clip."""
    sampling, clips = _sampling(reader, has_times=wanted.format in TIMED), wanted.recording.clips
    shared: dict[str, Any] = {name: reader.get(name) for name in ("prompt", "hotwords", "to_language")}
    shared |= {"recording": wanted.recording, "task": wanted.task, "has_times": wanted.format in TIMED}
    return tuple(
        Job(
            id=request_id if len(clips) == 1 else f"{request_id}-{place}",
            prompt_ids=[],
            prompt_text="",
            sampling=sampling,
            speech=SpeechParams(place=place, **shared),
        )
        for place in range(len(clips))
    )


def _sampling(reader: BodyReader, *, has_times: bool) -> SamplingParams:
    deployment, fixed = reader.deployment, {"logprobs": 0} if has_times else {}
    fixed |= {"temperature": reader.given.get("temperature", 0.0)}  # whatever the model's own is
    most = min(deployment.context_tokens, deployment.limits.max_output_tokens or deployment.context_tokens)
    values = checks.sampling(reader, {}, **fixed)
    values["temperature"] = 0.0 if fixed["temperature"] < checks.GREEDY_BELOW else values["temperature"]
    if values["temperature"] == 0:
        values["seed"] = None
    return SamplingParams(**{**values, "max_tokens": min(values.get("max_tokens") or most, most)})


def _check_file(reader: BodyReader) -> Upload:
    upload = reader.extra.get(FILE)
    if isinstance(upload, Upload):
        return upload
    given = "" if upload is None else f", got {echo(upload)}"
    reader.add_problem(FILE, f"must be a file of a form (multipart/form-data){given}")
    return Upload(b"")


def _check_format(reader: BodyReader, speech: SpeechSpec, *, is_stream: bool) -> None:
    wanted = reader.get("response_format")
    if wanted in TIMED and not speech.has_times:
        text = f"must be json or text: the served model {reader.deployment.model} writes no times, got {wanted}"
        reader.add_problem("response_format", text)
    if wanted in TIMED and is_stream:
        reader.add_problem("response_format", f"must be json or text with stream true, got {wanted}")
    given = reader.extra.get("timestamp_granularities")
    if given is None:
        return
    path = "timestamp_granularities"
    if given not in (["segment"], "segment", []):
        reader.add_problem(path, f"must be segment: times of words are not served, got {echo(given)}")
    elif wanted != "verbose_json" and given:
        reader.add_problem(path, f"must be absent without response_format verbose_json, got {echo(given)}")


def _check_words(reader: BodyReader, speech: SpeechSpec) -> None:
    """Languages that the model knows; and no text that would be a special token in the model's prompt."""
    for name in ("language", "to_language"):
        code = reader.extra.get(name, "").lower()
        if code and code not in speech.languages and code not in speech.others:
            known = ", ".join(sorted(speech.languages))
            reader.add_problem(
                name, f"must be an ISO 639-1 code that the model knows, got {echo(code)}; it has {known}"
            )
        elif code and code not in speech.languages:
            reader.warnings.append(f"{name} {code} is none of the served model's own languages")
    for name in ("prompt", "hotwords"):
        if MARK in reader.get(name):
            reader.add_problem(name, f"must not hold {MARK}, with which a special token begins")


__all__ = ["error_body", "parse"]
