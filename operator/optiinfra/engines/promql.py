"""Queries that give one service's load from engines' metrics in a Prometheus-compatible server.

Each is one number over time, whichever engine it is: the alternatives are joined with `or`, and those whose metrics are
not there give nothing. Ranks of one engine (`tp_rank` ...) all report the same requests and are never summed. Pods are
those of one workload by their names, as Deployments, StatefulSets and LeaderWorkerSets make them, because neither
ServiceMonitors nor PodMonitors keep the owner; `namespace` and `pod` are the labels of either. Work is prompt tokens
and generated tokens, weighted as everywhere here; it is what was served, not what was asked for.
"""

import re
from dataclasses import dataclass
from typing import Final

from optiinfra.domain.aggregation import GENERATION_WEIGHT
from optiinfra.engines import sglang, tgi, vllm
from optiinfra.engines.errors import EnginesError

RATE_WINDOW: Final = "1m"
"""Two scrapes at least have to fall into it."""
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_HASH: Final = "[bcdfghjklmnpqrstvwxz2456789]"
"""Letters of a ReplicaSet's and of a pod's suffix."""
_VLLM, _SGLANG, _TGI = vllm.TABLE.prefix, sglang.TABLE.prefix, tgi.TABLE.prefix
_RANKS: Final = ",".join(sorted(sglang.TABLE.ranks))


class ServiceNameError(EnginesError):
    """Not NAMESPACE/NAME."""


@dataclass(frozen=True, slots=True)
class ServiceQueries:
    """What to ask for one service."""

    work: str
    """Work per second."""
    ready: str
    """Pods whose engine answers."""
    waiting: str
    """Requests that wait."""
    running: str
    """Requests in service."""


def service_queries(service: str, *, window: str = RATE_WINDOW) -> ServiceQueries:
    """Return the queries for NAMESPACE/NAME, the namespace and the workload. Raises `ServiceNameError`.

    `window` is that of rates, and has to hold two scrapes.
    """
    namespace, _, name = service.partition("/")
    if not _NAME.fullmatch(namespace) or not _NAME.fullmatch(name):
        raise ServiceNameError(f"{service[:80]!r} is no service: write NAMESPACE/NAME, like inference/vllm-llama")
    pods = f"{re.escape(name)}-({_HASH}{{1,10}}-{_HASH}{{5}}|[0-9]+(-[0-9]+)?)".replace("\\", "\\\\")
    where = f'namespace="{namespace}",pod=~"{pods}"'

    def rate(name: str, where: str) -> str:
        return f"sum(max without ({_RANKS}) (rate({name}{{{where}}}[{window}])))"

    return ServiceQueries(
        work=_either(
            _work(rate(f"{_VLLM}prompt_tokens_total", where), rate(f"{_VLLM}generation_tokens_total", where)),
            _work(
                _first(
                    rate(f"{_SGLANG}prefill_effective_tokens_total", f'mode=~"input|{"|".join(_CACHED)}",{where}'),
                    rate(f"{_SGLANG}prompt_tokens_total", where),
                ),
                _first(
                    rate(f"{_SGLANG}realtime_tokens_total", f'mode="decode",{where}'),
                    rate(f"{_SGLANG}generation_tokens_total", where),
                ),
            ),
            _work(rate(f"{_TGI}request_input_length_sum", where), rate(f"{_TGI}request_generated_tokens_sum", where)),
        ),
        ready=_either(*(f"count(count by (pod) ({name}{{{where}}}))" for name in _RUNNING)),
        waiting=_either(*(_now(name, where) for name in _WAITING)),
        running=_either(*(_now(name, where) for name in _RUNNING)),
    )


_CACHED: Final = ("device_hit", "host_hit", "storage_hit")
_RUNNING: Final = (f"{_VLLM}num_requests_running", f"{_SGLANG}num_running_reqs", f"{_TGI}batch_current_size")
_WAITING: Final = (f"{_VLLM}num_requests_waiting", f"{_SGLANG}num_queue_reqs", f"{_TGI}queue_size")


def _now(name: str, where: str) -> str:
    return f"sum(max without ({_RANKS}) ({name}{{{where}}}))"


def _work(prompt: str, generated: str) -> str:
    return f"({prompt} + {GENERATION_WEIGHT:g} * {generated})"


def _first(*queries: str) -> str:
    return f"({_either(*queries)})"


def _either(*queries: str) -> str:
    return " or ".join(queries)
