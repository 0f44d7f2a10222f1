"""The metric page of a simulated engine as Text Generation Inference v3 writes it.

Names, help texts and bounds are those of ``router/src/server.rs`` (commit 003eaec0) in the form of Rust's
metrics-exporter-prometheus, as a page of a real one shows: no ``_total``, no ``_created``, no model name, ``le`` last,
whole numbers without a point, an empty line after each family, families that were never touched left out, and some
without HELP. What the running batch reserved stands in ``batch_current_max_tokens``; there is no first token, no
preemption and no prefix cache on it.
"""

from optiinfra_sim.engine import Engine
from optiinfra_sim.exposition import PageTimes
from optiinfra_sim.histogram import Histogram

VALIDATION_SECONDS = 0.0002
"""Tokenising a request; real ones take 0.1 to 1 ms."""
_QUANTILES = ("0", "0.5", "0.9", "0.95", "0.99", "0.999", "1")


class _Page:
    """Lines under construction."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def family(self, name: str, kind: str, text: str, *samples: tuple[str, float]) -> None:
        """One family; ``name`` without the prefix, empty text means no HELP. Without samples it does not appear."""
        if not samples:
            return
        self._head(name, kind, text)
        self.lines += [f"tgi_{name}{_braces(labels)} {_number(value)}" for labels, value in samples]
        self.lines.append("")

    def histogram(self, name: str, text: str, *series: tuple[str, Histogram]) -> None:
        """A histogram by labels; those that saw nothing do not appear."""
        seen = [(labels, values) for labels, values in series if values.count]
        if not seen:
            return
        self._head(name, "histogram", text)
        for labels, values in seen:
            before = f"{labels}," if labels else ""
            bounds = [*(_number(bound) for bound in values.bounds), "+Inf"]
            for bound, count in zip(bounds, values.cumulative(), strict=True):
                self.lines.append(f'tgi_{name}_bucket{{{before}le="{bound}"}} {count}')
            self.lines.append(f"tgi_{name}_sum{_braces(labels)} {_number(values.sum)}")
            self.lines.append(f"tgi_{name}_count{_braces(labels)} {values.count}")
        self.lines.append("")

    def _head(self, name: str, kind: str, text: str) -> None:
        if text:
            self.lines.append(f"# HELP tgi_{name} {text}")
        self.lines.append(f"# TYPE tgi_{name} {kind}")


def _braces(labels: str) -> str:
    return f"{{{labels}}}" if labels else ""


def _number(value: float) -> str:
    """A float as Rust writes it."""
    text = f"{value:.20f}".rstrip("0") if 0 < abs(value) < 1e-4 else repr(float(value))
    return text.removesuffix(".0")


def render(engine: Engine, *, times: PageTimes) -> bytes:
    """The whole page of ``engine`` as it stands."""
    del times  # nothing on TGI's page says when it began
    page = _Page()
    _counters(page, engine)
    _gauges(page, engine)
    _histograms(page, engine)
    return ("\n".join(page.lines) + "\n").encode()


def _methods(prefill: float, decode: float) -> list[tuple[str, float]]:
    both = (('method="prefill"', prefill), ('method="decode"', decode))
    return [(labels, value) for labels, value in both if value]


def _counters(page: _Page, engine: Engine) -> None:
    metrics = engine.metrics
    steps = _methods(metrics.prefill_steps.count, metrics.decode_steps.count)
    asked = metrics.finished + metrics.aborted + engine.outstanding
    page.family("request_success", "counter", "Number of successful requests", *_some(metrics.finished))
    page.family("request_count", "counter", "Total number of requests", *_some(asked))
    page.family(
        "batch_inference_success",
        "counter",
        "Number of successful inference calls per method (prefill or decode)",
        *steps,
    )
    page.family("batch_inference_count", "counter", "Inference calls per method (prefill or decode)", *steps)


def _some(value: float) -> list[tuple[str, float]]:
    return [("", value)] if value else []


def _gauges(page: _Page, engine: Engine) -> None:
    settings = engine.settings
    reserved = sum(request.prompt + request.max_tokens for request in engine.running_requests)
    capacity = settings.usable_blocks * settings.block_size
    page.family("queue_size", "gauge", "Current queue size", ("", engine.waiting))
    page.family("batch_current_max_tokens", "gauge", "Maximum tokens for the current batch", ("", reserved))
    page.family("batch_current_size", "gauge", "Current batch size", ("", engine.running))
    page.family("batch_max_total_tokens", "gauge", "", ("", capacity))


def _histograms(page: _Page, engine: Engine) -> None:
    metrics = engine.metrics
    validation = Histogram(metrics.end_to_end.bounds)
    if metrics.finished:
        validation.observe(VALIDATION_SECONDS, times=metrics.finished)
    for name, text, values in (
        ("request_input_length", "Input token length per request", metrics.request_prompt_tokens),
        ("request_max_new_tokens", "Maximum new tokens per request", metrics.request_max_tokens),
        ("request_generated_tokens", "Generated tokens per request", metrics.request_generation_tokens),
        ("request_inference_duration", "Request inference duration", metrics.inference_time),
        ("request_duration", "Request duration", metrics.end_to_end),
        ("request_validation_duration", "Request validation duration", validation),
        ("request_queue_duration", "Request queue duration", metrics.queue_time),
        (
            "request_mean_time_per_token_duration",
            "Mean time per token per request",
            metrics.time_per_output_token,
        ),
        ("batch_next_size", "Batch size of the next batch", metrics.admitted_together),
    ):
        page.histogram(name, text, ("", values))
    steps = (('method="prefill"', metrics.prefill_steps), ('method="decode"', metrics.decode_steps))
    page.histogram("batch_inference_duration", "Batch inference duration", *steps)
    page.histogram(
        "batch_forward_duration",
        "Batch forward duration per method (prefill or decode)",
        *steps,
    )
    if metrics.finished:
        skipped = [(f'quantile="{quantile}"', 0.0) for quantile in _QUANTILES]
        page.family("request_skipped_tokens", "summary", "Speculated tokens per request", *skipped)
        page.lines.pop()
        page.lines += ["tgi_request_skipped_tokens_sum 0", f"tgi_request_skipped_tokens_count {metrics.finished}", ""]
