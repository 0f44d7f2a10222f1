"""How the time of an engine step grows with its batch: step = a + b x batch, fitted on the engine's own history.

The fit is what batch-size advice rests on. Where history does not identify b (the batch hardly moved), it is unknown
and advice proposes the smallest step from which it could be learned.

Each window of the service gives one observation: the mean time of a step, its mean batch, and the prompt tokens that
it computed beside it. Prompts slow down the steps they share, so that they are a second variable wherever they vary by
themselves: step = a + b x batch + c x prompt tokens. Where they do not, b holds the prompts that come with a request,
which is right for as long as the mix of requests stays; `prompt_slope` is unknown then, and says so.

The fit is least squares by weight with Huber's bound on outliers (a neighbour on the host, a pause), and Student's
interval; overlapping windows count by what is new in them. At most `CLUSTERS` observations are kept: the two nearest
in batch and prompts are joined, old ones fade. An engine that starts with other settings is another engine: `key_of`
tells, and history begins anew.
"""

import math
import struct
import zlib
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.histogram import InvalidCheckpointError
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.signals import ServiceSignals

_Array: TypeAlias = npt.NDArray[np.float64]
_Solution: TypeAlias = tuple[_Array, _Array, float, float]
"""Coefficients, their standard errors, relative scatter, degrees of freedom."""

CLUSTERS: Final = 28
HALF_LIFE: Final = 480.0
"""Windows after which an observation counts half."""
LEAST_OBSERVATIONS: Final = 6
LEAST_RANGE: Final = 0.2
"""Share of the largest batch by which batches have to differ, at least."""
MOST_BYTES: Final = 512
CLOCK_TOLERANCE: Final = 300.0
_LONGEST_STEP: Final = 60.0
_LARGEST: Final = 1e6
_HUBER: Final = 1.345
_ROUNDS: Final = 4
_REFIT: Final = 0.25
"""Windows after which the fit is made anew."""
_TOLERANCE: Final = 1e-9
_FORGOTTEN: Final = 0.01
_MAGIC: Final = b"OIPC"
_VERSION: Final = 1
_HEADER: Final = struct.Struct("<4sBIdB")
_BATCH, _TIME, _PROMPTS, _WEIGHT = range(4)

_NOT_FITTED = Unknown(UnknownReason.TOO_FEW_SAMPLES, "the batch has not varied enough to tell what a request costs")

_WITH_BATCH = Unknown(UnknownReason.TOO_FEW_SAMPLES, "prompts did not vary by themselves: the batch's slope holds them")


@dataclass(frozen=True, slots=True)
class Pace:
    """The fit, of one replica. Seconds, and seconds a request in the batch."""

    base: Value = _NOT_FITTED
    """a."""
    slope: Value = _NOT_FITTED
    """b."""
    slope_lower: Value = _NOT_FITTED
    slope_upper: Value = _NOT_FITTED
    """95 % interval of b."""
    samples: int = 0
    batch_lowest: float = 0.0
    batch_highest: float = 0.0
    """Range of batch sizes that the fit saw; beyond it is extrapolation."""
    prompt_slope: Value = _NOT_FITTED
    """c: seconds a prompt token in the step; unknown where prompts did not vary by themselves, and b holds them."""
    noise: Value = _NOT_FITTED
    """Standard deviation of one observation around the fit, as a share of the mean step."""

    @property
    def identified(self) -> bool:
        """Whether the interval of b is narrow enough to decide on.

        It is where its half is at most half of b, or where it moves a step of the largest batch by a tenth at most.
        """
        for value in (self.base, self.slope, self.slope_lower, self.slope_upper):
            if isinstance(value, Unknown):
                return False
        assert not isinstance(self.base, Unknown)
        assert not isinstance(self.slope, Unknown)
        assert not isinstance(self.slope_lower, Unknown)
        assert not isinstance(self.slope_upper, Unknown)
        half = (self.slope_upper - self.slope_lower) / 2.0
        step = self.base + self.slope * self.batch_highest
        return half <= self.slope / 2.0 or half * self.batch_highest <= step / 10.0


