"""What becomes of the operator when the network and the API server fail it: the quick part.

One operator behind the fault proxy, under a supervisor; objects with actuation Floor and Own in mode Auto. The oracle
is the same everywhere: once the faults stop, the writes stop, and everything is as after a run without faults. The long
part, with every write and every seed, is `test_faults_soak.py`.
"""

import copy
import itertools
import os
import time

import pytest

from hack.fault_proxy import (
    Crash,
    Cut,
    Hang,
    Hold,
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
)
from optiinfra.cluster.client import ClientLimits
from tests.engine_pages import MERGE, hpa_path
from tests.fault_scene import MAXIMUM, difference, fault_scene, state_of, wait_quiet, wait_state
from tests.operator_process import eventually

pytestmark = [pytest.mark.safety, pytest.mark.timeout(400)]

HPAS = frozenset({"horizontalpodautoscalers"})
STATUSES = frozenset({"resourceoptimizations/status"})
CALLS = (
    *(Refuse(code) for code in (409, 410, 500, 503)),
    Refuse(429, retry_after=1),
    *(Unheard(code) for code in (500, 504)),
    Cut(),
    Cut(after=True),
    Slow(1.0),
    Stale(1.0),
)
STREAMS = (WatchGone(), WatchDropped(0.5), WatchDelayed(2.0), WatchMerged(2.0))
STORM_SECONDS = 5.0
WINDOW_SECONDS = 12.0


