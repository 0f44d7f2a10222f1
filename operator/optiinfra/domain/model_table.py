"""Public architectures by name: what a model's own configuration file says, for those that people mostly serve.

Source of every row: `config.json` of the model's repository (num_hidden_layers, num_key_value_heads, head_dim,
kv_lora_rank + qk_rope_head_dim, sliding_window and layer types), parameters from its model card. A name has to show
family and size; a fine-tune or a quantised variant keeps both, so that `hugging-quants/Meta-Llama-3.1-8B-AWQ-INT4`
is a Llama 3.1 of eight billion. What shows only one of them, or is another model under a like name (vision,
embedding, draft models), is unknown: `spec.model` says what the table does not.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from optiinfra.domain.model_facts import Attention, ModelFacts, merged
from optiinfra.domain.readings import Unknown, UnknownReason

MAX_NAME: Final = 256
"""Longer names are not looked at."""
_BILLION: Final = 1e9
_K: Final = 1024.0
_NOT_APPLICABLE: Final = Unknown(UnknownReason.UNSUPPORTED, "not of this kind of model")
_STATE: Final = Unknown(UnknownReason.UNSUPPORTED, "a hybrid model's cache is no function of layers and heads")
_OTHER_MODELS: Final = re.compile(
    r"(?:^|[-.])(?:vl|vision|audio|omni|video|embed(?:ding)?s?|reranker|reward|rm|eagle\d?|draft|speculator|medusa|mtp|"
    r"lora|adapter|minitron|asr|tts)(?:$|[-.0-9])"
)


@dataclass(frozen=True, slots=True)
class _Row:
    """One architecture; sizes in billions, contexts in tokens."""

    family: str
    """Regular expression over the normalised name."""
    size: str
    """The size as names write it; empty where the family has one only."""
    name: str
    billions: float
    layers: int
    kv_heads: int = 0
    head: int = 0
    context: float = 0.0
    active: float = 0.0
    """Billions of parameters that a token uses; 0: all."""
    bytes_each: float = 2.0
    window: int = 0
    windowed: int = 0
    latent: int = 0

    @property
    def facts(self) -> ModelFacts:
        attention = Attention.LATENT if self.latent else Attention.SLIDING if self.window else Attention.FULL
        return ModelFacts(
            name=self.name,
            parameters=self.billions * _BILLION,
            active_parameters=(self.active or self.billions) * _BILLION,
            layers=float(self.layers),
            kv_heads=float(self.kv_heads) or _NOT_APPLICABLE,
            head_size=float(self.head) or _NOT_APPLICABLE,
            weight_bytes_each=self.bytes_each,
            context_tokens=self.context,
            attention=attention,
            window_tokens=float(self.window) or _NOT_APPLICABLE,
            windowed_layers=float(self.windowed) or _NOT_APPLICABLE,
            latent_size=float(self.latent) or _NOT_APPLICABLE,
        )


_LLAMA_2: Final = r"llama-?2(?![.\d])|vicuna|codellama|code-llama"
_LLAMA_3: Final = r"llama-?3(?![.\d])(?!-[123](?![0-9b.]))"
_LLAMA_31: Final = r"llama-?3[.-]1(?![0-9b])"
_LLAMA_32: Final = r"llama-?3[.-]2(?![0-9b])"
_LLAMA_33: Final = r"llama-?3[.-]3(?![0-9b])"
_QWEN_25: Final = r"qwen-?2(?:[.-]5)?(?![.\d])|qwq"
_QWEN_3: Final = r"qwen-?3(?![.\d])(?!-next)"
_DEEPSEEK_V3: Final = r"deepseek-(?:v3(?:[.-]1)?|r1(?:-zero|-0528)?)(?![.\d])(?!-[2-9](?!\d))"
_ROWS: Final = (
    # Distillations carry two families in their names; the architecture is that of the second.
    _Row("r1-distill-llama", "8b", "llama-3.1-8b", 8.03, 32, 8, 128, 128 * _K),
    _Row("r1-distill-llama", "70b", "llama-3.3-70b", 70.55, 80, 8, 128, 128 * _K),
    _Row("r1-distill-qwen", "1.5b", "qwen2.5-1.5b", 1.777, 28, 2, 128, 128 * _K),
    _Row("r1-distill-qwen", "7b", "qwen2.5-7b", 7.616, 28, 4, 128, 128 * _K),
    _Row("r1-distill-qwen", "14b", "qwen2.5-14b", 14.77, 48, 8, 128, 128 * _K),
    _Row("r1-distill-qwen", "32b", "qwen2.5-32b", 32.76, 64, 8, 128, 128 * _K),
    _Row("tiny-?llama", "1.1b", "tinyllama-1.1b", 1.1, 22, 4, 64, 2 * _K),
    _Row(_LLAMA_2, "7b", "llama-2-7b", 6.74, 32, 32, 128, 4 * _K),
    _Row(_LLAMA_2, "13b", "llama-2-13b", 13.02, 40, 40, 128, 4 * _K),
    _Row(_LLAMA_2, "34b", "codellama-34b", 33.74, 48, 8, 128, 16 * _K),
    _Row(_LLAMA_2, "70b", "llama-2-70b", 68.98, 80, 8, 128, 4 * _K),
    _Row(_LLAMA_31, "8b", "llama-3.1-8b", 8.03, 32, 8, 128, 128 * _K),
    _Row(_LLAMA_31, "70b", "llama-3.1-70b", 70.55, 80, 8, 128, 128 * _K),
    _Row(_LLAMA_31, "405b", "llama-3.1-405b", 405.85, 126, 8, 128, 128 * _K),
    _Row(_LLAMA_32, "1b", "llama-3.2-1b", 1.236, 16, 8, 64, 128 * _K),
    _Row(_LLAMA_32, "3b", "llama-3.2-3b", 3.213, 28, 8, 128, 128 * _K),
    _Row(_LLAMA_33, "70b", "llama-3.3-70b", 70.55, 80, 8, 128, 128 * _K),
    _Row(_LLAMA_3, "8b", "llama-3-8b", 8.03, 32, 8, 128, 8 * _K),
    _Row(_LLAMA_3, "70b", "llama-3-70b", 70.55, 80, 8, 128, 8 * _K),
    # Three of four layers attend within chunks of 8192 tokens, and engines keep no more of them.
    _Row(r"llama-?4-scout", "", "llama-4-scout", 108.6, 48, 8, 128, 10240 * _K, active=17.2, window=8192, windowed=36),
    _Row(
        r"llama-?4-maverick",
        "",
        "llama-4-maverick",
        401.6,
        48,
        8,
        128,
        1024 * _K,
        active=17.2,
        window=8192,
        windowed=36,
    ),
    _Row(_QWEN_3, "480b-a35b", "qwen3-coder-480b-a35b", 480.2, 62, 8, 128, 256 * _K, active=35.0),
    _Row(_QWEN_3, "235b-a22b", "qwen3-235b-a22b", 235.1, 94, 4, 128, 40 * _K, active=22.2),
    _Row(_QWEN_3, "30b-a3b", "qwen3-30b-a3b", 30.53, 48, 4, 128, 40 * _K, active=3.35),
    _Row(_QWEN_3, "0.6b", "qwen3-0.6b", 0.596, 28, 8, 128, 40 * _K),
    _Row(_QWEN_3, "1.7b", "qwen3-1.7b", 1.72, 28, 8, 128, 40 * _K),
    _Row(_QWEN_3, "4b", "qwen3-4b", 4.02, 36, 8, 128, 40 * _K),
    _Row(_QWEN_3, "8b", "qwen3-8b", 8.19, 36, 8, 128, 40 * _K),
    _Row(_QWEN_3, "14b", "qwen3-14b", 14.77, 40, 8, 128, 40 * _K),
    _Row(_QWEN_3, "32b", "qwen3-32b", 32.76, 64, 8, 128, 40 * _K),
    _Row(_QWEN_25, "0.5b", "qwen2.5-0.5b", 0.494, 24, 2, 64, 32 * _K),
    _Row(_QWEN_25, "1.5b", "qwen2.5-1.5b", 1.544, 28, 2, 128, 32 * _K),
    _Row(_QWEN_25, "3b", "qwen2.5-3b", 3.086, 36, 2, 128, 32 * _K),
    _Row(_QWEN_25, "7b", "qwen2.5-7b", 7.616, 28, 4, 128, 32 * _K),
    _Row(_QWEN_25, "14b", "qwen2.5-14b", 14.77, 48, 8, 128, 32 * _K),
    _Row(_QWEN_25, "32b", "qwen2.5-32b", 32.76, 64, 8, 128, 32 * _K),
    _Row(_QWEN_25, "72b", "qwen2.5-72b", 72.71, 80, 8, 128, 32 * _K),
    _Row(r"mixtral", "8x22b", "mixtral-8x22b", 140.6, 56, 8, 128, 64 * _K, active=39.2),
    _Row(r"mixtral", "8x7b", "mixtral-8x7b", 46.7, 32, 8, 128, 32 * _K, active=12.9),
    _Row(r"mistral.*7b.*v0[.-]1", "7b", "mistral-7b-v0.1", 7.24, 32, 8, 128, 32 * _K, window=4096, windowed=32),
    _Row(r"mistral|zephyr", "7b", "mistral-7b", 7.25, 32, 8, 128, 32 * _K),
    _Row(r"mistral-nemo", "(?:12b|2407)", "mistral-nemo-12b", 12.25, 40, 8, 128, 128 * _K),
    _Row(r"mistral-small", "24b", "mistral-small-24b", 23.57, 40, 8, 128, 32 * _K),
    _Row(r"mistral-large", "(?:123b|2407|2411)", "mistral-large-123b", 122.6, 88, 8, 128, 128 * _K),
    _Row(r"gemma-?3", "1b", "gemma-3-1b", 1.0, 26, 1, 256, 32 * _K, window=512, windowed=22),
    _Row(r"gemma-?3", "4b", "gemma-3-4b", 4.3, 34, 4, 256, 128 * _K, window=1024, windowed=29),
    _Row(r"gemma-?3", "12b", "gemma-3-12b", 12.19, 48, 8, 256, 128 * _K, window=1024, windowed=40),
    _Row(r"gemma-?3", "27b", "gemma-3-27b", 27.43, 62, 16, 128, 128 * _K, window=1024, windowed=52),
    _Row(r"gemma-?2", "2b", "gemma-2-2b", 2.61, 26, 4, 256, 8 * _K, window=4096, windowed=13),
    _Row(r"gemma-?2", "9b", "gemma-2-9b", 9.24, 42, 8, 256, 8 * _K, window=4096, windowed=21),
    _Row(r"gemma-?2", "27b", "gemma-2-27b", 27.23, 46, 16, 128, 8 * _K, window=4096, windowed=23),
    _Row(r"phi-?3[.-]5-mini|phi-?3-mini-128k", "", "phi-3-mini-128k", 3.82, 32, 32, 96, 128 * _K),
    _Row(r"phi-?3-mini-4k", "", "phi-3-mini-4k", 3.82, 32, 32, 96, 4 * _K, window=2047, windowed=32),
    _Row(r"phi-?3-medium-128k", "", "phi-3-medium-128k", 13.96, 40, 10, 128, 128 * _K),
    _Row(r"phi-?4-mini", "", "phi-4-mini", 3.84, 32, 8, 128, 128 * _K),
    _Row(r"phi-?4(?!-(?:mini|multi))", "", "phi-4", 14.66, 40, 10, 128, 16 * _K),
    _Row(r"deepseek-(?:coder-)?v2-lite", "", "deepseek-v2-lite", 15.71, 27, latent=576, context=160 * _K, active=2.4),
    _Row(
        r"deepseek-(?:coder-)?v2(?:[.-]5)?(?!-lite)",
        "",
        "deepseek-v2",
        235.7,
        60,
        latent=576,
        context=160 * _K,
        active=21.0,
    ),
    _Row(_DEEPSEEK_V3, "", "deepseek-v3", 671.0, 61, latent=576, context=160 * _K, active=37.0, bytes_each=1.0),
    _Row(
        r"kimi-k2-thinking",
        "",
        "kimi-k2-thinking",
        1026.0,
        61,
        latent=576,
        context=256 * _K,
        active=32.0,
        bytes_each=0.58,
    ),
    _Row(r"kimi-k2(?![.\d])", "", "kimi-k2", 1026.0, 61, latent=576, context=128 * _K, active=32.0, bytes_each=1.0),
    # MXFP4 experts, the rest in bfloat16: bytes of the published files over parameters.
    _Row(r"gpt-oss", "20b", "gpt-oss-20b", 20.9, 24, 8, 64, 128 * _K, 3.6, bytes_each=0.66, window=128, windowed=12),
    _Row(r"gpt-oss", "120b", "gpt-oss-120b", 116.8, 36, 8, 64, 128 * _K, 5.1, bytes_each=0.56, window=128, windowed=18),
    _Row(r"glm-4[.-][56]-air", "", "glm-4.5-air", 106.9, 46, 8, 128, 128 * _K, active=12.0),
    _Row(r"glm-4[.-][56](?!v|-air)", "", "glm-4.5", 355.0, 92, 8, 128, 128 * _K, active=32.0),
    _Row(r"falcon-?3", "7b", "falcon3-7b", 7.46, 28, 4, 256, 32 * _K),
    _Row(r"falcon-?3", "10b", "falcon3-10b", 10.31, 40, 4, 256, 32 * _K),
    _Row(r"falcon(?!-?[3eh])", "7b", "falcon-7b", 7.22, 32, 1, 64, 2 * _K),
    _Row(r"falcon(?!-?[3eh])", "40b", "falcon-40b", 41.8, 60, 8, 64, 2 * _K),
    _Row(r"falcon(?!-?[3eh])", "180b", "falcon-180b", 179.5, 80, 8, 64, 2 * _K),
    _Row(r"(?:^|-)yi(?=-)", "6b", "yi-6b", 6.06, 32, 4, 128, 4 * _K),
    _Row(r"(?:^|-)yi(?=-)", "9b", "yi-9b", 8.83, 48, 4, 128, 4 * _K),
    _Row(r"(?:^|-)yi(?=-)", "34b", "yi-34b", 34.39, 60, 8, 128, 4 * _K),
    _Row(r"command-r-plus-08-2024|command-r-plus", "", "command-r-plus", 103.8, 64, 8, 128, 128 * _K),
    _Row(r"dbrx", "", "dbrx", 131.6, 40, 8, 128, 32 * _K, active=36.0),
    _Row(r"granite-3(?:[.-][0-3])?(?=-)", "2b", "granite-3-2b", 2.53, 40, 8, 64, 128 * _K),
    _Row(r"granite-3(?:[.-][0-3])?(?=-)", "8b", "granite-3-8b", 8.17, 40, 8, 128, 128 * _K),
    _Row(r"smollm-?2", "135m", "smollm2-135m", 0.1345, 30, 3, 64, 8 * _K),
    _Row(r"smollm-?2", "360m", "smollm2-360m", 0.3618, 32, 5, 64, 8 * _K),
    _Row(r"smollm-?2", "1.7b", "smollm2-1.7b", 1.711, 24, 32, 64, 8 * _K),
    _Row(r"(?:^|-)opt", "125m", "opt-125m", 0.1252, 12, 12, 64, 2 * _K),
    _Row(r"(?:^|-)opt", "1.3b", "opt-1.3b", 1.316, 24, 32, 64, 2 * _K),
    _Row(r"(?:^|-)opt", "6.7b", "opt-6.7b", 6.658, 32, 32, 128, 2 * _K),
    _Row(r"(?:^|-)opt", "13b", "opt-13b", 12.85, 40, 40, 128, 2 * _K),
)
_HYBRIDS: Final = re.compile(
    r"jamba|nemotron-?h(?![a-z])|nemotron-nano-(?:9b|12b)-v2|nemotron-(?:nano-)?3(?![.\d])|mamba|zamba|bamba|samba|"
    r"granite-4[.-]0-h|qwen-?3-next|qwen-?3[.-]5|kimi-linear|falcon-?h1|minimax-(?:text|m1)|lfm-?2|rwkv|recurrentgemma|"
    r"hymba|phi-4-mini-flash"
)
_SNAPSHOT: Final = re.compile(r"/snapshots/[0-9a-f]+/?$")
"""How a local cache of Hugging Face ends; the model's name stands before it."""
_COMPILED: Final = tuple(
    (re.compile(row.family), re.compile(rf"(?<![a-z0-9.]){row.size}(?![a-z0-9])") if row.size else None, row)
    for row in _ROWS
)
MODELS: Final = tuple(dict.fromkeys(row.name for row in _ROWS))
"""Names of all architectures that the table knows."""


