"""The command line: ``serve`` plays a scenario on a cluster, ``engine`` without one, ``compare`` computes it.

Everything it prints for people goes to standard output, its log to standard error. A problem is one line and exit
code 1.
"""

import asyncio
import itertools
import logging
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import click
import orjson

from optiinfra_sim import __version__
from optiinfra_sim.compare import (
    STABILISATION_SECONDS,
    Decision,
    Load,
    Outcome,
    under_decisions,
    under_hpa,
    under_static_peak,
)
from optiinfra_sim.errors import ScenarioError, SimulatorError
from optiinfra_sim.live import LiveFleet
from optiinfra_sim.routing import Routing
from optiinfra_sim.scenario import SimulatedService, read_scenario
from optiinfra_sim.serve import Simulator
from optiinfra_sim.settings import EngineKind, EngineSettings

HPA_SHARES = (0.5, 0.7, 0.8)
MAX_RECORD_BYTES = 256 * 2**20
_Port = click.IntRange(1, 65535)
_File = click.Path(exists=True, dir_okay=False, path_type=Path)


class _JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": record.created,
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line).decode()


@click.group()
@click.version_option(__version__, prog_name="optiinfra-sim")
def main() -> None:
    """A simulated fleet of LLM engines and node agents. What it serves is simulated and says so."""


@main.command()
@click.argument("scenario", type=_File)
@click.option("--kubeconfig", type=_File, required=True, envvar="KUBECONFIG", help="The cluster to follow.")
@click.option("--engine-port", type=_Port, default=8000, show_default=True)
@click.option("--agent-port", type=_Port, default=8003, show_default=True)
@click.option("--control-port", type=_Port, default=8099, show_default=True, help="On 127.0.0.1 only.")
@click.option("--record", type=click.Path(dir_okay=False, path_type=Path), help="Write every second's state here.")
@click.option("--log-format", type=click.Choice(["plain", "json"]), default="plain", show_default=True)
def serve(
    scenario: Path,
    kubeconfig: Path,
    engine_port: int,
    agent_port: int,
    control_port: int,
    record: Path | None,
    log_format: str,
) -> None:
    """Play SCENARIO on the pods of a cluster, in real time, until SIGTERM."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        _JsonLines() if log_format == "json" else logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    try:
        simulator = Simulator(read_scenario(scenario), folder=scenario.parent, kubeconfig=kubeconfig, record=record)
        asyncio.run(simulator.run(engine_port=engine_port, agent_port=agent_port, control_port=control_port))
    except (SimulatorError, OSError) as error:
        raise click.ClickException(str(error)) from error


@main.command()
@click.option(
    "--engine", "kind", type=click.Choice([kind.value for kind in EngineKind]), default="vllm", show_default=True
)
@click.option("--replicas", type=click.IntRange(1, 64), default=1, show_default=True)
@click.option("--routing", type=click.Choice([one.value for one in Routing]), default="least-loaded", show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=_Port, default=8000, show_default=True, help="The router's; several replicas use the next."
)
@click.option("--startup-seconds", type=click.FloatRange(0, 3600), default=0.0, show_default=True, help="Cold start.")
@click.option("--model", default="llama-3.1-8b", show_default=True)
@click.option("--max-num-seqs", type=click.IntRange(1, 100_000), default=256, show_default=True)
@click.option("--max-num-batched-tokens", type=click.IntRange(1, 1_000_000), default=8192, show_default=True)
@click.option("--max-model-len", type=click.IntRange(2, 1_000_000), default=16384, show_default=True)
@click.option("--num-blocks", type=click.IntRange(2, 10_000_000), default=28_000, show_default=True)
@click.option(
    "--step-ms", type=click.FloatRange(0.1, 60_000), default=7.0, show_default=True, help="Fixed cost of a step."
)
@click.option("--sequence-ms", type=click.FloatRange(0, 60_000), default=0.06, show_default=True, help="Per sequence.")
@click.option("--prefill-token-ms", type=click.FloatRange(0, 60_000), default=0.025, show_default=True)
def engine(
    kind: str,
    replicas: int,
    routing: str,
    host: str,
    port: int,
    startup_seconds: float,
    model: str,
    max_num_seqs: int,
    max_num_batched_tokens: int,
    max_model_len: int,
    num_blocks: int,
    step_ms: float,
    sequence_ms: float,
    prefill_token_ms: float,
) -> None:
    """Serve simulated engines and OpenAI's completions API in real time, without a cluster."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        settings = EngineSettings(
            kind=EngineKind(kind),
            model_name=model,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            max_model_len=max_model_len,
            num_blocks=num_blocks,
            step_seconds=step_ms / 1000,
            sequence_seconds=sequence_ms / 1000,
            prefill_token_seconds=prefill_token_ms / 1000,
        )
        asyncio.run(_live(settings, replicas, Routing(routing), startup_seconds, host=host, port=port))
    except SimulatorError as error:
        raise click.ClickException(str(error)) from error


