"""Run `lmi-chat serve` as a process of its own whose engine is scripted: `python -m tests.support.served OPTIONS …`.

OPTIONS is a JSON object: `template` (of a real tokenizer), `dies` (how each start of the engine ends, one after the
other), `noise` (lines of other code while it starts and when it stops), `stop_s` (what its end takes), `blocks` (its
end holds up the event loop), `thread` (one that never ends), `shared` (a file for the name of shared memory that a
process holds, as the engine's do). The words after it are those of `serve`.
"""

import asyncio
import atexit
import dataclasses
import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models

from lmi_chat.cli.main import main
from lmi_chat.engine import Model
from lmi_chat.engine.vllm import engine as engine_vllm
from lmi_chat.testing.engine import ScriptedEngine
from tests.support.model_folders import write_folder

ROOT = Path(__file__).parents[2]
NOISE = "noise of another library"


@dataclasses.dataclass
class Engine(ScriptedEngine):
    """A scripted engine that starts and ends as OPTIONS has it."""

    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def model(self) -> Model:
        template = self.options.get("template")
        if template is None:
            return super().model
        from transformers import PreTrainedTokenizerFast  # takes a second

        words = {chr(code): code for code in range(256)}
        bare = Tokenizer(models.WordLevel(words, unk_token=" "))
        own = PreTrainedTokenizerFast(tokenizer_object=bare, chat_template=template)
        return dataclasses.replace(super().model, tokenizer=own)

    async def stop(self) -> None:
        if self.options.get("noise"):
            make_noise()
        if self.options.get("blocks"):
            time.sleep(600)  # noqa: ASYNC251 that is what is tried
        await asyncio.to_thread(time.sleep, self.options.get("stop_s", 0))


def make_noise() -> None:
    """Write as libraries do, and as processes of theirs do."""
    print(NOISE)
    sys.stderr.write(f"{NOISE}\n")
    warnings.warn(NOISE, stacklevel=1)
    subprocess.run(["/bin/sh", "-c", f"echo {NOISE}; echo {NOISE} >&2"], check=True)


def hold_shared_memory(names: Any) -> None:
    """Be a process of the engine, which is killed in the end."""
    segment = shared_memory.SharedMemory(create=True, size=1 << 16)
    names.put(segment.name)
    time.sleep(600)


def loader(options: dict[str, Any]) -> Callable[..., Engine]:
    """What stands in place of the engine's own load."""
    ends = iter(options.get("dies", []))

    def load(_arguments: object, _names: object, on_phase: Callable[[str], object], **_: object) -> Engine:
        on_phase("importing the engine")
        on_phase("starting the engine and loading the weights")
        if options.get("noise"):
            make_noise()
        end = next(ends, None)
        if end:
            os.write(1, f"(EngineCore pid=7) ERROR 11-29 17:00:00 [core.py:9] {end}\n".encode())
            codes = {"EngineCore": -9 if end == "killed" else 1}
            failed = f"Engine core initialization failed. See root cause above. Failed core proc(s): {codes}"
            raise engine_vllm.ended(RuntimeError(failed))
        if options.get("shared"):
            context = multiprocessing.get_context("spawn")
            names = context.SimpleQueue()
            context.Process(target=hold_shared_memory, args=(names,), daemon=True).start()
            Path(options["shared"]).write_text(names.get())
        if options.get("thread"):
            threading.Thread(target=time.sleep, args=(600,)).start()
            atexit.register(time.sleep, 600)
        return Engine(options=options)

    return load


def start(folder: Path, *words: str, **options: object) -> "subprocess.Popen[str]":
    """Start such a process on a folder of a small model."""
    model = write_folder(folder / "model")
    own = [sys.executable, "-m", "tests.support.served", json.dumps(options)]
    own += ["--host", "127.0.0.1", "--port", "0", "--model-id", str(model), "--access-log", "off", *words]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "shim")])}
    return subprocess.Popen(own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=folder)


if __name__ == "__main__":
    engine_vllm.check_installed = lambda: None
    engine_vllm.load = loader(json.loads(sys.argv[1]))  # type: ignore[assignment]
    sys.exit(main(["serve", *sys.argv[2:]]))
