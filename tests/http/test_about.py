"""Which engine serves, how much it does, how its tokenizer is set up; scripted engine, real HTTP."""

from typing import Any

import openai
from tokenizers import AddedToken

from lmi_chat import __version__
from tests.http.test_app import send
from tests.support.fakes import ByteTokenizer
from tests.support.scripted import Scripted, Service, said, serving


def asked(service: Service, path: str) -> tuple[int, Any]:
    status, _, answer = send(service, b"", path=path, method="GET")
    return status, answer


def test_the_version_is_the_engines_and_ours() -> None:
    with serving() as service:
        assert asked(service, "/version") == (200, {"version": "", "lmi_chat": __version__})
    with serving(engine_version="0.32.0") as service:
        assert asked(service, "/version") == (200, {"version": "0.32.0", "lmi_chat": __version__})
    with serving(is_open=False) as service:
        assert asked(service, "/version")[0] == 503


def test_the_load_counts_what_runs() -> None:
    with (
        serving(Scripted(said("ab", gap_s=0.05))) as service,
        openai.OpenAI(base_url=f"http://127.0.0.1:{service.port}/v1", api_key="none") as client,
    ):
        assert asked(service, "/load") == (200, {"server_load": 0})
        with client.completions.create(model="tiny", prompt="a", stream=True) as chunks:
            next(iter(chunks))
            assert asked(service, "/load") == (200, {"server_load": 1})
    with serving(is_open=False) as service:
        assert asked(service, "/load") == (200, {"server_load": 0})


def test_the_tokenizer_is_shown_where_a_setting_allows_it() -> None:
    with serving() as service:
        status, found = asked(service, "/tokenizer_info")
        assert status == 404
        assert "option.enable_tokenizer_info_endpoint" in found["error"]["message"]
    with serving(shows_tokenizer=True) as service:
        status, found = asked(service, "/tokenizer_info")
        assert status == 200
        assert (found["tokenizer_class"], found["chat_template"]) == ("ByteTokenizer", ByteTokenizer().chat_template)


def test_a_tokenizers_configuration_is_shown_without_paths() -> None:
    with serving(shows_tokenizer=True) as service:
        tokenizer: Any = service.pipeline.deployment.template.tokenizer
        tokenizer.init_kwargs = {
            "eos_token": AddedToken("<|end|>"),
            "added": {7: AddedToken("<|a|>")},
            "model_max_length": 10**30,
            "names": ("a", None, object()),
            "vocab_file": "/models/vocab.json",
        }
        found = asked(service, "/tokenizer_info")[1]
    assert found["eos_token"] == "<|end|>"
    assert found["added"] == {"7": "<|a|>"}
    assert found["names"] == ["a", None, None]
    assert "vocab_file" not in found
