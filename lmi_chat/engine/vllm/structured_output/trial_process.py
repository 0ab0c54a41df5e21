"""Compile and try output constraints in a process of its own, `python -m` this module, driven by trials.py.

It loads llguidance once and forks for every trial, so that one can be killed by the kernel in the midst of native code
(a thread cannot), costs no new start, and takes its memory and its crashes with it. One line of JSON in, one out:
`{"seconds", "tokenizer", "vocabulary", "end"}` first, then `{"kind", "text"}` → `{"problem"}`: "" for a good one, null
where it had no processor for long enough to be judged. A file of Mistral's Tekken, `"tekken"`, may stand in place of
the tokenizer and what follows it. It ends with its standard input, that is with the server, however that dies.

A trial compiles, then walks: random texts that are allowed, token by token, as the engine will. What compiles in
a millisecond may take seconds for each token (an ambiguous grammar: `s ::= s s | [a-z]`), and that is time in which
the engine's step, and so every neighbour, waits.
"""

import json
import os
import random
import signal
import sys
import time
from typing import Any

from lmi_chat.confinement import confine

WALKS, STEPS, STEPS_MOST = 32, 128, 256
STEP_S = 0.005
MEMORY_BYTES = 2**30
NICE = 10
LOWEST, OPENING = 8, 2
WALL = 5
REASON_CHARS = 160
COMPLEX = "is too complex: "
FAILS = "the compiler fails on it"


def main() -> None:
    """Serve trials until standard input ends."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a library that prints must not speak in our name
    os.nice(NICE)
    head = json.loads(sys.stdin.readline())
    tokenizer = _tokenizer(head)
    for line in sys.stdin:
        task = json.loads(line)
        problem = _try_apart(tokenizer, task["kind"], task["text"], head)
        replies.write(json.dumps({"problem": problem}) + "\n")
        replies.flush()


def _tokenizer(head: dict[str, Any]) -> Any:
    """Build llguidance's view of the tokenizer, as vLLM's engine process does."""
    import llguidance.numpy

    if "tekken" in head:
        from mistral_common.guidance.tokenizer import from_mistral_tokenizer
        from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

        return from_mistral_tokenizer(MistralTokenizer.from_file(head["tekken"]))
    return llguidance.LLTokenizer(head["tokenizer"], n_vocab=head["vocabulary"], eos_token=head["end"])


def _try_apart(tokenizer: Any, kind: str, text: str, head: dict[str, Any]) -> str | None:
    """Fork, try, and return the problem; a child that spent its time or ended by a fault is one too.

    None: it waited for a processor, not its own fault.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        problem = COMPLEX + FAILS
        try:
            confine(cpu_s=head["seconds"], wall_s=head["seconds"] * WALL, memory_bytes=MEMORY_BYTES)
            _silence()
            problem = _try(tokenizer, kind, text)
        finally:
            os.write(writer, problem.encode("utf-8", "replace"))
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        problem = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        return problem
    match os.WTERMSIG(status):
        case signal.SIGALRM:
            return None
        case signal.SIGPROF:
            return f"{COMPLEX}it does not compile within {head['seconds']:g} s"
        case _:
            return COMPLEX + FAILS


def _silence() -> None:
    """Let nothing that the library prints reach the server's lines."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)


def _try(tokenizer: Any, kind: str, text: str) -> str:
    """As vLLM's serialize_guidance_grammar and GuidanceBackend.compile_grammar do, then a walk.

    VLLM's default for whitespace is left out: a schema has its own (whitespace.py).
    """
    import llguidance

    try:
        if kind == "json":
            grammar = llguidance.LLMatcher.grammar_from_json_schema(text)
        else:
            grammar = llguidance.grammar_from(kind, text)  # type: ignore[arg-type]
    except (ValueError, RecursionError) as error:
        return "is refused: " + _reason(str(error))
    matcher = llguidance.LLMatcher(tokenizer, grammar, log_level=0)
    if matcher.is_error():
        text = matcher.get_error()
        return COMPLEX + FAILS if text.startswith("panic") else "is refused: " + _reason(text)
    return _walk(matcher, tokenizer.vocab_size)


def _walk(matcher: Any, vocabulary_tokens: int) -> str:
    """Walk random texts that are allowed: possible at all, and quick. Processor time counts, not the machine's load.

    Two long ones, or as many short ones as hold as many tokens.
    """
    import numpy as np
    from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

    chance = random.Random(0)  # noqa: S311 not a secret: the same constraint gets the same verdict
    mask = allocate_token_bitmask(1, vocabulary_tokens)
    spent, steps = 0.0, 0
    for walk in range(WALKS):
        matcher.reset()
        for step in range(STEPS):
            began = time.process_time()
            fill_next_token_bitmask(matcher, mask, 0)
            spent, steps = spent + time.process_time() - began, steps + 1
            if matcher.is_error():
                return "allows no text" if steps == 1 else COMPLEX + _reason(matcher.get_error())
            allowed = np.flatnonzero(np.unpackbits(mask[0].view(np.uint8), bitorder="little"))
            # the last of a vocabulary are words, which keep going; the first are characters, which close what is open
            pool = allowed[:LOWEST] if walk % 2 else allowed[allowed.size // 2 if step >= OPENING else 0 :]
            began = time.process_time()
            matcher.consume_token(int(pool[chance.randrange(pool.size)]))
            spent += time.process_time() - began
            if spent > STEP_S * max(steps, STEPS):
                return f"{COMPLEX}a token takes {spent / steps * 1000:.0f} ms to check, at most {STEP_S * 1000:g}"
            if matcher.is_stopped():
                break
        if steps >= STEPS_MOST:
            break
    return ""


def _reason(text: str) -> str:
    """Shorten the compiler's message to its first line, without the place in its notation, or to a regex's error."""
    lines = text.splitlines() or [""]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    first = lines[0].removeprefix("at ")
    place, _, rest = first.partition("): ")
    return (errors[0] if errors else rest if place[:1].isdigit() else first)[:REASON_CHARS]


if __name__ == "__main__":
    main()
