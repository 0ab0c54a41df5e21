"""Compile each new schema or grammar in a separate process that can be killed, and cache the verdict.

vLLM looks at a guide twice: `SamplingParams.verify` on the event loop, then EngineCore compiles it and asks it at every
step which tokens may come. Neither can be stopped. Two choices make that safe:

- One backend, llguidance. It compiles lazily, with limits of its own: 1 ms for what takes xgrammar, vLLM's default,
  seconds (`{"maxLength": 200}`: 3.5 s, five such fields: 12 s, `.{0,60000}`: 4 s, nested counts: for ever). Under
  "auto" the two mix: the API process may check with one while EngineCore, which keeps the first it was asked for,
  compiles with the other.
- A trial. Some guides still cost much: 1,000 required items 1.3 s and a panic, an ambiguous grammar seconds for each
  token, in the step that all neighbours share. No static bound tells them from good ones, so the same library, with the
  same tokenizer and options, and a walk along its tokens, runs first where the kernel can kill it
  (trial_process.py). What fails there never reaches EngineCore.

Left open: a walk is a sample. A grammar that hides its ambiguity behind a path which 256 random tokens do not take
passes; its step times then burden the neighbours until its own max_tokens.
"""

import asyncio
import contextlib
import copy
import hashlib
import json
import logging
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import OrderedDict
from typing import Any

from lmi_chat.codec.json_text import Json
from lmi_chat.engine.vllm.structured_output.trial_process import COMPLEX, WALL
from lmi_chat.errors import BadField, Busy, Problem, Unavailable
from lmi_chat.job import OutputConstraint

BACKEND = "guidance"
KEPT = 1024
TIMEOUT_KEPT_S = 60.0
START_S = 30.0
GRACE_S = 3.0
PATIENCE = 5
log = logging.getLogger(__name__)


class Gone(Exception):
    """The judge ended without a verdict."""


