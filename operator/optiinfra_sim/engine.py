"""One simulated vLLM replica: continuous batching over KV blocks, in virtual time.

It follows the V1 scheduler: a FIFO queue, a batch limit, blocks that grow with every generated token, preemption
by recompute of the newest request when blocks run out, and prefill in chunks under a token budget a step. Steps in
which nothing can change but token counts are taken together, which makes a busy replica hundreds of times faster
than real time. It reads no clock, draws no random numbers and does no I/O: the same calls give the same numbers.

It does not model speculative decoding, LoRA, swapping, or the eviction of cached prefixes; the share of a prompt
found in the prefix cache is a setting.
"""

import heapq
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from optiinfra_sim.errors import EngineError
from optiinfra_sim.metrics import EngineMetrics
from optiinfra_sim.request import Request
from optiinfra_sim.settings import EngineSettings


@dataclass(slots=True)
class _Step:
    """Work that has begun: ``repeat`` equal steps that end together at ``end``."""

    end: float
    seconds: float
    repeat: int
    decoding: int
    chunks: list[tuple[Request, int]]


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
        self.now = now
        self._reached = now  # `now` stands at the start of a step under way; this is how far time has come
        self.metrics = EngineMetrics(settings.max_model_len)
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
        self._blocks_used = 0
        self._prefix_warm = False
        self._step: _Step | None = None

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
    def kv_usage(self) -> float:
        """Live blocks over usable blocks, as vLLM measures it."""
        shared = self.settings.shared_blocks if self._running else 0
        return min(1.0, (self._blocks_used + shared) / self.settings.usable_blocks)

    def queued(self) -> list[Request]:
        """The waiting requests, oldest place in the queue first."""
        return [*self._waiting, *self._arriving]

    def submit(self, request: Request) -> None:
        """Hand in a request; it must not be older than one handed in before."""
        if request.prompt < 1 or request.output < 1:
            raise EngineError(f"request {request.number} needs at least one prompt and one output token")
        if request.prompt + request.output > self.settings.max_model_len:
            raise EngineError(f"request {request.number} is longer than max_model_len {self.settings.max_model_len}")
        self._arriving.append(request)

    def advance(self, *, to: float) -> None:
        """Live through the time up to ``to``; a step that ends later stays under way."""
        if to < self._reached:
            raise EngineError(f"time cannot run backwards: at {self._reached}, asked for {to}")
        self._reached = to
        while True:
            if self._step is not None:
                if self._step.end > to:
                    return
                self._complete(self._step)
                self._step = None
            while self._arriving and self._arriving[0].arrival <= self.now:
                self._waiting.append(self._arriving.popleft())
            if not self._running and not self._waiting:
                if not self._arriving or self._arriving[0].arrival > to:
                    self.now = to
                    return
                self.now = self._arriving[0].arrival
                continue
            if self.now >= to:
                return
            self._step = self._begin(to)

    def drain_queue(self) -> list[Request]:
        """Give back every request that is not in the batch."""
        queued = self.queued()
        self._waiting.clear()
        self._arriving.clear()
        return queued

    def evict(self) -> list[Request]:
        """Stop at once: give back every request, those of the batch first and without their progress."""
        running = list(self._running.values())
        for request in running:
            request.restart()
        queued = self.drain_queue()
        self._running.clear()
        self._prefilling.clear()
        self._finishing.clear()
        self._block_phase = [0] * self.settings.block_size
        self._decoding = 0
        self._blocks_used = 0
        self._step = None
        return [*running, *queued]

    # Scheduling

    def _free(self) -> int:
        return self.settings.usable_blocks - self.settings.shared_blocks - self._blocks_used

    def _begin(self, to: float) -> _Step:
        settings = self.settings
        preempted = False
        while self._growth(1) > self._free():
            self._preempt()
            preempted = True
        chunks = self._chunks(admit=not preempted)
        decoding = self._decoding
        prefill = sum(tokens for _, tokens in chunks)
        seconds = (
            settings.step_seconds
            + settings.sequence_seconds * (decoding + len(chunks))
            + settings.prefill_token_seconds * prefill
        )
        # After a preemption nothing was admitted; the very next step may admit again.
        repeat = 1 if chunks or preempted else self._repeatable(to, seconds)
        return _Step(self.now + repeat * seconds, seconds, repeat, decoding, chunks)

    def _chunks(self, *, admit: bool) -> list[tuple[Request, int]]:
        settings = self.settings
        budget = settings.max_num_batched_tokens - self._decoding
        chunks: list[tuple[Request, int]] = []
        for request in self._prefilling.values():
            tokens = min(request.prefill_left, budget)
            if tokens > 0:
                chunks.append((request, tokens))
                budget -= tokens
        # Blocks that this very step's decoding needs are spoken for: admission must not take them.
        free = self._free() - self._growth(1)
        while admit and self._waiting and budget > 0 and len(self._running) < settings.max_num_seqs:
            request = self._waiting[0]
            needed = settings.blocks(self._own_tokens(request))
            if needed > free:
                break
            self._waiting.popleft()
            free -= needed
            tokens = min(self._admit(request, blocks=needed), budget)
            budget -= tokens
            chunks.append((request, tokens))
        return chunks

    def _own_tokens(self, request: Request) -> int:
        shared = self.settings.shared_blocks * self.settings.block_size
        return max(1, request.prompt + request.generated - shared)

    def _admit(self, request: Request, *, blocks: int) -> int:
        request.cached = self.settings.cached(request.prompt, warm=self._prefix_warm)
        self._prefix_warm = True
        request.prefill_left = request.prompt + request.generated - request.cached
        self._blocks_used += blocks
        self._running[request.number] = request
        self._prefilling[request.number] = request
        if request.preemptions == 0:
            self.metrics.prefix_queries += request.prompt
            self.metrics.prefix_hits += request.cached
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
            self._blocks_used -= self.settings.blocks(self._own_tokens(request))
        request.forget_cache()
        request.preemptions += 1
        self.metrics.preemptions += 1
        self._waiting.appendleft(request)

    # Steps

    def _growth(self, steps: int) -> int:
        """Blocks that the decoding requests will need over the next ``steps`` steps."""
        size = self.settings.block_size
        cycles, rest = divmod(steps, size)
        phase = self._block_phase
        step = self._decode_step
        return cycles * self._decoding + sum(phase[-(step + i) % size] for i in range(rest))

    def _repeatable(self, to: float, seconds: float) -> int:
        """How many decode steps can be taken together: none may finish a request early, miss an arrival or a block."""
        while self._finishing and self._stale(self._finishing[0]):
            heapq.heappop(self._finishing)
        horizon = min(to, self._arriving[0].arrival) if self._arriving else to
        repeat = max(1, int((horizon - self.now) / seconds))
        repeat = min(repeat, self._finishing[0][0] - self._decode_step)
        free = self._free()
        if self._decoding * (repeat // self.settings.block_size + 1) > free:
            while repeat > 1 and self._growth(repeat) > free:
                repeat //= 2
        return repeat

    def _stale(self, entry: tuple[int, int, Request]) -> bool:
        return entry[2].finish_step != entry[0] or entry[1] not in self._running

    def _complete(self, step: _Step) -> None:
        metrics = self.metrics
        self.now = step.end
        metrics.busy_seconds += step.seconds * step.repeat
        if step.decoding:
            self._blocks_used += self._growth(step.repeat)
            metrics.generation_tokens += step.decoding * step.repeat
            metrics.inter_token_latency.observe(step.seconds, times=step.decoding * step.repeat)
        self._decode_step += step.repeat
        prefill = sum(tokens for _, tokens in step.chunks)
        metrics.iteration_tokens.observe(step.decoding + prefill, times=step.repeat)
        while self._finishing and self._finishing[0][0] <= self._decode_step:
            entry = heapq.heappop(self._finishing)
            if not self._stale(entry):
                self._finish(entry[2])
        for request, tokens in step.chunks:
            request.prefill_left -= tokens
            if request.prefill_left == 0:
                self._first_token(request)

    def _first_token(self, request: Request) -> None:
        """The prefill of a request is complete: its last step also yields a token."""
        metrics = self.metrics
        del self._prefilling[request.number]
        request.resident = self._own_tokens(request)
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

    def _leave_decoding(self, request: Request) -> None:
        held = request.resident + self._decode_step - request.joined_step
        self._blocks_used -= self.settings.blocks(held)
        self._block_phase[self._phase(request)] -= 1
        self._decoding -= 1

    def _finish(self, request: Request) -> None:
        metrics = self.metrics
        self._leave_decoding(request)
        del self._running[request.number]
        if request.scheduled_at is None or request.first_token_at is None:
            raise EngineError(f"request {request.number} finished before it began")
        total = self.now - request.arrival
        decode = self.now - request.first_token_at
        metrics.finished_by_length += 1
        metrics.end_to_end.observe(total)
        metrics.queue_time.observe(request.scheduled_at - request.arrival)
        metrics.prefill_time.observe(request.first_token_at - request.scheduled_at)
        metrics.decode_time.observe(decode)
        metrics.inference_time.observe(self.now - request.scheduled_at)
        if request.output > 1:
            metrics.time_per_output_token.observe(decode / (request.output - 1))
        metrics.request_prompt_tokens.observe(request.prompt)
        metrics.request_generation_tokens.observe(request.output)
        metrics.request_prefill_computed.observe(request.prompt - request.cached)
        metrics.request_preemptions.observe(request.preemptions)
        metrics.parallel_samples.observe(1)
        metrics.http_fine.observe(total)
        metrics.http_coarse.observe(total)
        if self._on_finished is not None:
            self._on_finished(request)
