"""Translate SamplingParams into vLLM's; vLLM is imported inside the functions only, see engine.py."""

from functools import cache
from typing import Any

from lmi_chat.engine.vllm.structured_output import trials
from lmi_chat.job import SamplingParams


def params(sampling: SamplingParams, *, has_text: bool = True) -> Any:
    """Build vLLM's SamplingParams; a constraint must have been tried (trials.py). `has_text`: vLLM makes the text."""
    from vllm.sampling_params import RequestOutputKind
    from vllm.sampling_params import SamplingParams as VllmSamplingParams

    kind = _tried() if sampling.constraint else VllmSamplingParams
    return kind(
        n=sampling.n,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        repetition_penalty=sampling.repetition_penalty,
        seed=sampling.seed,
        max_tokens=sampling.max_tokens,
        min_tokens=sampling.min_tokens,
        stop=list(sampling.stop),
        stop_token_ids=list(sampling.stop_token_ids),
        ignore_eos=sampling.ignore_eos,
        include_stop_str_in_output=sampling.include_stop_str_in_output,
        skip_special_tokens=sampling.skip_special_tokens,
        spaces_between_special_tokens=sampling.spaces_between_special_tokens,
        logprobs=sampling.logprobs,
        prompt_logprobs=sampling.prompt_logprobs,
        logit_bias=dict(sampling.logit_bias) if sampling.logit_bias else None,
        allowed_token_ids=list(sampling.allowed_token_ids) if sampling.allowed_token_ids else None,
        bad_words=list(sampling.bad_words),
        output_kind=RequestOutputKind.DELTA,
        skip_clone=True,
        detokenize=has_text,
        structured_outputs=trials.params(sampling.constraint) if sampling.constraint else None,
    )


@cache
def _tried() -> Any:
    """Build the class of SamplingParams that do not parse their constraint again.

    vLLM would on the event loop, where a pattern that compiles in 1 s costs 0.1 s each time it is sent. Should vLLM
    rename the method, it checks again: slower, not wrong.
    """
    from vllm.sampling_params import SamplingParams as VllmSamplingParams

    class Tried(VllmSamplingParams):
        def _validate_structured_outputs(self, *_: object) -> None:
            """Do nothing: trials.py has done it."""

    return Tried