class PaceHistory:
    """What was observed of one workload's steps, in at most `CLUSTERS` weighted points."""

    def __init__(self, *, key: int = 0) -> None:
        self._key = key
        self._points: _Array = np.empty((0, 4))
        self._last = -math.inf
        self._fit: Pace | None = None
        self._unfitted = 0.0

    def __len__(self) -> int:
        return len(self._points)

    def observe(self, signals: ServiceSignals, *, key: int = 0) -> bool:
        """Note a window; False where it says nothing of a step, or nothing new.

        Args:
            signals: of one window. Short windows (a minute) tell most; those that overlap count by what is new.
            key: from `key_of`; another one than before begins a new history.
        """
        if key != self._key:
            self.__init__(key=key)  # type: ignore[misc]  # the one place that begins anew
        if signals.time < self._last - CLOCK_TOLERANCE:
            self._last = -math.inf
        found = observation(signals)
        fresh = signals.time - self._last
        if found is None or signals.window <= 0.0 or fresh <= 0.0:
            return False
        weight = min(1.0, fresh / signals.window)
        self._last = float(signals.time)
        self._points[:, _WEIGHT] *= 0.5 ** (weight / HALF_LIFE)
        kept = self._points[self._points[:, _WEIGHT] >= _FORGOTTEN]
        points = np.vstack((kept, np.array([(*found, weight)])))
        self._points = _joined(points[np.argsort(points[:, _BATCH], kind="stable")])
        self._unfitted += weight
        return True

    def fit(self) -> Pace:
        """Return the fit of what was observed so far; one of a moment ago where hardly anything is new since."""
        if self._fit is None or self._unfitted >= _REFIT:
            self._fit, self._unfitted = _fitted(self._points), 0.0
        return self._fit

    def to_bytes(self) -> bytes:
        """Return a checkpoint of at most `MOST_BYTES`."""
        last = self._last if math.isfinite(self._last) else 0.0
        return _HEADER.pack(_MAGIC, _VERSION, self._key, last, len(self)) + self._points.astype("<f4").tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> "PaceHistory":
        """Read a checkpoint back. Raises InvalidCheckpointError."""
        if not _HEADER.size <= len(data) <= MOST_BYTES:
            raise InvalidCheckpointError(f"pace checkpoint: {len(data)} bytes cannot be one; begin with none")
        magic, version, key, last, count = _HEADER.unpack_from(data)
        if magic != _MAGIC or version != _VERSION:
            raise InvalidCheckpointError("pace checkpoint: not of this version; begin with none")
        if count > CLUSTERS or len(data) != _HEADER.size + count * 16 or not 0.0 <= last < 1e12:
            raise InvalidCheckpointError("pace checkpoint: impossible header; begin with none")
        points = np.frombuffer(data, dtype="<f4", offset=_HEADER.size).reshape(count, 4).astype(np.float64)
        numbers = np.delete(points, _PROMPTS, axis=1)
        prompts = points[:, _PROMPTS]
        good = bool(np.all(np.isfinite(numbers)) and np.all(numbers > 0.0) and np.all(numbers <= _LARGEST))
        if not good or not np.all(np.isnan(prompts) | ((prompts >= 0.0) & (prompts <= _LARGEST))):
            raise InvalidCheckpointError("pace checkpoint: impossible values; begin with none")
        history = cls(key=key)
        history._points, history._last = points, last if count else -math.inf
        return history


def key_of(settings: EngineSettings) -> int:
    """Return a number that changes with the settings on which the time of a step depends."""
    parts = (
        settings.engine,
        settings.model,
        settings.model_dtype,
        settings.quantization,
        settings.kv_cache_dtype,
        settings.tensor_parallel,
        settings.pipeline_parallel,
        settings.step_tokens,
        settings.speculative,
    )
    return zlib.crc32("\0".join("" if isinstance(part, Unknown) else str(part) for part in parts).encode())


def observation(signals: ServiceSignals) -> tuple[float, float, float] | None:
    """Return (batch, seconds a step, prompt tokens a step or NaN) of a window; None where it does not say.

    Where steps are counted and the window was busy throughout, mean step, mean batch and mean prompt tokens are exact
    means over steps, and a line through steps is a line through them. Otherwise the time between tokens stands for
    the step: it weighs steps by their batch, which moves a but not b while arrivals are random.
    """
    between, running = signals.inter_token_latency_mean, signals.running_mean
    steps, tokens, generated = signals.step_rate, signals.step_tokens_mean, signals.generation_token_rate
    batch = prompts = seconds = math.nan
    # With speculative decoding a step makes more tokens than it has requests.
    if not isinstance(steps, Unknown) and isinstance(signals.draft_acceptance, Unknown):
        if isinstance(generated, Unknown) or isinstance(tokens, Unknown) or not _busy(signals) or steps <= 0.0:
            return None
        # Idle moments that no page saw lengthen the one, batches that vary lengthen the other: the truth is below both.
        seconds = min(1.0 / steps, math.inf if isinstance(between, Unknown) else between)
        batch = generated / max(signals.replicas_reporting, 1) / steps
        prompts = max(0.0, tokens - batch)
    elif not isinstance(between, Unknown) and not isinstance(running, Unknown):
        seconds, batch = between, running
        computed = signals.prompt_computed_rate
        if not isinstance(computed, Unknown) and not isinstance(generated, Unknown) and generated > 0.0:
            prompts = max(0.0, computed / generated * batch)
    if not 0.0 < batch <= _LARGEST or not 0.0 < seconds <= _LONGEST_STEP or prompts > _LARGEST:
        return None
    return batch, seconds, prompts


def _busy(signals: ServiceSignals) -> bool:
    return not isinstance(signals.busy_share, Unknown) and signals.busy_share >= 1.0


