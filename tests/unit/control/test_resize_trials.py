"""A resize of running pods is judged: the first pod beside those that were not touched, then all against the past."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from optiinfra.api.v1alpha1.action_status import ActionState, Judgement
from optiinfra.api.v1alpha1.status_parts import ResizeState
from optiinfra.cluster.access import Verdict
from optiinfra.cluster.document import Key
from optiinfra.cluster.resize import ContainerSize, PodSize, Wish
from optiinfra.control import trials
from optiinfra.control.checkpoint import VERSION, pack, unpack
from optiinfra.control.memory import ObjectMemory
from optiinfra.control.recommend import recommendations_of
from optiinfra.control.report import merge_actions
from optiinfra.control.resize import Resizer
from optiinfra.domain.evidence import Direction, InPlace, RecommendationType
from optiinfra.domain.readings import EngineReading, Histogram, Signal
from optiinfra.domain.signals import summarise
from optiinfra.domain.units import Seconds, UnixTime
from optiinfra.domain.workload import ContainerFacts
from tests.unit.control.examples import NOW, facts, page, pod, proposal, ro, service

WINDOW = 60.0
BOUNDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, float("inf"))
QUICK, SLOW = 0.3, 6.0
OLD, NEW = "2", "500m"
NAMES = ("a", "b", "c")


@dataclass
class World:
    """Three pods whose engines serve a steady load, and the API server that resizes them at once."""

    names: tuple[str, ...] = NAMES
    slow: Any = lambda _name, _world: False
    at: float = float(NOW)
    sizes: dict[str, str] = field(default_factory=dict)
    changed_at: float = 0.0
    served: dict[str, dict[float, float]] = field(default_factory=dict)
    pages: dict[str, list[EngineReading]] = field(default_factory=dict)
    memory: ObjectMemory = field(default_factory=ObjectMemory)
    actions: tuple[Any, ...] = ()
    resizes: tuple[Any, ...] = ()
    items: tuple[Any, ...] = ()
    revision: str = "r1"
    unready: Any = lambda _name, _world: False
    silent: Any = lambda _name, _world: False
    policy: dict[str, Any] = field(default_factory=lambda: {"verifyWindow": "5m", "cooldown": "1m"})

    # the API server

    async def supported(self) -> bool:
        return True

    async def may_i(self, _attributes: Any) -> Verdict:
        return Verdict(allowed=True, reason="")

    async def read(self, key: Key) -> PodSize:
        has = {"cpu": self.sizes.get(key.name, OLD)}
        container = ContainerSize("containers", 0, has, {}, frozenset(), has, {}, 0)
        return PodSize(
            key,
            f"uid-{key.name}",
            "1",
            "Burstable",
            ready=not self.unready(key.name, self),
            terminating=False,
            containers={"app": container},
            pending_reason="",
            pending_message="",
            progress_reason="",
            progress_message="",
            in_progress=False,
            unready_since=UnixTime(self.changed_at) if self.unready(key.name, self) else None,
        )

    async def resize(self, pod_size: PodSize, wish: Wish) -> bool:
        self.sizes[pod_size.key.name] = wish.request
        self.changed_at = self.at
        return True

    # engines

    def _serve(self, seconds: float) -> None:
        for _ in range(int(seconds / 5.0)):
            self.at += 5.0
            for name in self.names:
                seen = self.served.setdefault(name, {})
                latency = SLOW if self.slow(name, self) else QUICK
                seen[latency] = seen.get(latency, 0.0) + 10.0
                kept = self.pages.setdefault(name, [])
                if self.silent(name, self):
                    continue
                kept.append(self._page(seen))
                del kept[:-48]

    def _page(self, seen: dict[float, float]) -> EngineReading:
        count = sum(seen.values())
        below = tuple(sum(some for value, some in seen.items() if value <= bound) for bound in BOUNDS)
        total = sum(value * some for value, some in seen.items())
        return replace(
            page(self.at),
            gauges={Signal.REQUESTS_RUNNING: 4.0, Signal.REQUESTS_WAITING: 0.0, Signal.KV_CACHE_USAGE: 0.2},
            counters={Signal.REQUESTS_FINISHED: count, Signal.PREEMPTIONS: 0.0},
            histograms={Signal.TIME_TO_FIRST_TOKEN: Histogram(BOUNDS, below, total, count)},
        )

    # the operator

    async def round(self, *, offered: bool = True, **changes: Any) -> Any:
        self._serve(30.0)
        now = UnixTime(self.at)
        made = replace(
            proposal(
                OLD,
                NEW,
                subject="app",
                type=RecommendationType.RESOURCES,
                direction=Direction.RESIZE,
                setting="containers[app].requests.cpu",
            ),
            in_place=InPlace("app", "cpu", NEW, "", OLD, ""),
            patch="spec: {}\n",
        )
        if not self.items:
            self.items = recommendations_of([("uid", made)], (), object_uid="uid-1", texts={}, now=now)
        obj = ro(modes={"resize": "Auto"}, policy=self.policy, objectives={"timeToFirstTokenP95": "2s"})
        status = obj.status.model_copy(
            update={"recommendations": self.items if offered else (), "actions": self.actions, "resizes": self.resizes}
        )
        work = service(obj.model_copy(update={"status": status}))
        target = work.targets[0]
        work.resizes, work.memory = self.resizes, self.memory
        target.memory = self.memory.target(target.target.name)
        pods = tuple(self._pod(name) for name in self.names)
        pages = {name: tuple(self.pages[name]) for name in self.names}
        target.facts = facts(len(pods), pods=pods, pages=pages, **changes)
        target.proposals = (made,) if offered else ()
        target.signals = summarise(
            pages, now=now, window=Seconds(WINDOW), stale_after=Seconds(30.0), replicas_expected=len(pods)
        )
        await Resizer(self, self, enabled=True).carry_out(work, now=now)
        trials.observe(target)
        self.resizes = work.resizes
        self.actions = merge_actions(self.actions, list(self.memory.untold.values()))
        self.memory.untold.clear()
        return self.resizes[-1] if self.resizes else None

    def _pod(self, name: str) -> Any:
        cores = {OLD: 2.0, NEW: 0.5}[self.sizes.get(name, OLD)]
        container = ContainerFacts("app", cores, 4.0, 1e9, 2e9, 0.0)
        return pod(name, labels={"pod-template-hash": self.revision}, containers=(container,))

    async def until_done(self, *, rounds: int = 40) -> Any:
        for _ in range(rounds):
            await self.round()
            if self.actions and self.actions[-1].outcome is not None:
                return self.actions[-1]
        raise AssertionError(f"not judged in {rounds} rounds: {self.resizes}")

    async def begun(self) -> "World":
        for _ in range(12):
            await self.round(offered=False)
        return self

    @property
    def resized(self) -> list[str]:
        return [name for name in self.names if self.sizes.get(name) == NEW]


async def test_a_good_resize_is_verified_pod_after_pod_and_earns_trust():
    world = await World().begun()
    await world.round()
    first = world.actions[-1]
    assert {effect.signal for effect in first.expected} >= {"time_to_first_token_p95", "queue_time_p95"}
    assert world.resized == ["a"]
    for _ in range(3):
        record = await world.round()
        assert (record.reason, world.resized) == ("Watching", ["a"]), "the others wait for what becomes of the first"
        assert "watched beside the others" in record.message
    action = await world.until_done()
    assert world.resized == list(NAMES)
    assert (action.state, action.outcome.verdict) == (ActionState.VERIFIED, Judgement.VERIFIED)
    assert action.expected == first.expected, "what was expected stays beside what came of it"
    assert len(world.actions) == 1
    assert world.resizes[-1].state is ResizeState.RESIZED
    assert world.memory.target("vllm").record.of(f"Resize/{first.reason}").good == 1.0


async def test_harm_to_the_first_pod_alone_is_undone_before_another_is_touched():
    world = await World(slow=lambda name, world: name in world.resized).begun()
    action = await world.until_done()
    assert world.resized == []
    assert set(world.sizes) == {"a"}, "no other pod was ever asked"
    assert (action.state, action.outcome.verdict) == (ActionState.ROLLED_BACK, Judgement.REGRESSED)
    assert action.outcome.reason == "TimeToFirstToken"
    assert action.outcome.control == "2 pods that were not touched"
    record = world.resizes[-1]
    assert (record.state, record.reason) == (ResizeState.ROLLED_BACK, "TimeToFirstToken")
    assert world.memory.target("vllm").record.of(f"Resize/{action.reason}").bad == 1.0
    for _ in range(10):
        await world.round()
    assert world.resized == [], "not tried again on this revision"


async def test_a_pod_that_is_not_ready_any_more_gets_its_size_back_and_is_called_harmed():
    world = await World(unready=lambda name, world: name in world.resized).begun()
    record = await world.round()
    record = await world.round()
    assert (record.state, record.reason) == (ResizeState.WAITING, "NotReady"), "readiness may come back by itself"
    action = await world.until_done()
    assert world.resized == []
    assert set(world.sizes) == {"a"}, "no other pod was ever asked"
    assert (action.state, action.outcome.verdict) == (ActionState.ROLLED_BACK, Judgement.REGRESSED)
    assert action.outcome.reason == "NotReady"
    assert world.memory.target("vllm").record.of(f"Resize/{action.reason}").bad == 1.0
    assert world.memory.target("vllm").resize_trial is None


async def test_without_rollback_a_pod_that_is_not_ready_is_waited_for():
    world = World(unready=lambda name, world: name in world.resized)
    world.policy["rollback"] = False
    await world.begun()
    for _ in range(8):
        record = await world.round()
    assert (record.state, record.reason, world.resized) == (ResizeState.WAITING, "NotReady", ["a"])


async def test_a_first_pod_that_falls_silent_while_the_others_are_heard_was_harmed():
    world = await World(silent=lambda name, world: name in world.resized).begun()
    action = await world.until_done()
    assert world.resized == []
    assert set(world.sizes) == {"a"}, "no other pod was ever asked"
    assert (action.state, action.outcome.reason) == (ActionState.ROLLED_BACK, "PodSilent")
    assert "is not heard any more" in action.outcome.message


async def test_what_all_pods_suffer_alike_is_not_the_resize_s_doing():
    world = await World(slow=lambda _name, world: bool(world.resized)).begun()
    action = await world.until_done()
    assert world.resized == list(NAMES)
    assert (action.state, action.outcome.verdict) == (ActionState.APPLIED, Judgement.UNKNOWN)
    assert action.outcome.reason == "StillMissed"


async def test_harm_that_shows_only_when_all_have_it_is_undone():
    world = await World(slow=lambda _name, world: world.resized == list(NAMES)).begun()
    action = await world.until_done()
    assert (action.state, action.outcome.reason) == (ActionState.ROLLED_BACK, "TimeToFirstToken")
    assert world.resized == []


async def test_without_rollback_harm_is_said_and_left():
    world = World(slow=lambda _name, world: world.resized == list(NAMES))
    world.policy["rollback"] = False
    action = await (await world.begun()).until_done()
    assert (action.state, action.outcome.verdict) == (ActionState.APPLIED, Judgement.REGRESSED)
    assert world.resized == list(NAMES)


async def test_a_single_pod_has_no_control_and_is_judged_against_the_time_before():
    world = await World(names=("a",), slow=lambda name, world: name in world.resized).begun()
    action = await world.until_done()
    assert (action.state, action.outcome.verdict) == (ActionState.ROLLED_BACK, Judgement.REGRESSED)
    assert action.outcome.control.startswith("none: ")


def handed_over(world):
    """Let another process go on: with what the checkpoint and the status hold, and nothing else."""
    state = pack(world.memory)
    assert len(state) < 4096
    world.memory = ObjectMemory()
    unpack(state, world.memory, version=VERSION)
    world.pages = {name: kept[-1:] for name, kept in world.pages.items()}


async def test_a_new_leader_goes_on_with_the_first_pod_and_undoes_its_harm():
    world = await World(slow=lambda name, world: name in world.resized).begun()
    await world.round()
    assert world.resized == ["a"]
    handed_over(world)
    action = await world.until_done()
    assert world.resized == []
    assert set(world.sizes) == {"a"}, "no other pod was ever asked"
    assert (action.state, action.outcome.verdict) == (ActionState.ROLLED_BACK, Judgement.REGRESSED)
    assert action.outcome.control == "2 pods that were not touched"
    assert world.memory.target("vllm").resize_trial is None


async def test_a_new_leader_judges_what_all_pods_have_against_the_time_before():
    world = await World(slow=lambda _name, world: world.resized == list(NAMES)).begun()
    while world.resized != list(NAMES):
        await world.round()
    handed_over(world)
    action = await world.until_done()
    assert (action.state, action.outcome.reason) == (ActionState.ROLLED_BACK, "TimeToFirstToken")
    assert world.resized == []


async def test_a_new_leader_verifies_a_good_one_once():
    world = await World().begun()
    while world.resized != list(NAMES):
        await world.round()
    handed_over(world)
    kept = pack(world.memory)
    action = await world.until_done()
    assert (action.state, action.outcome.verdict) == (ActionState.VERIFIED, Judgement.VERIFIED)
    # A checkpoint from before the verdict: the status says that it was judged.
    world.memory = ObjectMemory()
    unpack(kept, world.memory, version=VERSION)
    for _ in range(14):
        await world.round()
    assert world.memory.target("vllm").resize_trial is None
    assert [one.outcome.at for one in world.actions] == [action.outcome.at]


async def test_what_nobody_watches_goes_back_while_only_some_pods_have_it():
    world = await World().begun()
    await world.round()
    world.memory = ObjectMemory()
    action = await world.until_done()
    assert world.resized == []
    assert set(world.sizes) == {"a"}
    assert (action.state, action.outcome.verdict) == (ActionState.ROLLED_BACK, Judgement.UNKNOWN)
    assert action.outcome.reason == "LeaderChanged"
    assert world.memory.target("vllm").record.of(f"Resize/{action.reason}").unclear == 1


async def test_what_nobody_watches_is_held_where_all_pods_have_it_or_nothing_is_rolled_back():
    for early in (False, True):
        world = World()
        world.policy["rollback"] = not early
        await world.begun()
        await world.round()
        while not early and world.resized != list(NAMES):
            await world.round()
        world.memory = ObjectMemory()
        action = await world.until_done()
        for _ in range(6):
            await world.round()
        assert world.resized == list(NAMES)
        assert (action.state, action.outcome.reason) == (ActionState.APPLIED, "LeaderChanged")
        assert "what stands is held" in action.message
        assert len(world.actions) == 1


async def test_a_rollout_that_comes_before_the_verdict_ends_the_trial_and_says_so():
    world = await World().begun()
    while world.resized != list(NAMES):
        await world.round()
    world.revision = "r2"
    await world.round(offered=False)
    action = world.actions[-1]
    assert (action.state, action.outcome.verdict, action.outcome.reason) == (
        ActionState.APPLIED,
        Judgement.UNKNOWN,
        "Rollout",
    )
    assert world.resizes[-1].state is ResizeState.ENDED
    assert world.memory.target("vllm").resize_trial is None


@pytest.mark.parametrize("moved", [5])
async def test_somebody_else_s_doing_is_no_proof(moved):
    world = await World().begun()
    while world.resized != list(NAMES):
        await world.round()
    for _ in range(14):
        await world.round(desired_replicas=moved)
        if world.actions[-1].outcome is not None:
            break
    assert (world.actions[-1].state, world.actions[-1].outcome.reason) == (ActionState.APPLIED, "ReplicasMoved")
