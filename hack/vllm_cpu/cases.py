"""The cases: how the engine is started, what is offered, and what a person who knows both would say limits it.

Two of them, `batch` and `kv`, are compared before and after the advice; the others are recorded to judge verdicts on
real pages. The truth of a case follows from its construction (named beside it), not from what the analysis says.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from hack.vllm_cpu.load import Load
from hack.vllm_cpu.server import Settings


@dataclass(frozen=True, kw_only=True)
class Case:
    """One engine under one load."""

    name: str
    truth: str
    """What limits it: a bottleneck class of the operator; Compute with the kind beside it."""
    why: str
    """Why that is the truth, by construction."""
    settings: Settings
    load: Load
    compared: bool = False
    """Whether it is played again with the advice applied; otherwise it is only recorded."""


_ROOMY: Final = 800
"""Blocks that none of the loads fills."""

_ALL: Final = (
    Case(
        name="batch",
        truth="Batch",
        why="24 clients, 8 may run; 24 requests of this length hold a fifth of the KV cache",
        settings=Settings(batch_limit=8, blocks=_ROOMY),
        load=Load(clients=24, prompt_tokens=(40, 160), answer_tokens=(60, 180)),
        compared=True,
    ),
    Case(
        name="kv",
        truth="KVCache",
        why="24 clients, 32 may run; the KV cache holds about ten requests of this length",
        settings=Settings(batch_limit=32, blocks=65),
        load=Load(clients=24, prompt_tokens=(60, 120), answer_tokens=(150, 350)),
        compared=True,
    ),
    Case(
        name="kv-memory",
        truth="KVCache",
        why="as kv, but the engine is given memory for its blocks, so that 8-bit keys and values make twice as many",
        settings=Settings(batch_limit=32, blocks=65, as_memory=True),
        load=Load(clients=24, prompt_tokens=(60, 120), answer_tokens=(150, 350)),
    ),
    Case(
        name="kv-long",
        truth="KVCache",
        why="12 clients, 32 may run; the KV cache holds about seven requests, whose answers are long",
        settings=Settings(batch_limit=32, blocks=100),
        load=Load(clients=12, prompt_tokens=(50, 100), answer_tokens=(500, 900)),
    ),
    Case(
        name="prefill",
        truth="Compute (prefill)",
        why="long prompts and answers of a few tokens; batch and KV cache have room, prompts share the steps' tokens",
        settings=Settings(batch_limit=32, blocks=_ROOMY),
        load=Load(clients=6, prompt_tokens=(900, 1500), answer_tokens=(2, 8)),
    ),
    Case(
        name="decode",
        truth="Compute (decode)",
        why="short prompts and long answers; every request runs, batch and KV cache have room",
        settings=Settings(batch_limit=32, blocks=_ROOMY),
        load=Load(clients=12, prompt_tokens=(10, 30), answer_tokens=(300, 600)),
    ),
    Case(
        name="prefix",
        truth="Healthy",
        why="60 shared prefixes fill the pool with cached blocks, while four clients hold little of it",
        settings=Settings(batch_limit=32, blocks=600),
        load=Load(
            clients=4, prompt_tokens=(10, 40), answer_tokens=(20, 60), prefixes=60, prefix_tokens=512, pause_seconds=0.2
        ),
    ),
    Case(
        name="light",
        truth="Healthy",
        why="two clients that pause; nothing waits, everything has room",
        settings=Settings(batch_limit=16, blocks=_ROOMY),
        load=Load(clients=2, prompt_tokens=(40, 160), answer_tokens=(40, 120), pause_seconds=1.0),
    ),
    Case(
        name="idle",
        truth="Idle",
        why="no clients",
        settings=Settings(batch_limit=16, blocks=_ROOMY),
        load=Load(clients=0, prompt_tokens=(40, 160), answer_tokens=(40, 120)),
    ),
)
CASES: Final[Mapping[str, Case]] = MappingProxyType({case.name: case for case in _ALL})
COMPARED: Final = tuple(case.name for case in _ALL if case.compared)