def _joined(points: _Array) -> _Array:
    """Join the two neighbours that lose least, until there are few enough; sorted by batch before and after."""
    while len(points) > CLUSTERS:
        weights = points[:, _WEIGHT]
        shared = weights[1:] * weights[:-1] / (weights[1:] + weights[:-1])
        loss = (np.diff(points[:, _BATCH]) / max(1e-9, float(np.ptp(points[:, _BATCH])))) ** 2
        prompts = points[:, _PROMPTS]
        spread = float(np.nanmax(prompts) - np.nanmin(prompts)) if not np.all(np.isnan(prompts)) else 0.0
        if spread > 0.0:
            loss = loss + (np.nan_to_num(np.diff(prompts), nan=spread) / spread) ** 2
        at = int(np.argmin(shared * loss))
        pair, weight = points[at : at + 2], float(weights[at : at + 2].sum())
        mean = np.average(pair, axis=0, weights=pair[:, _WEIGHT])
        mean[_WEIGHT] = weight
        points = np.vstack((points[:at], mean, points[at + 2 :]))
    return points


def _fitted(points: _Array) -> Pace:
    """Fit a line, or a plane where prompts vary by themselves."""
    count = len(points)
    if count < LEAST_OBSERVATIONS:
        return Pace(samples=count)
    batch, time, prompts, weight = points.T
    lowest, highest = float(batch.min()), float(batch.max())
    if highest - lowest < max(1.0, LEAST_RANGE * highest):
        return Pace(samples=count, batch_lowest=lowest, batch_highest=highest)
    line = _least_squares(np.column_stack((np.ones(count), batch)), time, weight)
    plane = None
    if not np.any(np.isnan(prompts)) and np.ptp(prompts) > 1.0:
        plane = _least_squares(np.column_stack((np.ones(count), batch, prompts)), time, weight)
        # Prompts that speed steps up are noise.
        if plane is not None and plane[0][2] < 0.0:
            plane = None
    told = _pace(plane, points) if plane is not None else Pace()
    return told if told.identified or line is None else _pace(line, points)


def _pace(found: _Solution, points: _Array) -> Pace:
    """Word a solution; its third coefficient, if there is one, is that of prompts."""
    count, batch = len(points), points[:, _BATCH]
    lowest, highest = float(batch.min()), float(batch.max())
    solution, errors, scatter, freedom = found
    half = student(freedom) * float(errors[1])
    slope = float(solution[1])
    if slope + half <= 0.0:
        wrong = Unknown(UnknownReason.INVALID, "steps were shorter at larger batches: something else changed them")
        return Pace(wrong, wrong, wrong, wrong, count, lowest, highest, wrong, scatter)
    return Pace(
        base=max(0.0, float(solution[0])),
        slope=max(0.0, slope),
        slope_lower=max(0.0, slope - half),
        slope_upper=slope + half,
        samples=count,
        batch_lowest=lowest,
        batch_highest=highest,
        prompt_slope=float(solution[2]) if len(solution) > 2 else _WITH_BATCH,
        noise=scatter,
    )


def _least_squares(design: _Array, time: _Array, weight: _Array) -> _Solution | None:
    """Return solution, standard errors, relative scatter and degrees of freedom; None where it has no solution."""
    robust = np.ones_like(weight)
    parameters = design.shape[1]
    solution = np.zeros(parameters)
    inverse = np.zeros((parameters, parameters))
    scale = design.max(axis=0)
    scale[scale <= 0.0] = 1.0
    scaled = design / scale
    for _ in range(_ROUNDS):
        total = weight * robust
        normal = scaled.T @ (scaled * total[:, None])
        try:
            inverse = np.linalg.inv(normal)
        except np.linalg.LinAlgError:
            return None
        # What the other variables leave of one: nothing, when they say the same.
        if not np.all(1.0 / (normal.diagonal() * inverse.diagonal()) > _TOLERANCE):
            return None
        solution = inverse @ (scaled.T @ (time * total))
        residual = time - scaled @ solution
        typical = 1.4826 * float(np.median(np.abs(residual)))
        if typical <= 0.0:
            break
        robust = np.minimum(1.0, _HUBER * typical / np.maximum(np.abs(residual), 1e-12))
    total = weight * robust
    effective = float(total.sum() ** 2 / np.square(total).sum())
    freedom = effective - parameters
    if freedom < 1.0:
        return None
    # Variance of an observation of mean weight; Huber's bound shortens it, hence the correction by what it kept.
    variance = float((total * residual**2).sum() / total.sum()) * effective / freedom / float(robust.mean())
    errors = np.sqrt(np.diag(inverse) * variance * total.sum() / effective)
    return solution / scale, errors / scale, math.sqrt(variance) / float(np.average(time, weights=total)), freedom


def student(freedom: float) -> float:
    """Return the 97.5th percentile of Student's distribution (expansion of Hill, CACM 1970, algorithm 396; 1 % off)."""
    z = 1.959964
    terms = (
        (z**3 + z) / 4.0,
        (5.0 * z**5 + 16.0 * z**3 + 3.0 * z) / 96.0,
        (3.0 * z**7 + 19.0 * z**5 + 17.0 * z**3 - 15.0 * z) / 384.0,
        (79.0 * z**9 + 776.0 * z**7 + 1482.0 * z**5 - 1920.0 * z**3 - 945.0 * z) / 92160.0,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, start=1))
