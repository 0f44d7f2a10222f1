"""A real HPA on CPU, real pods, and OptiInfra acting on them in Signal, Own and Floor; minutes, and root.

The engines are stand-ins (`tests.stand_in`): their queues and their CPU time are real, and there is no model. They are
slow and take hardly any CPU, as with a GPU, so that an HPA on CPU sees nothing of what their queues show. Nothing of
what the operator writes is assumed: the API server's audit log tells it.
"""

import threading
import time

import pytest

from tests.acting import (
    BUSY_RATE,
    CALM_RATE,
    LEASE,
    PUBLISHED,
    SLOW,
    TOPIC,
    Space,
    acting_node,
    hpa,
    install,
    on_cpu,
    pod_of,
    seconds_of,
    writes,
)
from tests.operator_process import eventually
from tests.real_node import SPACE, container_of, ready_operators

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]
MOST = 3
OURS = "optiinfra"


@pytest.fixture(scope="module")
def node(images):
    """Start a node with metrics-server, and install the chart that acts."""
    with acting_node(images) as made:
        install(made, "externalMetrics.enabled=true", "agent.enabled=false")
        yield made


@pytest.fixture
def space(node, request):
    """Make a namespace for one test."""
    made = Space(node, request.node.name.removeprefix("test_").replace("_", "-")[:40].strip("-"))
    yield made
    made.remove()


def managers(document):
    return {entry["manager"] for entry in document["metadata"]["managedFields"]}


def cpu_seen(space):
    """Wait until the HPA sees its pods' CPU, which takes metrics-server two looks, and return the percentage."""

    def seen():
        found = space.hpa().get("status", {})
        for metric in found.get("currentMetrics") or ():
            if metric.get("type") == "Resource" and "averageUtilization" in metric["resource"]["current"]:
                return [metric["resource"]["current"]["averageUtilization"]]
        raise AssertionError(found.get("conditions"))

    return eventually(seen, seconds=180, what="the HPA sees the CPU of its pods")[0]


def test_a_real_hpa_follows_real_cpu(space, figures):
    """The ground that the others stand on: without any object of ours, CPU alone adds pods and takes them away."""
    space.serve(slots=2, tokens=2, cpu_ms=100, pause_ms=0)
    space.apply(hpa(on_cpu(40), maximum=MOST))
    assert cpu_seen(space) < 40
    began = time.monotonic()
    space.send(1.6)
    eventually(lambda: space.replicas()[0] > 1, seconds=180, what="the HPA adds pods")
    figures.add(TOPIC, "HPA on CPU: from load to more replicas ordered", round(time.monotonic() - began, 1), "s")
    space.wait_ready(MOST)
    figures.add(TOPIC, "HPA on CPU: from load to three replicas ready", round(time.monotonic() - began, 1), "s")
    space.send(0)
    space.wait_ready(1)
    assert space.written() == {}


def test_signal_is_followed_by_the_users_hpa_and_writes_nothing(space, figures):
    space.serve(**SLOW)
    space.apply(hpa(on_cpu(80), PUBLISHED, maximum=MOST))
    space.optimize(scaling={"actuation": "Signal"})
    began = time.monotonic()
    space.send(BUSY_RATE)
    eventually(lambda: space.replicas()[0] > 1, seconds=240, what="the HPA adds pods")
    figures.add(TOPIC, "Signal: from load to more replicas ordered", round(time.monotonic() - began, 1), "s")
    space.wait_ready(MOST)
    figures.add(TOPIC, "Signal: from load to three replicas ready", round(time.monotonic() - began, 1), "s")
    assert cpu_seen(space) <= 80, "by CPU alone nobody would have added any"
    space.wait_effective("Succeeded", "AtLimit")
    assert not {one for one in managers(space.hpa()) if OURS in one}
    space.assert_written()
    began = time.monotonic()
    space.send(CALM_RATE)
    space.wait_ready(1, seconds=420)
    figures.add(TOPIC, "Signal: from calm to one replica", round(time.monotonic() - began, 1), "s")
    assert not {one for one in managers(space.hpa()) if OURS in one}
    space.assert_written()


