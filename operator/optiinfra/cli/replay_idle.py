"""`optiinfra replay idle`: the idle verdict on a file of GPU samples, judged by what the file shows afterwards.

Every sample goes through the operator's own verdict, which has seen nothing later; precision and recall are against
"no work in the following 30 minutes" in the same file. A file knows neither pods nor engines nor prices: who holds a
GPU stays open, and an idle GPU is told by its memory alone.
"""

import csv
import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click

from optiinfra.cli.replay_idle_source import SamplesError, read_samples
from optiinfra.domain.idle.fleet import Sight
from optiinfra.domain.idle.replay import STATES, Figures, History, Latest, Replayed, figures, idle_codes, replay, truth
from optiinfra.domain.idle.states import BUILT_IN, IDLE_STATES

_SHOWN: Final = 40
"""GPUs in the table for people; the rest is counted."""
WORDS: Final[dict[Sight, tuple[str, str]]] = {
    Sight.TOO_FEW: ("TooFewSamples", "not watched for long enough"),
    Sight.WORK: ("Working", "it works, or did in the last minutes"),
    Sight.LOADING: ("WarmUp", "its memory was being filled a moment ago"),
    Sight.GAP: ("Gap", "nothing was measured for a while in the last minutes"),
    Sight.DARK: ("ActivityUnknown", "neither duty nor active multiprocessors were known at some moment"),
    Sight.POWER: ("PowerContradicts", "it shows no activity and draws more power than at rest"),
    Sight.MEMORY: ("MemoryUnknown", "it computes nothing, and what its memory holds is not known"),
    Sight.EXPECTED: ("WorkExpected", "it does nothing, and by its own pauses work may come soon"),
    Sight.IDLE: ("NoWork", "it does nothing, and by its own pauses nothing is expected"),
}
"""Reason code and sentence of each sight, where no pod is known."""


