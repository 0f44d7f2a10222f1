"""The model: a Llama of four layers without weights (the engine draws random ones), and a tokenizer of bytes.

With one token a byte and no merges, an ASCII text of n characters is n tokens, so that the load plan decides lengths
exactly. Four layers of two key-value heads of 64 make 2048 bytes a token in 16 bits, as in the shipped recordings.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

CONTEXT_TOKENS: Final = 2048
LAYERS: Final = 4
KV_HEADS: Final = 2
HEAD_SIZE: Final = 64
BYTES_PER_TOKEN: Final = 2 * LAYERS * KV_HEADS * HEAD_SIZE * 2
"""Keys and values of one token in 16 bits."""
END: Final = "<|end|>"
_END_ID: Final = 256
_VOCABULARY: Final = 257


def files() -> Mapping[str, Mapping[str, Any]]:
    """Return the model's files by name, each as JSON."""
    return {
        "config.json": {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": 512,
            "intermediate_size": 1408,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": 8,
            "num_key_value_heads": KV_HEADS,
            "head_dim": HEAD_SIZE,
            "hidden_act": "silu",
            "max_position_embeddings": CONTEXT_TOKENS,
            "rms_norm_eps": 1e-5,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            "initializer_range": 0.02,
            "vocab_size": _VOCABULARY,
            "tie_word_embeddings": False,
            "bos_token_id": None,
            "eos_token_id": _END_ID,
            "dtype": "bfloat16",
        },
        "generation_config.json": {"eos_token_id": _END_ID},
        "tokenizer.json": _tokenizer(),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": END,
            "model_max_length": CONTEXT_TOKENS,
            "clean_up_tokenization_spaces": False,
        },
    }


def write(folder: Path) -> None:
    """Write the model."""
    folder.mkdir(exist_ok=True)
    for name, content in files().items():
        (folder / name).write_text(json.dumps(content, indent=1) + "\n")


def alphabet() -> list[str]:
    """Return the character that stands for each byte in a byte-level vocabulary (the convention of GPT-2)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def _tokenizer() -> Mapping[str, Any]:
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": _END_ID,
                "content": END,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
        ],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {character: byte for byte, character in enumerate(alphabet())},
            "merges": [],
        },
    }
