"""TGI's clients against a deployment with `tgi_compat`: TGI's paths and shapes, and the exceptions that they raise.

huggingface_hub's client as it is; what text_generation 0.7.0 sends, and what its types ask of an answer.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import huggingface_hub
import jinja2
import pytest
from huggingface_hub import errors as raised

from lmi_chat.chat_template import Template
from lmi_chat.errors import Busy, CutOff, EngineDown, Error, HookFailed
from lmi_chat.job import Delta, Finished, Job, OutputConstraint
from lmi_chat.pipeline.pipeline import PipelineConfig
from lmi_chat.testing import ByteTokenizer
from tests.http.test_app import JSON, post, send
from tests.http.test_sagemaker import boto
from tests.support.scripted import Scripted, Service, Step, said, serving

pytestmark = pytest.mark.processes

PROMPT = "The capital of France is"
Ask = Callable[..., Any]


def whole(service: Service, prompt: str = PROMPT, path: str = "/invocations", **parameters: Any) -> Any:
    with huggingface_hub.InferenceClient(f"http://127.0.0.1:{service.port}{path}") as client:
        return client.text_generation(prompt, **parameters)


def streamed(service: Service, prompt: str = PROMPT, path: str = "/invocations", **parameters: Any) -> Any:
    with huggingface_hub.InferenceClient(f"http://127.0.0.1:{service.port}{path}") as client:
        return "".join(client.text_generation(prompt, stream=True, **parameters))


def fails(*steps: Step) -> Scripted:
    """Three characters, then `steps`."""

    def script(job: Job) -> list[Step]:
        return [*(step for step in said("abcd")(job)[:6] if not isinstance(step, Finished)), 0.01, *steps]

    return Scripted(script)


WAYS = [whole, streamed]


@pytest.mark.parametrize("ask", WAYS)
def test_validation(ask: Ask) -> None:
    with serving(is_tgi=True) as service:
        with pytest.raises(raised.ValidationError, match=r"parameters.top_p must be at least 0 and at most 1, got 2"):
            ask(service, top_p=2.0)
        with pytest.raises(raised.ValidationError, match="inputs has 1100 tokens"):
            ask(service, "x" * 1100)
        assert ask(service) == "Hello!"


@pytest.mark.parametrize("ask", WAYS)
def test_overloaded(ask: Ask) -> None:
    with serving(is_tgi=True, is_open=False) as service, pytest.raises(raised.OverloadedError, match="still loading"):
        ask(service)
    with (
        serving(Scripted(lambda _: [Busy("all seats are taken")]), is_tgi=True) as service,
        pytest.raises(raised.OverloadedError, match="all seats are taken"),
    ):
        ask(service)


@pytest.mark.parametrize("ask", WAYS)
def test_generation(ask: Ask) -> None:
    with (
        serving(fails(EngineDown("the engine is gone")), is_tgi=True) as service,
        pytest.raises(raised.GenerationError, match="the engine is gone"),
    ):
        ask(service)


@pytest.mark.parametrize("ask", WAYS)
def test_incomplete_generation(ask: Ask) -> None:
    with (
        serving(fails(), is_tgi=True, policy=PipelineConfig(deadline_s=0.2)) as service,
        pytest.raises(raised.IncompleteGenerationError, match=r"within 0.2 s"),
    ):
        ask(service)


def test_a_stream_that_the_shutdown_cuts_is_incomplete() -> None:
    with (
        serving(fails(CutOff("shutting down")), is_tgi=True) as service,
        pytest.raises(raised.IncompleteGenerationError, match="shutting down"),
    ):
        streamed(service)


@pytest.mark.parametrize("path", ["", "/", "/invocations", "/generate"])
def test_the_hubs_client_at_tgis_paths(path: str) -> None:
    with serving(is_tgi=True) as service:
        assert whole(service, path=path) == "Hello!"
        answer = whole(service, path=path, details=True, max_new_tokens=2)
        assert (answer.generated_text, len(answer.details.tokens), answer.details.finish_reason) == (
            "Hello!",
            6,
            "eos_token",
        )
        with pytest.raises(raised.ValidationError, match="inputs has 1100 tokens"):
            whole(service, "x" * 1100, path=path)


@pytest.mark.parametrize("path", ["", "/generate_stream"])
def test_the_hubs_client_streams_at_tgis_paths(path: str) -> None:
    with serving(is_tgi=True) as service:
        assert streamed(service, path=path) == "Hello!"
        with huggingface_hub.InferenceClient(f"http://127.0.0.1:{service.port}{path}") as client:
            *_, last = client.text_generation(PROMPT, stream=True, details=True)
        assert (last.generated_text, last.details.finish_reason, last.details.input_length) == (
            "Hello!",
            "eos_token",
            len(PROMPT),
        )


@pytest.mark.parametrize("ask", WAYS)
@pytest.mark.parametrize("path", ["/nope", "/models/nope/invoke"])
def test_what_is_not_there_is_told_by_the_status(ask: Ask, path: str) -> None:
    """TGI has no type for it; with `validation` its clients would blame the prompt."""
    with serving(is_tgi=True) as service, pytest.raises(raised.HfHubHTTPError, match=r"404.*") as caught:
        ask(service, path=path)
    assert not isinstance(caught.value, raised.TextGenerationError)
    assert "nope" in str(caught.value)


def test_the_hubs_client_is_told_of_the_endpoint() -> None:
    with serving(is_tgi=True, policy=PipelineConfig(queue=7)) as service:
        url = f"http://127.0.0.1:{service.port}"
        with huggingface_hub.InferenceClient(url, provider="hf-inference") as client:
            info = client.get_endpoint_info()
        assert (info["model_id"], info["max_total_tokens"], info["max_input_tokens"]) == ("tiny", 1024, 1023)
        assert (info["max_concurrent_requests"], info["max_best_of"]) == (service.pipeline.max_running + 7, 16)
        assert info["model_pipeline_tag"] == "text-generation"
    with serving(is_tgi=True, is_open=False) as service:
        status, _, answer = send(service, b"", path="/info", method="GET")
        assert (status, answer["error_type"]) == (503, "overloaded")


TGI_PATHS = ["/", "/generate", "/generate_stream"]


def test_tgis_paths_are_not_there_without_its_clients() -> None:
    with serving() as service:
        assert [post(service, {"inputs": "a"}, path=path)[0] for path in TGI_PATHS] == [404, 404, 404]
        assert send(service, b"", path="/info", method="GET")[0] == 404


PARAMETERS = (
    b'"do_sample": %b, "max_new_tokens": 5, "repetition_penalty": null, "frequency_penalty": null, '
    b'"return_full_text": false, "stop": [], "seed": null, "temperature": null, "top_k": null, "top_p": null, '
    b'"truncate": null, "typical_p": null, "best_of": %b, "watermark": false, "details": true, '
    b'"decoder_input_details": %b, "top_n_tokens": null, "grammar": null'
)
REQUEST = b'{"inputs": "Hi", "parameters": {' + PARAMETERS + b'}, "stream": %b}'
"""As text_generation 0.7.0 sends it."""
HEAD = {
    "User-Agent": "python-requests/2.34.2",
    "Accept-Encoding": "gzip, deflate",
    "Accept": "*/*",
    "Connection": "keep-alive",
    "Content-Type": "application/json",
}
TOKEN = {"id", "text", "logprob", "special"}
REASONS = {"length", "eos_token", "stop_sequence"}


def each_said(job: Job) -> list[Step]:
    """As many sequences as are asked for."""
    *steps, done = said("Hello!")(job)
    deltas = [step for step in steps if isinstance(step, Delta)]
    return [replace(delta, index=index) for index in range(job.sampling.n) for delta in deltas] + [done]


def check_details(details: dict[str, Any], count: int) -> None:
    """What the client's types ask for: TGI's Details, and BestOfSequence, which is the same but for the others."""
    assert details["finish_reason"] in REASONS
    assert details["generated_tokens"] == len(details["tokens"]) == count
    assert all(token.keys() >= TOKEN for token in details["tokens"])
    assert isinstance(details["prefill"], list)


@pytest.mark.parametrize(
    ("do_sample", "best_of", "has_prefill"), [(b"false", b"null", False), (b"true", b"2", False), (b"true", b"3", True)]
)
@pytest.mark.parametrize("path", ["/", "/generate"])
def test_text_generations_whole_answer(path: str, do_sample: bytes, best_of: bytes, has_prefill: bool) -> None:  # noqa: FBT001
    prefill = b"true" if has_prefill else b"false"
    with serving(Scripted(each_said), is_tgi=True) as service:
        status, _, answer = send(service, REQUEST % (do_sample, best_of, prefill, b"false"), HEAD, path)
    assert status == 200
    answer = answer if path == "/generate" else answer[0]
    check_details(answer["details"], 6)
    others = answer["details"].get("best_of_sequences")
    assert len(others or []) == (0 if best_of == b"null" else int(best_of) - 1)
    for other in others or []:
        assert other["generated_text"] == "Hello!"
        check_details(other, 6)
        assert other["prefill"] == answer["details"]["prefill"]


@pytest.mark.parametrize("path", ["/", "/generate_stream"])
def test_text_generations_stream(path: str) -> None:
    with serving(is_tgi=True) as service:
        status, headers, data = send(service, REQUEST % (b"false", b"null", b"false", b"true"), HEAD, path)
    assert (status, headers["content-type"].partition(";")[0]) == (200, "text/event-stream")
    lines = [line for line in data.split(b"\n") if line]
    assert all(line.startswith(b"data:") for line in lines)
    events = [json.loads(line.removeprefix(b"data:")) for line in lines]
    assert all(event["token"].keys() >= TOKEN and {"generated_text", "details"} <= event.keys() for event in events)
    assert [event["generated_text"] for event in events] == [None] * 5 + ["Hello!"]
    assert events[-1]["details"]["finish_reason"] in REASONS


def test_a_path_of_one_form_answers_in_it() -> None:
    """On /generate and /generate_stream the path decides; details come to who asks for them, by either name."""
    with serving(is_tgi=True) as service:
        assert post(service, {"inputs": "a"}, path="/generate")[2] == {"generated_text": "Hello!"}
        status, headers, answer = post(service, {"inputs": "a", "stream": True}, path="/generate")
        assert (status, answer) == (200, {"generated_text": "Hello!"})
        assert headers["x-lmi-chat-warning"] == "stream is ignored: the path says whether the answer streams"
        asked = {"inputs": "a", "parameters": {"decoder_input_details": True}}
        assert "details" in post(service, asked, path="/generate")[2]
        assert "details" in post(service, asked | {"parameters": {"details": False, **asked["parameters"]}})[2][0]  # type: ignore[dict-item]
        _, headers, data = post(service, {"inputs": "a", "stream": False}, path="/generate_stream")
        assert headers["content-type"].startswith("text/event-stream")
        assert json.loads(data.split(b"\n\n")[-2].removeprefix(b"data:"))["details"] is None
        assert isinstance(post(service, {"inputs": "a"}, path="/")[2], list)
        assert post(service, {"messages": [{"role": "user", "content": "a"}]}, path="/")[0] == 400


def test_an_answer_that_time_cut_has_a_word_that_tgis_clients_know() -> None:
    policy = PipelineConfig(finish_before_s=0.2)
    endless = Scripted(lambda _: [*said("abcd")(_)[:2], 30.0])
    with serving(endless, is_tgi=True, policy=policy) as service:
        [answer] = post(service, {"inputs": "a"})[2]
        assert answer["details"]["finish_reason"] == "length"
        data = post(service, {"inputs": "a"}, path="/generate_stream")[2]
        assert b'"generated_text":"a"' in data
    with serving(endless, policy=policy) as service:
        answer = post(service, {"inputs": "a", "parameters": {"details": True}})[2]
        assert answer["details"]["finish_reason"] == "time_limit"


BODIES = [{"inputs": "x"}, {"messages": [{"role": "user", "content": "x"}]}, {"prompt": "x"}]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: next(iter(body)))
@pytest.mark.parametrize(("is_tgi", "expected"), [(True, "validation"), (False, None)])
def test_error_type_stands_beside_every_dialects_error_and_only_there(
    is_tgi: bool,  # noqa: FBT001
    expected: str | None,
    body: dict[str, Any],
) -> None:
    wrong = {"parameters": {"top_p": 7}} if "inputs" in body else {"top_p": 7}
    with serving(is_tgi=is_tgi) as service:
        for stream in (False, True):
            status, _, answer = post(service, {**body, **wrong, "stream": stream})
            assert (status, answer.get("error_type")) == (400, expected)
        status, _, answer = send(service, b"{")
        assert (answer["error"]["code"], answer.get("error_type")) == ("bad_json", expected)


@pytest.mark.parametrize("body", BODIES, ids=lambda body: next(iter(body)))
def test_a_stream_that_breaks_off_has_the_type_in_every_dialect(body: dict[str, Any]) -> None:
    with serving(fails(EngineDown("the engine is gone")), is_tgi=True) as service:
        lines = post(service, {**body, "stream": True}, headers=JSON | {"accept": "application/jsonlines"})[2]
    assert json.loads(lines.splitlines()[-1])["error_type"] == "generation"


class Refusing(ByteTokenizer):
    """A model whose template takes no system message."""

    def apply_chat_template(self, conversation: list[dict[str, Any]], **options: Any) -> str | list[int]:
        if conversation[0]["role"] == "system":
            raise jinja2.TemplateError("no system message here")
        return super().apply_chat_template(conversation, **options)


def test_a_template_that_refuses_is_tgis_template_error() -> None:
    """Inside boto3's ModelError too."""
    body = {"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "x"}]}
    with serving(is_tgi=True, template=Template(Refusing())) as service:
        status, _, answer = post(service, body)
        client = boto(service)
        with pytest.raises(client.exceptions.ModelError) as caught:
            client.invoke_endpoint(EndpointName="e", ContentType="application/json", Body=json.dumps(body))
        client.close()
    assert (status, answer["error_type"], answer["error"]["code"]) == (400, "template_error", "bad_field")
    assert json.loads(caught.value.response["OriginalMessage"]) == answer


def test_every_error_has_a_type_that_clients_know() -> None:
    from lmi_chat.dialects import error_body

    def subclasses(kind: type[Error]) -> list[type[Error]]:
        return [kind, *(below for one in kind.__subclasses__() for below in subclasses(one))]

    known = {"validation", "overloaded", "generation", "incomplete_generation", "template_error"}
    for kind in subclasses(Error):
        error = Error.__new__(kind)
        Error.__init__(error, "x")
        expected = {None} if error.status in {401, 404, 405} else known
        assert error_body(error, "standard", is_tgi=True).get("error_type") in expected
        assert "error_type" not in error_body(error, "standard")
    for fault in (KeyError("ours"), HookFailed("theirs")):
        assert error_body(fault, "standard", is_tgi=True)["error_type"] == "generation"


SCHEMA: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
WRITTEN = OutputConstraint("json", '{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]}')


@pytest.mark.parametrize(
    ("form", "asked"),
    [
        ({"type": "json_object"}, OutputConstraint("json_object", "")),
        ({"type": "json_object", "value": SCHEMA}, WRITTEN),
        ({"type": "json", "value": SCHEMA}, WRITTEN),
        ({"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": True}}, WRITTEN),
        ({"type": "regex", "value": "[0-9]+"}, OutputConstraint("regex", "[0-9]+")),
    ],
)
def test_a_form_of_the_text_is_obeyed(form: Any, asked: OutputConstraint) -> None:
    with serving(is_tgi=True) as service:
        client = huggingface_hub.InferenceClient(base_url=f"http://127.0.0.1:{service.port}/v1")
        ask = partial(client.chat_completion, [{"role": "user", "content": "hi"}], model="tiny", response_format=form)
        assert ask().choices[0].message.content == "Hello!"
        assert "".join(part.choices[0].delta.content or "" for part in ask(stream=True)) == "Hello!"
        assert whole(service, grammar=form) == "Hello!"
        assert streamed(service, grammar=form) == "Hello!"
        assert [job.sampling.constraint for job in service.engine.jobs[-4:]] == [asked] * 4