def test_own_makes_an_hpa_and_lets_go_of_it(space, figures):
    space.serve(**SLOW)
    space.optimize(scaling={"actuation": "Own", "minReplicas": 1, "maxReplicas": MOST})
    ours = "optiinfra-svc"
    eventually(lambda: ours in space.hpas(), seconds=120, what="the operator makes an HPA")
    (owner,) = space.hpa(ours)["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["controller"]) == ("ResourceOptimization", "svc", True)
    began = time.monotonic()
    space.send(BUSY_RATE)
    space.wait_ready(MOST)
    figures.add(TOPIC, "Own: from load to three replicas ready", round(time.monotonic() - began, 1), "s")

    # Somebody else's HPA goes before ours, and when it has gone ours comes back.
    space.apply(hpa(on_cpu(80), name="theirs", maximum=MOST))
    eventually(lambda: set(space.hpas()) == {"theirs"}, seconds=120, what="ours gives way")
    found = eventually(
        lambda: (one := space.condition("ActuationEffective")).get("reason") == "ScalerExists" and one,
        seconds=60,
        what="it says why",
    )
    assert "theirs" in found["message"]
    assert managers(space.hpa("theirs")) & {OURS} == set()
    space.node.kubectl("delete", "hpa", "theirs", "--namespace", space.name)
    eventually(lambda: set(space.hpas()) == {ours}, seconds=120, what="ours is back")
    space.wait_ready(MOST)

    space.forget()
    eventually(lambda: not space.hpas(), seconds=120, what="the HPA goes with its owner")
    assert space.replicas()[0] == MOST, "the replicas stay as they are"
    space.assert_written("horizontalpodautoscalers")


class Held:
    """A workload of which the operator holds the floor at the maximum, under load."""

    def __init__(self, space):
        self.space = space
        space.serve(**SLOW)
        # Applied as GitOps tools do, and without minReplicas: nobody owns the field.
        space.apply(hpa(on_cpu(80), maximum=MOST), server_side=True)
        self.before = space.hpa()
        space.optimize(scaling={"actuation": "Floor"})
        self.began = time.monotonic()
        space.send(BUSY_RATE)

    def wait(self):
        """Wait until the floor is held and all its replicas are ready."""
        space = self.space

        def held():
            found = space.hpa()
            assert found["spec"]["minReplicas"] == MOST, (found["spec"], space.why())
            assert found["metadata"]["labels"]["optiinfra.io/held"] == "true"
            return found

        found = eventually(held, seconds=240, what="the floor is held")
        space.wait_ready(MOST)
        return found

    def given_back(self):
        found = self.space.hpa()
        meta = found["metadata"]
        assert found["spec"]["minReplicas"] == 1, (found["spec"], self.space.why())
        assert "optiinfra.io/held" not in meta.get("labels", {})
        assert "optiinfra.io/original" not in meta.get("annotations", {})
        assert OURS not in managers(found)
        return True


@pytest.fixture(scope="module")
def held(node):
    made = Held(Space(node, "floor"))
    yield made
    made.space.remove()


def test_floor_holds_min_replicas_and_real_pods_follow(held, figures):
    found = held.wait()
    figures.add(TOPIC, "Floor: from load to three replicas ready", round(time.monotonic() - held.began, 1), "s")
    assert cpu_seen(held.space) <= 80, "by CPU alone nobody would have added any"
    assert found["spec"]["maxReplicas"] == MOST
    ours = [one for one in found["metadata"]["managedFields"] if one["manager"] == OURS]
    assert [(one["operation"], sorted(one["fieldsV1"]["f:spec"])) for one in ours] == [("Apply", ["f:minReplicas"])]
    held.space.assert_written("horizontalpodautoscalers")


class Watch:
    """Looks at a held workload again and again while something happens to the operator."""

    def __init__(self, space):
        self._space = space
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.seen = set()
        self.looks = 0

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join(30)

    def _run(self):
        while not self._stop.wait(0.2):
            floor = self._space.hpa()["spec"].get("minReplicas")
            self.seen.add((floor, self._space.replicas()[0]))
            self.looks += 1


def leader(node):
    """Return the pod that leads; an AssertionError while nobody does."""
    holder = node.request("GET", LEASE)["spec"].get("holderIdentity") or ""
    operators = ready_operators(node)
    (pod,) = [one for one in operators if holder.startswith(f"{one['metadata']['name']}@")] or [None]
    assert pod is not None, (holder, [one["metadata"]["name"] for one in operators])
    return pod


def delete_at_once(node, pod):
    node.kubectl("delete", "pod", "--namespace", SPACE, pod["metadata"]["name"], "--force", "--grace-period=0")


def kill_inside(node, pod):
    """SIGKILL the operator's process, as the kernel does when memory ends: nothing is said to anybody."""
    container = container_of(pod)["containerID"].rpartition("/")[2]
    node.run("/usr/bin/ctr", "-n", "k8s.io", "tasks", "kill", "--signal", "SIGKILL", container)


WORDS = {delete_at_once: "deleted with force", kill_inside: "killed in its container"}


@pytest.mark.parametrize("how", [delete_at_once, kill_inside])
def test_another_operator_takes_over_and_holds_what_was_held(held, node, figures, how):
    held.wait()
    old = eventually(lambda: leader(node), seconds=120, what="one leads")
    name = old["metadata"]["name"]
    with Watch(held.space) as watch:
        began = time.time()
        how(node, old)
        ended = time.time()

        def taken_over():
            """Say when the Lease was first renewed by a process that is not the one that was ended."""
            for one in writes(node):
                renews = one["objectRef"]["resource"] == "leases" and seconds_of(one) > ended
                if renews and (how is kill_inside or pod_of(one) != name):
                    return seconds_of(one)
            return None

        at = eventually(taken_over, seconds=120, what="another process leads", every=0.5)
        figures.add(TOPIC, f"leader {WORDS[how]}: until another process leads", round(at - began, 1), "s")
        new = eventually(lambda: leader(node), seconds=180, what="the pods are well again, and one leads")
        figures.add(TOPIC, f"leader {WORDS[how]}: until both are ready", round(time.time() - began, 1), "s")
        seen = held.space.status()["observedGeneration"]
        held.space.change({"priority": 101 if how is kill_inside else 102})
        eventually(lambda: held.space.status()["observedGeneration"] > seen, seconds=120, what="it reads and writes")
    assert watch.looks > 10
    assert watch.seen == {(MOST, MOST)}, "floor and replicas stood all the time"
    late = [
        (pod_of(one), one["objectRef"]["resource"])
        for one in writes(node)
        if seconds_of(one) > at and pod_of(one) == name and new["metadata"]["name"] != name
    ]
    assert not late, "who no longer leads writes nothing"


def test_the_floor_falls_when_it_is_calm_and_rises_again(held, figures):
    held.wait()
    space = held.space
    began = time.monotonic()
    space.send(CALM_RATE)

    def fallen():
        assert space.hpa()["spec"]["minReplicas"] < MOST, space.why()
        return True

    eventually(fallen, seconds=420, what="the floor falls")
    space.wait_ready(1, seconds=420)
    figures.add(TOPIC, "Floor: from calm to one replica", round(time.monotonic() - began, 1), "s")
    space.send(BUSY_RATE)
    held.wait()


def test_the_floor_is_given_back_when_the_object_goes(held, figures):
    held.space.send(BUSY_RATE)
    held.wait()
    began = time.monotonic()
    held.space.forget()
    eventually(held.given_back, seconds=120, what="the object's going gives the floor back")
    figures.add(
        TOPIC, "Floor: from the object's going to minReplicas given back", round(time.monotonic() - began, 1), "s"
    )
    held.space.assert_written("horizontalpodautoscalers")
