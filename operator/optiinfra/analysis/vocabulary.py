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

    QUEUE_DRAIN = "QueueDrain"
    LEARNED = "Learned"
    PRIOR = "Prior"
    COLLAPSE_HELD = "CollapseHeld"
    CHANGED_BY_OTHERS = "ChangedByOthers"
    PAUSED = "Paused"
    LOAD_UNKNOWN = "LoadUnknown"
    HOLD = "Hold"
    PEAKS = "Peaks"
    MIX = "Mix"
    CHEAPEST_THAT_HELD = "CheapestThatHeld"
    NO_REQUESTS = "NoRequests"
    ASLEEP = "Asleep"
    WAKING = "Waking"
    AT_MINIMUM = "AtMinimum"
    AT_MAXIMUM = "AtMaximum"
    IDLE_GPU = "IdleGPU"
    EMPTYABLE_NODE = "EmptyableNode"
    OVER_REQUESTED = "OverRequested"
    UNDER_REQUESTED = "UnderRequested"
    REQUEST_MISSING = "RequestMissing"
    MODEL_SERVER_MEMORY = "ModelServerMemory"
    OUT_OF_MEMORY = "OutOfMemory"
    LIMIT_TOO_LOW = "LimitTooLow"
    SMALLER_GPU_SHARE = "SmallerGPUShare"
    SHARE_GPU = "ShareGPU"
    FEWER_GPUS = "FewerGPUs"
    RAISE_BATCH_LIMIT = "RaiseBatchLimit"
    RAISE_BATCH_LIMIT_TO_LEARN = "RaiseBatchLimitToLearn"
    LOWER_BATCH_LIMIT = "LowerBatchLimit"
    LOWER_BATCH_LIMIT_TO_LEARN = "LowerBatchLimitToLearn"
    QUANTISE_WEIGHTS = "QuantiseWeights"
    QUANTISE_FOR_LATENCY = "QuantiseForLatency"
    QUANTISE_FOR_PREFILL = "QuantiseForPrefill"
    QUANTISE_FOR_KV_CACHE = "QuantiseForKVCache"
    QUANTISE_FOR_FEWER_REPLICAS = "QuantiseForFewerReplicas"
    QUANTISE_FOR_FEWER_GPUS = "QuantiseForFewerGPUs"
    ENABLE_CHUNKED_PREFILL = "EnableChunkedPrefill"
    LOWER_STEP_TOKENS = "LowerStepTokens"
    RAISE_STEP_TOKENS = "RaiseStepTokens"
    QUANTISE_KV_CACHE = "QuantiseKVCache"
    SPARE_PREEMPTIONS = "SparePreemptions"
    OFFLOAD_PREFIXES = "OffloadPrefixes"
    SHORTEN_CONTEXT = "ShortenContext"
    LMCACHE_USELESS = "LMCacheUseless"
    RAISE_KV_BLOCKS = "RaiseKVBlocks"
    RAISE_KV_MEMORY = "RaiseKVMemory"
    RAISE_MEMORY_SHARE = "RaiseMemoryShare"
    SPLIT_OVER_GPUS = "SplitOverGPUs"
    ENABLE_PREFIX_CACHING = "EnablePrefixCaching"
    LMCACHE_ENLARGE = "LMCacheEnlarge"
    LMCACHE_CHUNK_UNALIGNED = "LMCacheChunkUnaligned"
    LMCACHE_CHUNK_TOO_LONG = "LMCacheChunkTooLong"
    LMCACHE_POLICY = "LMCachePolicy"
    LMCACHE_REMOTE_SLOW = "LMCacheRemoteSlow"
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
    REQUESTS_RUNNING = "requests_running"
    REQUESTS_RUNNING_PER_REPLICA = "requests_running_per_replica"
    REQUESTS_WAITING = "requests_waiting"
    LOAD = "load"
    LOAD_FORECAST = "load_forecast"
    REPLICA_CAPACITY = "replica_capacity"
    START_UP = "start_up"
    BATCH_LIMIT = "batch_limit"
    BUSY_SHARE = "busy_share"
    KV_CACHE_USAGE = "kv_cache_usage"
    KV_CACHE_CAPACITY = "kv_cache_capacity"
    KV_CACHE_NEEDED = "kv_cache_needed"
    PREEMPTIONS = "preemptions"
    PREFIX_HIT_RATIO = "prefix_hit_ratio"
    LMCACHE_HIT_RATIO = "lmcache_hit_ratio"
    LMCACHE_FILL = "lmcache_fill"
    LMCACHE_EVICTIONS = "lmcache_evictions"
    LMCACHE_REMOTE_GET = "lmcache_remote_get"
    PROMPT_TOKENS = "prompt_tokens"
    GENERATION_TOKENS = "generation_tokens"
    TIME_TO_FIRST_TOKEN = "time_to_first_token"  # noqa: S105  a signal's name, not a secret
    INTER_TOKEN_LATENCY = "inter_token_latency"  # noqa: S105  a signal's name, not a secret
    REQUEST_LATENCY = "request_latency"
    STEP_TIME = "step_time"
    STEP_TIME_PER_REQUEST = "step_time_per_request"
    STEP_TOKENS = "step_tokens"
    WEIGHT_BYTES_PER_GPU = "weight_bytes_per_gpu"
    GPU_MEMORY_BANDWIDTH = "gpu_memory_bandwidth"
    QUEUE_TIME = "queue_time"
    QUEUE_DELAY = "queue_delay"
    LATE_SHARE = "late_share"
    GPU_UTILIZATION = "gpu_utilization"
    GPU_SM_ACTIVE = "gpu_sm_active"
    GPU_MEMORY_USED = "gpu_memory_used"
    GPU_POWER = "gpu_power"
    NODE_GPUS = "node_gpus"
    PODS_TO_MOVE = "pods_to_move"
    EMPTYABLE_FOR = "emptyable_for"
    CONTAINER_CPU_USAGE = "container_cpu_usage"
    CONTAINER_MEMORY_DAILY_PEAK = "container_memory_daily_peak"
    CPU_REQUEST = "cpu_request"
    MEMORY_REQUEST = "memory_request"
    CPU_LIMIT = "cpu_limit"
    MEMORY_LIMIT = "memory_limit"
    START_UP_PEAK = "start_up_peak"
    EXCEEDANCE = "exceedance"
    GPU_MEMORY_NEEDED = "gpu_memory_needed"
    GPUS_REQUESTED = "gpus_requested"
    LOADS_SEEN = "loads_seen"
    SAMPLES = "samples"
    GPUS_SHOWN = "gpus_shown"
    RECOVERY_ACTION = "recovery_action"
    REMAP_FAILED = "remap_failed"
    UNAVAILABLE_EVENTS = "unavailable_events"

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
    BYTES_PER_SECOND = "bytes/s"
    CORES = "cores"
    GPUS = "gpus"
    WATTS = "watts"
    TOKENS = "tokens"
    REQUESTS = "requests"
    PER_SECOND = "1/s"
    TOKENS_PER_SECOND = "tokens/s"
    REPLICAS = "replicas"
    WORK_PER_SECOND = "work/s"
    REQUESTS_PER_SECOND = "requests/s"
    MONEY_PER_MONTH = "money/month"

    @classmethod
    def of(cls, text: str) -> "Unit | None":
        """Return the unit that the text is, or None."""
        try:
            return cls(text)
        except ValueError:
            return None


class Statistic(StrEnum):
    """What a told number is of its window."""

    LAST = "last"
    MEAN = "mean"
    MIN = "min"
    MAX = "max"
    SUM = "sum"
    RATE = "rate"
    P50 = "p50"
    P80 = "p80"
    P90 = "p90"
    P95 = "p95"
    P99 = "p99"
    FIT = "fit"
    DATASHEET = "datasheet"

    @classmethod
    def of(cls, text: str) -> "Statistic | None":
        """Return the statistic that the text is, or None."""
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
