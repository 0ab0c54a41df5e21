"""Write a tiny Whisper of random weights with a byte-level tokenizer, most of whose tokens are timestamps."""

import json
from pathlib import Path
from typing import Any

LANGUAGES = 99
TIMESTAMPS = 1501
CONTEXT = 448
CONFIG = {
    "architectures": ["WhisperForConditionalGeneration"],
    "model_type": "whisper",
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "num_mel_bins": 80,
    "max_source_positions": 1500,
    "max_target_positions": CONTEXT,
    "torch_dtype": "float32",
}
EXTRACTOR = {
    "feature_extractor_type": "WhisperFeatureExtractor",
    "processor_class": "WhisperProcessor",
    "chunk_length": 30,
    "feature_size": 80,
    "hop_length": 160,
    "n_fft": 400,
    "n_samples": 480_000,
    "nb_max_frames": 3000,
    "sampling_rate": 16_000,
    "padding_side": "right",
    "padding_value": 0.0,
    "return_attention_mask": False,
}


def special_tokens() -> list[str]:
    """Whisper's own names, in its order; timestamps come after these."""
    from transformers.models.whisper.tokenization_whisper import LANGUAGES as KNOWN

    return [
        "<|endoftext|>",
        "<|startoftranscript|>",
        *(f"<|{code}|>" for code in [*KNOWN][:LANGUAGES]),
        *("<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"),
    ]


def tokenizer() -> Any:
    """A token for each byte, the special tokens, and a timestamp for each 0.02 s of a clip."""
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(BPE({letter: place for place, letter in enumerate(letters)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(name, special=True) for name in special_tokens()])
    made.add_tokens([AddedToken(f"<|{place * 0.02:.2f}|>", special=False) for place in range(TIMESTAMPS)])
    return made


def make(folder: Path) -> Path:
    """A whole folder, weights too, always the same ones."""
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    folder.mkdir(parents=True, exist_ok=True)
    built = tokenizer()
    built.save(str(folder / "tokenizer.json"), pretty=False)
    end, begin = built.token_to_id("<|endoftext|>"), built.token_to_id("<|startoftranscript|>")
    ids = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end, "decoder_start_token_id": begin}
    config = CONFIG | ids | {"vocab_size": built.get_vocab_size()}
    torch.manual_seed(1)
    model = WhisperForConditionalGeneration(WhisperConfig(**config, init_std=0.4))
    model.save_pretrained(folder)
    settings = {
        "tokenizer_class": "WhisperTokenizer",
        "processor_class": "WhisperProcessor",
        **dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), "<|endoftext|>"),
        "additional_special_tokens": special_tokens()[1:],
        "model_max_length": CONTEXT,
        "clean_up_tokenization_spaces": False,
    }
    for name, content in (
        ("config", config),
        ("generation_config", {**ids, "max_length": CONTEXT}),
        ("preprocessor_config", EXTRACTOR),
        ("tokenizer_config", settings),
    ):
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder
