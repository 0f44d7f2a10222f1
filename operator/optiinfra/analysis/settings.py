"""Settings of the language-model adviser, as `control` hands them over. No key in here: only the file it is in."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from optiinfra.analysis.breaker import BreakerPolicy
from optiinfra.analysis.retry import RetryPolicy
from optiinfra.errors import SettingsError

GROQ: Final = "https://api.groq.com"
GROQ_PATH: Final = "/openai/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class AdviserSettings:
    """Whom to ask, with which key, and within which bounds."""

    key_file: Path
    """File that holds the key, mounted from one Secret. Read at each call, so that rotation needs no restart."""

    endpoint: str = GROQ
    """Scheme, host and port, optionally a path in front. Danger: `http` sends the key unencrypted."""

    completions_path: str = GROQ_PATH
    """Path of the chat-completions call, appended to the endpoint. LangChain always asks for Groq's; for other
    OpenAI-compatible servers it is usually `/v1/chat/completions`, and the request is sent there instead."""

    model: str = "openai/gpt-oss-20b"
    """Model as the endpoint names it. It must enforce a strict JSON schema; an answer that breaks it is refused."""

    reasoning_effort: str = "low"
    """`low`, `medium` or `high`; empty leaves it out, for models that do not know it."""

    proxy: str = ""
    """HTTP proxy towards the endpoint. Proxy variables of the environment are not read."""

    max_answer_tokens: int = 4_096
    """Tokens that an answer may have, reasoning included. Reserved from the budget before each call."""

    max_response_bytes: int = 256 << 10
    """Bytes of one response that are read; more make it invalid."""

    retry: RetryPolicy = field(default_factory=RetryPolicy)
    """Attempts and deadline."""

    breaker: BreakerPolicy = field(default_factory=BreakerPolicy)
    """When the endpoint is left alone."""

    cache_size: int = 512
    """Answers that are kept."""

    cache_seconds: float = 6 * 3600.0
    """How long an answer stands for the identical question."""

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.endpoint)
            valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            valid = False
        if not valid:
            raise SettingsError("llm endpoint is not an http(s) URL; give scheme and host, such as " + GROQ)
        if parts.username or parts.password or parts.query or parts.fragment:
            raise SettingsError("llm endpoint holds a user, query or fragment; give scheme, host, port and path only")
        if not self.completions_path.startswith("/"):
            raise SettingsError("llm completions path must start with '/', such as " + GROQ_PATH)
        if not self.model:
            raise SettingsError("llm model is empty; name one that the endpoint serves")
