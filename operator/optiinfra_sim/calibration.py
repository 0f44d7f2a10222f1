"""Calibrates the engine model on recorded runs of a real vLLM, and says how far it then is from them.

What is read from a recording: its phases (stretches without an idle page, by the most requests in flight), the engine's
limits (``cache_config_info``), the prompts in order of their starts, the answers in order of their ends, and how long
steps took. The load generator was a closed loop, so a phase is replayed as so many clients that take the next request
when one is answered. The same function measures recorded and simulated pages.

What is fitted, and on what: the three costs of a step (fixed, per sequence, per prefill token) by non-negative least
squares over all scrape intervals of one run; and one factor for each phase, how much slower or faster the machine was
then than that fit (it had two cores, shared with the load generator: equal steps took 20 ms in one second, a second in
another). The factor is wall time over predicted time, from the pages alone. Nothing is fitted to the figures that are
compared. What a recording does not tell (answers that had not ended when it stops) is drawn from answers of the run
that the costs were fitted on, with a fixed seed.
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from optiinfra_sim.engine import Engine
from optiinfra_sim.errors import RecordingError
from optiinfra_sim.pages import PageTimes, render
from optiinfra_sim.replay import RecordedPage, Recording
from optiinfra_sim.request import Request
from optiinfra_sim.settings import EngineSettings

SHARED_PREFIX: Final = 160
"""Tokens of the load generator's common prefix: the hit counters grow by as much a request."""
NAMES: Final = ((3, "low"), (8, "mid"), (10**9, "saturated"))
"""A phase by the most requests in flight."""
_SAMPLE: Final = re.compile(r"^vllm:(\w+)(?:\{[^}]*\})? (\S+)$", re.MULTILINE)
_COUNTERS: Final = {
    "steps": "iteration_tokens_total_count",
    "step_tokens": "iteration_tokens_total_sum",
    "generated": "generation_tokens_total",
    "prompted": "prompt_tokens_total",
    "started": "time_to_first_token_seconds_count",
    "first_seconds": "time_to_first_token_seconds_sum",
    "gaps": "inter_token_latency_seconds_count",
    "gap_seconds": "inter_token_latency_seconds_sum",
    "ended": "request_prompt_tokens_count",
    "ended_prompt": "request_prompt_tokens_sum",
    "ended_output": "request_generation_tokens_sum",
    "preempted": "num_preemptions_total",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What the calibration reads from one page."""

    at: float
    running: float
    waiting: float
    usage: float
    steps: float
    step_tokens: float
    generated: float
    prompted: float
    started: float
    first_seconds: float
    gaps: float
    gap_seconds: float
    ended: float
    ended_prompt: float
    ended_output: float
    preempted: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """A phase in the figures that are compared. Seconds, requests, ratio, tokens a second."""

    running: float
    waiting: float
    kv_usage: float
    throughput: float
    time_to_first_token: float
    inter_token_latency: float
    preemptions: float


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of a recording under one load. ``clients`` is the most that were in flight."""

    name: str
    clients: int
    looks: tuple[Look, ...]
    """From the last page before it to the first idle one after it."""

    @property
    def saturated(self) -> bool:
        """Whether more was offered than could run at once."""
        return self.name == NAMES[-1][1]


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of a step: fixed, and for each sequence and each prompt token in it."""

    step: float
    sequence: float
    prefill_token: float

    def predicted(self, looks: Sequence[Look]) -> float:
        """Seconds that the steps between the first and the last look should have taken."""
        first, last = looks[0], looks[-1]
        decoded = last.gaps - first.gaps
        steps = last.steps - first.steps
        tokens = last.step_tokens - first.step_tokens
        return self.step * steps + self.sequence * decoded + self.prefill_token * max(0.0, tokens - decoded)

    def scaled(self, factor: float) -> "Costs":
        """All of them longer by a factor."""
        return Costs(self.step * factor, self.sequence * factor, self.prefill_token * factor)


@dataclass(frozen=True, slots=True)
class Shape:
    """A request: prompt and answer in tokens."""

    prompt: int
    output: int


def look(page: RecordedPage) -> Look:
    """Read one page; sums over its series, which are single ones here."""
    found = {name: float(value) for name, value in _SAMPLE.findall(page.body.decode())}
    try:
        counters = {own: found[theirs] for own, theirs in _COUNTERS.items()}
    except KeyError as error:
        raise RecordingError(f"the page at {page.at:g} s lacks vllm:{error.args[0]}") from error
    return Look(at=page.at, running=page.running, waiting=page.waiting, usage=page.kv_usage, **counters)


def phases(recording: Recording) -> list[Phase]:
    """The phases of a recording in order; stretches of one name that follow each other are one phase."""
    looks = [look(page) for page in recording.pages]
    stretches: list[list[Look]] = []
    for before, here in pairwise(looks):
        if not here.running and not here.waiting:
            if before.running:  # what ended in between shows on the first idle page
                stretches[-1].append(here)
            continue
        if not stretches or not before.running:
            stretches.append([before])
        stretches[-1].append(here)
    found: list[Phase] = []
    for stretch in stretches:
        clients = int(max(one.running + one.waiting for one in stretch))
        name = next(name for limit, name in NAMES if clients < limit)
        if found and found[-1].name == name:
            last = found.pop()
            found.append(Phase(name, max(clients, last.clients), (*last.looks, *stretch)))
        else:
            found.append(Phase(name, clients, tuple(stretch)))
    return found


def window(looks: Sequence[Look], *, saturated: bool) -> list[Look]:
    """The looks that a phase is measured on: its busy ones, of a saturated one those with a queue, and one before."""
    chosen = [index for index, one in enumerate(looks) if (one.waiting if saturated else one.running)]
    if len(chosen) < 2:
        raise RecordingError("a phase needs at least two pages")
    # The page before the first one belongs to it: requests that start in between count, as does their time.
    return list(looks[max(0, chosen[0] - 1) : chosen[-1] + 1])


def figures(looks: Sequence[Look], *, saturated: bool) -> Figures:
    """Measure a phase over its window; means over the looks that are busy (or have a queue)."""
    measured = window(looks, saturated=saturated)
    chosen = [one for one in measured if (one.waiting if saturated else one.running)]
    begin, end = measured[0], measured[-1]
    first_tokens = end.started - begin.started
    gaps = end.gaps - begin.gaps
    return Figures(
        running=float(np.mean([one.running for one in chosen])),
        waiting=float(np.mean([one.waiting for one in chosen])),
        kv_usage=float(np.mean([one.usage for one in chosen])),
        throughput=(end.generated - begin.generated) / (end.at - begin.at),
        time_to_first_token=(end.first_seconds - begin.first_seconds) / max(first_tokens, 1.0),
        inter_token_latency=(end.gap_seconds - begin.gap_seconds) / max(gaps, 1.0),
        preemptions=end.preempted - begin.preempted,
    )


def fit(found: Sequence[Phase]) -> Costs:
    """Non-negative least squares of wall time over steps, decoded and prompt tokens, one row an interval."""
    rows, seconds = [], []
    for phase in found:
        for before, here in pairwise(phase.looks):
            if before.running and here.running:
                decoded = here.gaps - before.gaps
                prompts = max(0.0, here.step_tokens - before.step_tokens - decoded)
                rows.append((here.steps - before.steps, decoded, prompts))
                seconds.append(here.at - before.at)
    if len(rows) < 10:
        raise RecordingError("too few busy intervals to fit the costs of a step on")
    return Costs(*_non_negative(np.array(rows), np.array(seconds)))


def _non_negative(rows: NDArray[np.float64], seconds: NDArray[np.float64]) -> tuple[float, float, float]:
    """The best of the least-squares solutions on all subsets of the columns that have no negative cost."""
    best, error = (float(seconds.sum() / rows[:, 0].sum()), 0.0, 0.0), float("inf")
    for mask in range(1, 8):
        columns = [column for column in range(3) if mask >> column & 1]
        if 0 not in columns:
            continue  # a step is never free
        solution, *_ = np.linalg.lstsq(rows[:, columns], seconds, rcond=None)
        missed = float(((rows[:, columns] @ solution - seconds) ** 2).sum())
        if (solution >= 0).all() and missed < error:
            values = dict(zip(columns, solution, strict=True))
            best, error = (float(values[0]), float(values.get(1, 0.0)), float(values.get(2, 0.0))), missed
    return best


def pace(phase: Phase, costs: Costs) -> float:
    """How much longer the phase's steps took than these costs say."""
    wall = predicted = 0.0
    for before, here in pairwise(window(phase.looks, saturated=phase.saturated)):
        if before.running and here.running:
            wall += here.at - before.at
            predicted += costs.predicted((before, here))
    if not predicted:
        raise RecordingError(f"phase {phase.name}: no step was counted")
    return wall / predicted


def shapes(phase: Phase, *, unknown: Sequence[Shape], seed: int = 1) -> list[Shape]:
    """The phase's requests in order of their starts. Prompts of several that started between two pages share alike.

    Where the recording stops before an answer ends, or a request starts, a shape of ``unknown`` stands for it.
    """
    begun: list[_Begun] = []
    ended = 0
    for before, here in pairwise(phase.looks):
        started = int(here.started - before.started)
        if started:
            group = _Group(members=started, tokens=here.prompted - before.prompted)
            begun += [_Begun(group=group, steps=before.steps) for _ in range(started)]
        count = int(here.ended - before.ended)
        ended += count
        for _ in range(count):
            prompt = (here.ended_prompt - before.ended_prompt) / count
            _match(begun, prompt, (here.ended_output - before.ended_output) / count, exact=count == 1)
    draw = random.Random(seed)  # noqa: S311 - a repeatable load, nothing secret
    last = phase.looks[-1]
    # The oldest of those that have not ended were never preempted: they have got a token in every step.
    for place, one in enumerate([one for one in begun if one.output is None]):
        least = last.steps - one.steps if place < last.running else 0.0
        longer = [shape.output for shape in unknown if shape.output > least]
        one.output = draw.choice(longer) if longer else least + 1
    known = [Shape(round(one.tokens), round(one.output or 1)) for one in begun]
    missing = int(last.running + last.waiting) + ended - len(known)
    if missing > 0 and not unknown:
        raise RecordingError(f"phase {phase.name}: {missing} requests never started, and no shapes stand for them")
    return known + [draw.choice(unknown) for _ in range(missing)]


@dataclass(slots=True)
class _Group:
    """Requests that started between the same two pages: only their tokens together are known."""

    members: int
    tokens: float


@dataclass(slots=True, eq=False)
class _Begun:
    """A request that has started; its answer is None until it is known."""

    group: _Group
    steps: float
    prompt: float | None = None
    output: float | None = None

    @property
    def tokens(self) -> float:
        """Its prompt, or its share of what its group has left."""
        return self.prompt if self.prompt is not None else self.group.tokens / self.group.members


def _match(begun: Sequence[_Begun], prompt: float, output: float, *, exact: bool) -> None:
    """Give an answer to the request that it fits best: the same prompt, else one of a group, else the closest."""
    unended = [one for one in begun if one.output is None]
    if not unended:
        return

    # A single start has its prompt for certain, and a group cannot hold a prompt longer than what it has left.
    def unfit(one: _Begun) -> tuple[bool, float]:
        left = one.group.tokens - prompt
        known = one.prompt is not None or one.group.members == 1
        return one.tokens != prompt if known else left < one.group.members - 1, abs(one.tokens - prompt)

    chosen = min(unended, key=unfit)
    chosen.output = output
    if exact and chosen.prompt is None and chosen.group.members > 1 and not unfit(chosen)[0]:
        chosen.prompt = prompt
        chosen.group.members -= 1
        chosen.group.tokens -= prompt


def _appearances(phase: Phase) -> list[float]:
    """When each client first asked, in seconds since the phase began: the page before it was first seen."""
    start, found = phase.looks[0], list[float]()
    for before, here in pairwise(phase.looks):
        seen = int(here.running + here.waiting)
        found += [before.at - start.at] * (seen - len(found))
    return found


def settings(recording: Recording, *, max_num_seqs: int, costs: Costs) -> EngineSettings:
    """The recorded engine; the batch limit is the one thing that its page does not tell."""
    labels = re.search(r"^vllm:cache_config_info\{(.*)\} ", recording.pages[-1].body.decode(), re.MULTILINE)
    if labels is None:
        raise RecordingError("the last page lacks vllm:cache_config_info")
    config = dict(re.findall(r'(\w+)="([^"]*)"', labels.group(1)))
    tokens = int(config["kv_cache_size_tokens"])
    return EngineSettings(
        model_name="tiny-llama",
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=2048,
        max_model_len=round(tokens / float(config["kv_cache_max_concurrency"])),
        block_size=int(config["block_size"]),
        num_blocks=int(config["num_gpu_blocks"]),
        step_seconds=costs.step,
        sequence_seconds=costs.sequence,
        prefill_token_seconds=costs.prefill_token,
    )


def paces(phase: Phase, costs: Costs) -> list[float]:
    """The same for each interval; one without a step lasts as long a step as those until the next that has one."""
    found: list[float] = []
    wall, pending = 0.0, 0
    for before, here in pairwise(phase.looks):
        wall += here.at - before.at
        pending += 1
        predicted = costs.predicted((before, here))
        if predicted:
            found += [max(wall, 1e-3) / predicted] * pending
            wall, pending = 0.0, 0
    return found + [found[-1] if found else 1.0] * pending


def replayed(
    phase: Phase,
    requests: Sequence[Shape],
    *,
    engine_settings: EngineSettings,
    machine: Sequence[float] = (),
) -> list[Look]:
    """The looks that the model gives for a phase, at the recorded moments of scraping.

    ``machine`` is the machine's pace in each interval, where it is not taken as constant.
    """
    engine = _Loop(engine_settings, clients=_appearances(phase), requests=requests)
    start = phase.looks[0].at
    looks = []
    for index, recorded in enumerate(phase.looks):
        if machine and index:
            engine.run_at(machine[index - 1])
        engine.advance(to=recorded.at - start)
        looks.append(replace(engine.look(), at=recorded.at))
    if phase.looks[-1].waiting:
        return looks  # the recording stops here, and so does the comparison
    # The model may be slower than the recorded engine was: its queue is measured to its own end.
    step = (phase.looks[-1].at - start) / max(1, len(phase.looks) - 1)
    while engine.waits_for_more and looks[-1].waiting and len(looks) < 4 * len(phase.looks):
        engine.advance(to=looks[-1].at + step - start)
        looks.append(replace(engine.look(), at=looks[-1].at + step))
    return looks


class _Loop:
    """Clients that ask again when they are answered, until the requests are used up."""

    def __init__(self, engine_settings: EngineSettings, *, clients: Sequence[float], requests: Sequence[Shape]) -> None:
        self._requests = list(requests)
        self._asked = 0
        self._whole = len(requests)
        on_finished: Callable[[Request], None] = lambda _request: self._ask()  # noqa: E731 - typed, one line
        self._engine = Engine(settings=engine_settings, on_finished=on_finished)
        for at in clients:
            self._ask(at)

    @property
    def waits_for_more(self) -> bool:
        """Whether requests are still on their way."""
        return self._engine.outstanding > 0

    def advance(self, *, to: float) -> None:
        self._engine.advance(to=to)

    def run_at(self, pace: float) -> None:
        self._engine.change(pace=pace)

    def look(self) -> Look:
        page = render(self._engine, times=PageTimes(started=0.0, serving=0.0))
        engine = self._engine
        return look(
            RecordedPage(
                at=engine.now,
                body=page,
                running=float(engine.running),
                waiting=float(engine.waiting),
                kv_usage=engine.kv_usage,
            )
        )

    def _ask(self, at: float = 0.0) -> None:
        if self._asked == self._whole:
            return
        shape = self._requests[self._asked]
        self._asked += 1
        shared = SHARED_PREFIX if shape.prompt > SHARED_PREFIX else 0
        content = ((1, shared), (10 + self._asked, shape.prompt - shared))
        request = Request(
            number=self._asked,
            arrival=max(at, self._engine.now),
            prompt=shape.prompt,
            output=max(1, shape.output),
            content=content if shared else content[1:],
        )
        self._engine.submit(request)
