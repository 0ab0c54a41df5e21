"""What the binding leans on in vLLM: an upgrade that changes it fails here, with its name."""

import inspect

from lmi_chat.engine import arguments


def test_add_request_gives_a_collector_whose_put_is_called() -> None:
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.engine.output_processor import OutputProcessor, RequestOutputCollector

    assert list(inspect.signature(AsyncLLM.add_request).parameters)[:4] == ["self", "request_id", "prompt", "params"]
    assert "priority" in inspect.signature(AsyncLLM.add_request).parameters
    assert "internal" in inspect.signature(AsyncLLM.abort).parameters
    assert "timeout" in inspect.signature(AsyncLLM.shutdown).parameters
    assert list(inspect.signature(RequestOutputCollector.put).parameters) == ["self", "output"]
    assert "queue.put(" in inspect.getsource(OutputProcessor.process_outputs)
    assert not hasattr(RequestOutputCollector, "__slots__"), "put is replaced on the object"


def test_names_read_from_the_source_are_the_engines_own() -> None:
    from dataclasses import fields

    from vllm.engine.arg_utils import AsyncEngineArgs

    assert arguments.names() >= {row.name for row in fields(AsyncEngineArgs)}
    assert "max_model_len" in arguments.names()


def test_the_classes_of_refusals_are_there() -> None:
    from vllm.exceptions import VLLMClientError, VLLMValidationError
    from vllm.v1.engine.exceptions import EngineDeadError

    assert issubclass(VLLMValidationError, VLLMClientError | ValueError)
    assert issubclass(EngineDeadError, Exception)
