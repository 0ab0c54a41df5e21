"""Map the names that other servers and platforms use for settings to the keys that they stand for here; data only.

Sources: LMI's configuration guide and container entry point (djl-serving), DJL Serving's server and model keys, AWS's
vLLM container (`SM_VLLM_*` are vllm serve's arguments), TGI's launcher and its SageMaker entry point, SageMaker's own
variables, and deployments that are published.
"""

import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass


def _same(text: str) -> str:
    return text


def _from_mib(text: str) -> str:
    """Convert mebibytes to bytes; 0, SageMaker's word for no limit, sets nothing."""
    return str(int(text) * 2**20 or "") if text.isdecimal() else text


def _not(text: str) -> str:
    return {"true": "false", "false": "true"}.get(text.lower(), text)


@dataclass(frozen=True, slots=True)
class Name:
    """An environment variable, the key that it sets, and how its value reads there ("" sets nothing)."""

    variable: str
    key: str
    read: Callable[[str], str] = _same


@dataclass(frozen=True, slots=True)
class AliasGroup:
    """Names that belong together: within one, two that disagree are refused; of two families, the first wins."""

    title: str
    names: tuple[Name, ...]
    example: str
    prefix: str = ""  # every other variable that begins so is a key by itself


RENAMED: Mapping[str, str] = types.MappingProxyType(
    {
        "model": "model_id",
        "s3url": "model_id",
        "tensor_parallel_degree": "tensor_parallel_size",
        "pipeline_parallel_degree": "pipeline_parallel_size",
        "max_rolling_batch_size": "max_num_seqs",
        "max_rolling_batch_prefill_tokens": "max_num_batched_tokens",
        "quantize": "quantization",
        "cpu_offload_gb_per_gpu": "cpu_offload_gb",
        "guided_decoding_disable_any_whitespace": "structured_outputs_config",
        "structured_outputs_config.disable_any_whitespace": "structured_outputs_config",
        "max_input_len": "max_input_tokens",  # TensorRT-LLM's, as the three below
        "max_output_len": "max_output_tokens",
        "max_num_tokens": "max_num_batched_tokens",
        "max_seq_len": "max_model_len",
        "max_new_tokens": "max_output_tokens",
        "n_positions": "max_model_len",  # AWS Neuron's
        "context_length": "max_model_len",  # SGLang's
        "pooling": "pooler_config",  # of DJL's engines for embeddings, as the one below
        "reranking": "task",
        "shutdown_timeout": "drain_seconds",
        "disable_uvicorn_access_log": "access_log",
        "h11_max_incomplete_event_size": "max_header_bytes",
        "h11_max_header_count": "max_header_count",
        "cors_allowed_origin": "allowed_origins",  # DJL Serving's, as the two below
        "cors_allowed_methods": "allowed_methods",
        "cors_allowed_headers": "allowed_headers",
        "certificate_file": "ssl_certfile",
        "private_key_file": "ssl_keyfile",
    }
)
MEANT: Mapping[str, Mapping[str, str]] = types.MappingProxyType(
    {
        "disable_uvicorn_access_log": {"true": "off", "false": "stdout"},
        "reranking": {"true": "reranking", "false": "auto"},
    }
)
"""What a value of such a name is under the key that it stands for."""
MOST = "max"  # as a degree of tensor parallelism: every GPU
VALUES: Mapping[str, Mapping[str, str]] = types.MappingProxyType(
    {
        "dtype": {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"},
        "quantization": {"none": ""},
        "structured_outputs_config": {"true": '{"disable_any_whitespace":true}', "false": ""},  # vLLM's former switches
        "task": dict.fromkeys(
            ("generate", "text2text-generation", "conversational", "image-text-to-text", "any-to-any"),
            "text-generation",
        )
        | dict.fromkeys(("feature-extraction", "sentence-similarity", "embed"), "text-embedding")
        | dict.fromkeys(("classify", "sequence-classification"), "text-classification")
        | {"token_classify": "token-classification"}
        | dict.fromkeys(("score", "rerank", "text-ranking", "text-reranking"), "reranking"),
        "pooler_config": {
            name: f'{{"pooling_type": "{kind}"}}'
            for name, kind in {"cls": "CLS", "mean": "MEAN", "lasttoken": "LAST"}.items()
        },
        "tool_call_parser": {"auto": "", "no": "none", "off": "none", "false": "none"},
        "reasoning_parser": {"auto": "", "no": "none", "off": "none", "false": "none"},
        "output_formatter": {"json_chat": "json", "jsonlines_chat": "jsonlines", "sse_chat": "sse", "none": ""},
    }
)

FAMILIES = (
    AliasGroup(
        "SageMaker",
        (
            Name("SAGEMAKER_BIND_TO_PORT", "port"),
            Name("SAGEMAKER_SAFE_PORT_RANGE", "safe_port_range"),
            Name("SAGEMAKER_MAX_REQUEST_SIZE", "max_request_size"),
            Name("SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS", "predict_timeout"),
            Name("SAGEMAKER_ENABLE_STATEFUL_SESSIONS", "enable_stateful_sessions"),
        ),
        "SAGEMAKER_BIND_TO_PORT=9000",
    ),
    AliasGroup(
        "SageMaker's jobs and SDK",
        (
            Name("SAGEMAKER_MAX_PAYLOAD_IN_MB", "max_request_size", _from_mib),
            Name("SAGEMAKER_MODEL_SERVER_TIMEOUT", "predict_timeout"),
        ),
        "SAGEMAKER_MAX_PAYLOAD_IN_MB=6",
    ),
    AliasGroup(
        "LMI's simple names, Hugging Face",
        (
            Name("HF_MODEL_ID", "model_id"),
            Name("HF_REVISION", "revision"),
            Name("HF_MODEL_REVISION", "revision"),
            Name("HF_TASK", "task"),
            Name("HF_MODEL_QUANTIZE", "quantization"),
            Name("HF_MODEL_TRUST_REMOTE_CODE", "trust_remote_code"),
            Name("HF_TRUST_REMOTE_CODE", "trust_remote_code"),
            Name("TENSOR_PARALLEL_DEGREE", "tensor_parallel_size"),
            Name("PREDICT_TIMEOUT", "predict_timeout"),
        ),
        "TENSOR_PARALLEL_DEGREE=max",
    ),
    AliasGroup("vLLM's container", (), "SM_VLLM_MAX_MODEL_LEN=4096", "SM_VLLM_"),
    AliasGroup(
        "TGI",
        (
            Name("SM_NUM_GPUS", "tensor_parallel_size"),
            Name("NUM_SHARD", "tensor_parallel_size"),
            Name("MAX_CONCURRENT_REQUESTS", "job_queue_size"),
            Name("MAX_BATCH_SIZE", "max_num_seqs"),
            Name("MAX_BATCH_PREFILL_TOKENS", "max_num_batched_tokens"),
            Name("MAX_INPUT_TOKENS", "max_input_tokens"),
            Name("MAX_INPUT_LENGTH", "max_input_tokens"),
            Name("MAX_TOTAL_TOKENS", "max_model_len"),
            Name("MAX_STOP_SEQUENCES", "max_stop"),
            Name("MAX_BEST_OF", "max_n"),
            Name("MAX_TOP_N_TOKENS", "max_logprobs"),
            Name("MAX_CLIENT_BATCH_SIZE", "max_prompts"),
            Name("PAYLOAD_LIMIT", "max_request_size"),
            Name("QUANTIZE", "quantization"),
            Name("DTYPE", "dtype"),
            Name("TRUST_REMOTE_CODE", "trust_remote_code"),
            Name("CUDA_MEMORY_FRACTION", "gpu_memory_utilization"),
            Name("OTLP_ENDPOINT", "otlp_traces_endpoint"),
            Name("ENABLE_CUDA_GRAPHS", "enforce_eager", _not),
        ),
        "MAX_TOTAL_TOKENS=4096",
    ),
)
"""Weaker than the command line, `OPTION_X`, `SERVING_X` and serving.properties; strongest first."""


def _by_name(groups: Mapping[str, str]) -> Mapping[str, str]:
    return types.MappingProxyType({name: why for why, names in groups.items() for name in names.split()})


WITHOUT_EFFECT = _by_name(
    {
        "batching is always continuous, and asynchronous": "rolling_batch async_mode batch_size max_batch_delay"
        " rolling_batch_strategy continuous_batching paged_attention",
        "each request says whether it streams": "enable_streaming",
        "this server is the handler": "features engine entryPoint handler translatorFactory modeName mpi_mode"
        " application output_formatter_module",
        "one server process with one engine": "minWorkers maxWorkers gpu.minWorkers gpu.maxWorkers cpu.minWorkers"
        " cpu.maxWorkers max_idle_time load_on_devices parallel_loading number_of_netty_threads use_native_io io_ratio"
        " model_server_workers num_model_workers",
        "a failed start always ends the process": "fail_fast retry_threshold exit_on_oom",
        "the start has no time limit of its own; the platform has": "model_loading_timeout startup_timeout"
        " wait_model_loading allow_multi_status",
        "predict_timeout is the limit on an answer": "chunked_read_timeout",
        "one model is served: model_id, else /opt/ml/model": "load_models model_store model_url_pattern"
        " management_address plugin_folder configFile workflow_template",
        "Python and its packages are the container's": "pythonExecutable enable_venv opts mapLocation",
        "memory is the engine's business: gpu_memory_utilization": "required_memory_mb reserved_memory_mb"
        " gpu.required_memory_mb gpu.reserved_memory_mb",
        "the engine's figures are on /metrics": "log_request_metric metrics_aggregation",
        "requests are logged as access_log says, without prompts and answers": "disable_log_requests max_log_len"
        " enable_log_deltas disable_access_log_for_endpoints",
        "the log is as detailed as log_level says": "uvicorn_log_level log_error_stack",
        "/load always tells what runs": "enable_server_load_tracking",
        "answers are never held back whole": "max_output_size",
        "sessions are held in memory": "sessions_path",
        "the platform chooses the machine": "instance_type",
        "it belongs to TensorRT-LLM": "batch_scheduler_policy use_custom_all_reduce max_draft_len"
        " baichuan_model_version chatglm_model_version gpt_model_version",
        "answers always carry it": "enable_prompt_tokens_details enable_request_id_headers",
        "the engine decides by itself": "device device_map use_v2_block_manager num_scheduler_steps"
        " multi_step_stream_outputs swap_space preemption_mode max_seq_len_to_capture worker_use_ray engine_use_ray"
        " enable_reasoning guided_decoding_backend use_v1 lora_extra_vocab_size long_lora_scaling_factors",
        "no path here compares texts": "enable_flash_late_interaction",
    }
)
TOLD = _by_name(
    {
        "prompts and answers are never logged": "enable_log_outputs",
        "a request's times are in its line of the log, not in its answer": "enable_per_request_metrics",
        "nothing is sent into a stream that waits for its next token": "sse_keep_alive_interval",
        "job_queue_size bounds how many requests wait": "max_num_queued_reqs max_num_queued_tokens",
        "one server process with one engine": "api_server_count data_parallel_supervisor_port"
        " dp_supervisor_probe_interval_s dp_supervisor_probe_timeout_s dp_supervisor_probe_failure_threshold",
        "texts are always read and written here": "tokens_only",
        "/openapi.json is always served": "disable_fastapi_docs",
        "certificates are read at the start": "enable_ssl_refresh",
        "its paths are not served here": "grpc_port enable_offline_docs enable_scale_out"
        " anthropic_disabled_thinking_effort cohere_is_reasoning_model cohere_format",
    }
)
"""Accepted without effect like the above, and said at the start, as somebody may expect one."""
UNASKED: Mapping[str, str] = types.MappingProxyType(
    {
        "api_server_count": "1",
        "data_parallel_supervisor_port": "9256",
        "dp_supervisor_probe_failure_threshold": "3",
        "dp_supervisor_probe_interval_s": "5.0",
        "dp_supervisor_probe_timeout_s": "5.0",
        "cohere_is_reasoning_model": "true",
        "cohere_format": "cmd4",
    }
)
"""Their defaults, where these are none of QUIET: they ask for nothing."""
NOT_YET = _by_name(
    {
        "tools": "tool_server",
        "reasoning": "reasoning_config",
        "adapters by the kind of media": "default_mm_loras",
        "quantization while loading by this name (quantize has the engine's)": "load_in_8bit load_in_4bit",
        "Bedrock's schema": "bedrock_compat",
        "AWS Neuron": "neuron_optimize_level attention_layout collectives_layout context_length_estimate unroll"
        " enable_mixed_precision_accumulation load_split_model group_query_attention fuse_qkv on_device_embedding",
        "sessions in S3": "sessions_s3url",
        "LMCache's own configuration": "lmcache_auto_config lmcache_config_file",
        "other chat template options": "chat_template_content_format response_role"
        " trust_request_chat_template trust_request_mm_kwargs",
        "other forms of answers": "return_tokens_as_token_ids enable_force_include_usage fingerprint_mode"
        " fingerprint_value",
        "other status codes and headers": "bad_request_http_code wlm_error_http_code throttle_http_code"
        " timeout_http_code server_error_http_code request_id_header_key root_path",
        "failure rates in /ping": "error_rate_wlm error_rate_server error_rate_model error_rate_any",
        "environment variables as a key (the container's own count)": "env",
    }
)
ELSEWHERE = _by_name(
    {
        "each request says how much it wants; max_output_tokens bounds it": "max_tokens",
        'speculative_config has it, as JSON: {"model": "…", "num_speculative_tokens": 5}': "speculative_model"
        " num_speculative_tokens speculative_draft_model speculative_draft_model_quantization speculative_length"
        " speculative_max_model_len speculative_draft_tensor_parallel_size",
        "each request has it, in chat_template_kwargs": "enable_thinking",
    }
)
"""Keys that set nothing here, where another key or the request has what they mean: a warning says which."""
QUIET = frozenset({"", "false", "none", "auto", "no", "0", "text-generation", "generate"})
"""Values of those that ask for nothing."""
REFUSED = _by_name(
    {
        "TLS takes PEM files: ssl_certfile and ssl_keyfile": "keystore keystore_pass keystore_type",
        "no other code runs in this server": "middleware",
        "the platform sets it, as SAGEMAKER_SECURE_MODE and what belongs to it": "secure_mode untrusted_channels"
        " security_controls",
        "write its keys as variables (OPTION_X or SM_VLLM_X) or into serving.properties": "config",
        "set VLLM_USE_MODELSCOPE=true in the environment, where the engine reads it": "use_modelscope",
        "the server listens on host and port": "inference_address uds headless grpc",
        "it stands in hf_overrides, as JSON": "rope_scaling rope_theta",
    }
)

NOTED: Mapping[str, str] = _by_name(
    {
        "read by the hub's client": "HF_TOKEN HUGGING_FACE_HUB_TOKEN",
        "set by SageMaker and its SDK, means nothing here": "SAGEMAKER_PROGRAM SAGEMAKER_SUBMIT_DIRECTORY"
        " SAGEMAKER_CONTAINER_LOG_LEVEL SAGEMAKER_REGION SAGEMAKER_ENV SAGEMAKER_MODEL_SERVER_WORKERS"
        " SAGEMAKER_NUM_MODEL_WORKERS SAGEMAKER_MODEL_DATA_DOWNLOAD_TIMEOUT SAGEMAKER_INFERENCE_ACCELERATOR_PRESENT"
        " SAGEMAKER_BATCH SAGEMAKER_BATCH_STRATEGY SAGEMAKER_MAX_CONCURRENT_TRANSFORMS SAGEMAKER_MANAGED"
        " SAGEMAKER_STARTUP_TIMEOUT SAGEMAKER_ENABLE_LOAD_AWARE SAGEMAKER_HEALTH_CHECK_OVERRIDE"
        " SAGEMAKER_INFERENCE_OUTPUT SAGEMAKER_INFERENCE_INPUT SAGEMAKER_INFERENCE_SUPPORTED MODEL_CACHE_ROOT"
        " ENDPOINT_SERVER_TIMEOUT",
        "nothing is reported to anyone": "OPT_OUT_TRACKING",
        "the platform's secure mode (docs/sagemaker.md)": "SAGEMAKER_SECURE_MODE SAGEMAKER_UNTRUSTED_CHANNELS"
        " SAGEMAKER_SECURITY_CONTROLS",
        "the platform counts the adapters that it registers; max_cpu_loras bounds those in memory": ""
        "SAGEMAKER_MAX_NUMBER_OF_ADAPTERS_IN_MEMORY",
        "batches are the engine's business": "MAX_BATCH_TOTAL_TOKENS MAX_WAITING_TOKENS WAITING_SERVED_RATIO"
        " CUDA_GRAPHS VALIDATION_WORKERS",
        "chat is always on": "MESSAGES_API_ENABLED",
        "the platform starts a container anew that ends": "PROCESS_AUTO_RECOVERY PROCESS_MAX_START_RETRIES",
        "the start has no time limit of its own; the platform has": "MODEL_LOADING_TIMEOUT",
    }
)
"""Environment variables that are seen and change nothing, with the reason."""
NOTED_NOT_YET: Mapping[str, str] = _by_name(
    {
        "multi-model endpoints": "SAGEMAKER_MULTI_MODEL",
        "adapters of transformers' own": "HF_MODEL_PEFT",
    }
)
OTHERS = ("SAGEMAKER_", "HF_")
"""Prefixes that are not ours to police: an unknown name is left alone, one very like a known name gets a warning."""
