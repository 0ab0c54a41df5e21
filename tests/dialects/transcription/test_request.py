"""Forms with a recording → jobs, and what is refused before anything is decoded."""

from dataclasses import replace
from typing import Any

import pytest

from lmi_chat.dialects.formatters import Formatters
from lmi_chat.dialects.task import ParsedRequest
from lmi_chat.errors import BadField, Error, ModelNotFound
from lmi_chat.job import Recording
from lmi_chat.limits import Limits
from lmi_chat.pipeline import parsing
from lmi_chat.pipeline.request import InferenceRequest
from tests.support import speech
from tests.support.fakes import SPACE, deployment
from tests.support.speech import FORM, SPEECH, recording


def parse(
    fields: dict[str, Any], file: bytes | None = b"", forced: str | None = "transcription", **changes: Any
) -> ParsedRequest:
    """By the way that every request takes; a file of no bytes stands for a second of noise."""
    body = speech.form(fields, recording(1) if file == b"" else file)
    request = InferenceRequest(body=body, id="r", content_type=FORM, forced=forced)
    own = deployment(**{"speech": SPEECH} | changes)
    parsed = parsing.parse(request, None, own, None, own.limits, Formatters())
    assert isinstance(parsed, ParsedRequest)
    parsed.unknown = request.warnings
    return parsed


def refusal(fields: dict[str, Any], **more: Any) -> Error:
    with pytest.raises(Error) as caught:
        parse(fields, **more)
    return caught.value


def test_a_form_with_nothing_but_a_file() -> None:
    parsed = parse({})
    (job,) = parsed.jobs
    assert job.speech is not None
    assert (job.id, job.prompt_ids, job.speech.task, job.speech.has_times) == ("r", [], "transcribe", False)
    assert job.speech.recording.seconds == 1
    assert (job.sampling.temperature, job.sampling.max_tokens, job.sampling.logprobs) == (0.0, 1024, None)
    assert (parsed.dialect, parsed.is_stream) == ("transcription", False)


def test_every_field_of_a_form() -> None:
    words = {"language": "EN", "prompt": "Dr. Müller", "hotwords": "vLLM", "to_language": "ja", "user": "u"}
    numbers = {"temperature": "0.5", "max_completion_tokens": "7", "top_p": "0.9", "top_k": "5", "min_p": "0.1"}
    penalties = {"presence_penalty": "0.2", "frequency_penalty": "-0.2", "repetition_penalty": "1.1"}
    fields = words | numbers | penalties | {"seed": "11", "stream": "false"}
    parsed = parse(fields)
    said, sampling = parsed.job.speech, parsed.job.sampling
    assert said is not None
    assert (said.recording.language, said.prompt, said.hotwords, said.to_language) == ("en", "Dr. Müller", "vLLM", "ja")
    assert (sampling.temperature, sampling.max_tokens, sampling.top_p, sampling.top_k) == (0.5, 7, 0.9, 5)
    assert (sampling.min_p, sampling.seed, sampling.presence_penalty) == (0.1, 11, 0.2)
    assert (sampling.frequency_penalty, sampling.repetition_penalty) == (-0.2, 1.1)
    assert (parsed.user, parsed.unknown) == ("u", [])


def test_a_long_recording_has_a_job_for_each_clip() -> None:
    parsed = parse({"response_format": "verbose_json", "timestamp_granularities[]": ["segment"]}, recording(65, 8000))
    said = [job.speech for job in parsed.jobs if job.speech]
    assert [job.id for job in parsed.jobs] == ["r-0", "r-1", "r-2"]
    assert [one.place for one in said] == [0, 1, 2]
    assert all(one.has_times and one.recording is said[0].recording for one in said)
    assert [clip.begins_s for clip in said[0].recording.clips] == [0, 30, 60]
    assert parsed.job.sampling.logprobs == 0
    assert [job.prompt_tokens for job in parsed.jobs] == [100, 0, 0], "those of the recording are told once"


def test_the_models_own_temperature_is_not_the_requests() -> None:
    assert parse({}, defaults={"temperature": 0.7, "top_k": 3}).job.sampling.temperature == 0.0
    assert parse({"seed": "3"}, defaults={"temperature": 0.7}).job.sampling.seed is None


