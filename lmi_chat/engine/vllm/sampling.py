"""Translate SamplingParams into vLLM's; vLLM is imported inside the functions only, see engine.py."""

from functools import cache
from typing import Any

from lmi_chat.job import SamplingParams


def params(sampling: SamplingParams, constraint: Any = None, *, has_text: bool = True) -> Any:
    """Build vLLM's SamplingParams; `constraint` is the tried one's (Trials.params). `has_text`: vLLM makes the text."""
    from vllm.sampling_params import RequestOutputKind
    from vllm.sampling_params import SamplingParams as VllmSamplingParams

    kind = _checked() if constraint or sampling.bad_words else VllmSamplingParams
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
        thinking_token_budget=sampling.thinking_token_budget,
        output_kind=RequestOutputKind.DELTA,
        skip_clone=True,
        detokenize=has_text,
        structured_outputs=constraint,
    )


@cache
def _checked() -> Any:
    """Build the class of SamplingParams that do not parse their constraint again, and bound the tokens of `bad_words`.

    vLLM would parse on the event loop, where a pattern that compiles in 1 s costs 0.1 s each time it is sent. Should it
    rename the method, it checks again: slower, not wrong. On a GPU it has room for so many tokens, and finds out in the
    engine that there are more, which would end it.
    """
    import vllm.envs
    from vllm.exceptions import VLLMValidationError
    from vllm.sampling_params import SamplingParams as VllmSamplingParams

    class Checked(VllmSamplingParams):
        def _validate_structured_outputs(self, *_: object) -> None:
            """Do nothing: trials.py has done it."""

        def update_from_tokenizer(self, tokenizer: Any) -> None:
            """Tokenise `bad_words`. Raises vLLM's error for too many tokens."""
            super().update_from_tokenizer(tokenizer)
            count, most = sum(map(len, self.bad_words_token_ids or ())), vllm.envs.VLLM_MAX_BAD_WORDS_TOTAL_TOKENS
            if count > most:
                text = f"all words together have {count} tokens, with and without a blank before them; at most {most}"
                raise VLLMValidationError(text, parameter="bad_words", value=count)

    return Checked
