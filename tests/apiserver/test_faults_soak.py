"""The long part of the faults: a crash before and after every write of a scenario, and each kind of fault by seeds.

For the crashes there is one object for each point, some points in one run: the operator dies at every point once, and
every object lives through the deaths of all others of its run as well. The oracle is that of `test_faults_quick.py`,
with a minute of silence at the end.
"""

import collections
import json
import os
import time

import pytest

from hack.fault_proxy import (
    Crash,
    Cut,
    Hang,
    Match,
    Refuse,
    Rule,
    Slow,
    Stale,
    Unheard,
    WatchDelayed,
    WatchDropped,
    WatchGone,
    WatchMerged,
    WatchSilent,
)
from hack.fault_proxy.rules import name_of
from tests.fault_scene import BUSY, CALM, MAXIMUM, difference, fault_scene, state_of, wait_quiet, wait_state
from tests.operator_process import eventually

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

SECONDS = 60.0
FALL_SECONDS = 420.0
UNDER_SECONDS = 20.0
CRASH_EVERY = int(os.environ.get("OPTIINFRA_CRASH_EVERY", "1"))
"""Of the writes of a scenario: 1 is around each of them."""
AT_ONCE = 13
"""Writes around which the operator dies in one run, each with two objects: a hundred at this speed starve two cores."""
NOWHERE = frozenset({""})
CALLS = (
    *(Refuse(code) for code in (409, 410, 500, 503)),
    Refuse(429, retry_after=1),
    *(Unheard(code) for code in (0, 500, 504)),
    Cut(),
    Cut(after=True),
    Hang(),
    Slow(3.0),
    Stale(3.0),
)
GROUPS = (CALLS[:5], CALLS[5:10], CALLS[10:])
STREAMS = (WatchGone(), WatchDropped(0.7), WatchDropped(), WatchDelayed(5.0), WatchMerged(5.0), WatchSilent())
SEEDS = tuple(map(int, os.environ.get("OPTIINFRA_SOAK_SEEDS", "1,2").split(",")))


@pytest.fixture(scope="module")
def scene(apiserver, tmp_path_factory):
    folder = tmp_path_factory.mktemp("soak")
    with fault_scene(apiserver, folder=folder, prefix=f"soak-{os.getpid()}") as made:
        yield made


def lived(scene, cases, *, fall):
    """Let objects live without faults, in phases; their states by case and phase, and how many writes each took."""
    spaces = {case: scene.begin(f"clean-{case.lower()}", actuation=case) for case in cases}
    first = len(scene.proxy.writes)
    found = {}

    def note(phase):
        wait_quiet(scene.audit, quiet=5.0, within=SECONDS)
        for case, namespace in spaces.items():
            found[case, phase] = state_of(scene, namespace)

    for namespace in spaces.values():
        scene.wait_condition(namespace, "AtLimit", replicas=MAXIMUM)
    note("up")
    if fall:
        scene.pages.serve("0.0.0.0", CALM)
        for namespace in spaces.values():
            scene.wait_condition(namespace, "Succeeded", replicas=1, seconds=FALL_SECONDS)
        note("down")
        scene.pages.serve("0.0.0.0", BUSY)
        for namespace in spaces.values():
            scene.wait_condition(namespace, "AtLimit", replicas=MAXIMUM)
        note("up again")
    for namespace in spaces.values():
        scene.suspend(namespace)
        scene.wait_condition(namespace, "Suspended", replicas=1 if namespace.endswith("floor") else MAXIMUM)
    note("suspended")
    for namespace in spaces.values():
        scene.delete(namespace)
    note("deleted")
    counts = {
        case: sum(1 for write in scene.proxy.writes[first:] if write.call.namespace == namespace)
        for case, namespace in spaces.items()
    }
    for namespace in spaces.values():
        scene.end(namespace)
    return found, counts


@pytest.fixture(scope="module")
def clean(scene):
    """States of both actuations without faults."""
    found, _ = lived(scene, ("Floor", "Own"), fall=False)
    return found


def label(fault):
    """Name a fault of watches; some of them are there with two measures."""
    return f"{name_of(fault)}, {fault.share:.0%}" if isinstance(fault, WatchDropped) else name_of(fault)


