"""The long part of the faults: a crash before and after every write of a scenario, and each kind of fault by seeds.

For the crashes there is one object for each point, all in one run: the operator dies at every point once, and every
object lives through the deaths of all others as well. The oracle is that of `test_faults_quick.py`, with a minute of
silence at the end.
"""

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
from tests.fault_scene import BUSY, CALM, MAXIMUM, fault_scene, state_of, wait_quiet, wait_state
from tests.operator_process import eventually

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

SECONDS = 60.0
FALL_SECONDS = 420.0
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


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("fault", [*CALLS, *STREAMS], ids=name_of)
def test_after_each_kind_of_fault_all_is_as_without_it(scene, clean, figures, fault, seed):
    """Up, suspended and deleted, each under the fault for some seconds."""
    scene.pages.serve("0.0.0.0", BUSY)
    stream = fault in STREAMS
    chance = 0.5 if stream else 0.02 if isinstance(fault, Hang | Unheard) else 0.15
    before, settled = scene.proxy.counts.total(), []
    case = f"f{abs(hash((str(fault), seed))) % 10**8}"
    spaces = {actuation: f"{case}-{actuation.lower()}" for actuation in ("Floor", "Own")}
    rules = [Rule(fault, chance=chance, seed=seed)]

    def under(act, phase):
        scene.proxy.rules = list(rules)
        if stream:
            scene.proxy.end_watches()
        act()
        time.sleep(8.0)
        scene.proxy.calm()
        started = time.monotonic()
        for actuation, namespace in spaces.items():
            wait_state(scene, namespace, clean[actuation, phase], seconds=SECONDS)
        quiet = wait_quiet(scene.audit, quiet=5.0, within=SECONDS)
        settled.append(min(time.monotonic() - started - 5.0, SECONDS) if quiet else 0.0)

    def begin():
        for actuation, name in tuple(spaces.items()):
            spaces[actuation] = scene.begin(name, actuation=actuation)

    under(begin, "up")
    under(lambda: [scene.suspend(namespace) for namespace in spaces.values()], "suspended")
    under(lambda: [scene.delete(namespace) for namespace in spaces.values()], "deleted")
    for namespace in spaces.values():
        scene.end(namespace)
    injected = scene.proxy.counts.total() - before
    figures.add("fault proxy", f"{name_of(fault)}: injected (seed {seed})", injected)
    figures.add("fault proxy", f"{name_of(fault)}: slowest settling (seed {seed})", round(max(settled), 1), "s")
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


def test_a_crash_before_and_after_every_write_changes_nothing_in_the_end(scene, figures):
    found, counts = lived(scene, ("Floor", "Own"), fall=True)
    rules, spaces = [], {}
    for actuation, number in counts.items():
        for place in range(number):
            for after in (False, True):
                name = f"{actuation.lower()}-{place}{'a' if after else 'b'}"
                spaces[name] = (actuation, scene.begin(name, actuation=actuation))
                match = Match(namespaces=frozenset({spaces[name][1]}), writes=True)
                rules.append(Rule(Crash(after=after), match, skip=place, times=1))
                scene.proxy.rules = list(rules)

    def come(phase, seconds):
        for actuation, namespace in spaces.values():
            wait_state(scene, namespace, found[actuation, phase], seconds=seconds)

    come("up", 1800)
    scene.pages.serve("0.0.0.0", CALM)
    come("down", 1800)
    scene.pages.serve("0.0.0.0", BUSY)
    come("up", 1800)
    for _, namespace in spaces.values():
        scene.suspend(namespace)
    come("suspended", 1800)
    for _, namespace in spaces.values():
        scene.delete(namespace)
    come("deleted", 1800)
    scene.proxy.calm()
    wait_quiet(scene.audit, quiet=SECONDS, within=SECONDS)
    hit = sum(rule.hits for rule in rules)
    figures.add("fault proxy", "writes of a scenario, Floor", counts["Floor"])
    figures.add("fault proxy", "writes of a scenario, Own", counts["Own"])
    figures.add("fault proxy", "crashes before and after every write", hit)
    assert hit >= 0.8 * len(rules), "some objects took fewer writes than the clean run, not most"
    assert not scene.supervisor.by_itself
