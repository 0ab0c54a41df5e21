"""Run vLLM's speech models: clips of a recording, the prompt of each, and its language.

A model's class says how it is asked (vLLM's SupportsTranscription): prompt, language, what stands in its text beside
what is said. Leans on: the renderer's `render_cmpl_async`, which makes the engine's input off the event loop;
`get_generation_prompt` and the methods beside it; `split_audio`, which cuts where it is quiet.
"""

from collections.abc import Mapping
from typing import Any

from lmi_chat.audio import decode
from lmi_chat.audio.wav import Samples
from lmi_chat.job import Clip, Delta, Event, Job, Recording, Sink, SpeechParams, SpeechSpec, SpeechTask
from lmi_chat.limits import Limits

TASK = "transcription"
WORDS = {"<|prev|>": "<|startofprev|>"}
"""Special tokens that vLLM's prompts write under a name that the tokenizer does not have → the one that it has."""
NO_TIMES, FIRST_TIME = "<|notimestamps|>", "<|0.00|>"
TASKS: tuple[SpeechTask, ...] = ("transcribe", "translate")


def of(engine: Any) -> "Speech | None":
    """Build what serves the speech of an AsyncLLM's model; None for one that hears none."""
    from vllm.model_executor.model_loader import get_model_cls
    from vllm.model_executor.models.interfaces import supports_transcription

    config = engine.model_config
    if config.runner_type != "generate":
        return None
    model = get_model_cls(config)
    return Speech(engine, model) if supports_transcription(model) else None


class Speech:
    """The speech of one AsyncLLM's model."""

    def __init__(self, engine: Any, model: Any) -> None:
        """`model`: its class, a SupportsTranscription of vLLM's."""
        self._engine, self._model, self._config = engine, model, engine.model_config
        self._tokenizer = engine.get_tokenizer()
        self._forms: Mapping[SpeechTask, Any] = {
            task: model.get_speech_to_text_config(self._config, task) for task in TASKS
        }
        self._words = {word: other for word, other in WORDS.items() if self._lacks(word) and not self._lacks(other)}
        has_times = bool(model.supports_segment_timestamp)
        self.spec = SpeechSpec(
            read=self.read,
            languages=dict(model.supported_languages),
            others=dict(model.get_other_languages()),
            unspaced=frozenset(model.no_space_languages),
            has_times=has_times,
            first_time_id=self._tokenizer.convert_tokens_to_ids(FIRST_TIME) if has_times else 0,
            finds_language=bool(model.supports_explicit_language_detection),
            is_only=bool(model.supports_transcription_only),
        )

    def _lacks(self, token: str) -> bool:
        return token not in self._tokenizer.get_vocab()

    def read(self, data: bytes, limits: Limits) -> Recording:
        """Decode a recording and cut it into clips. Raises BadField. Takes seconds: use a thread."""
        form = self._forms["transcribe"]
        rate = int(form.sample_rate)
        samples = decode.decode(data, rate, limits, _resample)
        clips, at = [], 0
        for part in self._split(samples, form, rate):
            clips.append(Clip(part, at / rate, len(part) / rate))
            at += len(part)
        seconds = len(samples) / rate
        return Recording(clips=clips, seconds=seconds, audio_tokens=self._count_tokens(seconds, form))

    def _count_tokens(self, seconds: float, form: Any) -> int:
        """Tokens of a recording that are not in its prompts, as a decoder's are."""
        if not self._config.is_encoder_decoder:
            return 0
        return self._model.get_num_audio_tokens(seconds, form, self._config) or 0

    def _split(self, samples: Samples, form: Any, rate: int) -> list[Samples]:
        from vllm.multimodal.audio import split_audio

        if not form.allow_audio_chunking or len(samples) <= form.max_audio_clip_s * rate:
            return [samples]
        parts: list[Samples] = split_audio(
            audio_data=samples,
            sample_rate=rate,
            max_clip_duration_s=form.max_audio_clip_s,
            overlap_duration_s=form.overlap_chunk_second,
            min_energy_window_size=form.min_energy_split_window_size,
        )
        return parts

    async def prompt(self, speech: SpeechParams, job: Job) -> Any:
        """The engine's input for a job with `speech`. Finds the language first where nobody gave it."""
        if self.spec.finds_language:
            async with speech.recording.lock:
                if not speech.recording.language:
                    speech.recording.language = await self._find_language(speech, job.id)
        return await self._render(self._spoken(speech), job.cache_salt)

    def _spoken(self, speech: SpeechParams) -> Any:
        from vllm.config.speech_to_text import SpeechToTextParams

        prompt = self._model.get_generation_prompt(
            SpeechToTextParams(
                audio=speech.recording.clips[speech.place].samples,
                stt_config=self._forms[speech.task],
                model_config=self._config,
                language=speech.recording.language or None,
                task_type=speech.task,
                request_prompt=speech.prompt,
                to_language=speech.to_language or None,
                hotwords=speech.hotwords or None,
            )
        )
        decoder = prompt.get("decoder_prompt") if isinstance(prompt, dict) else None
        if isinstance(decoder, dict) and "prompt" in decoder:
            changes = self._words | ({NO_TIMES: FIRST_TIME} if speech.has_times else {})
            for word, other in changes.items():
                decoder["prompt"] = decoder["prompt"].replace(word, other)
        return prompt

    async def _render(self, prompt: Any, salt: str | None) -> Any:
        from vllm.renderers.inputs.preprocess import parse_model_prompt

        extras = {"cache_salt": salt} if salt else None
        parsed = parse_model_prompt(self._config, prompt)
        (rendered,) = await self._engine.renderer.render_cmpl_async([parsed], prompt_extras=extras)
        return rendered

    async def _find_language(self, speech: SpeechParams, job_id: str) -> str:
        """Have the model say the language of the first clip, as one token of those that name one."""
        from vllm.sampling_params import SamplingParams as VllmSamplingParams

        form = self._forms[speech.task]
        prompt = self._model.get_language_detection_prompt(speech.recording.clips[0].samples, form)
        ids = self._model.get_language_token_ids(self._tokenizer)
        params = VllmSamplingParams(max_tokens=1, temperature=0.0, allowed_token_ids=ids)
        found: list[int] = []
        async for output in self._engine.generate(await self._render(prompt, None), params, f"{job_id}-language"):
            found = list(output.outputs[0].token_ids)
        return str(self._model.parse_language_detection_output(found, self._tokenizer))

    def sink(self, sink: Sink) -> Sink:
        """What takes the events of a job's clip: its text, without what the model writes around it."""
        clean = self._model.get_streaming_post_processor_cls()()

        def put(event: Event) -> None:
            if isinstance(event, Delta):
                event.text = clean.process_delta(event.text, event.finish is not None)
            sink(event)

        return put


def _resample(samples: Samples, rate: int, wanted: int) -> Samples:
    from vllm.multimodal.audio import resample_audio_torchaudio

    found: Samples = resample_audio_torchaudio(samples, orig_sr=rate, target_sr=wanted)
    return found