@click.command("idle")
@click.argument("samples", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--decisions",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write time_s,gpu,state,confidence, a row a sample.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def idle(*, samples: Path, decisions: Path | None, as_json: bool) -> None:
    """Judge every GPU of a file of samples.

    SAMPLES is CSV, plain or gzip: time_s,gpu,duty,memory_bytes[,power_watts][,sm_active]; duty and sm_active are shares
    of 0 to 1, an empty cell is not known.
    """
    try:
        with _bar("reading", samples.stat().st_size) as told:
            history = read_samples(samples, told=told)
    except SamplesError as error:
        raise click.ClickException(str(error)) from error
    with _bar("judging", len(history.time)) as told:
        done = replay(history, told=told)
    judged = figures(history, idle_codes(done.decisions.state), truth(history))
    if decisions is not None:
        _write(decisions, history, done)
    if as_json:
        click.echo(json.dumps(document(samples.name, history, done, judged), indent=1, allow_nan=False))
    else:
        click.echo("\n".join(lines(samples.name, history, done, judged)))


def document(name: str, history: History, done: Replayed, judged: Figures) -> dict[str, Any]:
    """Return what `--json` prints."""
    return {
        "source": name,
        "samples": len(history.time),
        "horizon_s": BUILT_IN.horizon,
        "work_above": BUILT_IN.idle_utilization,
        "figures": {
            "precision": _known(judged.precision),
            "recall": _known(judged.recall),
            "gpu_hours_freed": judged.freed_hours,
            "gpu_hours_freed_wrongly": judged.wrong_hours,
            "gpu_hours_idle": judged.idle_hours,
            "false_verdicts": judged.wrong,
            "false_verdicts_on_busy_gpus": judged.on_busy,
            "gpus_with_false_verdicts": judged.gpus_wrong,
            "right_idle_verdicts": judged.right,
            "missed": judged.missed,
            "right_busy_verdicts": judged.passed,
            "not_judged": judged.unjudged,
        },
        "gpus": [_gpu(one) for one in done.latest],
    }


def _gpu(one: Latest) -> dict[str, Any]:
    judged = one.judged
    reason, message = WORDS[one.sight]
    idle_now = one.state in IDLE_STATES
    return {
        "gpu": one.gpu,
        "verdict": str(one.state),
        "confidence": round(one.confidence, 4),
        "since": float(judged.quiet_since[0]) if idle_now else None,
        "reason": reason,
        "message": message,
        "evidence": {
            "samples": one.samples,
            "first_s": one.first_s,
            "last_s": one.last_s,
            "sampling_interval_s": _known(float(judged.interval[0])),
            "highest_activity_since": _known(float(judged.peak[0])),
            "memory_bytes": _known(float(judged.memory[0])),
            "highest_power_watts_since": _known(float(judged.power_high[0])),
            "power_floor_watts": _known(float(judged.floor[0])),
            "time_since_work_s": _known(float(judged.elapsed[0])),
            "time_with_high_activity": _known(float(judged.used[0])),
            "pauses_known": int(judged.gaps[0]),
            "probability_no_work": _known(float(judged.probability[0])),
        },
        "idle_hours": one.idle_hours,
    }


def lines(name: str, history: History, done: Replayed, judged: Figures) -> list[str]:
    """Return the summary, line by line."""
    hours = sum(one.last_s - one.first_s for one in done.latest) / 3600.0
    found = [
        f"{name}: {len(history.gpus)} GPUs, {len(history.time)} samples, {hours:.1f} GPU-hours",
        "",
        f"{'GPU':<24} {'verdict':<20} {'confidence':>10} {'since':>12} {'idle h':>8}  why",
    ]
    for one in done.latest[:_SHOWN]:
        since = f"{one.judged.quiet_since[0]:.0f}" if one.state in IDLE_STATES else "-"
        found.append(
            f"{one.gpu[:24]:<24} {one.state!s:<20} {one.confidence:>10.0%} {since:>12} {one.idle_hours:>8.1f}  "
            f"{WORDS[one.sight][1]}"
        )
    if len(done.latest) > _SHOWN:
        found.append(f"and {len(done.latest) - _SHOWN} more GPUs: --json has them all")
    minutes = f"{BUILT_IN.horizon / 60.0:.0f} minutes"
    return [*found, "", *_sentences(judged, minutes)]


def _sentences(judged: Figures, minutes: str) -> list[str]:
    against = f'against "no work in the following {minutes}" (activity above {BUILT_IN.idle_utilization:.0%}), '
    shares = f"precision {_share(judged.precision)}, recall {_share(judged.recall)}; "
    hours = f"{judged.freed_hours:.1f} of {judged.idle_hours:.1f} idle GPU-hours found, "
    wrong = f"{judged.wrong} of {judged.right + judged.wrong} idle verdicts were followed by work"
    return [
        f"{against}by the future of this file:",
        f"{shares}{hours}{judged.wrong_hours:.1f} GPU-hours called idle before work came",
        f"false verdicts on busy GPUs: {judged.on_busy}; {wrong}, on {judged.gpus_wrong} GPUs",
        f"{judged.unjudged} samples could not be judged: the file ends, or does not tell, within {minutes}",
    ]


def _share(value: float) -> str:
    return "unknown (there was none)" if math.isnan(value) else f"{value:.1%}"


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _write(path: Path, history: History, done: Replayed) -> None:
    decisions = done.decisions
    try:
        with path.open("w", encoding="utf-8", newline="") as out:
            writer = csv.writer(out, lineterminator="\n")
            writer.writerow(("time_s", "gpu", "state", "confidence"))
            for place, gpu in enumerate(history.gpus):
                rows = history.rows(place)
                columns = (history.time[rows], decisions.state[rows], decisions.confidence[rows])
                for time, state, sure in zip(*(column.tolist() for column in columns), strict=True):
                    writer.writerow((f"{time:.15g}", gpu, STATES[state], f"{sure:.4f}"))
    except OSError as error:
        raise click.ClickException(f"{path} cannot be written: {error.strerror}; name another file") from error


@contextmanager
def _bar(label: str, length: int) -> Iterator[Callable[[int], None]]:
    """Show a bar on the error stream; nothing where nobody looks."""
    if not sys.stderr.isatty():
        yield lambda _steps: None
        return
    with click.progressbar(length=length, label=f"{label:<8}", file=sys.stderr) as shown:
        yield shown.update
