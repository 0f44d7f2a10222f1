"""The adviser that asks a language model: Groq, or any OpenAI-compatible endpoint, through langchain-groq.

One question is one HTTP call in strict JSON-schema mode, in this order: key there, prompt rendered and checked, answer
cached, budget reserved, breaker closed; only then is anything sent. Ids are checked before an answer is cached. It has
no tools, no memory and no way to act. langchain and groq are imported at the first call that is really made.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from optiinfra.analysis.advice import Advice, Provenance
from optiinfra.analysis.answer import RESPONSE_FORMAT, SCHEMA, read_answer
from optiinfra.analysis.breaker import Breaker
from optiinfra.analysis.budget import Reservation, TokenBudget
from optiinfra.analysis.cache import AdviceCache, CacheKey
from optiinfra.analysis.errors import AdviserError, InvalidAnswer, NotConfigured, RateLimited
from optiinfra.analysis.isolation import untraced
from optiinfra.analysis.key import KeyFile
from optiinfra.analysis.prompts import Prompt, render
from optiinfra.analysis.request import InsightRequest
from optiinfra.analysis.retry import Attempts, ask_with_retries
from optiinfra.analysis.settings import AdviserSettings
from optiinfra.analysis.validation import check_ids
from optiinfra.analysis.vocabulary import SCHEMA_VERSION
from optiinfra.domain.units import UnixTime

if TYPE_CHECKING:
    import httpx
    from langchain_core.messages import AIMessage
    from langchain_groq import ChatGroq

NAME: Final = "groq"

_PLACEHOLDER: Final = "put-on-by-the-transport"
_CHARACTERS_PER_TOKEN: Final = 3
"""Low on purpose: the reservation should rather be too large."""
_MOST_TOKENS: Final = 10_000_000
_SCHEMA_TOKENS: Final = len(str(SCHEMA)) // _CHARACTERS_PER_TOKEN


class GroqAdviser:
    """Asks a language model. Use it from one event loop; close it when done."""

    name = NAME

    def __init__(
        self,
        settings: AdviserSettings,
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._monotonic = monotonic
        self._key = KeyFile(settings.key_file)
        self._fingerprint = ""
        self._http: httpx.AsyncClient | None = None
        self._model: ChatGroq | None = None
        self._building = asyncio.Lock()
        self.breaker = Breaker(settings.breaker)
        self.budget = TokenBudget()
        self.cache = AdviceCache(size=settings.cache_size, time_to_live=settings.cache_seconds)

    async def advise(self, request: InsightRequest, /) -> Advice:
        """Ask, or answer from the cache.

        Raises:
            AdviserError: there is no advice.
            RequestRefused: the request holds what may not be told.
        """
        self._notice_new_key()
        prompt = render(request)
        key = CacheKey(prompt.hash, self._settings.model, SCHEMA_VERSION)
        cached = self.cache.get(key, now=self._monotonic())
        if cached is not None:
            source = replace(cached.provenance, cached=True, attempts=0, tokens_in=0, tokens_out=0)
            return replace(cached, provenance=source)
        model = await self._ready_model()
        reservation = self.budget.reserve(
            request.object_id,
            prompt.characters // _CHARACTERS_PER_TOKEN + _SCHEMA_TOKENS + self._settings.max_answer_tokens,
            daily=request.daily_token_budget,
            now=UnixTime(self._clock()),
        )
        advice = await self._ask(model, prompt, reservation)
        try:
            check_ids(request, advice)
        except AdviserError as error:
            error.tokens_in, error.tokens_out = advice.provenance.tokens_in, advice.provenance.tokens_out
            raise
        self.cache.put(key, advice, now=self._monotonic())
        return advice

    async def aclose(self) -> None:
        """Close the connections."""
        http, self._http, self._model = self._http, None, None
        if http is not None:
            await http.aclose()

    def _notice_new_key(self) -> None:
        fingerprint = self._key.fingerprint()
        if fingerprint != self._fingerprint:
            # What failed with the old key says nothing about the new one.
            self._fingerprint = fingerprint
            self.breaker = Breaker(self._settings.breaker)

    async def _ask(self, model: "ChatGroq", prompt: Prompt, reservation: Reservation) -> Advice:
        from optiinfra.analysis.groq_failures import classify  # noqa: PLC0415  imports groq

        account = Attempts()
        answered = 0
        breaker = self.breaker  # a new key brings a new breaker; this call speaks about the old one
        try:
            breaker.admit(now=self._monotonic())
        except AdviserError:
            self.budget.settle(reservation, spent=0)
            raise
        settled = False
        try:
            message = await ask_with_retries(
                lambda: _call(model, prompt),
                classify=lambda error: classify(error, clock=self._clock),
                policy=self._settings.retry,
                account=account,
            )
            breaker.succeeded()
            settled = True
            tokens_in, tokens_out = _usage(message)
            # A service that counts nothing is charged as if it had used everything that was reserved.
            answered = (tokens_in + tokens_out) or reservation.tokens
            return _read(message, prompt=prompt, model=self._settings.model, attempts=account.made)
        except AdviserError as error:
            if not settled:
                settled = True
                self._report_failure(breaker, error)
            raise
        finally:
            if not settled:  # cancelled, or a mistake of ours: neither speaks for or against the endpoint
                breaker.withdrawn(now=self._monotonic())
                account.lost += 1
            self.budget.settle(reservation, spent=answered + account.lost * reservation.tokens)

    def _report_failure(self, breaker: Breaker, error: AdviserError) -> None:
        if isinstance(error, NotConfigured):  # the key file went away between two attempts
            breaker.withdrawn(now=self._monotonic())
            return
        if not error.service_failure:
            breaker.succeeded()
            return
        asked = error.retry_after if isinstance(error, RateLimited) else None
        if asked is not None and asked <= self._settings.retry.longest_wait:
            asked = None  # it was waited for already; the ordinary count applies
        breaker.failed(now=self._monotonic(), cause=error.reason, asked_pause=asked)

    async def _ready_model(self) -> "ChatGroq":
        """Return the model, built at the first call.

        Raises:
            NotConfigured: the libraries are not installed.
        """
        async with self._building:
            if self._model is not None:
                return self._model
            # In a thread: the imports take most of a second, and the loop also renews the Lease.
            self._http, model = await asyncio.to_thread(_build, self._settings)
            self._model = model
            return model


def _build(settings: AdviserSettings) -> "tuple[httpx.AsyncClient, ChatGroq]":
    try:
        import groq  # noqa: PLC0415  a third of the operator's memory: only where a model is really asked
        from langchain_groq import ChatGroq  # noqa: PLC0415  same

        from optiinfra.analysis.transport import build_http_client  # noqa: PLC0415  imports httpx
    except ImportError as error:
        raise NotConfigured(f"{error.name} is not installed; install optiinfra[llm]") from None
    http = build_http_client(settings)
    # max_retries=0: the SDK would repeat below our own layer. The key is a placeholder: the transport has it.
    completions = groq.AsyncGroq(
        api_key=_PLACEHOLDER, base_url=settings.endpoint, max_retries=0, http_client=http
    ).chat.completions
    model = ChatGroq(
        # Handing both clients in keeps LangChain from building its own, with time-outs and retries of their own.
        client=completions,
        async_client=completions,
        model_name=settings.model,
        api_key=_PLACEHOLDER,
        max_retries=0,
        max_tokens=settings.max_answer_tokens,
        reasoning_effort=settings.reasoning_effort or None,
        temperature=0.0,
        cache=False,
    )
    return http, model


async def _call(model: "ChatGroq", prompt: Prompt) -> "AIMessage":
    with untraced():
        return await model.ainvoke(
            [("system", prompt.system), ("human", prompt.user)],
            config={"callbacks": []},
            response_format=RESPONSE_FORMAT,
        )


def _usage(message: "AIMessage") -> tuple[int, int]:
    """Return tokens in and out as the service counted them; 0 where it counted nothing that is a number."""
    usage: dict[str, Any] = dict(message.usage_metadata or {})
    counted = (usage.get("input_tokens"), usage.get("output_tokens"))
    tokens_in, tokens_out = (min(max(0, one), _MOST_TOKENS) if isinstance(one, int) else 0 for one in counted)
    return tokens_in, tokens_out


def _read(message: "AIMessage", *, prompt: Prompt, model: str, attempts: int) -> Advice:
    tokens_in, tokens_out = _usage(message)
    source = Provenance(
        adviser=NAME,
        model=model,
        prompt_hash=prompt.hash,
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        attempts=attempts,
    )
    try:
        if message.response_metadata.get("finish_reason") == "length":
            raise InvalidAnswer("the model's answer was cut off; raise the tokens an answer may have")
        if not isinstance(message.content, str):
            raise InvalidAnswer("the model's answer is not text")
        return read_answer(message.content, provenance=source)
    except AdviserError as error:
        error.tokens_in, error.tokens_out = tokens_in, tokens_out
        raise
