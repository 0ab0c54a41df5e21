"""Deployments as they are published: their whole environment or serving.properties, and what must come of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

ASYNC = {
    "OPTION_ASYNC_MODE": "true",
    "OPTION_ROLLING_BATCH": "disable",
    "OPTION_ENTRYPOINT": "djl_python.lmi_vllm.vllm_async_service",
}
JUMPSTART = {
    "ENDPOINT_SERVER_TIMEOUT": "3600",
    "HF_MODEL_ID": "/opt/ml/model",
    "MODEL_CACHE_ROOT": "/opt/ml/model",
    "SAGEMAKER_ENV": "1",
    "SAGEMAKER_MODEL_SERVER_WORKERS": "1",
    "SAGEMAKER_PROGRAM": "inference.py",
}
SDK = {
    "SAGEMAKER_CONTAINER_LOG_LEVEL": "20",
    "SAGEMAKER_REGION": "us-east-1",
    "SAGEMAKER_SUBMIT_DIRECTORY": "/opt/ml/model/code",
    "SAGEMAKER_MODEL_SERVER_TIMEOUT": "3600",
    "AWS_REGION": "us-east-1",
    "PATH": "/bin",
}


@dataclass(frozen=True)
class Recipe:
    """What is given, and what our keys, the engine's arguments and the warnings are then."""

    environment: Mapping[str, str] = field(default_factory=dict)
    properties: str | None = None
    own: Mapping[str, object] = field(default_factory=dict)
    engine: Mapping[str, str] = field(default_factory=dict)
    warned: tuple[str, ...] = ()
    as_default: tuple[str, ...] = ()  # keys of ours that are given their default


