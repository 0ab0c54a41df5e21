"""Declare the fields of a form that brings a recording."""

from typing import Annotated, Any, Literal

from lmi_chat.dialects.body import MAX_INT, Flag, Integer, Model, Number, Refused, Sets, Text, TokenChoice, User, field

Format = Literal["json", "text", "verbose_json", "srt", "vtt"]
TIMED: frozenset[str] = frozenset({"verbose_json", "srt", "vtt"})
"""Formats that tell when something is said; they come whole."""
LANGUAGE_CHARS = 16
PROMPT_CHARS = 4096


class TranscriptionBody(TokenChoice, total=False):
    """A recording and what is wanted of it: OpenAI's fields, and vLLM's beyond them."""

    file: Annotated[Any, field("the recording: wav, flac, aiff, mp3, m4a, mp4, ogg, webm or aac", shown="file")]
    model: Model
    language: Annotated[
        Text, field("of what is said, by its ISO 639-1 code; absent: the model finds it", max_length=LANGUAGE_CHARS)
    ]
    prompt: Annotated[Text, field("what stands before it, for names and style", default="", max_length=PROMPT_CHARS)]
    response_format: Annotated[Format | None, field("the form of the answer", default="json")]
    temperature: Annotated[Number, field("randomness; below 0.01 is greedy", default=0.0, ge=0, le=2)]
    timestamp_granularities: Annotated[
        Any, field("with verbose_json: segment; times of words are not served", shown="array of strings")
    ]
    stream: Annotated[Flag, field("send the text as it comes; json and text only", default=False)]
    stream_include_usage: Annotated[Flag, field("with stream: the last event has the usage, as it always has")]
    stream_continuous_usage_stats: Annotated[Flag, field("with stream: the usage so far in every event", default=False)]
    hotwords: Annotated[
        Text, field("words that are likely in it, for models that take them", default="", max_length=PROMPT_CHARS)
    ]
    to_language: Annotated[
        Text, field("what is written, for models that can choose", default="", max_length=LANGUAGE_CHARS)
    ]
    max_completion_tokens: Annotated[Integer, field("tokens of each clip's text", ge=1, le=MAX_INT), Sets("max_tokens")]
    user: User
    use_beam_search: Annotated[Any, field("is not served for recordings"), Refused(False)]  # noqa: FBT003 a value
    include: Annotated[Any, field("is not served: log-probabilities stand in verbose_json"), Refused()]
    chunking_strategy: Annotated[
        Any, field("is not served: long recordings are cut where it is quiet"), Refused("auto")
    ]
