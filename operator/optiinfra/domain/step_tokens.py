"""Advice on the tokens of one step: how much of a prompt is computed beside decoding.

Engines split long prompts over steps. A large share of a prompt in a step lets the first token come sooner and makes
everybody else's next token wait; a small share is gentle and slow. So the setting is lowered where slow tokens come
from steps that carry prompts (the 95th percentile far from the median), and raised where the first token is late for
no other reason than that its prompt took many steps. Both need to know what a prompt token costs: from the fit of the
engine's steps, else at most what prefill took per token. Where neither is known nothing is proposed.

Where prompts take all the time, no setting of steps makes them faster: then that is said, with what does. Smaller
steps are still proposed there if few tokens come much later than most and nobody said how late they may come.
"""

from dataclasses import replace
from math import ceil, isinf
from typing import Final

from optiinfra.domain.advice import Advice, AdviceInput, because
from optiinfra.domain.engine_flags import EngineFlags, flags_of
from optiinfra.domain.evidence import Bottleneck, Direction, Effect, Evidence, Proposal, RecommendationType, Refusal
from optiinfra.domain.manifests import instruction, patch, undo
from optiinfra.domain.objectives import said
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.units import Ratio, Seconds

INTERFERENCE: Final = 2.0
"""Times the median that p95 has to be before prompts are blamed."""
GRAIN: Final = 256
"""Proposed values are multiples of this."""
SMALLEST: Final = 512
LARGEST: Final = 16_384
UNPROMISED_STEP: Final = 2.0
"""Times the present tokens of a step, where no objective bounds them."""
WORTHWHILE: Final = 0.1
"""Share by which the first token has to come sooner."""
LONG: Final = 0.5
"""Share of a step's tokens from which a prompt counts as long."""
QUEUED: Final = 0.3
"""Share of the time to first token from which the queue is to blame, not the prompt."""
_TYPE: Final = RecommendationType.BATCH_SIZE
_NO_HITS: Final = 0.02
"""Share of prompt tokens from the prefix cache that is as good as none."""


def advise(given: AdviceInput) -> Advice:
    """Return a proposal for the tokens of a step, or why there is none."""
    signals, objectives, settings = given.signals, given.objectives, given.settings
    flags = flags_of(settings.engine, settings.version)
    if given.diagnosis.bottleneck is Bottleneck.UNKNOWN:
        return Refusal(_TYPE, "BottleneckUnknown", f"No advice on the tokens of a step: {given.diagnosis.message}")
    if not flags.step_tokens:
        return Refusal(_TYPE, "NoSuchSetting", f"{settings.engine} does not let the tokens of a step be set.")
    slow, first = signals.inter_token_latency_p95, signals.time_to_first_token_p95
    slow_tokens = not isinstance(slow, Unknown) and slow > objectives.inter_token_latency_p95
    late_first = not isinstance(first, Unknown) and first > objectives.time_to_first_token_p95
    if prefill_bound(given):
        found = _judged(given, flags, slow_tokens=slow_tokens) if slow_tokens or late_first else _smoother(given, flags)
        return replace(found, message=f"{found.message} {what_helps(given)}") if isinstance(found, Refusal) else found
    if slow_tokens or late_first:
        return _judged(given, flags, slow_tokens=slow_tokens)
    text = "Prompts neither slow tokens down nor come late by their steps."
    if isinf(objectives.inter_token_latency_p95) and isinf(objectives.time_to_first_token_p95):
        text = "Prompts do not take the time, and no objective was given that tokens or first tokens could miss."
    return Refusal(_TYPE, "StepTokensNotLimiting", text)


def prefill_bound(given: AdviceInput) -> bool:
    """Tell whether the verdict says that prompts take the time."""
    return given.diagnosis.bottleneck is Bottleneck.COMPUTE and given.diagnosis.reason == "PrefillBound"