@pytest.fixture(scope="module")
def scene(apiserver, tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    with fault_scene(apiserver, folder=folder, prefix=f"faults-{os.getpid()}") as made:
        yield made


@pytest.fixture(scope="module")
def clean(scene):
    """States by actuation and phase of a run without faults."""
    spaces = {each: scene.begin(f"clean-{each.lower()}", actuation=each) for each in ("Floor", "Own")}
    found = {}
    for namespace in spaces.values():
        scene.wait_condition(namespace, "AtLimit", replicas=MAXIMUM)
    wait_quiet(scene.audit, quiet=3.0, within=60.0)
    for actuation, namespace in spaces.items():
        found[actuation, "up"] = state_of(scene, namespace)
    scene.suspend(spaces["Floor"])
    scene.delete(spaces["Own"])
    scene.end(spaces["Own"])
    scene.wait_condition(spaces["Floor"], "Suspended", replicas=1)
    wait_quiet(scene.audit, quiet=3.0, within=60.0)
    found["Floor", "suspended"] = state_of(scene, spaces["Floor"])
    scene.delete(spaces["Floor"])
    scene.end(spaces["Floor"])
    assert found["Floor", "up"]["hpas"]["theirs"]["spec"]["minReplicas"] == 4
    assert found["Floor", "up"]["deployments"] == found["Own", "up"]["deployments"] == {"svc": 4}
    assert set(found["Own", "up"]["hpas"]) == {"optiinfra-svc"}
    assert found["Floor", "suspended"]["hpas"]["theirs"]["spec"]["minReplicas"] == 1
    return found


def test_after_crashes_and_a_storm_of_faults_all_is_as_without_them(scene, clean, figures):
    points = {
        "take-before": Rule(Crash(), Match(resources=HPAS, writes=True), times=1),
        "take-after": Rule(Crash(after=True), Match(resources=HPAS, writes=True), times=1),
        "told-after": Rule(Crash(after=True), Match(resources=STATUSES, writes=True), skip=2, times=1),
    }
    spaces = {case: scene.begin(case) for case in points}
    for case, rule in points.items():
        rule.match = Match(rule.match.verbs, rule.match.resources, frozenset({spaces[case]}), writes=True)
    spaces["storm"], own = scene.begin("storm"), scene.begin("storm-own", actuation="Own")
    stormy = frozenset({spaces["storm"], own})
    # Each of these costs its caller a whole time-out.
    storm = [Rule(fault, Match(namespaces=stormy), times=1, skip=skip) for skip, fault in ((0, Hang()), (4, Unheard()))]
    storm += [Rule(fault, chance=0.02, seed=number) for number, fault in enumerate(CALLS)]
    storm += [Rule(fault, chance=0.3, seed=number) for number, fault in enumerate(STREAMS)]
    scene.proxy.rules = [*points.values(), *storm]

    def died():
        assert {case: rule.hits for case, rule in points.items()} == dict.fromkeys(points, 1)
        return True

    eventually(died, seconds=90, what="the operator died at each point")
    time.sleep(STORM_SECONDS)
    injected = scene.proxy.counts.total()
    scene.proxy.calm()
    started = time.monotonic()
    for namespace in spaces.values():
        wait_state(scene, namespace, clean["Floor", "up"], seconds=60)
    wait_state(scene, own, clean["Own", "up"], seconds=60)
    settled = [wait_quiet(scene.audit, quiet=3.0, within=60.0) + time.monotonic() - started]
    # Between the two writes of giving back: restored, and its marks still on it.
    last = Rule(Crash(after=True), Match(resources=HPAS, namespaces=frozenset(spaces.values()), writes=True), times=1)
    scene.proxy.rules = [last]
    for namespace in spaces.values():
        scene.suspend(namespace)
    scene.delete(own)
    eventually(lambda: last.hits, seconds=30, what="the operator died while it gave back")
    started = time.monotonic()
    for namespace in spaces.values():
        wait_state(scene, namespace, clean["Floor", "suspended"], seconds=60)
    settled.append(wait_quiet(scene.audit, quiet=3.0, within=60.0) + time.monotonic() - started)
    ended = [record.get("error") for record in scene.operator.records() if record["message"] == "operator ended"]
    # Only the code tells whose end it was: two points reached at the same moment end one process.
    assert set(scene.supervisor.exits) == {-9}, f"nobody ended but by our hand: {ended}"
    for namespace in (*spaces.values(), own):
        scene.end(namespace)
    figures.add("fault proxy", "faults of the quick run, crashes included", injected + 1)
    figures.add(
        "fault proxy",
        "slowest settling in the quick run, seconds of waiting for quiet included",
        round(max(settled), 1),
        "s",
    )


def test_what_a_user_changes_under_our_hands_is_not_lost(scene, clean, figures):
    """The operator's write is kept by the network while the user changes the same object, and then let go."""
    namespace = scene.begin("held")
    held = Rule(Hold(), Match(resources=HPAS, namespaces=frozenset({namespace}), writes=True), times=1)
    told = Rule(Hold(), Match(resources=STATUSES, namespaces=frozenset({namespace}), writes=True), skip=1, times=1)
    scene.proxy.rules = [held, told]
    eventually(lambda: held.hits, seconds=60, what="a write of the floor is under way")
    where = f"{hpa_path(namespace, 'theirs')}?fieldManager=argocd"
    scene.hpa(namespace, "theirs", manager="argocd", maxReplicas=3)
    scene.change(namespace, {"priority": 7})
    scene.proxy.calm()
    labels = {"metadata": {"labels": {"team": "search"}}}
    scene.cluster.request("PATCH", where, labels, content_type=MERGE)
    scene.cluster.request("PATCH", scene.path(namespace, "svc"), labels, content_type=MERGE)
    wanted = copy.deepcopy(clean["Floor", "up"])
    wanted["objects"]["svc"]["spec"]["priority"] = 7
    wanted["objects"]["svc"]["desired"]["replicas"] = 3
    wanted["deployments"]["svc"] = 3
    wanted["hpas"]["theirs"]["spec"] |= {"minReplicas": 3, "maxReplicas": 3}
    wanted["hpas"]["theirs"]["labels"]["team"] = "search"

    def same():
        found = state_of(scene, namespace)
        for document in (found, wanted):
            document["hpas"]["theirs"].pop("managers", None)
        assert found == wanted, difference(wanted, found)
        return True

    eventually(same, seconds=60, what="the user's change and ours stand side by side", every=0.5)
    wait_quiet(scene.audit, quiet=3.0, within=60.0)
    late = [write.code for write in scene.proxy.writes if write.call.namespace == namespace and write.held]
    assert late, "what was held has reached the server"
    assert set(late) == {409}, "and met the fence: the object had changed meanwhile"
    figures.add("fault proxy", "held writes that met the fence in the quick run", len(late))
    figures.add("fault proxy", "user's changes lost in the quick run", 0)
    scene.end(namespace)


def longest_pause_of_rounds(scene):
    """Look at the operator for a while; the longest time between two ends of rounds, by its own clock."""
    ends, until = [], time.monotonic() + WINDOW_SECONDS
    while time.monotonic() < until:
        ends.append(scene.operator.series("optiinfra_last_round_timestamp_seconds")[()])
        time.sleep(0.2)
    ends.append(time.time())
    return max(later - earlier for earlier, later in itertools.pairwise(ends))


def test_a_write_that_is_never_answered_holds_up_no_other_object(scene, clean, figures):
    """Every write about one object is accepted and never answered; another object lives its life beside it."""
    silent = f"{scene.prefix}-silent"
    scene.proxy.rules = [Rule(Hang(), Match(namespaces=frozenset({silent}), writes=True))]
    assert scene.begin("silent") == silent
    began = time.monotonic()
    beside = scene.begin("beside")
    wait_state(scene, beside, clean["Floor", "up"], seconds=60)
    took = time.monotonic() - began
    pauses = []

    def rounds_go_on():
        hung = scene.proxy.counts["never answered"]
        pause = longest_pause_of_rounds(scene)
        hung = scene.proxy.counts["never answered"] - hung
        assert hung >= 2, "writes hang all the time"
        assert pause < ClientLimits().write_timeout_s, f"no round waits for one: {pause:.1f} s"
        pauses.append((hung, pause))
        return True

    eventually(rounds_go_on, seconds=90, what="a time in which writes hung and no round waited for them")
    scene.proxy.calm()
    wait_state(scene, silent, clean["Floor", "up"], seconds=60)
    wait_quiet(scene.audit, quiet=3.0, within=60.0)
    ((hung, pause),) = pauses
    figures.add("fault proxy", "an object beside one whose writes hang: until it is settled", round(took, 1), "s")
    figures.add("fault proxy", "writes that hung while pauses between rounds were measured", hung)
    figures.add("fault proxy", "longest pause between rounds meanwhile", round(pause, 1), "s")
    for namespace in (silent, beside):
        scene.end(namespace)
