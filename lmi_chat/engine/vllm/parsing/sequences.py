"""Turn the engine's raw deltas of one job into deltas by kind."""

from collections.abc import Iterator
from dataclasses import replace

from lmi_chat.engine.vllm.parsing.calls import Part
from lmi_chat.engine.vllm.parsing.parsers import Parsing
from lmi_chat.engine.vllm.parsing.pieces import Cutter, MarkerReader, Piece
from lmi_chat.engine.vllm.parsing.stages import PLAIN, Stage
from lmi_chat.engine.vllm.vocabulary import Vocabulary
from lmi_chat.job import CallPart, Delta, DeltaKind, Event, Finish, Finished, Job, ParsingParams, Sink, Token


class ParsingSink:
    """The sink that the engine sends a job's raw events to; `job` is the job as the engine gets it."""

    def __init__(self, parsing: Parsing, vocabulary: Vocabulary, job: Job, sink: Sink) -> None:
        """Send the events of `job` to `sink`."""
        self._parsing, self._vocabulary, self._asked, self._sink = parsing, vocabulary, job, sink
        self.params = job.parsing or ParsingParams()
        self.request = parsing.request(job, self.params)
        sampling = job.sampling
        if sampling.skip_special_tokens and parsing.shows_special(self.params, self.request):
            sampling = replace(sampling, skip_special_tokens=False)
        self.job = replace(job, sampling=sampling, parsing=None)
        self.marks = parsing.marks(self.params)
        self.opened = parsing.opened(job, self.marks) if self.marks[0] else ()
        self._sequences: dict[int, Sequence] = {}

    def __call__(self, event: Event) -> None:
        """Take a raw event."""
        if isinstance(event, Delta):
            sequence = self._sequences.get(event.index)
            if sequence is None:
                sequence = self._sequences[event.index] = Sequence(self, event.index)
            for delta in sequence.take(event):
                self._sink(delta)
        elif isinstance(event, Finished):
            sequences = [self._sequences[index] for index in sorted(self._sequences)]
            reasoned = sum(sequence.reasoning_tokens for sequence in sequences)
            called = tuple(name for sequence in sequences for name in sequence.called)
            self._sink(replace(event, reasoning_tokens=reasoned, called=called))
        else:
            self._sink(event)

    def cutter(self) -> Cutter:
        """Begin to cut a sequence."""
        return Cutter(self._vocabulary, self.job.sampling)

    def markers(self) -> MarkerReader:
        """Begin to read a sequence's markers."""
        return MarkerReader(self._parsing.markers)

    def hidden(self, piece: Piece) -> str:
        """Return the text of a special token that only parsers are to see."""
        if self.job.sampling.skip_special_tokens or not self._asked.sampling.skip_special_tokens or not piece.ids:
            return ""
        return piece.text if self._vocabulary.is_special(piece.ids[0]) else ""

    def passes(self, token_id: int, kind: DeltaKind) -> bool:
        """Whether a token of that kind is shown as it is."""
        return (self.params.shows_reasoning or kind == "content") and not self._vocabulary.is_special(token_id)

    def stage(self, *, is_thinking: bool) -> Stage:
        """Build what reads a sequence."""
        opened = self.opened or ()
        return self._parsing.stage(self._asked, self.params, self.request, is_thinking=is_thinking, opened=opened)


