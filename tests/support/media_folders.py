"""Write small models of random weights that take images, videos or sound: a LLaVA, a Qwen2-VL, a Qwen2-Audio.

Each has the default model's tokenizer, in which tokens that it reserves are renamed, and says other things of other
media: weights are larger than a model begins with before it is trained.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmi_chat.server import default_model

SEED = 7
SPREAD = 0.3
"""Of the weights, whose mean is 0."""
TEXT = {
    "hidden_size": 128,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "initializer_range": SPREAD,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
IMAGE_TOKEN = "<image>"
IMAGE_TOKENS = 4
"""Of one image, for llava_folder's model: two by two patches."""
LLAVA_IMAGES = {
    "image_processor_type": "CLIPImageProcessor",
    "crop_size": {"height": 28, "width": 28},
    "size": {"shortest_edge": 28},
    **dict.fromkeys(("do_center_crop", "do_convert_rgb", "do_normalize", "do_rescale", "do_resize"), True),
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.25, 0.25, 0.25],
    "resample": 3,
}
LLAVA_PROCESSOR = {
    "processor_class": "LlavaProcessor",
    "image_token": IMAGE_TOKEN,
    "patch_size": 14,
    "num_additional_image_tokens": 1,
    "vision_feature_select_strategy": "default",
}
TEMPLATE = """\
{%- for message in messages -%}
    {{- "<|im_start|>" + message.role + "\\n" -}}
    {%- if message.content is string -%}
        {{- message.content -}}
    {%- else -%}
        {%- for part in message.content -%}
            PARTS
            {{- part.text -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {{- "<|im_end|>\\n" -}}
{%- endfor -%}
{%- if add_generation_prompt %}{{ "<|im_start|>assistant\\n" }}{% endif -%}
"""
LLAVA_TEMPLATE = TEMPLATE.replace("PARTS", '{%- if part.type == "image" %}{{ "<image>" }}{% else -%}')
IMAGE_PAD, VIDEO_PAD, BEGIN, END = "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"
QWEN_TEMPLATE = TEMPLATE.replace(
    "PARTS",
    f'{{%- if part.type == "image" %}}{{{{ "{BEGIN}{IMAGE_PAD}{END}" }}}}'
    f'{{% elif part.type == "video" %}}{{{{ "{BEGIN}{VIDEO_PAD}{END}" }}}}{{% else -%}}',
)
PATCH, MERGED = 14, 2
"""Pixels of a patch's side; patches of a token's side."""
MOST_PIXELS = 256 * (PATCH * MERGED) ** 2
QWEN_IMAGES = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "patch_size": PATCH,
    "temporal_patch_size": 2,
    "merge_size": MERGED,
    "min_pixels": (PATCH * MERGED) ** 2,
    "max_pixels": MOST_PIXELS,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.25, 0.25, 0.25],
}
SOUND_TOKEN = "<|AUDIO|>"


def llava_folder(target: Path) -> Path:
    """A LLaVA of two small layers.

    Its chat template stands where processors have it, so that the tokenizer alone has none.
    """
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    words = _tokenizer(target, {"<jupyter_text>": IMAGE_TOKEN}, "LlavaProcessor")
    _write(target, preprocessor_config=LLAVA_IMAGES, processor_config=LLAVA_PROCESSOR)
    _write(target, chat_template={"chat_template": LLAVA_TEMPLATE})
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
        projection_dim=32,
        initializer_range=SPREAD,
    )
    text = LlamaConfig(**TEXT, vocab_size=len(words))
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=words[IMAGE_TOKEN])
    _weights(target, LlavaForConditionalGeneration, config)
    _rename(target, r"^vision_tower\.(?!vision_model)", "vision_tower.vision_model.")
    return target


