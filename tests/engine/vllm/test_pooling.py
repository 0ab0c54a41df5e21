"""What the running engine tells of a model that pools, and the events of its outputs; vLLM's part stands in."""

import struct
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lmi_chat.engine.vllm.engine import StartFailed, Vllm
from lmi_chat.engine.vllm.pooling import _Run
from lmi_chat.errors import Bug, Error
from lmi_chat.job import Embedding, Event, Finished, PoolingParams, PoolingSpec, PoolingTask
from lmi_chat.testing import ScriptedEngine

TASKS = ("embed", "token_embed")


async def opened(task: str | None, runner: str = "pooling") -> PoolingSpec | None:
    """The PoolingSpec of a model after `open`, where vLLM says that it pools by `task`."""
    asked: list[object] = []

    async def supported() -> tuple[str, ...]:
        return TASKS

    def chosen(tasks: tuple[str, ...]) -> str | None:
        asked.append(tasks)
        return task

    config = SimpleNamespace(
        runner_type=runner, get_pooling_task=chosen, embedding_size=8, is_matryoshka=False, encoder_config=None
    )
    engine = SimpleNamespace(model_config=config, get_supported_tasks=supported)
    stand_in = SimpleNamespace(_engine=engine, model=replace(ScriptedEngine().model))
    await Vllm.open(cast("Vllm", stand_in))
    assert asked == ([TASKS] if runner == "pooling" else [])
    pooler: PoolingSpec | None = stand_in.model.pooler
    return pooler


async def test_the_engine_tells_how_a_model_pools() -> None:
    assert await opened("embed") == PoolingSpec(dimensions=8)
    assert await opened("token_embed") == PoolingSpec(task="token_embed", dimensions=8)
    assert await opened(None, runner="generate") is None


@pytest.mark.parametrize("task", ["plugin", "embed&token_classify", None])
async def test_another_way_of_pooling_stops_the_start(task: str | None) -> None:
    with pytest.raises(StartFailed, match="served are embed, classify, token_embed, token_classify"):
        await opened(task)


class Tensor:
    """The few methods of a torch tensor that are asked for."""

    def __init__(self, *rows: tuple[float, ...]) -> None:
        import numpy as np

        self.array = np.array(rows if len(rows) > 1 else rows[0], "f4")
        self.shape = self.array.shape

    def contiguous(self) -> "Tensor":
        return self

    def numel(self) -> int:
        return int(self.array.size)

    def isfinite(self) -> Any:
        import numpy as np

        return np.isfinite(self.array)

    def numpy(self) -> Any:
        return self.array

    def float(self) -> "Tensor":
        return self


def events(tensor: Tensor, task: PoolingTask = "embed") -> list[Event]:
    taken: list[Event] = []
    run = _Run(taken.append, PoolingParams(task=task))
    output = SimpleNamespace(outputs=SimpleNamespace(data=tensor), prompt_token_ids=[1, 2, 3], num_cached_tokens=1)
    run.put(output)
    run.put(output)
    return taken


def test_an_output_is_a_vector_or_one_for_each_token_and_the_end() -> None:
    end = Finished(prompt_tokens=3, completion_tokens=0, cached_tokens=1)
    assert events(Tensor((0.5, 2.0))) == [Embedding(0, "", [], values=struct.pack("<2f", 0.5, 2.0)), end]
    rows = events(Tensor((0.5, 2.0), (3.0, 4.0)), "token_embed")
    assert rows == [Embedding(0, "", [], values=struct.pack("<4f", 0.5, 2, 3, 4), rows=2), end]


@pytest.mark.parametrize("numbers", [(float("nan"), 1.0), (float("inf"), 1.0), ()])
def test_what_is_no_number_is_an_error_and_no_answer(numbers: tuple[float, ...]) -> None:
    (event,) = events(Tensor(numbers))
    assert isinstance(event, Error)
    assert isinstance(event, Bug)