def settle(scene, wanted):
    """Wait for the states of namespaces, and for silence; seconds after the call for each, and until the last write."""
    took, started = {}, time.monotonic()

    def come():
        for namespace, state in wanted.items():
            if namespace not in took and state_of(scene, namespace) == state:
                took[namespace] = time.monotonic() - started
        late = next((name for name in wanted if name not in took), None)
        assert late is None, json.dumps(difference(wanted[late], state_of(scene, late)), indent=1)
        return True

    eventually(come, seconds=SECONDS, what="all is as after a run without faults", every=0.5)
    last_write = time.monotonic() - started
    last_write += wait_quiet(scene.audit, quiet=5.0, within=SECONDS - last_write)
    for namespace, state in wanted.items():
        assert state_of(scene, namespace) == state, f"{namespace} did not stay as it was"
    return took, last_write


def lives(scene, clean, cases, *, rules, stream=False):
    """Let objects rise, be suspended and be deleted, each under the rules for a while; the seconds each took to settle.

    `cases` are namespaces by case and actuation, filled in here; `rules` are made once all namespaces have names.
    """
    slowest = dict.fromkeys(cases, 0.0)
    last_write = []

    def under(act, phase):
        scene.proxy.rules = rules()
        if stream:
            scene.proxy.end_watches()
        act()
        time.sleep(UNDER_SECONDS)
        scene.proxy.calm()
        wanted = {namespace: clean[actuation, phase] for (_, actuation), namespace in cases.items()}
        took, quiet = settle(scene, wanted)
        last_write.append(quiet)
        for case, namespace in cases.items():
            slowest[case] = max(slowest[case], took[namespace])

    def begin():
        for (_, actuation), name in cases.items():
            begun = scene.begin(name.removeprefix(f"{scene.prefix}-"), actuation=actuation)
            assert begun == name

    under(begin, "up")
    under(lambda: [scene.suspend(namespace) for namespace in cases.values()], "suspended")
    under(lambda: [scene.delete(namespace) for namespace in cases.values()], "deleted")
    for namespace in cases.values():
        scene.end(namespace)
    return slowest, max(last_write)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kinds", GROUPS, ids=("refused", "unheard-or-cut", "hanging-or-stale"))
def test_after_each_kind_of_refused_lost_or_late_call_all_is_as_without_it(scene, clean, figures, kinds, seed):
    """Each kind meets calls about objects of its own; calls about no namespace, such as lists, meet all of them."""
    scene.pages.serve("0.0.0.0", BUSY)
    cases = {
        (name_of(fault), actuation): f"{scene.prefix}-s{seed}-{CALLS.index(fault)}-{actuation.lower()}"
        for fault in kinds
        for actuation in ("Floor", "Own")
    }
    before, own = scene.proxy.counts.copy(), collections.Counter()
    made = []

    def rules():
        made.clear()
        for fault in kinds:
            costly = isinstance(fault, Hang | Unheard)
            spaces = frozenset(space for (name, _), space in cases.items() if name == name_of(fault))
            made.append(Rule(fault, Match(namespaces=spaces), chance=0.05 if costly else 0.25, seed=seed))
        made.extend(
            Rule(
                fault, Match(namespaces=NOWHERE), chance=0.005 if isinstance(fault, Hang) else 0.02, seed=seed + number
            )
            for number, fault in enumerate(kinds)
        )
        return list(made)

    slowest, last_write = lives(scene, clean, cases, rules=rules)
    for fault in kinds:
        name = name_of(fault)
        own[name] = scene.proxy.counts[name] - before[name]
        figures.add("fault proxy", f"{name}: injected (seed {seed})", own[name])
        took = max(slowest[name, actuation] for actuation in ("Floor", "Own"))
        figures.add("fault proxy", f"{name}: slowest settling (seed {seed})", round(took, 1), "s")
    figures.add("fault proxy", f"{name_of(kinds[0])} and the like: last write (seed {seed})", round(last_write, 1), "s")
    assert all(own[name_of(fault)] > 0 for fault in kinds), own
    assert not scene.supervisor.by_itself, "the operator ended by itself"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("fault", STREAMS, ids=label)
