"""A fluid service that scaling tests live with: every ready replica has SLOTS slots, a request holds one for SERVICE s.

It is a closed form, not an engine: a replica serves SLOTS / SERVICE requests per second, each of WORK units.
"""

from collections import deque
from dataclasses import dataclass, field, fields, replace

from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.pace import Pace
from optiinfra.domain.policy import Limits, PolicyState, clamp
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.replica_load import LoadSample
from optiinfra.domain.scaling import ScalerMemory, ScalingDecision, ScalingInput, decide
from optiinfra.domain.signals import ServiceSignals
from optiinfra.domain.units import Seconds, UnixTime

NOW = UnixTime(1.5e9)
UNMEASURED = Unknown(UnknownReason.UNREACHABLE, "no page")
SLOTS = 32.0
SERVICE = 8.0
STEP = 5.0
LOOK = 15.0
WORK = 1000.0
CAPACITY = SLOTS / SERVICE * WORK
# Linear: throughput grows with the batch up to the slots, which is what the fluid service does.
LINEAR = Pace(
    base=0.02, slope=1e-9, slope_lower=0.0, slope_upper=1e-9, samples=20, batch_lowest=1.0, batch_highest=32.0
)


def signals(time=NOW, *, replicas=4, **values):
    known = {field_.name: UNMEASURED for field_ in fields(ServiceSignals)}
    known.update(
        time=time,
        window=Seconds(60.0),
        replicas_expected=replicas,
        replicas_reporting=replicas,
        running=64.0,
        waiting=0.0,
        running_max=64.0,
        waiting_max=0.0,
        kv_cache_usage_mean=0.3,
        kv_cache_usage_max=0.3,
        work_rate=8000.0,
    )
    known.update(values)
    return ServiceSignals(**known)


def sample(time=NOW, *, replicas=4, **values):
    known = {
        "time": time,
        "reporting": replicas,
        "expected": replicas,
        "running": 64.0,
        "waiting": 0.0,
        "served": 8000.0,
        "finished": 8.0,
        "arrived": 8.0,
        "kv_cache": 0.3,
    }
    return LoadSample(**(known | values))


@dataclass
class Service:
    """Requests in the system, replicas, and what a scaler saw of them."""

    ready: int
    start_up: float
    in_system: float = 0.0
    starting: list[float] = field(default_factory=list)
    seen: deque = field(default_factory=lambda: deque(maxlen=13))
    worst_delay: float = 0.0
    replica_seconds: float = 0.0
    served: float = 0.0
    arrived: float = 0.0

    @property
    def asked(self):
        return self.ready + len(self.starting)

    def step(self, time, rate):
        self.ready += sum(1 for due in self.starting if due <= time)
        self.starting = [due for due in self.starting if due > time]
        done = min(self.in_system, self.ready * SLOTS) / SERVICE * STEP
        self.in_system = max(0.0, self.in_system + rate * STEP - done)
        self.served += done
        self.arrived += rate * STEP
        running = min(self.in_system, self.ready * SLOTS)
        waiting = self.in_system - running
        if self.ready:
            self.worst_delay = max(self.worst_delay, waiting / (self.ready * SLOTS / SERVICE))
        self.replica_seconds += self.asked * STEP
        self.seen.append((time, running, waiting, self.served, self.arrived))

    def ask(self, time, replicas):
        while self.asked < replicas:
            self.starting.append(time + self.start_up)
        while self.asked > replicas:
            if self.starting:
                self.starting.pop()
            else:
                self.ready -= 1

    def rates(self, points):
        first, last = self.seen[max(-len(self.seen), -points - 1)], self.seen[-1]
        span = last[0] - first[0]
        return (UNMEASURED, UNMEASURED) if not span else ((last[3] - first[3]) / span, (last[4] - first[4]) / span)

    def signals(self):
        time, running, waiting = self.seen[-1][:3]
        kv = 0.6 * running / max(1.0, self.ready * SLOTS)
        finished, _ = self.rates(12)
        return signals(
            UnixTime(time),
            replicas=self.ready,
            running=running,
            waiting=waiting,
            running_max=max(entry[1] for entry in self.seen),
            waiting_max=max(entry[2] for entry in self.seen),
            kv_cache_usage_mean=kv,
            kv_cache_usage_max=kv,
            request_rate=finished,
            work_rate=finished if isinstance(finished, Unknown) else WORK * finished,
        )

    def sample(self):
        time, running, waiting = self.seen[-1][:3]
        finished, arrived = self.rates(6)
        return sample(
            UnixTime(time),
            replicas=self.ready,
            running=running,
            waiting=waiting,
            served=finished if isinstance(finished, Unknown) else WORK * finished,
            finished=finished,
            arrived=arrived,
            kv_cache=0.6 * running / max(1.0, self.ready * SLOTS),
        )


@dataclass
class Life:
    """A service under the scaler and policy, look by look."""

    service: Service
    forecast: bool = True
    pace: Pace = LINEAR
    maximum: int = 40
    memory: ScalerMemory = field(default_factory=ScalerMemory)
    changed: PolicyState = field(default_factory=PolicyState)
    asked: list[tuple[float, int]] = field(default_factory=list)
    decisions: list[ScalingDecision | Unknown] = field(default_factory=list)
    looked: float = 0.0

    def input(self, **values):
        known = {
            "signals": self.service.signals(),
            "samples": (self.service.sample(),),
            "fresh": None,
            "settings": EngineSettings(batch_limit=SLOTS, batch_limit_source="argument"),
            "current": self.service.asked,
            "ready": self.service.ready,
            "minimum": 1,
            "maximum": self.maximum,
            "start_up_p50": Seconds(self.service.start_up),
            "start_up_p95": Seconds(self.service.start_up),
            "memory": self.memory,
            "pace": self.pace,
            "forecast_enabled": self.forecast,
        }
        return ScalingInput(**(known | values))

    def look(self, time, *, blind=False, follow=True, **values):
        given = self.input(**values)
        if blind:
            nothing = {"running": UNMEASURED, "waiting": UNMEASURED, "kv_cache_usage_mean": UNMEASURED}
            unheard = dict.fromkeys(("running", "waiting", "served", "finished", "arrived", "kv_cache"), UNMEASURED)
            given = replace(
                given,
                signals=replace(given.signals, **nothing),
                samples=tuple(replace(one, **unheard) for one in given.samples),
            )
        outcome = decide([given], now=UnixTime(time))[0]
        self.memory, decision = outcome.memory, outcome.decision
        self.decisions.append(decision)
        if isinstance(decision, ScalingDecision) and follow:
            limits = Limits(minimum=1, maximum=self.maximum, cooldown=Seconds(120.0))
            current = self.service.asked
            value = clamp(decision.desired, current=current, limits=limits, state=self.changed, now=time).value
            if value != current:
                self.changed = PolicyState(last_change=time, last_direction=decision.direction)
                self.service.ask(time, value)
        self.asked.append((time - NOW, self.service.asked))
        return decision

    def run(self, rates, *, blind=lambda time: False):
        """Live through requests per second, one value a STEP."""
        for rate in rates:
            time = UnixTime(NOW + self.looked)
            self.service.step(time, rate)
            if self.looked % LOOK == 0.0:
                self.look(time, blind=blind(self.looked))
            self.looked += STEP
        return self


def born(rates, *, ready, start_up=60.0, **values):
    """Begin with the load of the first step in the system."""
    return Life(Service(ready=ready, start_up=start_up, in_system=rates[0] * SERVICE), **values)