def qwen_folder(target: Path) -> Path:
    """A Qwen2-VL of two small layers, which takes images and videos of any size: a token for each 28 by 28 pixels."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    named = {"<jupyter_start>": BEGIN, "<jupyter_text>": IMAGE_PAD, "<jupyter_code>": VIDEO_PAD}
    words = _tokenizer(target, {**named, "<jupyter_output>": END}, "Qwen2VLProcessor")
    (target / "chat_template.jinja").write_text(QWEN_TEMPLATE)
    videos = {**QWEN_IMAGES, "video_processor_type": "Qwen2VLVideoProcessor"}
    _write(target, preprocessor_config=QWEN_IMAGES, video_preprocessor_config=videos)
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": TEXT["hidden_size"], "num_heads": 2, "mlp_ratio": 2}
    rope = {"type": "mrope", "rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 10_000.0}
    config = Qwen2VLConfig(
        vision_config={**vision, "patch_size": PATCH, "spatial_merge_size": MERGED, "initializer_range": SPREAD},
        text_config={**TEXT, "vocab_size": len(words), "rope_parameters": rope},
        image_token_id=words[IMAGE_PAD],
        video_token_id=words[VIDEO_PAD],
        vision_start_token_id=words[BEGIN],
        vision_end_token_id=words[END],
    )
    _weights(target, Qwen2VLForConditionalGeneration, config)
    return target


def hearing_folder(target: Path) -> Path:
    """A Qwen2-Audio of one small layer. The chat template is its processor's own."""
    from transformers import (
        Qwen2AudioConfig,
        Qwen2AudioEncoderConfig,
        Qwen2AudioForConditionalGeneration,
        Qwen2Config,
        WhisperFeatureExtractor,
    )

    named = {"<jupyter_start>": "<|audio_bos|>", "<jupyter_code>": "<|audio_eos|>", "<jupyter_text>": SOUND_TOKEN}
    words = _tokenizer(target, named, "Qwen2AudioProcessor")
    hearing = {"d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 64}
    config = Qwen2AudioConfig(
        audio_config=Qwen2AudioEncoderConfig(**hearing, initializer_range=SPREAD).to_dict(),
        text_config=Qwen2Config(**TEXT, vocab_size=len(words)).to_dict(),
        audio_token_index=words[SOUND_TOKEN],
        initializer_range=SPREAD,
    )
    _weights(target, Qwen2AudioForConditionalGeneration, config)
    _rename(target, r"^language_model\.model\.model\.", "language_model.model.")
    WhisperFeatureExtractor(feature_size=128, processor_class="Qwen2AudioProcessor").save_pretrained(target)
    return target


def _tokenizer(target: Path, named: Mapping[str, str], processor: str) -> dict[str, int]:
    """Write the default model's tokenizer with tokens renamed and without a template; return its vocabulary."""
    source = default_model.fetch(default_model.folder())
    target.mkdir(parents=True, exist_ok=True)
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    words: dict[str, int] = tokenizer["model"]["vocab"]
    for added in tokenizer["added_tokens"]:
        if name := named.get(added["content"]):
            words[name] = words.pop(added["content"])
            added["content"] = name
    settings = json.loads((source / "tokenizer_config.json").read_text())
    for name in ("chat_template", "added_tokens_decoder", "additional_special_tokens"):
        settings.pop(name, None)
    _write(target, tokenizer=tokenizer, tokenizer_config=settings | {"processor_class": processor})
    return words


def _write(target: Path, **documents: Any) -> None:
    for name, value in documents.items():
        (target / f"{name}.json").write_text(json.dumps(value))


def _weights(target: Path, model: Any, config: Any) -> None:
    import torch

    torch.manual_seed(SEED)
    model(config).save_pretrained(target)


def _rename(target: Path, pattern: str, name: str) -> None:
    """Name weights as checkpoints do, and vLLM."""
    from safetensors.torch import load_file, save_file

    weights = load_file(target / "model.safetensors")
    renamed = {re.sub(pattern, name, old): one for old, one in weights.items()}
    save_file(renamed, target / "model.safetensors", {"format": "pt"})