RECIPES = {
    "LMI, async mode with tools": Recipe(
        {
            **ASYNC,
            "HF_MODEL_ID": "hub/m",
            "OPTION_MAX_MODEL_LEN": "2048",
            "OPTION_ENABLE_AUTO_TOOL_CHOICE": "true",
            "OPTION_TOOL_CALL_PARSER": "hermes",
            "SERVING_FAIL_FAST": "true",
        },
        own={"model_id": "hub/m", "tool_call_parser": "hermes"},
        engine={"max_model_len": "2048"},
        as_default=("enable_auto_tool_choice",),
    ),
    "LMI, the shortest": Recipe(
        {"HF_MODEL_ID": "hub/m", "TENSOR_PARALLEL_DEGREE": "max"},
        own={"model_id": "hub/m"},
        engine={"tensor_parallel_size": "4"},
    ),
    "LMI's simple names": Recipe(
        {
            "HF_MODEL_ID": "hub/m",
            "HF_REVISION": "abc",
            "HF_TOKEN": "hf_secret",
            "HF_MODEL_TRUST_REMOTE_CODE": "True",
            "TENSOR_PARALLEL_DEGREE": "2",
            "MAX_BATCH_SIZE": "64",
            "MAX_CONCURRENT_REQUESTS": "1000",
            "HF_TASK": "text-generation",
        },
        own={"model_id": "hub/m", "job_queue_size": 1000, "task": "text-generation"},
        engine={"revision": "abc", "trust_remote_code": "True", "tensor_parallel_size": "2", "max_num_seqs": "64"},
    ),
    "LMI's embedding guide, serving.properties": Recipe(
        properties="engine=Python\noption.model_id=hub/m\noption.task=feature-extraction\n"
        "option.entryPoint=djl_python.lmi_vllm.vllm_async_service\noption.rolling_batch=disable\n"
        "option.async_mode=true\noption.normalize=false\n",
        own={"model_id": "hub/m", "task": "text-embedding", "normalize": "false"},
    ),
    "LMI's vLLM guide, serving.properties": Recipe(
        properties="engine=Python\noption.tensor_parallel_degree=max\noption.model_id=hub/m\noption.rolling_batch=vllm\n"
        "# Adjust the following based on model size and instance type\noption.max_rolling_batch_size=64\n",
        own={"model_id": "hub/m"},
        engine={"tensor_parallel_size": "4", "max_num_seqs": "64"},
    ),
    "LMI, serving.properties of a vision model, indented": Recipe(
        {"OPTION_LIMIT_MM_PER_PROMPT": '{"image": 4}'},
        "engine=Python\n    option.async_mode=true\n    option.rolling_batch=disable\n"
        "    option.entryPoint=djl_python.lmi_vllm.vllm_async_service\n    option.tensor_parallel_degree=max\n"
        "    option.model_loading_timeout=900\n    fail_fast=true\n    option.max_model_len=8192\n"
        "    option.max_rolling_batch_size=16\n    option.trust_remote_code=true\n    option.model_id=hub/m\n"
        "    option.revision=main\n    ",
        own={"model_id": "hub/m"},
        engine={
            "tensor_parallel_size": "4",
            "max_model_len": "8192",
            "max_num_seqs": "16",
            "trust_remote_code": "true",
            "revision": "main",
            "limit_mm_per_prompt": '{"image": 4}',
        },
    ),
    "LMI, tool calling guide": Recipe(
        {
            "HF_MODEL_ID": "hub/m",
            "HF_TOKEN": "***",
            "OPTION_ENABLE_AUTO_TOOL_CHOICE": "true",
            "OPTION_TOOL_CALL_PARSER": "llama3_json",
            "OPTION_ROLLING_BATCH": "vllm",
        },
        own={"model_id": "hub/m", "tool_call_parser": "llama3_json"},
        as_default=("enable_auto_tool_choice",),
    ),
    "LMI, rolling batch": Recipe(
        {
            "HF_MODEL_ID": "hub/m",
            "OPTION_TRUST_REMOTE_CODE": "true",
            "OPTION_PREDICT_TIMEOUT": "300",
            "SERVING_ENGINE": "Python",
            "SERVING_FEATURES": "vllm",
            "SERVING_MODEL_STORE": "/opt/ml/model",
            "OPT_OUT_TRACKING": "true",
            "SERVING_LOAD_MODELS": "test::Python=/opt/ml/model",
            "OPTION_ROLLING_BATCH": "vllm",
            "OPTION_MAX_ROLLING_BATCH_SIZE": "16",
            "OPTION_MAX_ROLLING_BATCH_PREFILL_TOKENS": "8000",
            "OPTION_ENABLE_LORA": "true",
            "OPTION_ENABLE_PREFIX_CACHING": "true",
            "OPTION_GPU_MEMORY_UTILIZATION": "0.85",
            "OPTION_OUTPUT_FORMATTER": "jsonlines",
        },
        own={"model_id": "hub/m", "predict_timeout": 300.0, "output_formatter": "jsonlines"},
        engine={
            "trust_remote_code": "true",
            "max_num_seqs": "16",
            "max_num_batched_tokens": "8000",
            "enable_prefix_caching": "true",
            "gpu_memory_utilization": "0.85",
            "enable_lora": "true",
        },
    ),
    "LMI 13, a sample stack's": Recipe(
        {
            "HF_MODEL_ID": "hub/m",
            "OPTION_MAX_MODEL_LEN": "10000",
            "OPTION_GPU_MEMORY_UTILIZATION": "0.95",
            "OPTION_ENABLE_STREAMING": "false",
            "OPTION_ROLLING_BATCH": "auto",
            "OPTION_MODEL_LOADING_TIMEOUT": "3600",
            "OPTION_PAGED_ATTENTION": "false",
            "OPTION_LOAD_IN_8BIT": "false",
            "OPTION_DTYPE": "fp16",
            "MAX_CONCURRENT_REQUESTS": "10",
            "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
            "SM_NUM_GPUS": "4",
        },
        own={"model_id": "hub/m", "job_queue_size": 10},
        engine={
            "max_model_len": "10000",
            "gpu_memory_utilization": "0.95",
            "dtype": "float16",
            "tensor_parallel_size": "4",
        },
    ),
    "LMI, from Terraform": Recipe(
        {
            **ASYNC,
            "HF_MODEL_ID": "/opt/ml/model",
            "HF_TOKEN": "",
            "OPTION_TRUST_REMOTE_CODE": "true",
            "OPTION_MODEL_LOADING_TIMEOUT": "3600",
            "OPTION_TENSOR_PARALLEL_DEGREE": "max",
            "OPTION_DTYPE": "bf16",
            "OPTION_QUANTIZE": "fp8",
            "OPTION_MAX_MODEL_LEN": "32768",
            "SERVING_FAIL_FAST": "true",
        },
        own={"model_id": "/opt/ml/model"},
        engine={
            "trust_remote_code": "true",
            "tensor_parallel_size": "4",
            "dtype": "bfloat16",
            "quantization": "fp8",
            "max_model_len": "32768",
        },
    ),
    "a fine-tuning hub's hosting profile": Recipe(
        {
            **ASYNC,
            "OPTION_ENABLE_LORA": "true",
            "OPTION_MAX_LORAS": "8",
            "OPTION_MAX_CPU_LORAS": "64",
            "OPTION_TENSOR_PARALLEL_DEGREE": "8",
            "OPTION_MAX_ROLLING_BATCH_SIZE": "1",
            "SAGEMAKER_MAX_NUMBER_OF_ADAPTERS_IN_MEMORY": "128",
            "SAGEMAKER_ENABLE_LOAD_AWARE": "1",
        },
        engine={
            "tensor_parallel_size": "8",
            "max_num_seqs": "1",
            "enable_lora": "true",
            "max_loras": "8",
            "max_cpu_loras": "64",
        },
    ),
    "JumpStart on LMI": Recipe(
        {**JUMPSTART, **SDK, "OPTION_GPU_MEMORY_UTILIZATION": "0.85", "OPTION_TENSOR_PARALLEL_DEGREE": "4"},
        own={"model_id": "/opt/ml/model", "predict_timeout": 3600.0},
        engine={"gpu_memory_utilization": "0.85", "tensor_parallel_size": "4"},
    ),
    "JumpStart on TGI": Recipe(
        {**JUMPSTART, "MAX_INPUT_LENGTH": "4095", "MAX_TOTAL_TOKENS": "4096", "SM_NUM_GPUS": "1"},
        own={"model_id": "/opt/ml/model", "max_input_tokens": 4095},
        engine={"max_model_len": "4096", "tensor_parallel_size": "1"},
    ),
    "TGI on SageMaker": Recipe(
        {
            **SDK,
            "HF_MODEL_ID": "hub/m",
            "SM_NUM_GPUS": "4",
            "NUM_SHARD": "4",
            "MAX_INPUT_LENGTH": "2048",
            "MAX_TOTAL_TOKENS": "4096",
            "MAX_BATCH_TOTAL_TOKENS": "8192",
            "MAX_BATCH_PREFILL_TOKENS": "4096",
            "HF_MODEL_QUANTIZE": "awq",
            "DTYPE": "bfloat16",
            "CUDA_MEMORY_FRACTION": "0.9",
            "ENABLE_CUDA_GRAPHS": "true",
            "MESSAGES_API_ENABLED": "true",
            "MAX_STOP_SEQUENCES": "6",
        },
        own={"model_id": "hub/m", "max_input_tokens": 2048, "max_stop": 6, "predict_timeout": 3600.0},
        engine={
            "tensor_parallel_size": "4",
            "max_model_len": "4096",
            "max_num_batched_tokens": "4096",
            "quantization": "awq",
            "dtype": "bfloat16",
            "gpu_memory_utilization": "0.9",
            "enforce_eager": "false",
        },
    ),
    "vLLM's container": Recipe(
        {
            "SM_VLLM_MODEL": "hub/m",
            "SM_VLLM_HOST": "127.0.0.1",
            "PROCESS_AUTO_RECOVERY": "true",
            "SM_VLLM_HF_TOKEN": "hf_secret",
            "SM_VLLM_MAX_MODEL_LEN": "12000",
            "SM_VLLM_LIMIT_MM_PER_PROMPT": '{"image":6, "video":0}',
            "SM_VLLM_MM_PROCESSOR_CACHE_GB": "0",
            "SM_VLLM_ENFORCE_EAGER": "",
            "SM_VLLM_ENABLE_PREFIX_CACHING": "true",
            "SM_VLLM_NO_ENABLE_CHUNKED_PREFILL": "true",
            "SM_VLLM_TRUST_REMOTE_CODE": "True",
            "SM_VLLM_SERVED_MODEL_NAME": "name",
            "SM_VLLM_ENABLE_AUTO_TOOL_CHOICE": "true",
            "SM_VLLM_TOOL_CALL_PARSER": "hermes",
            "SM_VLLM_REASONING_PARSER": "qwen3",
            "SAGEMAKER_ENABLE_LOAD_AWARE": "1",
        },
        own={
            "model_id": "hub/m",
            "host": "127.0.0.1",
            "served_model_name": "name",
            "tool_call_parser": "hermes",
            "reasoning_parser": "qwen3",
        },
        engine={
            "hf_token": "hf_secret",
            "max_model_len": "12000",
            "limit_mm_per_prompt": '{"image":6, "video":0}',
            "mm_processor_cache_gb": "0",
            "enforce_eager": "true",
            "enable_prefix_caching": "true",
            "enable_chunked_prefill": "false",
            "trust_remote_code": "True",
        },
        as_default=("enable_auto_tool_choice",),
    ),
    "LMI, many of the engine's own": Recipe(
        {
            "OPTION_SPECULATIVE_CONFIG": '{"method":"ngram","num_speculative_tokens":4,"prompt_lookup_max":3}',
            "OPTION_MAX_NUM_BATCHED_TOKENS": "32768",
            "OPTION_ENABLE_CHUNKED_PREFILL": "true",
            "OPTION_KV_CACHE_DTYPE": "auto",
            "OPTION_TOKENIZER_MODE": "auto",
            "OPTION_LOAD_FORMAT": "auto",
            "OPTION_GENERATION_CONFIG": "vllm",
            "OPTION_ALLOWED_MEDIA_DOMAINS": '["a.org", "b.org"]',
            "OPTION_CPU_OFFLOAD_GB_PER_GPU": "4",
            "OPTION_SEED": "-1",
            "OPTION_SWAP_SPACE": "4",
            "OPTION_DEVICE": "auto",
            "OPTION_QUANTIZE": "",
        },
        engine={
            "speculative_config": '{"method":"ngram","num_speculative_tokens":4,"prompt_lookup_max":3}',
            "max_num_batched_tokens": "32768",
            "enable_chunked_prefill": "true",
            "kv_cache_dtype": "auto",
            "tokenizer_mode": "auto",
            "load_format": "auto",
            "generation_config": "vllm",
            "cpu_offload_gb": "4",
            "seed": "-1",
        },
        own={"allowed_media_domains": '["a.org", "b.org"]'},
    ),
    "batch transform": Recipe(
        {
            "HF_MODEL_ID": "hub/m",
            "SAGEMAKER_BATCH": "true",
            "SAGEMAKER_MAX_PAYLOAD_IN_MB": "6",
            "SAGEMAKER_BATCH_STRATEGY": "SINGLE_RECORD",
            "SAGEMAKER_MAX_CONCURRENT_TRANSFORMS": "8",
            "SAGEMAKER_BIND_TO_PORT": "8081",
            "SAGEMAKER_SAFE_PORT_RANGE": "9000-9099",
        },
        own={"model_id": "hub/m", "max_request_size": 6 * 2**20, "port": 8081, "safe_port_range": "9000-9099"},
    ),
}