class Guides:
    """Verdicts on guides, from one judge that starts with the first guide and ends with the server."""

    def __init__(self, seconds: float, head: Json | None) -> None:
        """`seconds` of compiling for one guide; `head`: the first line of trial_process.py; None: no guides."""
        self._seconds = seconds
        self._head = None if head is None else head | {"seconds": seconds}
        self._verdicts: OrderedDict[bytes, tuple[str, float]] = OrderedDict()
        self._trials: dict[bytes, asyncio.Task[str]] = {}
        self._turn = asyncio.Lock()
        self._judge: Process | None = None

    async def check(self, guide: OutputConstraint) -> None:
        """Return when the engine may have `guide`. Raises BadField; Busy when too many wait for their verdict."""
        if self._head is None:
            raise BadField(
                [Problem(guide.path, f"{guide.path} needs a fast tokenizer, which the served model has not")]
            )
        kind, text = source(guide)
        digest = hashlib.sha256(f"{kind}\n{text}".encode()).digest()
        problem = self._recall(digest)
        if problem is None:
            # several may wait for one trial, and none of them, when it is cancelled, may take the reply along
            trial = self._trials.get(digest) or self._begin(digest, kind, text)
            problem = await asyncio.shield(trial)
        if problem:
            raise BadField([Problem(guide.path, f"{guide.path or 'the guide'} {problem}")])

    def _recall(self, digest: bytes) -> str | None:
        problem, until = self._verdicts.get(digest, ("", 0.0))
        if time.monotonic() >= until:
            return None
        self._verdicts.move_to_end(digest)
        return problem

    def _begin(self, digest: bytes, kind: str, text: str) -> "asyncio.Task[str]":
        trial = asyncio.create_task(self._try(digest, kind, text))
        self._trials[digest] = trial
        trial.add_done_callback(lambda _: self._forget(digest, trial))
        return trial

    def _forget(self, digest: bytes, trial: "asyncio.Task[str]") -> None:
        del self._trials[digest]
        if not trial.cancelled():
            trial.exception()  # seen, though all who waited for it may be gone

    async def _try(self, digest: bytes, kind: str, text: str) -> str:
        try:
            async with asyncio.timeout(PATIENCE * self._seconds):
                await self._turn.acquire()
        except TimeoutError:
            raise Busy("too many new schemas, regexes or grammars wait to be compiled; send it again later") from None
        try:
            problem = await self._ask(kind, text)
        except (Gone, OSError, ValueError) as error:
            log.warning("the judge of guides ended: %s", error)
            self.stop()
            raise Unavailable("schemas and grammars cannot be checked just now; send it again") from error
        finally:
            self._turn.release()
        # the clock's refusals may be the machine's fault: they are forgotten soon
        kept_s = TIMEOUT_KEPT_S if problem.startswith(COMPLEX) else float("inf")
        self._verdicts[digest] = problem, time.monotonic() + kept_s
        if len(self._verdicts) > KEPT:
            self._verdicts.popitem(last=False)
        return problem

    async def _ask(self, kind: str, text: str) -> str:
        seconds = self._seconds * WALL + GRACE_S
        first: list[Json] = []
        if self._judge is None or self._judge.returncode is not None:
            self._judge = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "lmi_chat.engine.vllm.structured_output.trial_process"),
                stdin=PIPE,
                stdout=PIPE,
                stderr=DEVNULL,
                start_new_session=True,  # Ctrl-C at the terminal is for the server alone
            )
            first, seconds = [self._head or {}], seconds + START_S
        return await self._exchange(self._judge, [*first, {"kind": kind, "text": text}], seconds)

    async def _exchange(self, judge: Process, messages: list[Json], seconds: float) -> str:
        if judge.stdin is None or judge.stdout is None:
            raise Gone("it has no pipes")
        try:
            async with asyncio.timeout(seconds):
                for message in messages:
                    judge.stdin.write(json.dumps(message).encode() + b"\n")
                await judge.stdin.drain()
                line = await judge.stdout.readline()
        except TimeoutError:
            raise Gone(f"no word within {seconds:g} s") from None
        if not line:
            raise Gone("its output ended")
        return str(json.loads(line)["problem"])

    def stop(self) -> None:
        """End the judge; a trial that runs ends by its own timer."""
        judge, self._judge = self._judge, None
        if judge is not None:
            with contextlib.suppress(ProcessLookupError):
                judge.kill()


def source(guide: OutputConstraint) -> tuple[str, str]:
    """What the compiler gets: "json", "regex", "choice" or "grammar" (EBNF or Lark), and its text."""
    match guide.kind, guide.value:
        case "json_object", _:
            return "json", '{"type": "object"}'
        case kind, tuple(choices):
            return kind, json.dumps(choices)
        case kind, text:
            return kind, text


def params(guide: OutputConstraint) -> Any:
    """A guide that was tried, in vLLM's words."""
    from vllm.sampling_params import StructuredOutputsParams

    kind, text = source(guide)
    given = StructuredOutputsParams(**{kind: list(guide.value) if kind == "choice" else text})
    given._backend = BACKEND  # noqa: SLF001 what verify would set
    return given


def load(engine: Any, seconds: float) -> Guides:
    """Guides for an AsyncLLM; the tokenizer goes to the judge as llguidance's `from_tokenizer` would write it."""
    from vllm.v1.structured_output.backend_guidance import GuidanceBackend

    tokenizer, config = engine.get_tokenizer(), engine.vllm_config
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not GuidanceBackend.is_tokenizer_supported(tokenizer):
        return Guides(seconds, None)
    plain = copy.copy(backend)
    plain.no_padding()
    plain.no_truncation()
    head = {
        "tokenizer": plain.to_str(),
        "vocabulary": max(config.model_config.get_vocab_size(), len(tokenizer)),
        "end": tokenizer.eos_token_id,
        "whitespace": not config.structured_outputs_config.disable_any_whitespace,
    }
    return Guides(seconds, head)