def test_a_translation_by_its_route() -> None:
    job = parse({}, forced="translation").job
    assert job.speech is not None
    assert job.speech.task == "translate"


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"temperature": "3"}, "temperature", "at least 0 and at most 2"),
        ({"temperature": "warm"}, "temperature", "must be a number"),
        ({"language": "xx"}, "language", 'an ISO 639-1 code that the model knows, got "xx"; it has en, ja'),
        ({"to_language": "xx"}, "to_language", "an ISO 639-1 code"),
        ({"prompt": "<|en|>"}, "prompt", "special token"),
        ({"prompt": "a" * 4097}, "prompt", "at most 4096 characters"),
        ({"response_format": "xml"}, "response_format", "one of json, text, verbose_json, srt, vtt"),
        ({"response_format": "diarized_json"}, "response_format", "one of json"),
        ({"response_format": "srt", "stream": "true"}, "response_format", "json or text with stream true, got srt"),
        ({"timestamp_granularities[]": ["word"]}, "timestamp_granularities", "times of words are not served"),
        ({"timestamp_granularities[]": ["segment"]}, "timestamp_granularities", "without response_format verbose_json"),
        ({"stream": "maybe"}, "stream", "true or false"),
        ({"max_completion_tokens": "0"}, "max_completion_tokens", "at least 1"),
        ({"use_beam_search": "true"}, "use_beam_search", "is not served"),
        ({"include[]": ["logprobs"]}, "include", "is not served"),
        ({"chunking_strategy": "server_vad"}, "chunking_strategy", "is not served"),
    ],
)
def test_what_is_refused(fields: dict[str, Any], param: str, says: str) -> None:
    """Before the recording is decoded, which would be refused too."""
    error = refusal(fields, file=b"no recording")
    assert (error.status, error.param) == (400, param)
    assert says in error.message


def test_a_file_is_needed_and_must_be_one() -> None:
    assert "file must be a file of a form (multipart/form-data)" in refusal({"model": "tiny"}, file=None).message
    assert 'got "a.wav"' in refusal({"file": "a.wav"}, file=None).message
    assert isinstance(refusal({"model": "other"}), ModelNotFound)
    assert "must be a recording" in refusal({}, file=b"no recording").message


def test_beam_search_that_is_not_asked_for_is_fine() -> None:
    assert parse({"chunking_strategy": "auto", "stream_include_usage": "true", "model": ""}).jobs


def test_a_language_that_the_model_was_not_made_for_and_unknown_fields_are_told() -> None:
    warnings = parse({"language": "la", "temprature": "1"}).unknown
    assert any("language la is none of the served model's own languages" in text for text in warnings)
    assert any("temprature is ignored; did you mean temperature?" in text for text in warnings)
    assert "temprature" in refusal({"temprature": "1"}, is_strict=True).message


def test_a_model_without_times_writes_text_alone() -> None:
    spec = replace(SPEECH, has_times=False)
    for name in ("verbose_json", "srt", "vtt"):
        assert "the served model tiny writes no times" in refusal({"response_format": name}, speech=spec).message
    assert parse({"response_format": "text"}, speech=spec).jobs


def test_a_model_of_another_kind_is_named() -> None:
    assert "the served model tiny generates text and hears no recordings" in refusal({}, speech=None).message
    assert "the served model tiny pools texts" in refusal({}, speech=None, pooler=SPACE).message


@pytest.mark.parametrize("key", ["messages", "inputs", "prompt", "input"])
def test_a_model_that_only_hears_takes_nothing_else(key: str) -> None:
    body = b'{"%b":"a"}' % key.encode()
    request = InferenceRequest(body=body, id="r")
    with pytest.raises(BadField, match=f"{key} cannot be served: the served model tiny writes what is said"):
        parsing.parse(request, None, deployment(speech=SPEECH), None, Limits(), Formatters())


def test_a_model_that_hears_and_chats_does_both() -> None:
    both = replace(SPEECH, is_only=False)
    request = InferenceRequest(body=b'{"prompt":"a"}', id="r")
    parsed = parsing.parse(request, None, deployment(speech=both), None, Limits(), Formatters())
    assert isinstance(parsed, ParsedRequest)
    assert parsed.dialect == "completion"
    assert parse({}, forced=None, speech=both).dialect == "transcription"


def test_a_recording_alone_is_a_form_with_nothing_else() -> None:
    request = InferenceRequest(body=recording(1), id="r", content_type="audio/x-wav; rate=16000")
    parsed = parsing.parse(request, None, deployment(speech=SPEECH), None, Limits(), Formatters())
    assert isinstance(parsed, ParsedRequest)
    assert parsed.job.speech is not None
    assert isinstance(parsed.job.speech.recording, Recording)
