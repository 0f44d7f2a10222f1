"""The closed sets of words that may enter a prompt, and those that may come back.

A string from a cluster (a name, a label, an annotation, a model's name, a log line) is text that somebody else wrote:
shown to a language model it is an instruction. So nothing but members of these enums, numbers, and ids made here
(`r1`) goes in. A word of the domain that is not listed becomes `UNLISTED`, or its number is left out; it never passes
as it is.
"""

from enum import StrEnum
from typing import Final

SCHEMA_VERSION: Final = "1"
"""Of question and answer together; part of the cache key."""


class ReasonCode(StrEnum):
    """Reason codes of the domain that the prompts and templates know."""

    QUEUE_GROWING = "QueueGrowing"
    QUEUE_DELAY_MISSED = "QueueDelayMissed"
    BATCH_LIMIT_REACHED = "BatchLimitReached"
    KV_CACHE_FULL = "KVCacheFull"
    PREEMPTIONS = "Preemptions"
    LATENCY_OBJECTIVE_MISSED = "LatencyObjectiveMissed"
    LOAD_EXPECTED = "LoadExpected"
    LOAD_FITS_FEWER = "LoadFitsFewer"
    NO_WORK = "NoWork"
    IDLE_GPU = "IdleGPU"
    OVER_REQUESTED = "OverRequested"
    UNDER_REQUESTED = "UnderRequested"
    UNDER_USED = "UnderUsed"
    EMPTYABLE_NODE = "EmptyableNode"
    UNLISTED = "Unlisted"
    """The domain gave a code that this version of the prompts does not know."""

    @classmethod
    def of(cls, text: str) -> "ReasonCode":
        """Return the code that the text names, or UNLISTED."""
        try:
            return cls(text)
        except ValueError:
            return cls.UNLISTED


class NumberName(StrEnum):
    """Names of the numbers that may be told: the domain's signals, and the numbers of a proposal."""

    CURRENT = "current"
    PROPOSED = "proposed"
    LOWER = "lower"
    UPPER = "upper"
    GPUS_FREED = "gpus_freed"
    CPU_CORES_FREED = "cpu_cores_freed"
    MEMORY_BYTES_FREED = "memory_bytes_freed"
    WINDOW = "window"
    REPLICAS = "replicas"
    REPLICAS_EXPECTED = "replicas_expected"
    REPLICAS_REPORTING = "replicas_reporting"
    DESIRED_REPLICAS = "desired_replicas"
    RUNNING = "running"
    RUNNING_MAX = "running_max"
    RUNNING_PER_REPLICA_MAX = "running_per_replica_max"
    WAITING = "waiting"
    WAITING_MAX = "waiting_max"
    WAITING_SLOPE = "waiting_slope"
    QUEUE_DEPTH = "queue_depth"
    QUEUE_DELAY = "queue_delay"
    QUEUE_TIME_P95 = "queue_time_p95"
    KV_CACHE_USAGE = "kv_cache_usage"
    KV_CACHE_USAGE_MEAN = "kv_cache_usage_mean"
    KV_CACHE_USAGE_MAX = "kv_cache_usage_max"
    KV_CACHE_CAPACITY_TOKENS = "kv_cache_capacity_tokens"
    BATCH_LIMIT = "batch_limit"
    REQUEST_RATE = "request_rate"
    PROMPT_TOKEN_RATE = "prompt_token_rate"  # noqa: S105  a signal's name, not a secret
    GENERATION_TOKEN_RATE = "generation_token_rate"  # noqa: S105  a signal's name, not a secret
    WORK_RATE = "work_rate"
    PREEMPTION_RATE = "preemption_rate"
    PREEMPTIONS = "preemptions"
    PREFIX_HIT_RATIO = "prefix_hit_ratio"
    LMCACHE_HIT_RATIO = "lmcache_hit_ratio"
    TIME_TO_FIRST_TOKEN_P95 = "time_to_first_token_p95"  # noqa: S105  a signal's name, not a secret
    INTER_TOKEN_LATENCY_P95 = "inter_token_latency_p95"  # noqa: S105  a signal's name, not a secret
    REQUEST_LATENCY_P95 = "request_latency_p95"
    PROMPT_TOKENS_MEAN = "prompt_tokens_mean"
    GENERATION_TOKENS_MEAN = "generation_tokens_mean"
    BUSY_SHARE = "busy_share"
    LATE_SHARE = "late_share"
    GPUS = "gpus"
    GPU_UTILIZATION = "gpu_utilization"
    GPU_SM_ACTIVE = "gpu_sm_active"
    GPU_MEMORY_USED = "gpu_memory_used"
    GPU_MEMORY_TOTAL = "gpu_memory_total"
    GPU_POWER = "gpu_power"
    CPU_USAGE = "cpu_usage"
    CPU_REQUEST = "cpu_request"
    MEMORY_USAGE = "memory_usage"
    MEMORY_REQUEST = "memory_request"
    FORECAST_REPLICAS = "forecast_replicas"
    FORECAST_ERROR = "forecast_error"
    NODES = "nodes"

    @classmethod
    def of(cls, text: str) -> "NumberName | None":
        """Return the name that the text is, or None: a number with an unlisted name is not told."""
        try:
            return cls(text)
        except ValueError:
            return None


class Unit(StrEnum):
    """Units of told numbers."""

    COUNT = ""
    RATIO = "ratio"
    SECONDS = "seconds"
    BYTES = "bytes"
    CORES = "cores"
    GPUS = "gpus"
    WATTS = "watts"
    TOKENS = "tokens"
    REQUESTS = "requests"
    PER_SECOND = "per second"
    TOKENS_PER_SECOND = "tokens/s"
    REQUESTS_PER_SECOND = "requests/s"
    MONEY_PER_MONTH = "money/month"

    @classmethod
    def of(cls, text: str) -> "Unit | None":
        """Return the unit that the text is, or None."""
        try:
            return cls(text)
        except ValueError:
            return None


class PlanStepKind(StrEnum):
    """What a step of an action plan may be. A model chooses among these; it cannot add a verb of its own."""

    REVIEW_EVIDENCE = "ReviewEvidence"
    TEST_OUTSIDE_PRODUCTION = "TestOutsideProduction"
    WAIT_FOR_QUIET_HOURS = "WaitForQuietHours"
    APPROVE = "Approve"
    APPLY_CHANGE = "ApplyChange"
    WATCH_LATENCY = "WatchLatency"
    WATCH_QUEUE = "WatchQueue"
    WATCH_KV_CACHE = "WatchKVCache"
    WATCH_GPU = "WatchGPU"
    ROLL_BACK_IF_WORSE = "RollBackIfWorse"
    MEASURE_AGAIN = "MeasureAgain"
