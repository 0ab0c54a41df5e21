"""TGI's clients are told of an error by its `error_type` and raise an exception of their own for it.

huggingface_hub's client as it is, against a deployment with `tgi_compat`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors as raised

from lmi_chat.errors import Busy, CutOff, EngineDown, Error, HookFailed
from lmi_chat.job import Finished, Job, OutputConstraint
from lmi_chat.pipeline.pipeline import PipelineConfig
from tests.http.test_app import post, send
from tests.support.scripted import Scripted, Service, Step, said, serving

PROMPT = "The capital of France is"
Ask = Callable[..., Any]


def whole(service: Service, prompt: str = PROMPT, **parameters: Any) -> Any:
    with huggingface_hub.InferenceClient(f"http://127.0.0.1:{service.port}/invocations") as client:
        return client.text_generation(prompt, **parameters)


def streamed(service: Service, prompt: str = PROMPT, **parameters: Any) -> Any:
    with huggingface_hub.InferenceClient(f"http://127.0.0.1:{service.port}/invocations") as client:
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


@pytest.mark.parametrize(("is_tgi", "expected"), [(True, "validation"), (False, None)])
def test_error_type_stands_beside_lmis_error_and_only_there(is_tgi: bool, expected: str | None) -> None:  # noqa: FBT001
    with serving(is_tgi=is_tgi) as service:
        status, _, answer = post(service, {"inputs": "x", "parameters": {"top_p": 7}})
        assert (status, answer["code"], answer["param"], answer.get("error_type")) == (
            400,
            400,
            "parameters.top_p",
            expected,
        )
        status, _, answer = send(service, b"{")
        assert (answer["error"]["code"], answer.get("error_type")) == ("bad_json", expected)
        for path in ("/invocations", "/v1/chat/completions"):
            answer = post(service, {"messages": [], "top_p": 7}, path=path)[2]
            assert set(answer) == {"error"}


def test_every_error_has_a_type_that_clients_know() -> None:
    from lmi_chat.dialects import error_body

    def subclasses(kind: type[Error]) -> list[type[Error]]:
        return [kind, *(below for one in kind.__subclasses__() for below in subclasses(one))]

    known = {"validation", "overloaded", "generation", "incomplete_generation"}
    for kind in subclasses(Error):
        error = Error.__new__(kind)
        Error.__init__(error, "x")
        assert error_body(error, "standard", is_tgi=True)["error_type"] in known
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
