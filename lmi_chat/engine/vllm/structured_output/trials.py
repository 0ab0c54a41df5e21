"""Compile each new schema or grammar in a separate process that can be killed, and cache the verdict.

vLLM looks at a constraint twice: `SamplingParams.verify` on the event loop, then EngineCore compiles it and asks it at
every step which tokens may come. Neither can be stopped. Two choices make that safe:

- One backend, llguidance. It compiles lazily, with limits of its own: 1 ms for what takes xgrammar, vLLM's default,
  seconds (`{"maxLength": 200}`: 3.5 s, five such fields: 12 s, `.{0,60000}`: 4 s, nested counts: for ever). Under
  "auto" the two mix: the API process may check with one while EngineCore, which keeps the first it was asked for,
  compiles with the other.
- A trial. Some still cost much: 1,000 required items 1.3 s and a panic, an ambiguous grammar seconds for each
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
from dataclasses import dataclass
from typing import Any

from lmi_chat.codec.json_text import Json
from lmi_chat.engine.vllm import mistral
from lmi_chat.engine.vllm.structured_output import whitespace
from lmi_chat.engine.vllm.structured_output.trial_process import COMPLEX, WALL
from lmi_chat.errors import BadField, Busy, Problem, Unavailable
from lmi_chat.job import OutputConstraint
from lmi_chat.observability import refusals

BACKEND = "guidance"
ANY_OBJECT = '{"type":"object"}'
KEPT = 1024
TIMEOUT_KEPT_S = 60.0
START_S = 30.0
GRACE_S = 3.0
PATIENCE = 5
log = logging.getLogger(__name__)


class Gone(Exception):
    """The trial process ended without a verdict."""


@dataclass(frozen=True, slots=True)
class TrialLimits:
    """The seconds of compiling that one constraint may take, and how many requests may wait for a verdict."""

    seconds: float
    most: int


class Trials:
    """Verdicts on constraints, from one process that starts with the first and ends with the server."""

    def __init__(self, seconds: float, head: Json | None, *, is_compact: bool = False, most: int = 64) -> None:
        """`seconds` of compiling for one; `head`: the first line for trial_process.py; None: none is possible.

        `is_compact`: JSON has no whitespace unless a request asks for some. `most` requests may wait for a verdict.
        """
        self._seconds, self.is_compact, self._most = seconds, is_compact, most
        self._waiting = 0
        self._head = None if head is None else head | {"seconds": seconds}
        self._verdicts: OrderedDict[bytes, tuple[str, float]] = OrderedDict()
        self._trials: dict[bytes, asyncio.Task[str]] = {}
        self._turn = asyncio.Lock()
        self._process: Process | None = None

    async def check(self, constraint: OutputConstraint) -> None:
        """Return when the engine may have `constraint`. Raises BadField; Busy when too many wait for their verdict."""
        if self._head is None:
            raise BadField(
                [Problem(constraint.path, f"{constraint.path} needs a fast tokenizer, which the served model has not")]
            )
        kind, text = source(constraint, is_compact=self.is_compact)
        digest = hashlib.sha256(f"{kind}\n{text}".encode()).digest()
        problem = self._recall(digest)
        if problem is None:
            problem = await self._wait(digest, kind, text)
        if problem:
            raise BadField([Problem(constraint.path, f"{constraint.path or 'the output constraint'} {problem}")])

    async def _wait(self, digest: bytes, kind: str, text: str) -> str:
        """Wait for a verdict that is not there yet. Raises Busy."""
        if self._waiting >= self._most:
            words = (
                f"{self._waiting} requests wait for a new schema, regex or grammar of theirs to be tried (max_trials)"
            )
            refusals.record("max_trials", words)
            raise Busy(f"{words}; send the request again later")
        self._waiting += 1
        try:
            # several may wait for one trial, and none of them, when it is cancelled, may take the reply along
            return await asyncio.shield(self._trials.get(digest) or self._begin(digest, kind, text))
        finally:
            self._waiting -= 1

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
            log.warning("the process that tries constraints ended: %s", error)
            self.stop()
            raise Unavailable("schemas and grammars cannot be checked just now; send it again") from error
        finally:
            self._turn.release()
        if problem is None:
            raise Unavailable("the processors are too busy to check a new schema or grammar just now; send it again")
        # what took too long may have been slowed by its neighbours: it is forgotten soon
        kept_s = TIMEOUT_KEPT_S if problem.startswith(COMPLEX) else float("inf")
        self._verdicts[digest] = problem, time.monotonic() + kept_s
        if len(self._verdicts) > KEPT:
            self._verdicts.popitem(last=False)
        return problem

    async def _ask(self, kind: str, text: str) -> str | None:
        seconds = self._seconds * WALL + GRACE_S
        first: list[Json] = []
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "lmi_chat.engine.vllm.structured_output.trial_process"),
                stdin=PIPE,
                stdout=PIPE,
                stderr=DEVNULL,
                start_new_session=True,  # Ctrl-C at the terminal is for the server alone
            )
            first, seconds = [self._head or {}], seconds + START_S
        return await self._exchange(self._process, [*first, {"kind": kind, "text": text}], seconds)

    async def _exchange(self, process: Process, messages: list[Json], seconds: float) -> str | None:
        if process.stdin is None or process.stdout is None:
            raise Gone("it has no pipes")
        try:
            async with asyncio.timeout(seconds):
                for message in messages:
                    process.stdin.write(json.dumps(message).encode() + b"\n")
                await process.stdin.drain()
                line = await process.stdout.readline()
        except TimeoutError:
            raise Gone(f"no word within {seconds:g} s") from None
        if not line:
            raise Gone("its output ended")
        problem: str | None = json.loads(line)["problem"]
        return problem

    def params(self, constraint: OutputConstraint) -> Any:
        """Translate a tried constraint into vLLM's parameters."""
        from vllm.sampling_params import StructuredOutputsParams

        kind, text = source(constraint, is_compact=self.is_compact)
        given = StructuredOutputsParams(**{kind: list(constraint.value) if kind == "choice" else text})
        given._backend = BACKEND  # noqa: SLF001 what verify would set
        return given

    def stop(self) -> None:
        """End the process; a trial that runs ends by its own timer."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()


def source(constraint: OutputConstraint, *, is_compact: bool = False) -> tuple[str, str]:
    """Return the kind for the compiler, "json", "regex", "choice" or "grammar" (EBNF or Lark), and the text."""
    match constraint.kind, constraint.value:
        case "json_object", _:
            return "json", whitespace.bounded(ANY_OBJECT, constraint.whitespace, is_compact=is_compact)
        case "json", str(schema):
            return "json", whitespace.bounded(schema, constraint.whitespace, is_compact=is_compact)
        case kind, tuple(choices):
            return kind, json.dumps(choices)
        case kind, text:
            return kind, text


def load(engine: Any, limits: TrialLimits) -> Trials:
    """Build the Trials of an AsyncLLM; the process gets the tokenizer as llguidance's `from_tokenizer` writes it."""
    from vllm.v1.structured_output.backend_guidance import GuidanceBackend

    tokenizer, config = engine.get_tokenizer(), engine.vllm_config
    seconds, most = limits.seconds, limits.most
    is_compact = config.structured_outputs_config.disable_any_whitespace
    if mistral.is_tekken(tokenizer):
        return Trials(seconds, {"tekken": str(tokenizer.tokenizer.file_path)}, is_compact=is_compact, most=most)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not GuidanceBackend.is_tokenizer_supported(tokenizer):
        return Trials(seconds, None)
    plain = copy.copy(backend)
    plain.no_padding()
    plain.no_truncation()
    head = {
        "tokenizer": plain.to_str(),
        "vocabulary": max(config.model_config.get_vocab_size(), len(tokenizer)),
        "end": tokenizer.eos_token_id,
    }
    return Trials(seconds, head, is_compact=is_compact, most=most)
