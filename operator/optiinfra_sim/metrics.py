"""What a simulated engine has counted since it started: the numbers behind its metric page.

Only what a real vLLM counts, at the moment at which a real one counts it: histograms fill when a request leaves
a stage, never earlier, which is why they lag behind the gauges.
"""

from dataclasses import dataclass, field

from optiinfra_sim import histogram
from optiinfra_sim.bounds import TGI_BATCH, bounds
from optiinfra_sim.errors import EngineError
from optiinfra_sim.histogram import Histogram
from optiinfra_sim.request import Request
from optiinfra_sim.settings import EngineKind


@dataclass(slots=True)
class EngineMetrics:
    """Counters and histograms of one engine; its kind and context decide the bounds of the buckets."""

    max_model_len: int
    kind: EngineKind = EngineKind.VLLM
    prefix_queries: int = 0
    prefix_hits: int = 0
    external_queries: int = 0
    external_hits: int = 0
    preemptions: int = 0
    preemptions_told: int = 0
    """Those whose request has got a token since: vLLM's engine core sends the event along with it, not before."""
    preempted_prompt_tokens: int = 0
    preempted_generated_tokens: int = 0
    prompt_tokens: int = 0
    prompt_tokens_cached: int = 0
    prompt_tokens_fetched: int = 0
    generation_tokens: int = 0
    finished_by_length: int = 0
    finished_by_stop: int = 0
    aborted: int = 0
    steps: int = 0
    busy_seconds: float = 0.0
    """Time with a step under way: what NVML calls utilisation."""
    sm_seconds: float = 0.0
    """The same, weighted by the share of the GPU's multiprocessors at work: none while the host prepares a step."""
    time_to_first_token: Histogram = field(init=False)
    inter_token_latency: Histogram = field(init=False)
    time_per_output_token: Histogram = field(init=False)
    end_to_end: Histogram = field(init=False)
    queue_time: Histogram = field(init=False)
    inference_time: Histogram = field(init=False)
    prefill_time: Histogram = field(init=False)
    decode_time: Histogram = field(init=False)
    prefill_steps: Histogram = field(init=False)
    """Durations of the steps in which prompts were computed."""
    decode_steps: Histogram = field(init=False)
    admitted_together: Histogram = field(init=False)
    """Requests that entered the batch in one step."""
    iteration_tokens: Histogram = field(init=False)
    request_prompt_tokens: Histogram = field(init=False)
    request_generation_tokens: Histogram = field(init=False)
    request_max_tokens: Histogram = field(init=False)
    request_prefill_computed: Histogram = field(init=False)
    request_preemptions: Histogram = field(init=False)
    parallel_samples: Histogram = field(init=False)
    http_fine: Histogram = field(init=False)
    http_coarse: Histogram = field(init=False)

    def __post_init__(self) -> None:
        own = bounds(self.kind, max_model_len=self.max_model_len)
        self.time_to_first_token = Histogram(own.first_token)
        self.inter_token_latency = Histogram(own.inter_token)
        self.time_per_output_token = Histogram(own.inter_token)
        self.end_to_end = Histogram(own.end_to_end)
        self.queue_time = Histogram(own.queue)
        self.inference_time = Histogram(own.phase)
        self.prefill_time = Histogram(own.phase)
        self.decode_time = Histogram(own.phase)
        self.prefill_steps = Histogram(own.step)
        self.decode_steps = Histogram(own.step)
        self.admitted_together = Histogram(TGI_BATCH)
        self.iteration_tokens = Histogram(histogram.ITERATION_TOKENS)
        self.request_prompt_tokens = Histogram(own.prompt)
        self.request_generation_tokens = Histogram(own.generated)
        self.request_max_tokens = Histogram(own.generated)
        self.request_prefill_computed = Histogram(own.prompt)
        self.request_preemptions = Histogram(histogram.PREEMPTIONS)
        self.parallel_samples = Histogram(histogram.PARALLEL_SAMPLES)
        self.http_fine = Histogram(histogram.HTTP_FINE)
        self.http_coarse = Histogram(histogram.HTTP_COARSE)

    @property
    def finished(self) -> int:
        """Requests answered in full."""
        return self.finished_by_length + self.finished_by_stop

    def observe_finished(self, request: Request, *, now: float) -> None:
        """Count a request that is answered in full, with all the parts of its life."""
        if request.scheduled_at is None or request.first_token_at is None:
            raise EngineError(f"request {request.number} finished before it began")
        total = now - request.arrival
        decode = now - request.first_token_at
        if request.output < request.max_tokens:
            self.finished_by_stop += 1
        else:
            self.finished_by_length += 1
        self.end_to_end.observe(total)
        self.queue_time.observe(request.scheduled_at - request.arrival)
        self.prefill_time.observe(request.first_token_at - request.scheduled_at)
        self.decode_time.observe(decode)
        self.inference_time.observe(now - request.scheduled_at)
        if request.output > 1:
            self.time_per_output_token.observe(decode / (request.output - 1))
        self.request_prompt_tokens.observe(request.prompt)
        self.request_generation_tokens.observe(request.output)
        self.request_max_tokens.observe(request.max_tokens)
        self.request_prefill_computed.observe(request.prompt - request.cached)
        self.request_preemptions.observe(request.preemptions)
        self.parallel_samples.observe(1)
        self.http_fine.observe(total)
        self.http_coarse.observe(total)
