"""Advice on LMCache from its own numbers: its size, its chunks, its policy, its remote store, or no LMCache at all.

LMCache exports no capacity: how full it is follows from its configuration (per worker). A chunk is stored and found
whole, and only whole blocks of the engine fill one, so that chunks longer than what requests share never hit and
chunks that are no multiple of a block lose their ends. Lifespan is how long a chunk stays before it is evicted: where
it is short and the pool full, a larger pool keeps more; how many more hits that gives is told by nobody beforehand.
Health comes first: of a cache that does not work no ratio is judged. LMCache's settings are its environment variables
(`LMCACHE_*`); a file named by LMCACHE_CONFIG_FILE holds the same under its own names.
"""

from typing import Final

from optiinfra.domain.advice import Advice
from optiinfra.domain.engine_settings import LMCacheSettings
from optiinfra.domain.evidence import Effect, Evidence
from optiinfra.domain.kv_case import GIB, NOT_SET, WATCHED, KVCase
from optiinfra.domain.prefix_advice import NO_HITS
from optiinfra.domain.readings import Unknown, UnknownReason, Value

CHUNK_SIZE: Final = "LMCACHE_CHUNK_SIZE"
POOL_SIZE: Final = "LMCACHE_MAX_LOCAL_CPU_SIZE"
POLICY: Final = "LMCACHE_CACHE_POLICY"
REMOTE: Final = "LMCACHE_REMOTE_URL"
FULL: Final = 0.9
EMPTY: Final = 0.5
SHORT_MINUTES: Final = 10.0
"""A lifespan below it is shorter than the pauses of many conversations."""
LEAST_ENLARGEMENT: Final = 1.25
MOST_ENLARGEMENT: Final = 4.0
GOOD_POLICIES: Final = frozenset({"", "LRU", "LFU"})
_UNKNOWN_GAIN: Final = Unknown(UnknownReason.NOT_MEASURED, "how much evicted prefixes come back is not exported")


def fill(case: KVCase) -> Value:
    """Return how full the local pools are: bytes held over bytes configured, all workers and replicas."""
    settings, signals = case.given.settings.lmcache_settings, case.given.signals
    if isinstance(signals.lmcache_usage_bytes, Unknown):
        return signals.lmcache_usage_bytes
    if isinstance(settings.local_bytes, Unknown):
        return settings.local_bytes
    pools = (1.0 if isinstance(settings.workers, Unknown) else settings.workers) * max(signals.replicas_reporting, 1)
    if settings.local_bytes <= 0.0:
        return Unknown(UnknownReason.INVALID, "a local pool of no bytes")
    return signals.lmcache_usage_bytes / (settings.local_bytes * pools)


def advise(case: KVCase) -> tuple[Advice, ...]:
    """Return proposals and refusals about LMCache; nothing where it is not on."""
    settings, signals = case.given.settings, case.given.signals
    if settings.lmcache is not True:
        return ()
    if not isinstance(signals.lmcache_healthy, Unknown) and signals.lmcache_healthy < 1.0:
        text = "LMCache says that it is not well: read its log before any of its settings is judged."
        return (case.refuse("LMCacheUnhealthy", text),)
    hits = signals.lmcache_hit_ratio
    if isinstance(hits, Unknown):
        return (case.refuse("LMCacheReuseUnknown", f"Whether LMCache answers what it is asked for is {hits}."),)
    chunk = _chunk(case, settings.lmcache_settings)
    if hits <= NO_HITS:
        # A chunk that cannot hit is the likelier cause, and the smaller change.
        return chunk or _remove(case, hits)
    return (*chunk, *_size(case, settings.lmcache_settings, hits), *_policy(case), *_remote(case))


def _evidence(case: KVCase) -> tuple[Evidence, ...]:
    signals = case.given.signals
    span = signals.window
    return (
        Evidence("lmcache_hit_ratio", signals.lmcache_hit_ratio, "ratio", span, "engine"),
        Evidence("lmcache_fill", fill(case), "ratio", span, "derived"),
        Evidence("lmcache_evictions", signals.lmcache_eviction_rate, "1/s", span, "engine", "rate"),
    )