class Sequence:
    """One sequence's text on its way to deltas by kind."""

    def __init__(self, sink: ParsingSink, index: int) -> None:
        """Begin without text."""
        self._sink, self._index = sink, index
        self._cutter, self._markers = sink.cutter(), sink.markers()
        self._starts, self._ends = sink.marks
        self._stage: Stage | None = None
        self._first: list[Piece] = []  # until the first text says whether the answer reasons
        self._phase: DeltaKind = "content"
        self._hidden = set[str]()
        # What came since the last delta:
        self._ids: list[int] = []
        self._tokens: list[Token] = []
        self._prompt: tuple[Token | None, ...] = ()
        self._silent = 0  # tokens that may turn out to be reasoning
        self.reasoning_tokens = 0
        self.called: list[str] = []
        if sink.opened is not None:
            self._begin(is_thinking=bool(sink.opened))

    def take(self, delta: Delta) -> list[Delta]:
        """Return what comes of one of the engine's deltas."""
        if self._passes(delta):
            self._silent = 0
            return [delta]
        self._prompt = self._prompt or delta.prompt
        pieces = self._cutter.take(delta)
        given: list[Delta] = []
        for place, piece in enumerate(pieces):
            is_last = place == len(pieces) - 1 and delta.finish is not None
            self._add(given, piece, list(self._read(piece, delta.finish if is_last else None)))
        if delta.finish is not None:
            if not pieces:
                self._add(given, Piece("", []), list(self._read(Piece("", []), delta.finish)))
            self._end_with(given, delta.finish)
        return given

    def _passes(self, delta: Delta) -> bool:
        """Whether a delta is the next token of what passes through as it is, which then is said in it."""
        kind = self._stage.passing if self._stage is not None else None
        if kind is None or kind != self._phase or delta.finish is not None or len(delta.ids) != 1 or delta.tokens:
            return False
        if self._ids or self._prompt or self._silent > 0 or not self._sink.passes(delta.ids[0], kind):
            return False
        text = delta.text
        if not (PLAIN.match(text) and self._cutter.is_empty and self._markers.passes(text)):
            return False
        if any(hidden in text for hidden in self._hidden):
            return False
        delta.kind = kind
        self.reasoning_tokens += kind == "reasoning"
        return True

    def _begin(self, *, is_thinking: bool) -> Stage:
        self._stage = stage = self._sink.stage(is_thinking=is_thinking)
        self._phase = "reasoning" if is_thinking else "content"
        return stage

    def _read(self, piece: Piece, finish: Finish | None) -> Iterator[Part]:
        """Read one piece, and the sequence's end."""
        if hidden := self._sink.hidden(piece):
            self._hidden.add(hidden)
        pieces = self._markers.read(piece)
        if finish is None:
            for one in pieces:
                yield from self._feed(one)
            return
        pieces += self._markers.flush()
        is_cut = finish.reason != "stop"
        stage = self._stage
        if stage is None:
            pieces = [*self._first, *pieces]
            stage = self._begin(is_thinking=self._is_started("".join(one.text for one in pieces)))
        for place, one in enumerate(pieces):
            yield from stage.feed(one.text, one.ids, is_last=place == len(pieces) - 1 and not is_cut)
        yield from stage.finish(is_cut=is_cut)

    def _is_started(self, text: str) -> bool:
        return text.lstrip().startswith(self._starts)

    def _feed(self, piece: Piece) -> Iterator[Part]:
        """Read one piece, or hold it until it is known whether the answer reasons."""
        if self._stage is not None:
            yield from self._stage.feed(piece.text, piece.ids)
            return
        self._first.append(piece)
        text = "".join(one.text for one in self._first).lstrip()
        if any(len(text) < len(start) and start.startswith(text) for start in self._starts):
            return
        stage = self._begin(is_thinking=self._is_started(text))
        first, self._first = self._first, []
        for one in first:
            yield from stage.feed(one.text, one.ids)
        self._silent = -1 if self._phase == "reasoning" else 0  # this token is the marker's

    def _count(self, piece: Piece, parts: list[Part]) -> None:
        """Count a token as reasoning where its text is; one that tells nothing yet, when the next one does."""
        if any(part.kind == "reasoning" for part in parts):
            self.reasoning_tokens += max(self._silent, 0) + len(piece.ids)
            self._silent = 0
        elif parts:
            self._silent = 0
        elif self._phase == "reasoning" and piece.text not in self._starts + self._ends:
            self._silent += len(piece.ids)

    def _add(self, given: list[Delta], piece: Piece, parts: list[Part]) -> None:
        """Add what a token tells to `given`. Its ids come with the first of it, or with what the next one tells."""
        self._count(piece, parts)
        self._ids += piece.ids
        self._tokens += piece.tokens
        for part in parts:
            self._put(given, part)
        if self._phase == "reasoning" and not self._sink.params.shows_reasoning:
            self._ids, self._tokens = [], []
        elif self._tokens:
            given.append(self._delta(self._phase, "", self._last_call()))

    def _put(self, given: list[Delta], part: Part) -> None:
        """Add a part to `given`, unless it is not to be shown."""
        if part.call and part.call.place and not self._sink.params.is_parallel:
            return
        self._phase = part.kind
        text = part.text
        if part.kind != "call":
            for hidden in self._hidden:
                text = text.replace(hidden, "")
            if not text or (part.kind == "reasoning" and not self._sink.params.shows_reasoning):
                return
        if part.call and part.call.name:
            self.called.append(part.call.name)
        elif given and given[-1].kind == part.kind and _place(given[-1]) == _place(part):
            last = given[-1]
            last.text, last.ids, last.tokens = last.text + text, last.ids + self._ids, last.tokens + self._tokens
            self._ids, self._tokens = [], []
            return
        given.append(self._delta(part.kind, text, part.call))

    def _delta(self, kind: DeltaKind, text: str, call: CallPart | None) -> Delta:
        """Build a delta with all that waited for one."""
        delta = Delta(self._index, text, self._ids, self._tokens, None, self._prompt, kind, call)
        self._ids, self._tokens, self._prompt = [], [], ()
        return delta

    def _last_call(self) -> CallPart | None:
        return CallPart(max(len(self.called) - 1, 0)) if self._phase == "call" else None

    def _end_with(self, given: list[Delta], finish: Finish) -> None:
        """Give the finish, with what no delta has."""
        if not given:
            kind = self._phase if self._sink.params.shows_reasoning or self._phase != "reasoning" else "content"
            given.append(self._delta(kind, "", self._last_call()))
        given[-1].ids += self._ids
        given[-1].finish, self._ids = finish, []


def _place(told: Delta | Part) -> int:
    return told.call.place if told.call else -1
