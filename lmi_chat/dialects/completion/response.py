"""The completion dialect's answers: one chunk per piece, or one document. Parsing is completion.py's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lmi_chat.codec.json_text import Json, dump
from lmi_chat.dialects import openai
from lmi_chat.dialects.desk import Deployment, Renderer, TokenRenderer
from lmi_chat.dialects.logprobs import Scores, of_prompt
from lmi_chat.dialects.openai import error_body
from lmi_chat.errors import Error
from lmi_chat.job import Delta, Finish, Finished, Job, Token


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the reply is to show: of each prompt's `width` sequences the `returned` likeliest.

    `beams` is the width of a beam search or 0; `logprobs` and `prompt_logprobs` the alternatives or None;
    `is_scoring`: the prompt alone; `has_ids`: token ids too; `names_ids`: tokens are written `token_id:7`.
    """

    id: str
    returned: int
    width: int
    beams: int
    logprobs: int | None
    prompt_logprobs: int | None
    has_echo: bool
    has_ids: bool
    names_ids: bool
    is_scoring: bool
    usage: Mapping[str, bool]


def _choice(index: int, text: str, logprobs: Json | None, finish: Finish | None, desk: Deployment) -> Json:
    choice: Json = {"index": index, "text": text, "logprobs": logprobs}
    return choice | {"finish_reason": openai.finish_word(finish, desk), "stop_reason": finish.stop if finish else None}


class Chunks(openai.Chunks, TokenRenderer):
    """A streamed answer: one text_completion per piece. Choices count prompts and sequences, prompt by prompt."""

    def __init__(self, jobs: Sequence[Job], desk: Deployment, wanted: Wanted) -> None:
        """Render what is the same in every chunk of a choice once."""
        prompt_tokens = sum(len(job.prompt_ids) for job in jobs)
        super().__init__(openai.head(wanted.id, desk, "text_completion"), wanted.usage, prompt_tokens)
        self._desk, self._has_ids = desk, wanted.has_ids
        self._rows = [job for job in jobs for _ in range(job.width)]
        self._leads = {index: job.prompt_text for index, job in enumerate(self._rows)} if wanted.has_echo else {}
        self._unshown = set(range(len(self._rows))) if wanted.has_ids else set[int]()
        self._scores: list[Scores] = []
        if (top := wanted.logprobs) is not None:
            self._scores = [Scores(job, desk.template, top, names_ids=wanted.names_ids) for job in self._rows]
        self.is_quick = wanted.logprobs is None and not self._is_continuous and not wanted.has_ids
        self._plain_heads = [
            self._head + b',"choices":[{"index":%d,"text":' % place for place in range(len(self._rows))
        ]
        self._plain_tail = b',"logprobs":null,"finish_reason":null,"stop_reason":null}]' + self._null_usage
        self.ends = self._plain_heads[0] + b'"', b'"' + self._plain_tail

    def piece(self, piece: Delta) -> Sequence[bytes]:
        """One chunk; the plain ones, which are nearly all, are prefix + text + suffix."""
        self._completion_tokens += len(piece.ids)
        if self.is_quick and piece.finish is None and piece.index not in self._leads:
            head = self._plain_heads[piece.index]
            return (head + dump(piece.text) + self._plain_tail,) if piece.text else ()
        text = self._leads.pop(piece.index, "") + piece.text
        if not (text or piece.tokens or piece.finish or (self._has_ids and piece.ids)):
            return ()
        logprobs = self._scores[piece.index].take(piece.prompt, piece.tokens) if self._scores else None
        choice = _choice(piece.index, text, logprobs, piece.finish, self._desk)
        if self._has_ids:
            choice["token_ids"] = piece.ids
        if piece.index in self._unshown:
            self._unshown.discard(piece.index)
            choice["prompt_token_ids"] = self._rows[piece.index].prompt_ids
        return (self._chunk(choice),)


class Strand:
    """One sequence as it grows."""

    def __init__(self, job: Job, *, has_echo: bool) -> None:
        """Begin with the prompt, if it is to be shown."""
        self.job = job
        self.texts = [job.prompt_text] if has_echo else []
        self.prompt: tuple[Token | None, ...] = ()
        self.ids: list[int] = []
        self.tokens: list[Token] = []
        self.finish: Finish | None = None

    def take(self, piece: Delta) -> None:
        """Add a piece."""
        self.texts.append(piece.text)
        self.prompt = self.prompt or piece.prompt
        self.ids += piece.ids
        self.tokens += piece.tokens
        self.finish = piece.finish or self.finish


class Whole:
    """A whole answer: the fold of the same pieces."""

    def __init__(self, jobs: Sequence[Job], desk: Deployment, wanted: Wanted) -> None:
        """Start with as many empty sequences as run."""
        self._jobs, self._desk, self._wanted = jobs, desk, wanted
        self._strands = [Strand(job, has_echo=wanted.has_echo) for job in jobs for _ in range(job.width)]

    def piece(self, piece: Delta) -> Sequence[bytes]:
        """Keep the piece; nothing is sent yet."""
        self._strands[piece.index].take(piece)
        return ()

    def done(self, done: Finished) -> Sequence[bytes]:
        """The one document."""
        width, returned = self._jobs[0].width, self._wanted.returned
        shown: list[Strand] = []
        for start in range(0, len(self._strands), width):
            own = self._strands[start : start + width]
            if returned < width:
                own.sort(key=lambda strand: -openai.likelihood(strand.tokens))
            shown += own[:returned]
        choices = [self._choice(index, strand) for index, strand in enumerate(shown)]
        head = openai.head(self._wanted.id, self._desk, "text_completion")
        return (dump(head | {"choices": choices, "usage": openai.usage(done)}),)

    def _choice(self, index: int, strand: Strand) -> Json:
        wanted, logprobs = self._wanted, None
        if wanted.logprobs is not None:
            scores = Scores(strand.job, self._desk.template, wanted.logprobs, names_ids=wanted.names_ids)
            logprobs = scores.take(strand.prompt, strand.tokens)
        choice = _choice(index, "".join(strand.texts), logprobs, strand.finish, self._desk)
        if wanted.prompt_logprobs is not None:
            choice["prompt_logprobs"] = of_prompt(strand.prompt, wanted.prompt_logprobs)
        if wanted.has_ids:
            choice |= {"token_ids": strand.ids, "prompt_token_ids": strand.job.prompt_ids}
        return choice

    def fail(self, error: Error) -> bytes:
        """The error in place of the document."""
        return dump(error_body(error))


class Scored:
    """An answer that is the prompt alone: the token that the engine could not but generate is left out."""

    def __init__(self, render: Renderer) -> None:
        """Hand what is left to `render`."""
        self._render = render

    def piece(self, piece: Delta) -> Sequence[bytes]:
        """The piece without what was generated."""
        finish = Finish("length") if piece.finish and piece.finish.reason != "abort" else piece.finish
        return self._render.piece(replace(piece, text="", ids=[], tokens=[], finish=finish))

    def done(self, done: Finished) -> Sequence[bytes]:
        """The end, with nothing generated."""
        return self._render.done(replace(done, completion_tokens=0))

    def fail(self, error: Error) -> bytes:
        """The error in place of the answer."""
        return self._render.fail(error)
