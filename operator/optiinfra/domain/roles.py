"""One service made of two parts: engines that prefill and engines that decode.

Each part is summarised for itself, and each is a service of its own to whoever looks for what limits it. Shown as one,
every signal comes from the part that knows it: a request is prefilled in one engine and decoded in another, so it
waits, is counted in and gets its first token in the prefill part, and holds its KV cache, gets its further tokens and
ends in the decode part. Added up, requests would count twice. The rule of each field is in `aggregation.RULES`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Final

from optiinfra.domain.aggregation import GENERATION_WEIGHT, RULES, From, join
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.signals import ServiceSignals
from optiinfra.domain.units import Seconds, UnixTime


class Role(StrEnum):
    """The part that an engine plays; the texts are those of `EngineSettings.role`."""

    UNIFIED = ""
    PREFILL = "Prefill"
    DECODE = "Decode"


@dataclass(frozen=True, slots=True)
class RoleSignals:
    """What a service's parts say, and what they say together."""

    parts: Mapping[Role, ServiceSignals]
    whole: ServiceSignals


_NO_PART: Final = {
    From.PREFILL: Unknown(UnknownReason.NOT_MEASURED, "no prefill engine says it"),
    From.DECODE: Unknown(UnknownReason.NOT_MEASURED, "no decode engine says it"),
}
_VALUES: Final = tuple(field.name for field in fields(ServiceSignals) if field.name in RULES)


def summarise_roles(parts: Mapping[Role, ServiceSignals]) -> RoleSignals:
    """Put the parts of a service together. Without a prefill or a decode part, the unified one speaks for both.

    Raises ValueError when there is no part at all.
    """
    if not parts:
        raise ValueError("roles: a service has at least one part")
    if len(parts) == 1:
        return RoleSignals(dict(parts), next(iter(parts.values())))
    prefill = parts.get(Role.PREFILL, parts.get(Role.UNIFIED))
    decode = parts.get(Role.DECODE, parts.get(Role.UNIFIED))
    whole = ServiceSignals(
        time=UnixTime(max(one.time for one in parts.values())),
        window=Seconds(max(one.window for one in parts.values())),
        replicas_expected=sum(one.replicas_expected for one in parts.values()),
        replicas_reporting=sum(one.replicas_reporting for one in parts.values()),
        **{name: _value(name, parts, prefill, decode) for name in _VALUES},
    )
    return RoleSignals(dict(parts), whole)


def _value(
    name: str, parts: Mapping[Role, ServiceSignals], prefill: ServiceSignals | None, decode: ServiceSignals | None
) -> Value:
    if name == "work_rate":
        return _work(prefill, decode)
    rule = RULES[name]
    if rule.part is From.BOTH:
        return join([getattr(one, name) for one in parts.values()], rule.across)
    chosen = prefill if rule.part is From.PREFILL else decode
    value: Value = _NO_PART[rule.part] if chosen is None else getattr(chosen, name)
    return value


def _work(prefill: ServiceSignals | None, decode: ServiceSignals | None) -> Value:
    prompt = _NO_PART[From.PREFILL] if prefill is None else prefill.prompt_token_rate
    generation = _NO_PART[From.DECODE] if decode is None else decode.generation_token_rate
    if isinstance(prompt, Unknown):
        return prompt
    return generation if isinstance(generation, Unknown) else prompt + GENERATION_WEIGHT * generation