async def _live(
    settings: EngineSettings, replicas: int, routing: Routing, startup_seconds: float, *, host: str, port: int
) -> None:
    live = LiveFleet(settings, replicas=replicas, routing=routing, startup_seconds=startup_seconds)
    await live.run(host=host, port=port)


@main.command()
@click.argument("scenario", type=_File)
@click.option("--service", "name", required=True, help="The simulated service to compute.")
@click.option("--target", "targets", type=float, multiple=True, help="HPA target, requests in flight per replica.")
@click.option("--record", type=_File, help="What `serve --record` wrote: add the decisions that were really taken.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of a table.")
def compare(scenario: Path, name: str, targets: tuple[float, ...], record: Path | None, as_json: bool) -> None:  # noqa: FBT001 - click passes flags by name
    """Compute a service's load under plain scalers, in virtual time."""
    try:
        service = read_scenario(scenario).simulated(name)
        load = service.load(folder=scenario.parent)
        outcomes = _outcomes(load, service, targets)
        if record is not None:
            outcomes.append(under_decisions(load, read_decisions(record, service=name)))
    except SimulatorError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        outcome_dicts = [asdict(outcome) for outcome in outcomes]
        click.echo(orjson.dumps({"trace": service.trace.describe(), "outcomes": outcome_dicts}).decode())
        return
    click.echo(f"Simulated: {service.trace.describe()}")
    click.echo(
        f"start-up {load.startup_seconds:g} s, late = more than {load.late_after_seconds:g} s in the queue, "
        f"costs over {load.horizon_seconds:g} s"
    )
    click.echo(f"{'scaler':92} {'GPU-hours':>9} {'late':>7} {'TTFT p95':>9} {'peak':>4}  replicas")
    for outcome in outcomes:
        click.echo(_row(outcome))


def _outcomes(load: Load, service: SimulatedService, targets: Iterable[float]) -> list[Outcome]:
    batch = service.engine.max_num_seqs
    wanted = list(targets) or [round(share * batch, 1) for share in HPA_SHARES]
    # A trace played four times as fast makes five minutes of stabilisation last twenty: the plain HPA would look
    # dearer than it is, so it is also shown with its window shortened alike.
    windows = sorted({STABILISATION_SECONDS, STABILISATION_SECONDS / service.trace.compression}, reverse=True)
    hpas = [under_hpa(load, target=target, stabilisation_seconds=window) for window in windows for target in wanted]
    return [*hpas, under_static_peak(load)]


def _row(outcome: Outcome) -> str:
    ttft = "-" if outcome.ttft_p95 is None else f"{outcome.ttft_p95:.2f} s"
    steps = " ".join(f"{step.replicas}@{step.time:.0f}s" for step in outcome.series[:12])
    return (
        f"{outcome.name:92} {outcome.gpu_hours:9.3f} {outcome.late_share:7.2%} {ttft:>9} "
        f"{outcome.peak_replicas:4}  {steps}{' ...' if len(outcome.series) > 12 else ''}"
    )


def read_decisions(path: Path, *, service: str) -> list[Decision]:
    """The replica counts of a service since its trace began, from what ``serve --record`` wrote."""
    if path.stat().st_size > MAX_RECORD_BYTES:
        raise ScenarioError(f"record {path.name}: larger than {MAX_RECORD_BYTES} bytes")
    decisions: list[Decision] = []
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                state = orjson.loads(line)
                if state["service"] == service and state["trace_seconds"] is not None:
                    decisions.append(Decision(float(state["trace_seconds"]), int(state["replicas"])))
            except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
                raise ScenarioError(f"record {path.name} line {number}: not a line of `serve --record`") from error
    if not decisions:
        raise ScenarioError(f"record {path.name}: no line of service {service!r} after its trace began")
    changes = itertools.pairwise(decisions)
    return [decisions[0], *(after for before, after in changes if after.replicas != before.replicas)]
