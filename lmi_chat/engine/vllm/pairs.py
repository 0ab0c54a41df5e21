"""Tokenise pairs of texts for models that score or classify both together, by the rules of vLLM's own servers.

Leans on: CrossEncoderIOProcessor, its `get_score_prompt` and `tokenizer`, and `compress_token_type_ids`.
"""

import copy
import threading
from functools import partial
from typing import Any

from lmi_chat.chat_template import MakePairEncoder
from lmi_chat.engine.vllm.errors import translate
from lmi_chat.errors import Error


def of(engine: Any) -> MakePairEncoder | None:
    """Make encoders of pairs for an AsyncLLM's model; None where its tokenizer has none.

    An encoder is made with the chat template that writes both texts into one prompt, or without.
    """
    from vllm.utils.mistral import is_mistral_tokenizer

    return None if is_mistral_tokenizer(engine.get_tokenizer()) else partial(_Pairs, engine)


class _Pairs:
    """Turns a query and a document into the model's one prompt.

    A tokenizer that cuts keeps how long and on which side in itself: this one is a copy, for one thread at a time.
    """

    def __init__(self, engine: Any, template: str | None) -> None:
        from vllm.entrypoints.pooling.scoring.io_processor import CrossEncoderIOProcessor
        from vllm.renderers.chat_utils import ChatTemplateConfig

        config = ChatTemplateConfig(chat_template=template)
        self._processor = CrossEncoderIOProcessor(
            vllm_config=engine.vllm_config, renderer=engine.renderer, chat_template_config=config
        )
        self._processor.tokenizer = copy.deepcopy(engine.get_tokenizer())
        self._template = template
        self._lock = threading.Lock()

    @property
    def takes_instruction(self) -> bool:
        """See PairEncoder."""
        return self._template is not None

    def encode(
        self,
        query: str,
        document: str,
        *,
        most: int,
        side: str = "",
        query_tokens: int = 0,
        document_tokens: int = 0,
        instruction: str = "",
    ) -> tuple[list[int], int | None]:
        """See PairEncoder."""
        cut = {"truncation": False} if side else {"truncation": True, "max_length": most}
        try:
            with self._lock:
                _, prompt = self._processor.get_score_prompt(
                    data_1=query,
                    data_2=document,
                    encode_kwargs={"add_special_tokens": True, **cut},
                    chat_template=self._template,
                    max_tokens_per_query=query_tokens,
                    max_tokens_per_doc=document_tokens,
                    chat_template_kwargs={"instruction": instruction} if instruction else None,
                )
        except Error:
            raise
        except Exception as error:  # a template, and a model's own code
            raise translate(error) from error
        return _cut(prompt["prompt_token_ids"], prompt.get("token_type_ids"), most, side)


def _cut(ids: list[int], types: list[int] | None, most: int, side: str) -> tuple[list[int], int | None]:
    """Keep `most` of the tokens, the last of them for the left side; find where the second text begins."""
    from vllm.entrypoints.pooling.scoring.utils import compress_token_type_ids

    part = slice(-most, None) if side == "left" else slice(most)
    return ids[part], compress_token_type_ids(types[part]) if types else None
