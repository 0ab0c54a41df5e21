"""The engine with nothing before it: AsyncLLM.generate in a process of its own, for bench/real.py to compare with.

It takes the words of `lmi-chat serve`, and gives the engine the same arguments; chats become token ids before the clock
starts, and sampling is the same. Deltas are read in asyncio, as any server on top of it would.
"""

import asyncio
import itertools
import time
from multiprocessing.connection import Connection
from typing import Any

Chat = list[dict[str, str]]


def serve(pipe: Connection, words: list[str]) -> None:
    """Send "ready", then for each (chats, tokens) the Burst of it; None ends it. The target of a process."""
    import uvloop

    uvloop.run(_serve(pipe, words))


async def _serve(pipe: Connection, words: list[str]) -> None:
    engine = _load(words)
    pipe.send("ready")
    while asked := await asyncio.to_thread(pipe.recv):
        pipe.send(await _burst(engine, *asked))
    engine.shutdown()


def _load(words: list[str]) -> Any:
    from lmi_chat.cli import main as cli
    from lmi_chat.config import settings, sources
    from lmi_chat.engine.vllm import arguments

    pairs, kinds, defaults = cli.pairs(words), arguments.kinds(), arguments.defaults()
    chosen = settings.read(pairs, sources.environment(), None, kinds, defaults, gpus=arguments.gpus())
    given = {**chosen.engine, "model": chosen.model_id}
    arguments.prepare_environment(given)

    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser
    from vllm.v1.engine.async_llm import AsyncLLM

    parser = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser())
    actions = {action.dest: action for action in parser._actions}  # noqa: SLF001 argparse has no public list
    spelt = [word for name, text in given.items() for word in arguments.words(name, text, actions[name])]
    return AsyncLLM.from_engine_args(AsyncEngineArgs.from_cli_args(parser.parse_args(spelt)))


async def _burst(engine: Any, chats: list[Chat], tokens: int) -> tuple[float, list[float]]:
    """All chats at once: seconds until the last token of the last one, and until the first token of each."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    tokenizer = engine.get_tokenizer()
    told = engine.model_config.get_diff_sampling_param()
    told |= {"max_tokens": tokens, "ignore_eos": True, "temperature": 0.0, "output_kind": RequestOutputKind.DELTA}
    prompts = [tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False) for chat in chats]
    names = (f"bare-{time.monotonic_ns()}-{number}" for number in itertools.count())

    async def read(ids: list[int]) -> float:
        count, first = 0, 0.0
        prompt = {"prompt_token_ids": ids}
        async for output in engine.generate(prompt, SamplingParams(**told), next(names)):
            first = first or time.perf_counter() - began
            count += len(output.outputs[0].token_ids)
        if count != tokens:
            raise RuntimeError(f"{count} tokens in place of {tokens}")
        return first

    began = time.perf_counter()
    firsts = await asyncio.gather(*(read(ids) for ids in prompts))
    return time.perf_counter() - began, firsts
