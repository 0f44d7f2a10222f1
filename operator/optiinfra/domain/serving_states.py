"""What a service without a queue does: nothing, its work, or its work too slowly. The rest of the decision table."""

from optiinfra.domain.clues import KV_FULL, Clues, GpuState, above, at_least, known, share
from optiinfra.domain.diagnosis import LASTING_IDLE, QUIET_NOW
from optiinfra.domain.drafts import Draft, compute, gpus, span_of, starved, unknown
from optiinfra.domain.evidence import Bottleneck
from optiinfra.domain.readings import Unknown
from optiinfra.domain.waiting_causes import kv_cache


def without_queue(clues: Clues) -> Draft:
    """Say whether work is served within the objectives, and whether there is any."""
    signals = clues.signals
    if clues.running == 0.0 and clues.waiting == 0.0 and (0.0 < clues.quiet >= clues.pause or _silent(clues)):
        return _no_work(clues)
    if above(signals.rejection_rate, 0.0):
        full = "the batch is full" if clues.batch_full else "the KV cache is full" if clues.kv_short else ""
        verdict = Bottleneck.BATCH if clues.batch_full else Bottleneck.KV_CACHE if clues.kv_short else Bottleneck.QUEUE
        text = f"{known(signals.rejection_rate) * 60:.2g} requests a minute are refused at the door"
        return Draft(verdict, 0.7, "Admission", f"{text}{', while ' + full if full else ''}.")
    if clues.preempts and (at_least(clues.kv_live, KV_FULL) or at_least(clues.kv_peak, KV_FULL)):
        draft = kv_cache(clues)
        if draft is not None:
            return draft._replace(sure=0.7)
    return _late(clues) or _served(clues)


def _silent(clues: Clues) -> bool:
    """Tell whether the window shows no work at all."""
    signals = clues.signals
    return signals.running_max == 0.0 and signals.busy_share == 0.0 and not above(signals.generation_token_rate, 0.0)


def _no_work(clues: Clues) -> Draft:
    """Say Idle; whether for long enough to give anything back is in the reason, and in the confidence."""
    signals = clues.signals
    if signals.replicas_reporting < signals.replicas_expected:
        return unknown("IdleUnsure", "The replicas that report are idle; others do not report.")
    quiet = max(clues.quiet, signals.window if _silent(clues) else 0.0)
    lasting = quiet >= clues.idle_span
    sure = 0.5 + 0.4 * min(1.0, quiet / clues.idle_span) if clues.idle_span > 0.0 else 0.9
    asleep = " The engine sleeps." if above(signals.sleeping, 0.0) else ""
    if clues.gpu in {GpuState.BUSY, GpuState.AT_LIMIT}:
        sure *= 0.6
        asleep += f" Yet the GPUs are at work ({gpus(clues)}): for somebody else, or for requests that no page counts."
    text = f"No request ran or waited in the last {span_of(quiet)}"
    if lasting:
        return Draft(Bottleneck.IDLE, sure, LASTING_IDLE, f"{text}.{asleep}")
    return Draft(Bottleneck.IDLE, sure, QUIET_NOW, f"{text}; too short to give anything back.{asleep}")


def _late(clues: Clues) -> Draft | None:
    """Say what makes latency miss its objective; None where it does not, or where nobody promised and none confirms."""
    if not clues.first_token_late and not clues.tokens_slow:
        return None
    missed = f"{_missed(clues)} without a queue"
    if clues.remote is not None and clues.first_token_late:
        return Draft(Bottleneck.NETWORK, 0.8, clues.remote[0], f"{missed}: {clues.remote[1]}.")
    waits_for_host = starved(clues, f"{missed}; ")
    if waits_for_host is not None:
        return waits_for_host
    if clues.gpu is GpuState.AT_LIMIT:
        return compute(clues, 0.85, f"{missed} while the GPUs are used up ({gpus(clues)})")
    if clues.gpu is GpuState.BUSY:
        return compute(clues, 0.6, f"{missed} while the GPUs are busy ({gpus(clues)})")
    if clues.gpu is GpuState.LOW and clues.promised:
        return unknown(
            "LatencyUnexplained",
            f"{missed}, yet the GPUs are not busy ({gpus(clues)}) and the host's CPU is free: look at the network.",
        )
    if clues.gpu is GpuState.UNMEASURED and clues.first_token_late and clues.steps_saturate:
        return compute(clues, 0.55, f"{missed}, and steps are long with prompts")
    if clues.gpu is GpuState.UNMEASURED and clues.promised:
        return compute(clues, 0.45, f"{missed}; whether the GPUs are busy would confirm it, and nobody measures them")
    return None


def _served(clues: Clues) -> Draft:
    """Say that work is served, and how near to a limit."""
    first = clues.signals.time_to_first_token_p95
    if clues.kv_short or at_least(clues.kv_live, KV_FULL):
        text = f"No request waits, but the KV cache was {share(clues.kv_peak)} full."
        return Draft(Bottleneck.HEALTHY, 0.6, "ServedNearKVLimit", text)
    if clues.promised and above(first, clues.objectives.time_to_first_token_p95):
        text = f"No request waits now; those that did had their first token after up to {first:.2g} s (p95)."
        return Draft(Bottleneck.HEALTHY, 0.6, "QueueDrained", text)
    if not clues.promised:
        return Draft(Bottleneck.HEALTHY, 0.7, "NoQueue", "No request waits; what latency was promised is not known.")
    if isinstance(first, Unknown):
        return Draft(Bottleneck.HEALTHY, 0.7, "NoQueue", "No request waits.")
    return Draft(Bottleneck.HEALTHY, 0.9, "WithinObjectives", "No request waits and latency keeps its objectives.")


def _missed(clues: Clues) -> str:
    signals, objectives = clues.signals, clues.objectives
    parts = []
    if clues.first_token_late:
        first = known(signals.time_to_first_token_p95)
        parts.append(f"time to first token p95 {_beside(first, objectives.time_to_first_token_p95)}")
    if clues.tokens_slow:
        between = known(signals.inter_token_latency_p95)
        parts.append(f"inter-token latency p95 {_beside(between, objectives.inter_token_latency_p95)}")
    text = " and ".join(parts)
    return text[:1].upper() + text[1:]


def _beside(value: float, bound: float) -> str:
    # A verdict that holds is kept a little below the bound that led to it.
    return f"{value:.2g} s {'misses' if value > bound else 'is still near'} {bound:g} s"
