"""Translate the names of other APIs' fields into those here, for hints that name the field that was meant, or none.

Sources: Transformers' GenerationConfig and text-generation pipeline, OpenAI's API, TGI, vLLM, llama.cpp, Cohere,
Bedrock, Gemini.
"""

from collections.abc import Iterable, Mapping

from lmi_chat.text import nearest

_LENGTH = ("max_tokens", "max_new_tokens")
_CUT = ("truncate_prompt_tokens", "truncate")
_TOP = ("top_logprobs", "top_n_tokens", "logprobs")
MEANT: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("max_tokens", "max_new_tokens", "max_completion_tokens", "max_output_tokens", "maxTokens"), _LENGTH
    ),
    **dict.fromkeys(("max_tokens_to_sample", "maxOutputTokens", "max_gen_len", "n_predict", "num_predict"), _LENGTH),
    **dict.fromkeys(("max_length", "max_input_length", "truncation", "truncate", "truncate_prompt_tokens"), _CUT),
    **dict.fromkeys(("min_length", "min_new_tokens", "min_tokens"), ("min_tokens",)),
    **dict.fromkeys(("n", "num_return_sequences", "num_generations", "candidate_count", "candidateCount"), ("n",)),
    **dict.fromkeys(("num_beams", "beam_width"), ("num_beams", "use_beam_search")),
    "use_beam_search": ("num_beams",),
    **dict.fromkeys(("stop_strings", "stop_sequence", "stop_sequences", "stop_words", "stopSequences"), ("stop",)),
    "eos_token_id": ("stop_token_ids",),
    **dict.fromkeys(("bad_words_ids", "bad_words", "bad_sequences"), ("bad_words", "bad_sequences")),
    **dict.fromkeys(("sequence_bias", "suppress_tokens"), ("logit_bias",)),
    **dict.fromkeys(("output_scores", "output_logits", "return_likelihoods"), ("logprobs",)),
    **dict.fromkeys(("top_logprobs", "top_n_tokens"), _TOP),
    **dict.fromkeys(("repeat_penalty", "repetitionPenalty"), ("repetition_penalty",)),
    **dict.fromkeys(("random_seed", "randomSeed"), ("seed",)),
    **dict.fromkeys(("p", "topP"), ("top_p",)),
    **dict.fromkeys(("k", "topK"), ("top_k",)),
    **dict.fromkeys(("format", "grammar", "json_schema", "response_schema"), ("response_format",)),
    **dict.fromkeys(("adapter_id", "adapter", "lora", "lora_name"), ("adapters",)),
    **dict.fromkeys(("safety_identifier", "user_id"), ("user",)),
    **dict.fromkeys(("return_full_text", "echo"), ("return_full_text", "echo")),
}
"""Other names → the names here that say it, of which a dialect has one or none."""
NOTHING = frozenset(
    {
        # Transformers
        *("assistant_confidence_threshold", "assistant_early_exit", "assistant_lookbehind", "assistant_model"),
        *("begin_suppress_tokens", "bos_token_id", "cache_config", "cache_implementation", "compile_config"),
        *("clean_up_tokenization_spaces", "constraints", "continuous_batching_config", "decoder_start_token_id"),
        *(
            "disable_compile",
            "diversity_penalty",
            "do_sample",
            "dola_layers",
            "early_stopping",
            "encoder_no_repeat_ngram_size",
        ),
        *("encoder_repetition_penalty", "epsilon_cutoff", "eta_cutoff", "exponential_decay_length_penalty"),
        *("force_words_ids", "forced_bos_token_id", "forced_decoder_ids", "forced_eos_token_id", "generation_kwargs"),
        *("guidance_scale", "handle_long_generation", "is_assistant", "length_penalty", "low_memory"),
        *("max_matching_ngram_size", "max_time", "no_repeat_ngram_size", "num_assistant_tokens"),
        *("num_assistant_tokens_schedule", "num_beam_groups", "output_attentions", "output_hidden_states"),
        *("pad_token_id", "penalty_alpha", "prefill_chunk_size", "prefix", "prompt_lookup_num_tokens"),
        *("remove_invalid_values", "renormalize_logits", "return_dict_in_generate", "return_legacy_cache"),
        *("return_tensors", "return_text", "target_lookbehind", "token_healing", "top_h", "typical_p"),
        *("transformers_version", "use_cache", "watermark", "watermarking_config"),
        # OpenAI, TGI, vLLM and others
        *("background", "conversation", "conversation_id", "decoder_input_details", "details", "detokenize"),
        *("documents", "include", "instructions", "kv_transfer_params", "logits_processors", "media_io_kwargs"),
        *("mirostat", "mirostat_eta", "mirostat_tau", "mm_processor_kwargs", "options", "prediction"),
        *(
            "previous_response_id",
            "prompt_cache_key",
            "prompt_cache_retention",
            "reasoning",
            "repeat_last_n",
            "request_id",
        ),
        *("session_id", "suffix", "system", "system_prompt", "tfs_z", "thinking", "top_a", "verbosity", "vllm_xargs"),
        *("wait_for_model", "web_search_options"),
    }
)
"""Names of what nothing here does: the nearest known name would be another thing."""


def hint(name: str, known: Iterable[str]) -> str:
    """The known name that an unknown one stands for, or is a slip of; "" where there is none."""
    known = list(known)
    if name in known:
        return name  # in another place
    if name in MEANT:
        return next((meant for meant in MEANT[name] if meant in known), "")
    return "" if name in NOTHING else nearest(name, known)