def _remove(case: KVCase, hits: float) -> tuple[Advice, ...]:
    own = case.given.signals.prefix_hit_ratio
    covered = ""
    if not isinstance(own, Unknown) and own > NO_HITS:
        covered = f" The engine's own prefix cache answers {own:.0%} before LMCache is asked."
    return (
        case.propose(
            "LMCacheUseless",
            f"LMCache answers {hits:.1%} of the tokens it is asked for, and stores what is never read.{covered} Check "
            "that chunk_size is not longer than common prefixes and that routing keeps them together, or remove it.",
            setting="lmcache",
            current="on",
            proposed="off",
            sure=0.6,
            effects=(Effect("lmcache_hit_ratio", "ratio", hits, 0.0, 0.0, 0.0, "nothing is asked any more"),),
            risk="Conversations that come back after longer than the window are computed anew.",
            undo="Start the engine with its LMCache connector again; each replica restarts once, with an empty cache.",
            verification=f"time_to_first_token does not rise within {WATCHED}, and host memory is given back.",
            evidence=_evidence(case),
            by_verdict=False,
        ),
    )


def _chunk(case: KVCase, lmcache: LMCacheSettings) -> tuple[Advice, ...]:
    """Align chunks with blocks, and keep them shorter than prompts."""
    chunk, block, prompt = lmcache.chunk_tokens, case.given.settings.block_size, case.given.signals.prompt_tokens_mean
    if isinstance(chunk, Unknown):
        return ()
    unit = 16.0 if isinstance(block, Unknown) else block
    hits = case.given.signals.lmcache_hit_ratio
    proposed, why, reason = 0.0, "", ""
    if not isinstance(block, Unknown) and chunk % block:
        proposed = max(block, round(chunk / block) * block)
        why = f"A chunk of {chunk:.0f} tokens is no multiple of the engine's blocks of {block:.0f}: its end never hits."
        reason = "LMCacheChunkUnaligned"
    elif not isinstance(prompt, Unknown) and prompt < chunk:
        proposed = max(unit, prompt / 2.0 // unit * unit)
        why = (
            f"Prompts have {prompt:.0f} tokens on average, and only whole chunks of {chunk:.0f} are stored and found: "
            "most prompts fill none."
        )
        reason = "LMCacheChunkTooLong"
    if not proposed or proposed == chunk:
        return ()
    return (
        case.propose(
            reason,
            why,
            setting=CHUNK_SIZE,
            current=f"{chunk:.0f}",
            proposed=f"{proposed:.0f}",
            lower=f"{unit:.0f}",
            upper=f"{proposed:.0f}",
            sure=0.6,
            effects=(Effect("lmcache_hit_ratio", "ratio", hits, hits, _UNKNOWN_GAIN, _UNKNOWN_GAIN, "whole chunks"),),
            risk="Smaller chunks mean more look-ups; what is stored in the old size is not found any more.",
            verification=f"lmcache_hit_ratio above {NO_HITS:.0%} within {WATCHED}.",
            evidence=_evidence(case),
            by_verdict=False,
        ),
    )


def _size(case: KVCase, lmcache: LMCacheSettings, hits: float) -> tuple[Advice, ...]:
    signals, share = case.given.signals, fill(case)
    evictions, lifespan = signals.lmcache_eviction_rate, signals.lmcache_lifespan_p50
    if isinstance(share, Unknown) or isinstance(lmcache.local_bytes, Unknown):
        return (case.refuse("LMCacheSizeUnknown", f"How full LMCache's pool is: {share}; name {POOL_SIZE}."),)
    if isinstance(evictions, Unknown):
        return (case.refuse("LMCacheEvictionsUnknown", f"Whether LMCache evicts is {evictions}."),)
    size = lmcache.local_bytes / GIB
    if share < EMPTY and evictions <= 0.0:
        text = (
            f"LMCache holds {share:.0%} of its {size:.1f} GB a worker and evicts nothing: it may be as small as "
            f"{max(0.5, 1.25 * share * size):.1f} GB, once it has seen a whole day."
        )
        return (case.refuse("LMCacheHasRoom", text),)
    if evictions <= 0.0 or share < FULL:
        return (case.refuse("LMCacheFits", f"LMCache is {share:.0%} full and evicts {evictions:.2g} chunks a second."),)
    if not isinstance(lifespan, Unknown) and lifespan >= SHORT_MINUTES:
        text = f"Half of LMCache's chunks live for {lifespan:.0f} min and more; what comes back later is rare."
        return (case.refuse("LMCacheLivesLong", text),)
    factor = 2.0 if isinstance(lifespan, Unknown) or lifespan <= 0.0 else SHORT_MINUTES / lifespan
    factor = min(MOST_ENLARGEMENT, max(LEAST_ENLARGEMENT, factor))
    how_long = "" if isinstance(lifespan, Unknown) else f", and half of what it evicts has lived {lifespan:.1f} min"
    effects: tuple[Effect, ...] = (
        Effect("lmcache_hit_ratio", "ratio", hits, hits, _UNKNOWN_GAIN, _UNKNOWN_GAIN, "a larger LRU never hits less"),
    )
    if not isinstance(lifespan, Unknown):
        lives = (lifespan * (1.0 + 0.75 * (factor - 1.0)), lifespan * factor, lifespan * factor * 1.25)
        effects = (Effect("lmcache_lifespan", "minutes", lifespan, *lives, "pool / rate of storing"), *effects)
    return (
        case.propose(
            "LMCacheEnlarge",
            f"LMCache is {share:.0%} full, evicts {evictions * 60:.2g} chunks a minute{how_long}.",
            setting=POOL_SIZE,
            current=f"{size:.6g}",
            proposed=f"{size * factor:.6g}",
            lower=f"{size * LEAST_ENLARGEMENT:.6g}",
            upper=f"{size * MOST_ENLARGEMENT:.6g}",
            sure=0.5,
            effects=effects,
            risk=(
                f"Every worker takes {size * (factor - 1.0):.1f} GB more of pinned host memory: raise the pod's memory "
                "request and limit with it, or it is killed."
            ),
            verification=f"lmcache_evictions fall and lmcache_hit_ratio rises within {WATCHED}.",
            evidence=_evidence(case),
            by_verdict=False,
        ),
    )


def _policy(case: KVCase) -> tuple[Advice, ...]:
    policy = case.given.settings.lmcache_settings.policy.upper()
    evictions = case.given.signals.lmcache_eviction_rate
    if policy in GOOD_POLICIES or isinstance(evictions, Unknown) or evictions <= 0.0:
        return ()
    hits = case.given.signals.lmcache_hit_ratio
    return (
        case.propose(
            "LMCachePolicy",
            f"LMCache evicts by {policy[:8]}, which does not keep what conversations come back to; LRU does.",
            setting=POLICY,
            current=policy[:8],
            proposed="LRU",
            sure=0.5,
            effects=(Effect("lmcache_hit_ratio", "ratio", hits, _UNKNOWN_GAIN, _UNKNOWN_GAIN, _UNKNOWN_GAIN, "none"),),
            risk="Workloads that scan (each prompt once, in a circle) hit less with LRU.",
            verification=f"lmcache_hit_ratio rises within {WATCHED}.",
            evidence=_evidence(case),
            by_verdict=False,
        ),
    )


def _remote(case: KVCase) -> tuple[Advice, ...]:
    """Judge a remote store: does it answer, and sooner than the GPU computes the same chunk."""
    signals, lmcache = case.given.signals, case.given.settings.lmcache_settings
    if lmcache.remote is not True:
        return ()
    errors = signals.lmcache_ping_error_rate
    if not isinstance(errors, Unknown) and errors > 0.0:
        text = (
            f"LMCache's remote store does not answer {errors * 60:.2g} times a minute: look at it and at the network."
        )
        return (case.refuse("LMCacheRemoteFails", text),)
    get, prefill, prompt = signals.lmcache_remote_get_p95, signals.prefill_time_mean, signals.prompt_tokens_mean
    chunk = lmcache.chunk_tokens
    if isinstance(get, Unknown) or isinstance(prefill, Unknown) or isinstance(prompt, Unknown):
        return (case.refuse("LMCacheRemoteUnknown", f"How long the remote store takes (p95) is {get}."),)
    own = 0.0 if isinstance(signals.prefix_hit_ratio, Unknown) else signals.prefix_hit_ratio
    computed = prompt * (1.0 - own)
    if computed <= 0.0 or isinstance(chunk, Unknown):
        return (case.refuse("LMCacheRemoteUnknown", "How long a chunk takes to compute is not known."),)
    again = prefill * chunk / computed
    if get <= again:
        text = (
            f"The remote store brings a chunk within {get * 1e3:.0f} ms (p95); computing it takes {again * 1e3:.0f} ms."
        )
        return (case.refuse("LMCacheRemoteFast", text),)
    return (
        case.propose(
            "LMCacheRemoteSlow",
            f"The remote store takes {get * 1e3:.0f} ms for a chunk (p95), and the engine computes it in "
            f"{again * 1e3:.0f} ms: what is fetched comes later than what is computed.",
            setting=REMOTE,
            current="set",
            proposed=NOT_SET,
            sure=0.45,
            effects=(
                Effect(
                    "lmcache_retrieve_time", "seconds", get, 0.0, again, again, "prefill time x chunk / computed prompt"
                ),
            ),
            risk="Prefixes are not shared between replicas any more, nor kept over restarts.",
            undo=f"Give {REMOTE} its address back; each replica restarts once.",
            verification=f"time_to_first_token falls within {WATCHED}.",
            evidence=(
                *_evidence(case),
                Evidence("lmcache_remote_get", get, "seconds", signals.window, "engine", "p95"),
            ),
        ),
    )
