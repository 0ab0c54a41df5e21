"""Prompts of clips and the language of a recording, with a model's class and an engine that only take notes."""

import asyncio
import importlib.util
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lmi_chat.engine.vllm.speech import Speech
from lmi_chat.job import Delta, Event, Finish, Job, SpeechParams
from lmi_chat.limits import Limits
from tests.support.speech import noise, written

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]
VOCABULARY = {"<|startofprev|>": 1, "<|0.00|>": 50, "<|en|>": 7}
FORM = SimpleNamespace(
    sample_rate=16_000.0,
    max_audio_clip_s=30,
    overlap_chunk_second=1,
    min_energy_split_window_size=1600,
    allow_audio_chunking=True,
)


class Cleaner:
    def process_delta(self, text: str, finished: bool) -> str:  # noqa: FBT001 vLLM's
        return text.upper() + ("." if finished else "")


class Whisper:
    """What vLLM's class of a model says, as far as it is asked."""

    supported_languages, no_space_languages = {"en": "English"}, {"ja"}
    supports_segment_timestamp = supports_explicit_language_detection = supports_transcription_only = True

    @staticmethod
    def get_speech_to_text_config(_config: Any, _task: str) -> Any:
        return FORM

    @staticmethod
    def get_other_languages() -> Any:
        return {"la": "Latin"}

    @staticmethod
    def get_num_audio_tokens(seconds: float, _form: Any, _config: Any) -> int:
        return int(seconds * 100)

    @staticmethod
    def get_generation_prompt(asked: Any) -> Any:
        text = f"<|prev|>{asked.request_prompt}<|{asked.language}|><|{asked.task_type}|><|notimestamps|>"
        return {"encoder_prompt": len(asked.audio), "decoder_prompt": {"prompt": text}}

    @staticmethod
    def get_language_detection_prompt(audio: Any, _form: Any) -> Any:
        return {"encoder_prompt": len(audio), "decoder_prompt": {"prompt": "?"}}

    @staticmethod
    def get_language_token_ids(_tokenizer: Any) -> list[int]:
        return [7]

    @staticmethod
    def parse_language_detection_output(ids: list[int], _tokenizer: Any) -> str:
        return {7: "en"}[ids[0]]

    @staticmethod
    def get_streaming_post_processor_cls() -> type[Cleaner]:
        return Cleaner


@dataclass
class Client:
    """An AsyncLLM, as far as it is asked."""

    asked: list[str] = field(default_factory=list)
    salts: list[Any] = field(default_factory=list)
    model_config: Any = field(default_factory=lambda: SimpleNamespace(is_encoder_decoder=True))

    @property
    def renderer(self) -> Any:
        return self

    async def render_cmpl_async(self, prompts: list[Any], *, prompt_extras: Any = None) -> list[Any]:
        self.salts.append(prompt_extras)
        return prompts

    def get_tokenizer(self) -> Any:
        return SimpleNamespace(get_vocab=lambda: VOCABULARY, convert_tokens_to_ids=VOCABULARY.get)

    async def generate(self, _prompt: Any, params: Any, request_id: str) -> AsyncIterator[Any]:
        assert (params.max_tokens, params.temperature, params.allowed_token_ids) == (1, 0.0, [7])
        self.asked.append(request_id)
        await asyncio.sleep(0.01)
        yield SimpleNamespace(outputs=[SimpleNamespace(token_ids=[7])])


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    from vllm.renderers.inputs import preprocess

    monkeypatch.setattr(preprocess, "parse_model_prompt", lambda _config, prompt: prompt)
    return Client()


def test_the_clips_of_a_recording_are_all_of_it(client: Client) -> None:
    samples = noise(65)
    samples[29 * 16_000 + 3200 : 29 * 16_000 + 6400] = 0
    speech = Speech(client, Whisper)
    heard = speech.read(written(samples.tobytes()), Limits())
    assert len(heard.clips) == 3
    assert np.concatenate([clip.samples for clip in heard.clips]).tolist() == (samples / 32768).tolist()
    assert heard.clips[1].begins_s == pytest.approx(29.2, abs=0.2), "where it is quiet"
    assert [clip.begins_s + clip.seconds for clip in heard.clips[:2]] == [clip.begins_s for clip in heard.clips[1:]]
    assert (heard.seconds, heard.audio_tokens, heard.nbytes) == (65, 6500, 65 * 64_000)
    assert len(speech.read(written(noise(10).tobytes()), Limits()).clips) == 1


def test_what_the_model_can(client: Client) -> None:
    spec = Speech(client, Whisper).spec
    assert (spec.has_times, spec.first_time_id, spec.finds_language, spec.is_only) == (True, 50, True, True)
    assert (dict(spec.languages), dict(spec.others)) == ({"en": "English"}, {"la": "Latin"})
    assert spec.unspaced == {"ja"}


async def test_the_language_is_found_once_for_all_clips(client: Client) -> None:
    speech = Speech(client, Whisper)
    heard = speech.read(written(noise(65).tobytes()), Limits())
    jobs = [SpeechParams(recording=heard, place=place) for place in range(3)]
    asked = [speech.prompt(one, Job(id=f"r-{one.place}", prompt_ids=[], prompt_text="")) for one in jobs]
    prompts = await asyncio.gather(*asked)
    assert (heard.language, client.asked) == ("en", ["r-0-language"])
    assert all("<|en|>" in prompt["decoder_prompt"]["prompt"] for prompt in prompts)
    assert [prompt["encoder_prompt"] for prompt in prompts] == [len(clip.samples) for clip in heard.clips]


async def test_a_given_language_a_prompt_times_and_a_salt(client: Client) -> None:
    speech = Speech(client, Whisper)
    heard = speech.read(written(noise(1).tobytes()), Limits())
    heard.language = "la"
    asked = SpeechParams(recording=heard, place=0, task="translate", prompt="Dr. Zoë", has_times=True)
    job = Job(id="r", prompt_ids=[], prompt_text="", cache_salt="s")
    prompt = await speech.prompt(asked, job)
    assert prompt["decoder_prompt"]["prompt"] == "<|startofprev|>Dr. Zoë<|la|><|translate|><|0.00|>"
    assert (client.asked, client.salts) == ([], [{"cache_salt": "s"}])


def test_what_a_model_writes_around_the_text_is_taken_off(client: Client) -> None:
    taken: list[Event] = []
    put = Speech(client, Whisper).sink(taken.append)
    put(Delta(0, "a", [1]))
    put(Delta(0, "b", [1], finish=Finish("stop")))
    assert [event.text for event in taken if isinstance(event, Delta)] == ["A", "B."]


def test_tokens_that_stand_in_the_prompt_are_not_counted_twice(client: Client) -> None:
    client.model_config.is_encoder_decoder = False
    assert Speech(client, Whisper).read(written(noise(1).tobytes()), Limits()).audio_tokens == 0