def what_helps(given: AdviceInput) -> str:
    """Say what makes prompts cheaper or takes them elsewhere, where they are what takes the time."""
    caching, hits, gpu = given.settings.prefix_caching, given.signals.prefix_hit_ratio, given.gpu
    if caching is False:
        ways = ["the prefix cache, which is off"]
    elif not isinstance(hits, Unknown) and hits <= _NO_HITS:
        ways = [f"prompts that begin alike (the prefix cache answers {hits:.0%} of their tokens)"]
    else:
        ways = ["prompts that begin alike, for the prefix cache"]
    if isinstance(gpu, Unknown):
        ways.append("FP8 weights where the GPU computes in FP8 (which GPU it is is not known)")
    elif not isinstance(gpu.flops_8, Unknown) and not given.settings.quantization:
        ways.append(f"FP8 weights, for the {gpu.name} computes in FP8")
    ways += ["more replicas, which scaling decides", "replicas of their own for prefill"]
    return f"What helps: {'; '.join(ways)}."


def _judged(given: AdviceInput, flags: EngineFlags, *, slow_tokens: bool) -> Advice:
    signals, settings = given.signals, given.settings
    slow, median = signals.inter_token_latency_p95, signals.inter_token_latency_p50
    if isinstance(slow, Unknown) or isinstance(median, Unknown) or median <= 0.0:
        why = because(median if isinstance(median, Unknown) else slow)
        return Refusal(_TYPE, "StepsUnknown", f"Whether prompts slow tokens down is not known: {why}.")
    if settings.chunked_prefill is False and slow_tokens:
        return _chunking(given, flags)
    each = prompt_token_seconds(given)
    if isinstance(each, Unknown):
        return Refusal(_TYPE, "PromptCostUnknown", f"What a prompt token costs is not known: {because(each)}.")
    if slow_tokens:
        return _fewer(given, flags, slow=slow, median=median, each=each)
    return _more(given, flags, slow=slow, median=median, each=each)


def interferes(given: AdviceInput) -> bool:
    """Tell whether slow tokens come from steps that carry prompts.

    They do where the verdict says so, and where the median keeps its objective and p95 does not.
    """
    slow, median = given.signals.inter_token_latency_p95, given.signals.inter_token_latency_p50
    if isinstance(slow, Unknown) or isinstance(median, Unknown):
        return False
    promised = given.objectives.inter_token_latency_p95
    if prefill_bound(given):
        return slow > promised
    return median <= promised < slow and slow >= INTERFERENCE * median


def prompt_token_seconds(given: AdviceInput) -> Value:
    """Return the seconds that a prompt token adds to its step; the fit's, else prefill time over computed tokens."""
    if not isinstance(given.pace.prompt_slope, Unknown) and given.pace.prompt_slope > 0.0:
        return given.pace.prompt_slope
    prefill, prompt, hits = (
        given.signals.prefill_time_mean,
        given.signals.prompt_tokens_mean,
        given.signals.prefix_hit_ratio,
    )
    if isinstance(prefill, Unknown):
        return prefill
    if isinstance(prompt, Unknown):
        return prompt
    computed = prompt * (1.0 - (0.0 if isinstance(hits, Unknown) else hits))
    if computed < 1.0 or prefill <= 0.0:
        return Unknown(UnknownReason.TOO_FEW_SAMPLES, "hardly any prompt was computed")
    return prefill / computed


def _chunking(given: AdviceInput, flags: EngineFlags) -> Advice:
    if not flags.chunked_prefill:
        text = "Prompts are computed whole, and this engine and version has no setting that splits them."
        return Refusal(_TYPE, "NoSuchSetting", text)
    before = given.signals.inter_token_latency_p95
    why = Unknown(UnknownReason.TOO_FEW_SAMPLES, "how prompts would be split is for the engine to say")
    return _proposal(
        given,
        setting=flags.chunked_prefill,
        value="",
        current="off",
        reason="EnableChunkedPrefill",
        text="Prompts are computed whole, and everybody else's next token waits for them.",
        bounds=("on", "on"),
        sure=0.6,
        effects=(Effect("inter_token_latency_p95", "seconds", before, 0.0, why, before, "prompts split over steps"),),
        risk="A long prompt takes more steps, so that its first token comes later.",
    )