def recognise(name: str) -> ModelFacts:
    """Return the facts of a model by its name, path or identifier; nothing where family or size do not show.

    Only the last two parts of a path are looked at: a mount point tells nothing.
    """
    if len(name) > MAX_NAME:
        return ModelFacts()
    path = _SNAPSHOT.sub("", name.strip().lower()).replace("models--", "").replace("--", "/")
    parts = [part for part in re.split(r"[/:@]+", path) if part]
    for text in (*reversed(parts[-2:]), "-".join(parts[-2:])):
        plain = re.sub(r"[^a-z0-9.]+", "-", text)
        if _OTHER_MODELS.search(plain):
            return ModelFacts()
        hybrid = _HYBRIDS.search(plain)
        if hybrid is not None:
            return ModelFacts(
                name=hybrid[0],
                layers=_STATE,
                kv_heads=_STATE,
                head_size=_STATE,
                attention=Attention.HYBRID,
            )
        for family, size, row in _COMPILED:
            if family.search(plain) and (size is None or size.search(plain)):
                return row.facts
    return ModelFacts()


def facts_of(given: ModelFacts, names: Iterable[str], *, file: ModelFacts | None = None) -> ModelFacts:
    """Complete what is given by the model's own file, then by the first of the names that the table knows.

    Args:
        given: facts that somebody stated (`spec.model`); they win field by field.
        names: `spec.model.family`, the engine's model argument, the page's model label: surest first.
        file: what the model's config.json says, where there is one.
    """
    known = (found for name in names if name and (found := recognise(name)).name)
    facts = merged(given, file or ModelFacts(), next(known, ModelFacts()))
    if file is not None and not isinstance(file.layers, Unknown):
        # A file that leaves the kind of attention open describes layers that nobody here knows: never plain ones.
        return facts
    # Who states layers, heads and their size of a model that nobody knows describes a plain one.
    plain = not any(isinstance(one, Unknown) for one in (facts.layers, facts.kv_heads, facts.head_size))
    return replace(facts, attention=Attention.FULL) if plain and facts.attention is Attention.UNKNOWN else facts
