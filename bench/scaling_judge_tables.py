"""Tables of the second judge, as Markdown and for machines: each decider by simulated engines and by the fluid queue.

No figure is printed without the others beside it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from bench.scaling_judge_cases import Case
from bench.scaling_judge_runs import Judged
from bench.scaling_tables import cell, table
from optiinfra.domain.replay.figures import Figures

HEADER = (
    "decider",
    "cost",
    "late10",
    "incidents / 30 d",
    "worst hour",
    "actions / d",
    "TTFT p50 / p95 / p99",
    "ITL p50 / p95",
    "preemptions",
    "fluid: cost (late10, incidents, worst hour)",
)


def seconds(value: float) -> str:
    """A time for people."""
    return f"{value * 1e3:.0f} ms" if value < 0.9995 else f"{value:.1f} s" if value < 99.95 else f"{value:.0f} s"


def heading(case: Case) -> str:
    """Say what was simulated."""
    settings, capacity, requests = case.settings, case.capacity, case.requests
    history_h, span_h = len(case.history) * 5.0 / 3600.0, requests.length_s / 3600.0
    span = f"{span_h:.2g} h" + (f" after {history_h:.3g} h of history" if history_h else ", no history")
    queue = " with a queue at the gateway" if case.gateway else ""
    text = (
        f"{span}, {len(requests)} requests (prompt {requests.prompt.mean():.0f}, answer {requests.output.mean():.0f} "
        f"tokens on average), R = {case.replicas:g}, start-up {case.start_up_s:g} s, {case.routing} routing{queue}. "
        f"Engine {case.regime.name}: {settings.max_num_seqs} sequences, {settings.max_num_batched_tokens} tokens a "
        f"step, {settings.num_blocks} blocks of {settings.block_size}; a step takes {settings.step_seconds * 1e3:.1f} "
        f"ms + {settings.sequence_seconds * 1e3:.2f} ms a sequence + {settings.prefill_token_seconds * 1e3:.3f} ms a "
        f"prompt token. C = {capacity.work:.0f} work/s ({capacity.work / capacity.saturated:.0%} of saturation): there "
        f"{capacity.in_flight:.1f} requests in flight, KV {capacity.kv_use:.0%}, TTFT p95 "
        f"{seconds(capacity.first_token_p95)}, ITL p95 {seconds(capacity.inter_token_p95)}."
    )
    return f"{text} {requests.note[0].upper()}{requests.note[1:]}." if requests.note else text


def row(one: Judged) -> tuple[str, ...]:
    """One decider."""
    figures = one.figures
    return (
        one.decider,
        f"{figures.cost:.3f}",
        f"{figures.late10:.2%}",
        f"{figures.incidents:.0f}",
        f"{figures.worst_hour:.0%}",
        f"{figures.actions_per_day:.0f}",
        " / ".join(seconds(value) for value in one.first_token),
        " / ".join(seconds(value) for value in one.inter_token),
        f"{one.preemptions}",
        cell(one.fluid),
    )


def fluid_table(case: Case, found: Mapping[str, Figures]) -> str:
    """What the fluid model alone says of the load of the same requests."""
    rows = [(name, cell(figures), f"{figures.actions_per_day:.0f}") for name, figures in found.items()]
    header = ("decider", "fluid: cost (late10, incidents, worst hour)", "actions / d")
    return f"### {case.name}, fluid model only\n\n{heading(case)}\n\n{table(header, rows)}"


def section(case: Case, found: Sequence[Judged], *, made_with: str) -> str:
    """One trace: what was simulated, by what, and its table."""
    name = f"{case.name}, queue at the gateway" if case.gateway else case.name
    return f"### {name}\n\n{made_with} {heading(case)}\n\n{table(HEADER, [row(one) for one in found])}"


def as_dict(case: Case, found: Sequence[Judged]) -> dict[str, object]:
    """The same for machines."""
    return {
        "trace": case.name,
        "engine": case.regime.name,
        "replicas": case.replicas,
        "start_up_s": case.start_up_s,
        "routing": str(case.routing),
        "gateway": case.gateway,
        "history_s": len(case.history) * 5.0,
        "span_s": case.requests.length_s,
        "requests": len(case.requests),
        "note": case.requests.note,
        "capacity": asdict(case.capacity),
        "deciders": [asdict(one) for one in found],
    }
