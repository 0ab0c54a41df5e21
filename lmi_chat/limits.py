"""Define the limits of one request, one connection, the pipeline, the store and adapters, with default and bounds.

A limit has two readers that do not import each other: the folder that keeps it, and `config`, which nests these classes
in its Settings and shows their fields as flat keys. So its default stands below both, here and nowhere else. A field
with a description is a key, under its alias where it has one; bounds hold for what is configured, not for code that
builds one of these. They are plain dataclasses: some are read for every write of a stream.
"""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much one request may ask for."""

    max_json_depth: Annotated[int, Field(ge=4, le=1000, description="nesting of a request body")] = 64
    max_json_values: Annotated[
        int,
        Field(
            ge=2**12,
            le=2**28,
            description="numbers, texts and other values of a request body, a key counted as 8; half a million hold up "
            "every other request for 0.05 s",
        ),
    ] = 2**19
    max_messages: Annotated[int, Field(ge=1, le=100_000, description="messages of one chat")] = 2048
    max_tools: Annotated[int, Field(ge=1, le=4096, description="tools of one chat")] = 128
    max_tools_bytes: Annotated[
        int,
        Field(ge=64, le=2**24, description="bytes of all tools of one chat, as JSON; a schema has a bound of its own"),
    ] = 2**18
    max_lines: Annotated[int, Field(ge=1, le=1_000_000, description="lines of a body in JSON Lines")] = 1024
    max_input_tokens: Annotated[
        int, Field(ge=0, le=100_000_000, description="tokens of one prompt; 0: what the context holds")
    ] = 0
    max_output_tokens: Annotated[
        int,
        Field(
            ge=0,
            le=100_000_000,
            description="tokens of one answer, whatever is asked for (more is cut, with a warning); 0: no cap",
        ),
    ] = 0
    max_n: Annotated[int, Field(ge=1, le=1024, description="sequences of one request")] = 16
    max_prompts: Annotated[int, Field(ge=1, le=4096, description="prompts of one request")] = 64
    max_inputs: Annotated[
        int, Field(ge=1, le=16_384, description="texts or pairs of one request that embeds, classifies or scores")
    ] = 2048
    max_pooled_numbers: Annotated[
        int,
        Field(ge=1, le=2**28, description="numbers of one answer with a vector for each token: tokens × numbers"),
    ] = 2**22
    max_form_parts: Annotated[int, Field(ge=2, le=10_000, description="parts of a body of multipart/form-data")] = 64
    max_form_field_bytes: Annotated[
        int, Field(ge=64, le=2**24, description="bytes of one field of such a body that is no file")
    ] = 65_536
    max_audio_bytes: Annotated[int, Field(ge=1024, le=2**31, description="bytes of a recording as it is sent")] = (
        25 * 2**20
    )
    max_audio_seconds: Annotated[
        float,
        Field(
            ge=1,
            le=86_400,
            description="seconds of a recording; decoded, 64 KB a second, it counts among body_bytes_in_flight",
        ),
    ] = 600.0
    max_audio_decode_seconds: Annotated[
        float, Field(ge=0.1, le=3600, description="seconds that decoding a recording may take")
    ] = 30.0
    max_stop: Annotated[int, Field(ge=1, le=1024, description="stop strings of one request")] = 16
    max_stop_chars: Annotated[int, Field(ge=1, le=65_536, description="characters of one stop string")] = 1024
    max_logprobs: Annotated[int, Field(ge=0, le=1000, description="alternatives per token")] = 20
    max_prompt_logprobs: Annotated[
        int, Field(ge=1, le=2**30, description="log-probabilities of prompts in one reply: tokens × (1 + alternatives)")
    ] = 65_536
    max_logit_bias: Annotated[int, Field(ge=0, le=300_000, description="tokens in logit_bias")] = 1024
    max_schema_bytes: Annotated[int, Field(ge=64, le=2**22, description="bytes of a JSON Schema")] = 65_536
    max_schema_depth: Annotated[int, Field(ge=2, le=500, description="nesting of a JSON Schema")] = 32
    max_schema_enum: Annotated[int, Field(ge=1, le=100_000, description="enum values of a JSON Schema in all")] = 1000
    max_regex_bytes: Annotated[int, Field(ge=1, le=2**20, description="bytes of a regex that the text must fit")] = 4096
    max_grammar_bytes: Annotated[
        int, Field(ge=16, le=2**22, description="bytes of a grammar that the text must fit")
    ] = 65_536
    max_choices: Annotated[int, Field(ge=1, le=100_000, description="choices of one request")] = 1000
    max_choice_bytes: Annotated[int, Field(ge=1, le=65_536, description="bytes of one choice")] = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaLimits:
    """What the images, audio and videos of one request may cost, and how many are prepared at once."""

    items: Annotated[
        int, Field(alias="max_media", ge=1, le=1024, description="images, audio and videos of one request")
    ] = 32
    all_bytes: Annotated[
        int,
        Field(
            alias="max_media_bytes",
            ge=1024,
            le=2**31,
            description="bytes of all images, audio and videos of one request as they are sent or fetched",
        ),
    ] = 64 * 2**20
    decoded_bytes: Annotated[
        int,
        Field(
            alias="max_media_decoded_bytes",
            ge=2**16,
            le=2**36,
            description="bytes of what all media of one request become: 4 for a pixel of an image or a sample of "
            "audio, 3 for a pixel of each frame that is taken of a video",
        ),
    ] = 512 * 2**20
    pixels: Annotated[
        int,
        Field(
            alias="max_image_pixels",
            ge=1,
            le=178_956_970,  # beyond it Pillow and the engine refuse by themselves
            description="pixels of one image (width × height)",
        ),
    ] = 40_000_000
    frame_pixels: Annotated[
        int, Field(alias="max_video_pixels", ge=1, le=2**30, description="pixels of one frame of a video")
    ] = 2_100_000
    seconds: Annotated[
        float, Field(alias="max_media_seconds", ge=0.1, le=86_400, description="seconds that audio or a video lasts")
    ] = 600.0
    frames: Annotated[
        int, Field(alias="max_video_frames", ge=1, le=2**24, description="frames of a video, each of which is decoded")
    ] = 18_000
    decode_s: Annotated[
        float,
        Field(
            alias="media_decode_seconds", ge=0.1, le=3600, description="seconds that decoding audio of a chat may take"
        ),
    ] = 30.0
    fetch_s: Annotated[
        float,
        Field(
            alias="media_fetch_seconds",
            ge=0.1,
            le=600,
            description="seconds in which all media of one request are fetched",
        ),
    ] = 10.0
    redirects: Annotated[
        int, Field(alias="max_media_redirects", ge=0, le=20, description="redirects that one URL of media may take")
    ] = 3
    at_once: Annotated[
        int,
        Field(
            alias="media_concurrency",
            ge=1,
            le=256,
            description="requests with media that are prepared at once, and media that are fetched at once",
        ),
    ] = 8
    prepared_bytes: Annotated[
        int,
        Field(
            alias="media_bytes_in_flight",
            ge=2**20,
            le=2**40,
            description="bytes of the prepared media of all requests that wait for their turn or are answered",
        ),
    ] = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """What one connection may cost; sizes in bytes, times in seconds."""

    receive_s: Annotated[
        float,
        Field(
            alias="receive_seconds",
            ge=0.1,
            le=3600,
            description="seconds for a request's head, and per 16 KiB of its body",
        ),
    ] = 30.0
    receive_bytes: int = 16 * 1024  # 1 or more; so many come in each receive_s of a body, and go in each write_stall_s
    write_stall_s: Annotated[
        float,
        Field(
            alias="write_stall_seconds",
            ge=0.1,
            le=3600,
            description="seconds in which a reader takes 16 KiB of what waits for it, and a tenth of a large answer",
        ),
    ] = 30.0
    # beyond the transport's own buffer
    backlog_bytes: Annotated[
        int, Field(alias="stream_backlog_bytes", ge=4096, le=2**30, description="unsent bytes kept for one slow reader")
    ] = 2**20
    keep_alive_s: Annotated[
        float, Field(alias="keep_alive_seconds", ge=1, le=3600, description="seconds an idle connection stays open")
    ] = 75.0
    header_bytes: Annotated[
        int, Field(alias="max_header_bytes", ge=1024, le=2**22, description="bytes of one request's head")
    ] = 64 * 1024
    header_count: Annotated[
        int, Field(alias="max_header_count", ge=8, le=10_000, description="headers of one request")
    ] = 100
    linger_s: float = 2.0  # unread input is discarded for so long after an answer that closes


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """What all connections together may cost."""

    connections: Annotated[
        int,
        Field(
            alias="max_connections",
            ge=8,
            le=1_000_000,
            description="open connections; at most what the process may have of descriptors leaves room for",
        ),
    ] = 4096
    body_bytes: Annotated[
        int,
        Field(
            alias="body_bytes_in_flight",
            ge=2**20,
            le=2**40,
            description="bytes of all request bodies that are being read or parsed; at least one whole body",
        ),
    ] = 256 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimits:
    """What each API key may use in a minute; 0: as much as it likes."""

    requests: Annotated[
        int,
        Field(
            alias="requests_per_minute",
            ge=0,
            le=10_000_000,
            description="requests of each API key in a minute (without keys: of all together); 0: any number",
        ),
    ] = 0
    tokens: Annotated[
        int,
        Field(
            alias="tokens_per_minute",
            ge=0,
            le=10**12,
            description="tokens, prompt and answer, of each API key in a minute; 0: any number",
        ),
    ] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineLimits:
    """How many requests wait, and how long one may take, in seconds."""

    queue: Annotated[
        int,
        Field(
            alias="job_queue_size",
            ge=0,
            le=1_000_000,
            description="requests that may wait beyond those the engine runs at once",
        ),
    ] = 256
    deadline_s: Annotated[
        float, Field(alias="predict_timeout", ge=0.1, le=86_400, description="seconds for one whole answer or stream")
    ] = 480.0
    finish_before_s: Annotated[
        float,
        Field(
            alias="finish_before_seconds",
            ge=0,
            le=86_400,
            description="seconds from its arrival after which an answer ends with what there is; 0: never",
        ),
    ] = 0.0
    reply_bytes: Annotated[
        int,
        Field(
            alias="max_reply_bytes",
            ge=2**16,
            le=2**32,
            description="bytes of one whole answer, after which it ends with what there is; a stream has no bound",
        ),
    ] = 32 * 2**20
    stall_s: Annotated[
        float,
        Field(
            alias="stall_seconds",
            ge=1,
            le=3600,
            description="seconds without a step of the engine, while work waits, after which /ping is 503",
        ),
    ] = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreLimits:
    """How long stored completions are kept, and how many bytes of them."""

    days: Annotated[
        float, Field(alias="store_days", ge=0.01, le=36_500, description="days for which a completion is kept")
    ] = 30.0
    max_bytes: Annotated[
        int,
        Field(
            alias="store_bytes", ge=2**20, le=2**50, description="bytes of that file; the oldest completions go first"
        ),
    ] = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryLimits:
    """How many adapters are registered, and what the files of one may cost."""

    adapters: Annotated[
        int,
        Field(alias="max_adapters", ge=1, le=1_000_000, description="adapters that are registered at once"),
    ] = 1000
    bytes: Annotated[
        int,
        Field(alias="max_adapter_bytes", ge=2**10, le=2**40, description="bytes of one adapter's files, unpacked"),
    ] = 4 * 2**30
    files: Annotated[
        int, Field(alias="max_adapter_files", ge=1, le=100_000, description="files of one adapter, unpacked")
    ] = 256
