"""What was seen, as a Markdown table: one phase, or before and after. What is unknown is shown as unknown."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from hack.vllm_cpu.figures import Figures
from hack.vllm_cpu.play import Comparison, Seen
from optiinfra.domain.readings import Unknown, Value


@dataclass(frozen=True)
class _Row:
    name: str
    value: Callable[[Figures], Value]
    form: str = "{:.1f}"
    compared: bool = True
    """Whether a change in per cent means something."""

    def cell(self, figures: Figures) -> str:
        """Return the value in its unit."""
        value = self.value(figures)
        return "unknown" if isinstance(value, Unknown) else self.form.format(value)

    def change(self, before: Figures, after: Figures) -> str:
        """Return the change in per cent, where there is something to compare with."""
        old, new = self.value(before), self.value(after)
        if not self.compared or isinstance(old, Unknown) or isinstance(new, Unknown) or old <= 0.0:
            return ""
        return f"{(new - old) / old:+.0%}"


_SECONDS: Final = "{:.2f} s"
_ROWS: Final = (
    _Row("requests running, mean", lambda one: one.running),
    _Row("requests waiting, mean", lambda one: one.waiting),
    _Row("KV cache, tokens", lambda one: one.kv_cache_capacity, "{:.0f}"),
    _Row("KV cache used, mean", lambda one: one.kv_usage, "{:.0%}", compared=False),
    _Row("KV cache used, highest", lambda one: one.kv_usage_max, "{:.0%}", compared=False),
    _Row("preemptions", lambda one: one.preemptions, "{:.0f}"),
    _Row("tokens generated a second (engine)", lambda one: one.generation_rate, "{:.0f}"),
    _Row("requests completed (clients)", lambda one: float(one.client_completed), "{:.0f}"),
    _Row("time in queue, p95 (engine)", lambda one: one.queue_time_p95, _SECONDS),
    _Row("time to first token, mean (clients)", lambda one: one.client_first_token_mean, _SECONDS),
    _Row("time to first token, p95 (clients)", lambda one: one.client_first_token_p95, _SECONDS),
    _Row("time between tokens, p95 (engine)", lambda one: one.inter_token_latency_p95, "{:.3f} s"),
    _Row("whole request, mean (clients)", lambda one: one.client_latency_mean, _SECONDS),
    _Row("whole request, p95 (clients)", lambda one: one.client_latency_p95, _SECONDS),
    _Row("cores that the engine got", lambda one: one.engine_cores, "{:.2f}"),
)
_MEASURED: Final[Mapping[str, Callable[[Figures], Value]]] = MappingProxyType(
    {
        "generation_tokens": lambda one: one.generation_rate,
        "inter_token_latency_p95": lambda one: one.inter_token_latency_p95,
        "kv_cache_usage": lambda one: one.kv_usage_max,
        "kv_cache_capacity": lambda one: one.kv_cache_capacity,
        "preemptions": lambda one: one.preemption_rate,
        "requests_running": lambda one: one.running,
        "requests_running_per_replica": lambda one: one.running_max,
        "requests_waiting": lambda one: one.waiting,
    }
)
"""What the analysis calls the signals that it predicts, where they are measured here."""


def one(seen: Seen) -> str:
    """Return the table of one phase."""
    rows = [(row.name, row.cell(seen.figures)) for row in _ROWS]
    return _table((seen.case.name, "seen"), [("verdict of most pages", _verdict(seen)), *rows])


def both(comparison: Comparison) -> str:
    """Return the table of before and after."""
    before, after, proposal = comparison.before, comparison.after, comparison.proposal
    rows = [
        ("verdict of most pages", _verdict(before), _verdict(after), ""),
        (f"`{proposal.setting}`", proposal.current, proposal.proposed, ""),
        *(
            (row.name, row.cell(before.figures), row.cell(after.figures), row.change(before.figures, after.figures))
            for row in _ROWS
        ),
    ]
    return _table((before.case.name, "before", "after", "change"), rows)


def predictions(comparison: Comparison) -> str:
    """Return the table of what the advice predicted and what came; empty where it predicted nothing."""
    rows = [
        (
            f"{effect.signal}{f', {effect.unit}' if effect.unit else ''}",
            _number(effect.before),
            f"{_number(effect.lower)} to {_number(effect.upper)}",
            _came(effect.signal, comparison.after.figures),
        )
        for effect in comparison.proposal.effects
    ]
    return _table(("predicted", "before", "after, predicted", "after, measured"), rows) if rows else ""


def _came(signal: str, figures: Figures) -> str:
    return _number(_MEASURED[signal](figures)) if signal in _MEASURED else "not measured"


def _number(value: Value | None) -> str:
    return "unknown" if value is None or isinstance(value, Unknown) else f"{value:.4g}"


def _verdict(seen: Seen) -> str:
    name, pages = seen.analysis.verdicts[0]
    return f"{name} ({pages} of {sum(count for _, count in seen.analysis.verdicts)})"


def _table(heading: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    rule = ("---",) + ("---:",) * (len(heading) - 1)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heading, rule, *rows))