def test_after_each_kind_of_fault_of_watches_all_is_as_without_it(scene, clean, figures, fault, seed):
    """A watch is about all objects, so one kind after the other."""
    scene.pages.serve("0.0.0.0", BUSY)
    number = STREAMS.index(fault)
    cases = {("", each): f"{scene.prefix}-w{seed}-{number}-{each.lower()}" for each in ("Floor", "Own")}
    before = scene.proxy.counts.total()
    slowest, last_write = lives(scene, clean, cases, rules=lambda: [Rule(fault, chance=0.5, seed=seed)], stream=True)
    injected = scene.proxy.counts.total() - before
    figures.add("fault proxy", f"{label(fault)}: injected (seed {seed})", injected)
    figures.add("fault proxy", f"{label(fault)}: slowest settling (seed {seed})", round(max(slowest.values()), 1), "s")
    figures.add("fault proxy", f"{label(fault)}: last write (seed {seed})", round(last_write, 1), "s")
    assert injected > 0
    assert not scene.supervisor.by_itself, "the operator ended by itself"


def test_objects_that_are_deleted_in_a_gap_of_the_watch_are_found_gone(scene, clean, figures):
    """The watch hears of nothing, the object goes, and the watch resumes past it: nobody ever says so."""
    namespace = scene.begin("gap")
    scene.wait_condition(namespace, "AtLimit", replicas=MAXIMUM)
    scene.proxy.rules = [Rule(WatchDropped(), Match(verbs=frozenset({"watch"})))]
    scene.proxy.end_watches()
    opened = scene.proxy.counts["watch with lost events"]
    eventually(lambda: scene.proxy.counts["watch with lost events"] - opened >= 8, seconds=90, what="deaf watches")
    scene.delete(namespace)
    time.sleep(2.0)
    scene.proxy.calm()
    started = time.monotonic()
    wait_state(scene, namespace, clean["Floor", "deleted"], seconds=90)
    figures.add("fault proxy", "floor given back after a deletion in a gap", round(time.monotonic() - started, 1), "s")
    scene.end(namespace)


def crashed(scene, actuation, places, found):
    """Let objects live with a crash before and after these writes of theirs, to the same states; return the rules."""
    scene.pages.serve("0.0.0.0", BUSY)
    rules, spaces = [], []
    for place in places:
        for after in (False, True):
            name = f"{actuation.lower()}-{place}{'a' if after else 'b'}"
            spaces.append(scene.begin(name, actuation=actuation))
            match = Match(namespaces=frozenset({spaces[-1]}), writes=True)
            rules.append(Rule(Crash(after=after), match, skip=place, times=1))
            scene.proxy.rules = list(rules)

    def come(phase):
        for namespace in spaces:
            wait_state(scene, namespace, found[actuation, phase], seconds=900)

    come("up")
    scene.pages.serve("0.0.0.0", CALM)
    come("down")
    scene.pages.serve("0.0.0.0", BUSY)
    come("up again")
    for namespace in spaces:
        scene.suspend(namespace)
    come("suspended")
    for namespace in spaces:
        scene.delete(namespace)
    come("deleted")
    scene.proxy.calm()
    wait_quiet(scene.audit, quiet=SECONDS, within=SECONDS)
    for namespace in spaces:
        scene.end(namespace)
    return rules


@pytest.mark.timeout(5400)
@pytest.mark.parametrize("actuation", ["Floor", "Own"])
def test_a_crash_before_and_after_every_write_changes_nothing_in_the_end(scene, figures, actuation):
    scene.pages.serve("0.0.0.0", BUSY)
    found, counts = lived(scene, (actuation,), fall=True)
    places = list(range(0, counts[actuation], CRASH_EVERY))
    rules = []
    for first in range(0, len(places), AT_ONCE):
        rules += crashed(scene, actuation, places[first : first + AT_ONCE], found)
    hit = sum(rule.hits for rule in rules)
    figures.add("fault proxy", f"writes of a scenario, {actuation}", counts[actuation])
    figures.add("fault proxy", f"crashes before and after every write, {actuation}", hit)
    assert hit >= 0.8 * len(rules), "some objects took fewer writes than the clean run, not most"
    assert not scene.supervisor.by_itself
