"""What an engine's gauges and counters come to under a load, minute by minute instead of request by request.

The long-run solution of `optiinfra_sim.engine`'s own model, whose settings it takes: a step lasts c0 + sequence_seconds
per sequence + prefill_token_seconds per prompt token, each step gives each sequence one token. With requests arriving
at rate r, prompts of I tokens of which I' are computed, answers of O tokens, one step then lasts

    s = c0 / (1 - r k),    k = prefill_token_seconds I' + sequence_seconds O,    and    r O s requests are in the batch;

each holds I + O / 2 tokens on average (TGI: I + O, reserved), rounded up to blocks. SGLang and TGI compute prompts in
steps of their own, so that k has a step's fixed cost besides, shared by those who arrive within one step. A batch limit
or a pool that holds fewer bounds the batch, hence the rate that can be served; what comes beyond it waits, and leaves
after PATIENCE_S. Arrivals are Poisson's, so that the batch at a moment strays as Poisson's does. Tests hold it against
the engine itself. It knows no transients shorter than a step of its grid (a minute).
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from optiinfra_sim.history_traffic import Array
from optiinfra_sim.settings import EngineSettings
from optiinfra_sim.step import BUSY_SM_SHARE, WEIGHTS_SM_SHARE

PATIENCE_S: Final = 120.0
"""Clients give up after so long in the queue."""
SAFE_POOL_SHARE: Final = 0.97
"""Share of the pool that a crowd of requests fills on average: between a preemption and the next admission it is not
full. The engine itself, given too few blocks, was seen at 0.95 to 0.98."""
PREEMPTIONS_A_REQUEST: Final = 0.3
"""While requests wait for blocks. The engine itself was seen at 0.2 to 0.4, by how many wait."""
_ROUNDS: Final = 6


@dataclass(frozen=True, slots=True)
class Course:
    """One replica over time; (points,) each. Rates are per second, of the step that ends at a point."""

    arrived: Array
    served: Array
    aborted: Array
    demand: Array
    """Requests that would be in the batch if nothing bounded it."""
    limit: Array
    """Requests that fit, by batch limit and pool together."""
    queue: Array
    """Requests that wait beyond what strays."""
    step_s: Array
    """Seconds of one decode step: the time between two tokens."""
    busy: Array
    """Share of time with a step under way."""
    sm_active: Array
    tokens_a_request: Array
    """That one request holds of the pool on average, in whole blocks."""
    wait_s: Array
    """Mean time in the queue."""
    first_token_s: Array
    preempted: Array

    @property
    def batch(self) -> Array:
        """Mean requests in the batch."""
        return np.minimum(self.demand, self.limit)


@dataclass(frozen=True, slots=True)
class Capacity:
    """What one replica can do; (points,) each."""

    requests_per_s: Array
    limit: Array
    """Requests in the batch at most."""
    pool: Array
    """Requests that the pool alone holds."""
    tokens_a_request: Array
    cost: Array
    """k above, seconds."""


def capacity(settings: EngineSettings, *, prompt: Array, output: Array, computed: Array) -> Capacity:
    """Return the largest rate that a replica serves for ever, and what bounds it.

    `prompt` and `output` are mean tokens of a request, `computed` those of the prompt that no cache has.
    """
    held = prompt + (output if settings.reserves_answers else output / 2)
    tokens = held + settings.block_size / 2
    pool = SAFE_POOL_SHARE * settings.usable_blocks * settings.block_size / tokens
    limit = np.minimum(float(settings.max_num_seqs), pool)
    cost = _cost(settings, output=output, computed=computed)
    fixed = settings.step_seconds + settings.host_seconds
    rate = limit / (fixed * output + limit * cost)
    for _ in range(_ROUNDS if settings.prefills_alone else 0):
        together = _together(rate * fixed / (1.0 - np.minimum(rate * cost, 0.999)))
        cost = _cost(settings, output=output, computed=computed) + fixed / together
        rate = limit / (fixed * output + limit * cost)
    return Capacity(rate, limit, pool, tokens, cost)


def _cost(settings: EngineSettings, *, output: Array, computed: Array) -> Array:
    cost: Array = settings.prefill_token_seconds * computed + settings.sequence_seconds * output
    return cost


def _together(arrivals: Array) -> Array:
    """Requests that share one prefill step, when so many arrive within a step: of those steps that have any."""
    share: Array = np.where(arrivals > 1e-6, arrivals / np.maximum(1.0 - np.exp(-arrivals), 1e-9), 1.0)
    return share


def play(settings: EngineSettings, *, arrived: Array, prompt: Array, output: Array, step_s: float) -> Course:
    """Return what one replica shows when requests arrive at this rate (requests/s, one value a step of the grid)."""
    computed = prompt * (1.0 - settings.prefix_hit_share)
    can = capacity(settings, prompt=prompt, output=output, computed=computed)
    queue, served, aborted = _queue(arrived, can.requests_per_s, step_s=step_s)
    fixed = settings.step_seconds + settings.host_seconds
    seconds = _step(settings, served=served, output=output, computed=computed)
    demand = np.minimum(served * output * seconds, can.limit)
    # Beyond the mean: how many of a Poisson crowd of that size find no place, and how long they wait for one.
    spread = np.sqrt(np.maximum(demand, 1e-9))
    room = (can.limit - demand) / spread
    beyond = spread * _excess(room)
    wait = np.where(served > 0, (queue + beyond) / np.maximum(can.requests_per_s, 1e-9), 0.0)
    crowded = (queue > 0) | (room < 1.0)
    short_of_blocks = can.pool < settings.max_num_seqs
    growing = seconds - fixed
    busy = 1.0 - np.exp(-demand)
    shares = (WEIGHTS_SM_SHARE * settings.step_seconds + BUSY_SM_SHARE * growing) / seconds
    return Course(
        arrived=arrived,
        served=served,
        aborted=aborted,
        demand=demand,
        limit=can.limit,
        queue=queue,
        step_s=seconds,
        busy=busy,
        sm_active=busy * shares,
        tokens_a_request=can.tokens_a_request,
        wait_s=wait,
        first_token_s=wait + settings.prefill_token_seconds * computed + 1.5 * seconds,
        preempted=np.where(
            crowded & short_of_blocks & (not settings.reserves_answers), PREEMPTIONS_A_REQUEST * served, 0.0
        ),
    )


def _step(settings: EngineSettings, *, served: Array, output: Array, computed: Array) -> Array:
    """Return the time from one token to the next; where prefills stand alone, decoding pauses for each of them."""
    fixed = settings.step_seconds + settings.host_seconds
    cost = _cost(settings, output=output, computed=computed)
    seconds: Array = fixed / (1.0 - np.minimum(served * cost, 0.999))
    for _ in range(_ROUNDS if settings.prefills_alone else 0):
        whole = cost + fixed / _together(served * seconds)
        seconds = fixed / (1.0 - np.minimum(served * whole, 0.999))
    return seconds


def _queue(arrived: Array, served_at_most: Array, *, step_s: float) -> tuple[Array, Array, Array]:
    """Return what waits at the end of each step, what is served and what gives up, as a fluid."""
    queue = np.zeros_like(arrived)
    aborted = np.zeros_like(arrived)
    waiting = 0.0
    for index in np.flatnonzero((arrived > served_at_most) | _follows(arrived > served_at_most)):
        # Between the stretches that are walked through, nothing waits.
        if index and not queue[index - 1]:
            waiting = 0.0
        waiting = max(0.0, waiting + (arrived[index] - served_at_most[index]) * step_s)
        most = PATIENCE_S * served_at_most[index]
        aborted[index] = max(0.0, waiting - most) / step_s
        waiting = min(waiting, most)
        queue[index] = waiting
    before = np.concatenate(([0.0], queue[:-1]))
    served = np.maximum(0.0, arrived - aborted - (queue - before) / step_s)
    return queue, served, aborted


def _follows(over: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Whether a step follows on one that is over, within the time that any queue needs to empty."""
    most = 600
    sums = np.concatenate(([0], np.cumsum(over)))
    begin = np.maximum(np.arange(len(over)) - most, 0)
    return np.asarray(sums[:-1] > sums[begin])


def _excess(room: Array) -> Array:
    """Mean of max(0, Z - room) for a standard normal Z: its density minus room times its tail (logistic tail)."""
    density = np.exp(-0.5 * room * room) / np.sqrt(2 * np.pi)
    excess: Array = np.maximum(0.0, density - room * normal_tail(room))
    return excess


def normal_tail(x: Array) -> Array:
    """P(Z > x) for a standard normal Z, to 0.0002 (Bowling et al. 2009, "A logistic approximation")."""
    tail: Array = 1.0 / (1.0 + np.exp(np.clip(0.07056 * x**3 + 1.5976 * x, -60.0, 60.0)))
    return tail
