"""Shrink vLLM's queues between processes, for a container with little shared memory.

vLLM reserves 240 MiB of /dev/shm for what a worker answers, whatever the model; a container has 64 MiB unless it is
started with `--shm-size`, which SageMaker does not. vLLM imports this file in each worker, before that queue is made,
when `worker_extension_cls` names the class below. A message that is larger than its place in the queue goes through a
socket, so small places cost time only where such messages are common (hundreds of guided requests at once).
"""

from typing import Any

import vllm.envs
from vllm.v1.executor import multiproc_executor


class Small:
    """A class for vLLM to mix into the worker's; it adds nothing."""


class _Queue(multiproc_executor.MessageQueue):
    def __init__(self, *readers: int, **options: Any) -> None:
        room = {"max_chunk_bytes": vllm.envs.VLLM_MQ_MAX_CHUNK_BYTES_MB << 20}
        super().__init__(*readers, **(room | options))


multiproc_executor.MessageQueue = _Queue
