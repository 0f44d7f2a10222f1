"""The load: requests with random prompts, a closed loop of clients that ask again as soon as they are answered.

Every client draws from a random stream of its own, so that the n-th request of a client is the same in every run with
that seed, however fast the engine is. Before and after thus offer the same clients the same requests.
"""

import random
import string
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

LETTERS: Final = string.ascii_lowercase + " "


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is offered. Lengths are inclusive ranges in tokens, which are characters (see `model`)."""

    clients: int
    prompt_tokens: tuple[int, int]
    """What follows the shared prefix, if there is one."""
    answer_tokens: tuple[int, int]
    prefixes: int = 0
    """How many different prefixes the prompts begin with; 0: none."""
    prefix_tokens: int = 0
    pause_seconds: float = 0.0
    """Between an answer and the client's next request."""

    @property
    def longest(self) -> int:
        """Tokens of the longest request, prompt and answer together."""
        return self.prefix_tokens + self.prompt_tokens[1] + self.answer_tokens[1]


@dataclass(frozen=True)
class Ask:
    """One request."""

    prompt: str
    answer_tokens: int

    def body(self, model: str) -> dict[str, object]:
        """Return it as the completions API takes it: an answer of exactly the drawn length, streamed."""
        return {
            "model": model,
            "prompt": self.prompt,
            "max_tokens": self.answer_tokens,
            "min_tokens": self.answer_tokens,
            "ignore_eos": True,
            "temperature": 1.0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }


def requests_of(load: Load, *, client: int, seed: int) -> Iterator[Ask]:
    """Return the endless requests of one client."""
    prefixes = [_text(random.Random(f"{seed}/prefix/{index}"), load.prefix_tokens) for index in range(load.prefixes)]  # noqa: S311 - a load, not a secret
    stream = random.Random(f"{seed}/client/{client}")  # noqa: S311 - as above
    while True:
        prefix = stream.choice(prefixes) if prefixes else ""
        prompt = _text(stream, stream.randint(*load.prompt_tokens))
        yield Ask(prefix + prompt, stream.randint(*load.answer_tokens))


def _text(stream: random.Random, length: int) -> str:
    return "".join(stream.choices(LETTERS, k=length))
