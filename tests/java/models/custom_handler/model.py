"""A custom handler in the manner of LMI's guide for vLLM: its own engine, its own format, whole and streamed."""

import uuid

from djl_python import Input
from djl_python.async_utils import create_non_stream_output, create_stream_chunk_output
from djl_python.encode_decode import decode

engine = None


async def handle(inputs: Input):
    global engine
    if engine is None:
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        properties = inputs.get_properties()
        args = AsyncEngineArgs(
            model=properties["model_id"], dtype="float32", max_model_len=512, enforce_eager=True, max_num_seqs=16
        )
        engine = AsyncLLM.from_engine_args(args)
    if inputs.is_empty():
        return None
    payload = decode(inputs, inputs.get_property("Content-Type"))
    if "question" not in payload:
        return create_non_stream_output("", error="question is missing", code=400)
    tokenizer = engine.get_tokenizer()
    turns = [{"role": "user", "content": payload["question"]}]
    prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    outputs = engine.generate(prompt, sampling(payload), request_id=str(uuid.uuid4()))
    if payload.get("stream"):
        return stream(outputs)
    text = ""
    async for output in outputs:
        text += output.outputs[0].text
    return create_non_stream_output({"answer": text}, properties={"x-handled-by": "custom"})


def sampling(payload):
    from vllm import SamplingParams as VllmSamplingParams
    from vllm.sampling_params import RequestOutputKind

    most = payload.get("most", 8)
    return VllmSamplingParams(temperature=0, max_tokens=most, output_kind=RequestOutputKind.DELTA)


async def stream(outputs):
    async for output in outputs:
        yield create_stream_chunk_output({"piece": output.outputs[0].text}, output.finished)
