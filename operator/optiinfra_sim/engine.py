"""One simulated replica: continuous batching over KV blocks, in virtual time.

It follows vLLM's V1 scheduler: a FIFO queue, a batch limit, blocks that grow with every generated token, preemption
by recompute of the newest request when blocks run out, prefill in chunks under a token budget a step, a prefix cache
of block hashes, and requests that are passed over while their adapter or their remote KV is missing. SGLang's and
TGI's habits differ where :class:`EngineKind` says so. Steps in which nothing can change but token counts are taken
together, which makes a busy replica hundreds of times faster than real time. No clock, no chance, no I/O.

It does not model speculative decoding, swapping, or CPU work that overlaps with the GPU's. A whole prompt's blocks are
taken at admission, where vLLM checks that they are free and takes them chunk by chunk.
"""

import heapq
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from optiinfra_sim.blocks import BlockPool
from optiinfra_sim.errors import EngineError
from optiinfra_sim.link import RemoteLink
from optiinfra_sim.metrics import EngineMetrics
from optiinfra_sim.request import Request
from optiinfra_sim.seats import Seats
from optiinfra_sim.settings import EngineSettings
from optiinfra_sim.step import BUSY_SM_SHARE, WEIGHTS_SM_SHARE, Step


class Engine:
    """A replica that has loaded its model. ``on_scheduled`` hears of each request's first entry into the batch."""

    def __init__(
        self,
        *,
        settings: EngineSettings,
        now: float = 0.0,
        on_scheduled: Callable[[Request], None] | None = None,
        on_first_token: Callable[[Request], None] | None = None,
        on_finished: Callable[[Request], None] | None = None,
    ) -> None:
        self.settings = settings
        self._host_seconds = settings.host_seconds
        self._pace = 1.0
        self.now = now
        self._reached = now  # `now` stands at the start of a step under way; this is how far time has come
        self.metrics = EngineMetrics(settings.max_model_len, settings.kind)
        self._on_scheduled = on_scheduled
        self._on_first_token = on_first_token
        self._on_finished = on_finished
        self._arriving: deque[Request] = deque()
        self._waiting: deque[Request] = deque()
        self._running: dict[int, Request] = {}  # in order of admission: the last one is preempted first
        self._prefilling: dict[int, Request] = {}
        self._decoding = 0
        self._decode_step = 0
        self._block_phase = [0] * settings.block_size  # decoding requests by the step at which they need a block
        self._finishing: list[tuple[int, int, Request]] = []
        self._pool = BlockPool(settings.usable_blocks)
        self._seats = Seats(settings, self._pool)
        self._link = RemoteLink(settings.remote_seconds, settings.remote_token_seconds)
        self._pauses: list[tuple[float, int]] = []  # decoding pauses since the last decode step, and how many waited
        self._step: Step | None = None

    @property
    def running(self) -> int:
        """Requests in the batch."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Requests that have arrived and are not in the batch."""
        arrived = itertools.takewhile(lambda request: request.arrival <= self._reached, self._arriving)
        return len(self._waiting) + sum(1 for _ in arrived)

    @property
    def outstanding(self) -> int:
        """All requests that this engine still owes an answer."""
        return len(self._running) + len(self._waiting) + len(self._arriving)

    @property
    def deferred(self) -> int:
        """Those of the waiting that do not wait for capacity."""
        return sum(1 for request in self._waiting if request.deferred)

    @property
    def kv_usage(self) -> float:
        """Live blocks over usable blocks, as vLLM measures it: what is merely cached counts as free."""
        return min(1.0, self._pool.live / self.settings.usable_blocks)

    @property
    def live_blocks(self) -> int:
        """Blocks that requests hold."""
        return self._pool.live

    @property
    def cached_blocks(self) -> int:
        """Free blocks that still hold a known prefix."""
        return self._pool.cached

    @property
    def evicted_blocks(self) -> int:
        """Cached blocks that had to make room so far."""
        return self._pool.evicted

    @property
    def decoding(self) -> int:
        """Requests in the batch whose prompt is computed."""
        return self._decoding

    @property
    def running_requests(self) -> list[Request]:
        """The batch, in order of admission."""
        return list(self._running.values())

    def generated(self, request: Request) -> int:
        """Tokens of a running or finished request up to the last completed step."""
        if request.number in self._running and request.joined_step >= 0:
            return request.generated + self._decode_step - request.joined_step
        return request.generated

    def queued(self) -> list[Request]:
        """The waiting requests, oldest place in the queue first."""
        return [*self._waiting, *self._arriving]

    def change(
        self,
        *,
        host_seconds: float | None = None,
        remote_token_seconds: float | None = None,
        pace: float | None = None,
    ) -> None:
        """From the next step on, let the host, the remote link or the whole machine be slower or faster.

        ``host_seconds`` is the host's share of a step, ``remote_token_seconds`` the link's time for a token, ``pace``
        how many times as long as its costs say a step lasts.
        """
        if host_seconds is not None:
            self._host_seconds = host_seconds
        if remote_token_seconds is not None:
            self._link.token_seconds = remote_token_seconds
        if pace is not None:
            if pace <= 0:
                raise EngineError("pace must be above 0")
            self._pace = pace
        if self._step is not None:
            self._step.repeat = self._step.done(self._reached) + 1

    def submit(self, request: Request) -> None:
        """Hand in a request; it must not be older than one handed in before."""
        if request.prompt < 1 or request.output < 1:
            raise EngineError(f"request {request.number} needs at least one prompt and one output token")
        if request.limit and request.limit < request.output:
            raise EngineError(f"request {request.number} generates {request.output} tokens beyond its own limit")
        if request.prompt + request.max_tokens > self.settings.max_model_len:
            raise EngineError(f"request {request.number} is longer than max_model_len {self.settings.max_model_len}")
        self._arriving.append(request)
        step = self._step
        if step is not None and request.arrival < step.end:
            # The newcomer is looked at after the step that is under way when it arrives.
            step.repeat = step.done(max(request.arrival, self._reached)) + 1

    def advance(self, *, to: float, settle: bool = True) -> None:
        """Live through the time up to ``to``; a step that ends later stays under way.

        Without ``settle`` the tokens of equal steps that are under way together may be counted later: the gauges of
        requests are right all the same, and that is all a router looks at.
        """
        if to < self._reached:
            raise EngineError(f"time cannot run backwards: at {self._reached}, asked for {to}")
        self._reached = to
        while True:
            if self._step is not None:
                if self._step.end > to:
                    if settle:
                        self._settle(self._step, to)
                    return
                self._complete(self._step)
                self._step = None
            self._receive()
            if not self._running and not self._waiting:
                if not self._arriving or self._arriving[0].arrival > to:
                    self.now = to
                    return
                self.now = self._arriving[0].arrival
                continue
            if self.now >= to:
                return
            self._step = self._begin()
            if self._step is None:
                # Everybody waits for something that only time brings.
                self.now = min([to, *self._events()])

    def _receive(self) -> None:
        while self._arriving and self._arriving[0].arrival <= self.now:
            self._waiting.append(self._arriving.popleft())

    def drain_queue(self) -> list[Request]:
        """Give back every request that is not in the batch."""
        queued = self.queued()
        for request in self._link.fetching:
            self._seats.give_back(request)
            request.forget_cache()
        self._link.fetching.clear()
        self._waiting.clear()
        self._arriving.clear()
        return queued

    def evict(self) -> list[Request]:
        """Stop at once: give back every request, those of the batch first and without their progress."""
        running = list(self._running.values())
        queued = self.drain_queue()
        for request in running:
            request.restart()
        self._running.clear()
        self._prefilling.clear()
        self._finishing.clear()
        self._pauses.clear()
        self._block_phase = [0] * self.settings.block_size
        self._decoding = 0
        self._pool = BlockPool(self.settings.usable_blocks)
        self._seats = Seats(self.settings, self._pool)
        self._step = None
        return [*running, *queued]

    def abort(self, request: Request) -> None:
        """Forget a request whose client is gone; one that is not here any more is let be."""
        if request.number in self._running:
            if request.joined_step >= 0:
                request.generated = self.generated(request)
                if self._step is not None and self._step.decoding:
                    self._step.decoding -= 1
                self._leave_decoding(request)
            else:
                del self._prefilling[request.number]
                self._seats.give_back(request)
            del self._running[request.number]
        elif request in self._waiting:
            self._waiting.remove(request)
            if request in self._link.fetching:
                self._link.fetching.remove(request)
                self._seats.give_back(request)
        elif request in self._arriving:
            self._arriving.remove(request)
        else:
            return
        self.metrics.aborted += 1

    # Scheduling

    def _events(self) -> list[float]:
        """The next arrival and the ends of fetches."""
        return [*(request.arrival for request in itertools.islice(self._arriving, 1)), *self._link.ends()]

    def _begin(self) -> Step | None:
        settings = self.settings
        preempted = False
        while self._growth(1) > self._pool.free:
            self._preempt()
            preempted = True
        chunks = self._chunks(admit=not preempted)
        decoding = 0 if chunks and settings.prefills_alone else self._decoding
        if not chunks and not decoding:
            return None
        prefill = sum(tokens for _, tokens in chunks)
        growing = settings.sequence_seconds * (decoding + len(chunks)) + settings.prefill_token_seconds * prefill
        seconds = (self._host_seconds + settings.step_seconds + growing) * self._pace
        # After a preemption nothing was admitted; the very next step may admit again.
        repeat = 1 if chunks or preempted or self._pauses else self._repeatable(seconds)
        return Step(
            start=self.now,
            seconds=seconds,
            repeat=repeat,
            decoding=decoding,
            sm_seconds=WEIGHTS_SM_SHARE * settings.step_seconds + BUSY_SM_SHARE * growing,
            chunks=chunks,
        )

    def _chunks(self, *, admit: bool) -> list[tuple[Request, int]]:
        settings = self.settings
        budget = settings.max_num_batched_tokens - (0 if settings.prefills_alone else self._decoding)
        chunks: list[tuple[Request, int]] = []
        for request in self._prefilling.values():
            tokens = min(request.prefill_left, budget)
            if tokens > 0:
                chunks.append((request, tokens))
                budget -= tokens
                self._seats.publish(request, tokens=tokens)
        passed: list[Request] = []
        crowded = False
        admitted = 0
        while admit and self._waiting and budget > 0 and len(self._running) < settings.max_num_seqs:
            request = self._waiting[0]
            request.deferred = self._defers(request)
            if not request.deferred:
                if request.ready_at is None and (crowded or not self._seats.take(request, spoken_for=self._growth(1))):
                    if not self._link.fetching:
                        break
                    # Those behind it whose fetch is done hold their blocks already: they must not wait for it.
                    crowded = True
                    passed.append(self._waiting.popleft())
                    continue
                request.deferred = request.external > 0 and self._fetches(request)
            self._waiting.popleft()
            if request.deferred:
                passed.append(request)
                continue
            admitted += 1
            tokens = min(self._admit(request), budget)
            budget -= tokens
            chunks.append((request, tokens))
            self._seats.publish(request, tokens=tokens)
        self._waiting.extendleft(reversed(passed))
        if admitted:
            self.metrics.admitted_together.observe(admitted)
        return chunks

    def _defers(self, request: Request) -> bool:
        """Whether its adapter has no slot, or its fetch has not ended."""
        if request.ready_at is not None:
            return request.ready_at > self.now
        limit = self.settings.max_loras
        if not limit or not request.adapter:
            return False
        used = {other.adapter for other in self._running.values() if other.adapter}
        return request.adapter not in used and len(used) >= limit

    def _fetches(self, request: Request) -> bool:
        """Begin to fetch what a remote cache holds of the prompt, unless it has been fetched; whether it must wait."""
        if request.ready_at is not None:
            self._link.fetching.remove(request)
            return False
        missing = request.external - len(request.held) * self.settings.block_size
        self.metrics.external_queries += max(0, request.prompt - len(request.held) * self.settings.block_size)
        if missing <= 0:
            return False
        self._link.begin(request, tokens=missing, now=self.now)
        self.metrics.external_hits += request.fetched
        return True

    def _admit(self, request: Request) -> int:
        local = self.settings.found(request.prompt, known_blocks=len(request.held))
        request.cached = min(local + request.fetched, request.prompt - 1)
        request.prefill_left = request.prompt + request.generated - request.cached
        self._running[request.number] = request
        self._prefilling[request.number] = request
        if request.preemptions == 0:
            self.metrics.prefix_queries += request.prompt
            self.metrics.prefix_hits += local
        if request.scheduled_at is None:
            request.scheduled_at = self.now
            if self._on_scheduled is not None:
                self._on_scheduled(request)
        return request.prefill_left

    def _preempt(self) -> None:
        _, request = self._running.popitem()
        if request.joined_step >= 0:
            request.generated += self._decode_step - request.joined_step
            request.last_token_at = self.now
            self._leave_decoding(request)
        else:
            del self._prefilling[request.number]
            self._seats.give_back(request)
        request.forget_cache()
        request.preemptions += 1
        self.metrics.preemptions += 1
        self.metrics.preempted_prompt_tokens += request.prompt
        self.metrics.preempted_generated_tokens += request.generated
        self._waiting.appendleft(request)

    # Steps

    def _growth(self, steps: int) -> int:
        """Blocks that the decoding requests will need over the next ``steps`` steps."""
        if self.settings.reserves_answers:
            return 0
        size = self.settings.block_size
        cycles, rest = divmod(steps, size)
        phase = self._block_phase
        step = self._decode_step
        return cycles * self._decoding + sum(phase[-(step + i) % size] for i in range(rest))

    def _repeatable(self, seconds: float) -> int:
        """How many decode steps can be taken together: none may finish a request early, miss an arrival or a block."""
        while self._finishing and self._stale(self._finishing[0]):
            heapq.heappop(self._finishing)
        repeat = self._finishing[0][0] - self._decode_step
        if self._arriving or self._link.fetching:
            horizon = min(self._events())
            repeat = min(repeat, max(1, int((horizon - self.now) / seconds)))
        free = self._pool.free
        if self._decoding * (repeat // self.settings.block_size + 1) > free:
            while repeat > 1 and self._growth(repeat) > free:
                repeat //= 2
        return repeat

    def _stale(self, entry: tuple[int, int, Request]) -> bool:
        return entry[2].finish_step != entry[0] or entry[1] not in self._running

    def _settle(self, step: Step, to: float) -> None:
        """Count the steps that are done of those under way."""
        done = step.done(to)
        if done < 1:
            return
        self._step = None
        self._complete(replace(step, repeat=done))
        self._step = replace(step, start=self.now, repeat=step.repeat - done)

    def _complete(self, step: Step) -> None:
        metrics = self.metrics
        self.now = step.end
        metrics.steps += step.repeat
        metrics.busy_seconds += step.seconds * step.repeat
        metrics.sm_seconds += step.sm_seconds * step.repeat
        durations = metrics.prefill_steps if step.chunks else metrics.decode_steps
        durations.observe(step.seconds, times=step.repeat)
        if step.decoding:
            self._pool.take(self._growth(step.repeat))
            metrics.generation_tokens += step.decoding * step.repeat
            self._observe_gaps(step)
            self._decode_step += step.repeat
        elif self._decoding:
            self._pauses.append((step.seconds, self._decoding))
        prefill = sum(tokens for _, tokens in step.chunks)
        metrics.iteration_tokens.observe(step.decoding + prefill, times=step.repeat)
        while self._finishing and self._finishing[0][0] <= self._decode_step:
            entry = heapq.heappop(self._finishing)
            if not self._stale(entry):
                self._finish(entry[2])
        for request, tokens in step.chunks:
            if self._prefilling.get(request.number) is not request:
                continue  # aborted meanwhile
            request.prefill_left -= tokens
            if request.prefill_left == 0:
                self._first_token(request)

    def _observe_gaps(self, step: Step) -> None:
        """Inter-token latencies of a decode step; those who had to pause before it waited for that as well."""
        observe = self.metrics.inter_token_latency.observe
        if not self._pauses:
            observe(step.seconds, times=step.decoding * step.repeat)
            return
        # Nobody leaves during pauses, so whoever sat through one sat through all later ones.
        seated, gap = 0, step.seconds + sum(seconds for seconds, _ in self._pauses)
        for seconds, decoding in self._pauses:
            sitting = min(decoding, step.decoding)
            observe(gap, times=max(0, sitting - seated))
            seated = max(seated, sitting)
            gap -= seconds
        observe(step.seconds, times=step.decoding - seated)
        self._pauses.clear()

    def _first_token(self, request: Request) -> None:
        """The prefill of a request is complete: its last step also yields a token."""
        metrics = self.metrics
        del self._prefilling[request.number]
        metrics.preemptions_told += request.preemptions - request.preemptions_told
        request.preemptions_told = request.preemptions
        request.resident = request.prompt + request.generated
        request.generated += 1
        metrics.generation_tokens += 1
        if request.first_token_at is None:
            request.first_token_at = self.now
            metrics.time_to_first_token.observe(self.now - request.arrival)
            if self._on_first_token is not None:
                self._on_first_token(request)
        elif request.last_token_at is not None:
            metrics.inter_token_latency.observe(self.now - request.last_token_at)
        if request.preemptions == 0:
            metrics.prompt_tokens += request.prompt
            metrics.prompt_tokens_cached += request.cached
            metrics.prompt_tokens_fetched += request.fetched
        request.joined_step = self._decode_step
        request.finish_step = self._decode_step + request.output - request.generated
        self._decoding += 1
        self._block_phase[self._phase(request)] += 1
        if request.finish_step == self._decode_step:
            self._finish(request)
        else:
            heapq.heappush(self._finishing, (request.finish_step, request.number, request))

    def _phase(self, request: Request) -> int:
        return (request.resident - request.joined_step) % self.settings.block_size

    def _leave_decoding(self, request: Request, *, keep_answer: bool = False) -> None:
        """Take a request out of the decoding batch and give its blocks back."""
        tokens = request.resident + self._decode_step - request.joined_step
        self._seats.leave(request, tokens=tokens, keep_answer=keep_answer)
        self._block_phase[self._phase(request)] -= 1
        self._decoding -= 1

    def _finish(self, request: Request) -> None:
        self._leave_decoding(request, keep_answer=True)
        request.generated = request.output
        del self._running[request.number]
        self.metrics.observe_finished(request, now=self.now)
        if self._on_finished is not None:
            self._on_finished(request)