def _fewer(given: AdviceInput, flags: EngineFlags, *, slow: float, median: float, each: float) -> Advice:
    signals, promised = given.signals, given.objectives.inter_token_latency_p95
    prompt, known = signals.prompt_tokens_mean, prefill_bound(given)
    if slow < INTERFERENCE * median and not known:
        text = f"Tokens are slow evenly ({median:.2g} s median, {slow:.2g} s p95), so that prompts are not to blame."
        return Refusal(_TYPE, "PrefillNotInterfering", text)
    median = _bare_step(given, median=median, each=each)
    if median >= promised:
        return Refusal(_TYPE, "StepTooSlow", f"Even steps without prompts take {median:.2g} s of {promised:g} s.")
    present = given.settings.step_tokens
    carried = (slow - median) / each
    if isinstance(present, Unknown):
        present = carried
    # Several prompts share a step where they take the time; more than the largest step holds is no step.
    several = known and min(present, carried) <= LARGEST
    if isinstance(prompt, Unknown) or (prompt < LONG * min(present, carried) and not several):
        return Refusal(
            _TYPE, "PromptsShort", f"Prompts ({prompt} tokens) are too short to fill the steps that are slow."
        )
    proposed = int((promised - median) / each // GRAIN * GRAIN)
    running = signals.running_per_replica_max
    least = max(SMALLEST, 0 if isinstance(running, Unknown) else ceil(running / GRAIN) * GRAIN)
    if proposed < least:
        text = (
            f"To keep {promised:g} s a step could carry {(promised - median) / each:.0f} tokens of prompts; below "
            f"{least} prefill becomes too slow. Separate replicas for prefill and decoding help."
        )
        return Refusal(_TYPE, "DisaggregationNeeded", text)
    if proposed >= present:
        return Refusal(_TYPE, "StepTokensSmall", f"A step carries {present:.0f} tokens at most already.")
    chunks = ceil(prompt / proposed)
    after = median + proposed * each
    return _proposal(
        given,
        setting=flags.step_tokens,
        value=str(proposed),
        current=_current(given, flags),
        reason="LowerStepTokens",
        text=(
            f"Tokens take {median:.2g} s in the median and {slow:.2g} s at p95, when a step carries about "
            f"{carried:.0f} tokens of prompts. With {proposed} a step takes at most about {after:.2g} s."
        ),
        bounds=(str(least), str(proposed)),
        sure=0.6,
        effects=(
            Effect("inter_token_latency_p95", "seconds", slow, median, after, slow, "median + tokens x cost of one"),
            Effect(
                "time_to_first_token",
                "seconds",
                signals.time_to_first_token_mean,
                signals.time_to_first_token_mean,
                _plus(signals.time_to_first_token_mean, (chunks - ceil(prompt / present)) * median),
                _plus(signals.time_to_first_token_mean, chunks * median),
                "one step more for each further part of a prompt",
            ),
        ),
        risk="Prompts take more steps: the first token comes later, and the most tokens a second falls a little.",
    )


def _bare_step(given: AdviceInput, *, median: float, each: float) -> float:
    """Return a step that carries no prompt: the median one, or less where that carries prompts too."""
    signals, pace = given.signals, given.pace
    if not prefill_bound(given) or isinstance(signals.running_mean, Unknown):
        return median
    batch = signals.running_mean
    if not isinstance(pace.base, Unknown) and not isinstance(pace.slope, Unknown):
        return min(median, max(0.0, pace.base + pace.slope * batch))
    step, tokens = signals.inter_token_latency_mean, signals.step_tokens_mean
    if isinstance(step, Unknown) or isinstance(tokens, Unknown):
        return median
    return min(median, max(0.0, step - each * max(0.0, tokens - batch)))


def _smoother(given: AdviceInput, flags: EngineFlags) -> Advice:
    """Halve the steps that come late, where prompts take the time and nobody said how late tokens may come."""
    signals = given.signals
    slow, median, each = signals.inter_token_latency_p95, signals.inter_token_latency_p50, prompt_token_seconds(given)
    text = "Prompts take the time, and no number of tokens a step makes them faster."
    if isinstance(slow, Unknown) or isinstance(median, Unknown) or isinstance(each, Unknown):
        return Refusal(_TYPE, "PrefillTakesTheTime", text)
    if not isinf(given.objectives.inter_token_latency_p95) or slow < INTERFERENCE * median:
        return Refusal(_TYPE, "PrefillTakesTheTime", text)
    bare = _bare_step(given, median=median, each=each)
    carried, present, running = (slow - bare) / each, given.settings.step_tokens, signals.running_per_replica_max
    most = carried if isinstance(present, Unknown) else min(present, carried)
    proposed = int(most / 2.0 // GRAIN * GRAIN)
    least = max(SMALLEST, 0 if isinstance(running, Unknown) else ceil(running / GRAIN) * GRAIN)
    if proposed > LARGEST:
        # Tokens as cheap as that do not make a step late.
        return Refusal(_TYPE, "PrefillTakesTheTime", text)
    if proposed < least:
        text = f"{text} Steps carry {carried:.0f} tokens of prompts at p95; half of that would make prefill too slow."
        return Refusal(_TYPE, "PrefillTakesTheTime", text)
    after, first = bare + proposed * each, signals.time_to_first_token_mean
    prompt = 0.0 if isinstance(signals.prompt_tokens_mean, Unknown) else signals.prompt_tokens_mean
    return _proposal(
        given,
        setting=flags.step_tokens,
        value=str(proposed),
        current=_current(given, flags),
        reason="LowerStepTokens",
        text=(
            f"{text} {what_helps(given)} Smaller steps only let other tokens wait less: they come after {median:.2g} s "
            f"in the median and {slow:.2g} s at p95, as long as {carried:,.0f} tokens of prompts take. With {proposed} "
            f"a step takes about {after:.2g} s at most. No objective says how much is needed: about half is proposed."
        ),
        bounds=(str(least), str(max(proposed, int(most) - GRAIN))),
        sure=0.5,
        effects=(
            Effect(
                "inter_token_latency_p95",
                "seconds",
                slow,
                min(median, after),
                after,
                max(slow, after),
                "step without prompts + tokens x cost of one",
            ),
            Effect(
                "time_to_first_token",
                "seconds",
                first,
                first,
                _plus(first, (ceil(prompt / proposed) - ceil(prompt / most)) * bare),
                _plus(first, ceil(prompt / proposed) * median),
                "one step more for each further part of a prompt",
            ),
        ),
        risk="Prompts take more steps: the first token comes later, and the most tokens a second falls a little.",
    )


def _more(given: AdviceInput, flags: EngineFlags, *, slow: float, median: float, each: float) -> Advice:
    signals, promised = given.signals, given.objectives.inter_token_latency_p95
    first, queued, prompt = signals.time_to_first_token_p95, signals.queue_time_p95, signals.prompt_tokens_mean
    present = given.settings.step_tokens
    assert not isinstance(first, Unknown)
    if isinstance(queued, Unknown) or queued > QUEUED * first:
        text = (
            f"First tokens are late by the queue ({queued if isinstance(queued, Unknown) else f'{queued:.2g} s'} p95)."
        )
        return Refusal(_TYPE, "QueueFirst", text)
    if isinstance(present, Unknown):
        return Refusal(
            _TYPE, "StepTokensUnknown", f"How many tokens a step may carry is not known: {because(present)}."
        )
    longest = signals.prompt_tokens_p99 if not isinstance(signals.prompt_tokens_p99, Unknown) else prompt
    if isinstance(longest, Unknown) or longest <= present:
        return Refusal(_TYPE, "PromptsShort", f"Prompts fit into one step of {present:.0f} tokens.")
    # Where nobody said how late a token may come, one step of twice the size is enough to judge by.
    most = min(LARGEST, UNPROMISED_STEP * present if isinf(promised) else max(0.0, promised - median) / each)
    proposed = int(most // GRAIN * GRAIN)
    if proposed <= present * 1.5:
        text = f"Larger steps would make tokens wait longer than {promised:g} s: prefill itself is what takes the time."
        if isinf(promised):
            text = f"Steps of {present:.0f} tokens are large already: prefill itself is what takes the time."
        return Refusal(_TYPE, "LatencyAtLimit", text)
    saved = min(first, (ceil(longest / present) - ceil(longest / proposed)) * median)
    if saved < WORTHWHILE * first:
        text = f"Fewer steps for a prompt save {saved:.2g} s of {first:.2g} s: prefill itself is what takes the time."
        return Refusal(_TYPE, "PrefillTakesTheTime", text)
    after = max(slow, median + proposed * each)
    return _proposal(
        given,
        setting=flags.step_tokens,
        value=str(proposed),
        current=_current(given, flags),
        reason="RaiseStepTokens",
        text=(
            f"A prompt of {longest:.0f} tokens takes {ceil(longest / present)} steps of {present:.0f}; with {proposed} "
            f"it takes {ceil(longest / proposed)} and its first token comes about {saved:.2g} s sooner."
        ),
        bounds=(str(int(present) + GRAIN), str(proposed)),
        sure=0.5,
        effects=(
            Effect(
                "time_to_first_token_p95",
                "seconds",
                first,
                max(0.0, first - 2.0 * saved),
                first - saved,
                first,
                "one step less for each part of a prompt",
            ),
            Effect("inter_token_latency_p95", "seconds", slow, slow, after, after, "median + tokens x cost of one"),
        ),
        risk="Steps that carry prompts take longer, and everybody else's next token waits for them.",
    )


def _plus(value: Value, more: float) -> Value:
    return value if isinstance(value, Unknown) else value + max(0.0, more)


def _current(given: AdviceInput, flags: EngineFlags) -> str:
    present = given.settings.step_tokens
    if not isinstance(present, Unknown):
        return f"{present:.0f}"
    # Without a container no arguments were read, and what stands in them may be more than the default.
    return f"{'not given (' if given.settings.container else 'not known ('}default {flags.step_tokens_default})"


def _proposal(
    given: AdviceInput,
    *,
    setting: str,
    value: str,
    current: str,
    reason: str,
    text: str,
    bounds: tuple[str, str],
    sure: float,
    effects: tuple[Effect, ...],
    risk: str,
) -> Proposal:
    signals, container, window = given.signals, given.settings.container, given.signals.window
    before = "" if current == "off" or current.startswith(("not given", "not known")) else current
    return Proposal(
        type=_TYPE,
        reason=reason,
        message=f"{text} {instruction(setting, value, container=container)}",
        setting=setting,
        current=current,
        proposed=value or "on",
        lower=bounds[0],
        upper=bounds[1],
        direction=Direction.RESIZE,
        confidence=Ratio(round(given.diagnosis.confidence * sure, 2)),
        evidence=(
            Evidence("inter_token_latency", signals.inter_token_latency_p95, "seconds", window, "engine", "p95"),
            Evidence("inter_token_latency", signals.inter_token_latency_p50, "seconds", window, "engine", "p50"),
            Evidence("time_to_first_token", signals.time_to_first_token_p95, "seconds", window, "engine", "p95"),
            Evidence("prompt_tokens", signals.prompt_tokens_mean, "tokens", window, "engine", "mean"),
            Evidence("step_tokens", given.settings.step_tokens, "tokens", Seconds(0.0), "engine"),
        ),
        patch=patch(setting, value, container=container),
        effects=effects,
        risk=risk,
        verification=(
            "After the restart, for half an hour under like load: inter-token latency p50 and p95 "
            f"({said(given.objectives.inter_token_latency_p95)}) and time to first token p95 "
            f"({said(given.objectives.time_to_first_token_p95)})."
        ),
        undo=undo(setting, before, container=container),
    )
