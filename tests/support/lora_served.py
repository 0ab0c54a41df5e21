"""Run `lmi-chat serve` as a process that can be looked into: `python -m tests.support.lora_served PORT serve …`.

On PORT it answers each line with one of JSON, as soon as no change of the adapters goes on: `loaded` (ids of adapters
that the engine has), `versions` (those whose files stand), `paths` (how often a job with an adapter took each path
through vLLM), and `storm STEPS CLIENTS SEED FOLDER`: random clients of the registry, and how it ended.
"""

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from lmi_chat.cli.main import main
from lmi_chat.engine.vllm.engine import Vllm
from lmi_chat.errors import Error
from lmi_chat.pipeline.pipeline import InferenceRequest, Pipeline
from lmi_chat.server import bootstrap
from tests.support.adapter_clients import Clients

PROMPT = "The colours of the rainbow are"
paths: Counter[str] = Counter()


class Whole:
    """Keeps a whole answer."""

    body = b""

    async def whole(self, body: bytes, content_type: str) -> None:  # noqa: ARG002
        self.body = body

    async def start(self, content_type: str) -> None:
        raise AssertionError(content_type)

    def write(self, data: bytes) -> None:
        raise AssertionError(data)

    def fail(self, error: Error, frame: bytes) -> None:
        raise AssertionError(error, frame)

    async def end(self) -> None:
        raise AssertionError


async def answer(pipeline: Pipeline, adapter: str) -> str:
    """The text that an adapter ("": the model alone) answers to PROMPT."""
    parameters = {"max_new_tokens": 8, "do_sample": False, "ignore_eos_token": True}
    body = json.dumps({"inputs": PROMPT, "parameters": parameters}).encode()
    out = Whole()
    await pipeline.answer(InferenceRequest(body=body, id="storm", adapter=adapter), out)
    return str(json.loads(out.body)["generated_text"])


async def storm(
    pipeline: Pipeline, engine: Any, folder: Path, steps: int, clients: int, seed: int
) -> dict[str, object]:
    """Let random clients loose on the registry; every answer is checked by them, and what is left by us."""
    registry = pipeline.adapters
    weights = [str(folder / f"w{number}") for number in range(4)]
    texts: dict[str, str] = {}
    for number, src in enumerate(weights):
        await registry.register(f"alone{number}", src)
        texts[await answer(pipeline, f"alone{number}")] = src
        await registry.remove(f"alone{number}")
    own = registry._fetch
    crowd = Clients(weights, lambda name: _which(pipeline, name, texts), own, seed)
    crowd.registry, registry._fetch = registry, crowd.fetch
    try:
        await crowd.run(clients, steps // clients, 6)
    finally:
        registry._fetch = own
    await registry.settle()
    left = {}
    for entry in registry.entries():
        async with registry.hold(entry.name) as adapter:
            left[adapter.id] = entry.pin
    loaded = await engine.list_adapters()
    return {
        "texts": len(texts),
        "answered": crowd.answered,
        "refused": crowd.refused,
        "is_dead": engine.is_dead,
        "unregistered": sorted(loaded - left.keys()),
        "unpinned": sorted(number for number, pin in left.items() if pin and number not in loaded),
        "files": len(registry._versions) - len(left),
        "names": [entry.name for entry in registry.entries()],
    }


async def _which(pipeline: Pipeline, name: str, texts: dict[str, str]) -> str:
    return texts.get(await answer(pipeline, name), "none of the four")


async def serve_looks(pipeline: Pipeline, engine: Any) -> None:
    """Answer what is asked on PORT."""

    async def look(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        word, *numbers = (await reader.readline()).decode().split()
        await pipeline.adapters.settle()
        match word:
            case "loaded":
                found: object = sorted(await engine.list_adapters())
            case "versions":
                found = sorted(pipeline.adapters._versions)
            case "paths":
                found = dict(paths)
            case _:
                folder = Path(numbers.pop())
                try:
                    found = await storm(pipeline, engine, folder, *map(int, numbers))
                except (AssertionError, pytest.fail.Exception) as error:
                    found = {"failed": str(error)}
        writer.write(json.dumps(found).encode() + b"\n")
        writer.close()

    await asyncio.start_server(look, "127.0.0.1", int(sys.argv[1]))


def opened(load: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Load as in production, then let oneself be looked into."""

    async def loaded(settings: object, pipeline: Pipeline, *more: object, **named: object) -> Any:
        engine = await load(settings, pipeline, *more, **named)
        await serve_looks(pipeline, engine)
        return engine

    return loaded


def counted(outputs: Callable[..., Any]) -> Callable[..., Any]:
    """Count which way each job with an adapter takes."""

    def chosen(self: Vllm, job: Any, sink: Any, token_sink: Any) -> Any:
        run = outputs(self, job, sink, token_sink)
        paths[type(run).__name__] += job.adapter is not None
        return run

    return chosen


if __name__ == "__main__":
    bootstrap.load = opened(bootstrap.load)  # type: ignore[assignment]
    Vllm._outputs = counted(Vllm._outputs)  # type: ignore[method-assign]
    sys.exit(main(sys.argv[2:]))
