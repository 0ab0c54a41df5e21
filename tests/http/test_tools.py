"""Tools by each path of the server: they reach the engine's job, and the prompt, as they were sent."""

import json

import pytest

from lmi_chat.job import Tool
from tests.http.test_app import post
from tests.support.cases import message
from tests.support.scripted import Scripted, said, serving

WEATHER = {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
BODY = {
    "messages": [{"role": "user", "content": "hi"}],
    "tools": [{"type": "function", "function": WEATHER}],
    "tool_choice": "required",
}


@pytest.mark.parametrize(
    "path", ["/invocations", "/v1/chat/completions", "/endpoints/e/invocations", "/models/lmi/invoke"]
)
def test_tools_reach_the_engine_by_every_path(path: str) -> None:
    with serving(Scripted(said("Hi")), chat_template="{tools}{turns}", tool_parser="any") as service:
        status, _, answer = post(service, BODY, path=path)
        assert (status, answer["object"]) == (200, "chat.completion")
        job = service.engine.jobs[-1]
        assert job.parsing is not None
        assert (job.parsing.choice, job.parsing.tools) == (
            "required",
            (Tool(name="get_weather", parameters=WEATHER["parameters"]),),  # type: ignore[arg-type]
        )
        assert job.prompt_text.startswith(json.dumps(BODY["tools"]))
    with serving(Scripted(said("Hi"))) as service:
        status, _, answer = post(service, BODY, path=path)
        assert status == (424 if path.startswith("/endpoints") else 400)
        assert message(answer).startswith("tools cannot be served: the model's chat template knows no tools")
