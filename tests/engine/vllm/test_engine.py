"""What the engine is started with; that vLLM takes it is shown by tests/real/test_seam.py."""

import json

import pytest

from lmi_chat.engine.vllm.engine import StartFailed, _choose_backend


@pytest.mark.parametrize(
    "given", ["{}", '{"backend": "auto"}', '{"backend": "guidance", "disable_any_whitespace": true}']
)
def test_constraints_have_one_backend(given: str) -> None:
    chosen = _choose_backend({"model": "m", "structured_outputs_config": given})
    expected = json.loads(given) | {"backend": "guidance"}
    assert (chosen["model"], json.loads(chosen["structured_outputs_config"])) == ("m", expected)
    assert json.loads(_choose_backend({})["structured_outputs_config"]) == {"backend": "guidance"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ('{"backend": "xgrammar"}', 'structured_outputs_config.backend must be auto or guidance, got "xgrammar"'),
        ('{"backend": ["auto"]}', "structured_outputs_config.backend must be auto or guidance, got an array"),
        ("guidance", 'structured_outputs_config must be a JSON object, got "guidance"'),
        ("[]", 'structured_outputs_config must be a JSON object, got "[]"'),
    ],
)
def test_another_backend_stops_the_start(given: str, words: str) -> None:
    with pytest.raises(StartFailed) as caught:
        _choose_backend({"structured_outputs_config": given})
    assert str(caught.value).startswith(words)
