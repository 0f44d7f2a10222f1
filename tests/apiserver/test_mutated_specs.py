"""Hundreds of mutated objects, one after the other, against the real API server and under the real operator.

What must hold whatever somebody applies: the API server answers each with a clear yes or no and never with an error of
its own; the operator lives, leads and logs no error; each object that was taken gets its status; what the status says
follows from the object and not from what it was before; and the last good object makes all well again, with nothing of
ours left on the HPA.
"""

import contextlib
import os
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from hack.cluster.errors import ApiError
from tests.engine_pages import EnginePages, Page, Scene
from tests.operator_process import eventually, free_port, install
from tests.spec_mutations import changes

pytestmark = pytest.mark.timeout(3600)

CRDS = Path(__file__).resolve().parents[2] / "crds"
CLUSTER_OBJECTS = "/apis/optiinfra.io/v1alpha1/clusterresourceoptimizations"
TOPIC = "mutated objects"
SEQUENCE = 125
QUICK, LONG = 4, 40
CLUSTER_SPEC = {"pools": [{"name": "h100", "nodeSelector": {"pool": "h100"}, "maxGpus": 16}]}
TELLING = ("Ready", "Reconciling", "Stalled", "MetricsAvailable", "InsightsAvailable")
"""Conditions that follow from the object and what is around it; others also tell of time that has passed."""


def spec_schema(kind):
    crd = yaml.safe_load((CRDS / f"optiinfra.io_{kind}.yaml").read_text())
    return crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]


SEQUENCES = st.lists(
    st.one_of(
        changes(spec_schema("resourceoptimizations")).map(lambda change: ("object", change)),
        changes(spec_schema("resourceoptimizations")).map(lambda change: ("object", change)),
        changes(spec_schema("clusterresourceoptimizations")).map(lambda change: ("cluster", change)),
    ),
    min_size=SEQUENCE,
    max_size=SEQUENCE,
)


class Mutated(Scene):
    """The scene with one object that is changed all the time, and the cluster object beside it."""

    taken = refused = 0

    @property
    def space(self):
        return self.made["mutated"]

    @property
    def paths(self):
        return {
            "object": self.path(self.space, "svc"),
            "from scratch": self.path(self.made["scratch"], "svc"),
            "cluster": f"{CLUSTER_OBJECTS}/{self.prefix}",
        }

    def good(self, which):
        """The last good object."""
        if which == "cluster":
            return CLUSTER_SPEC
        target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "svc"}
        scaling = {"actuation": "Signal", "maxReplicas": 4}
        return {"targetRef": target, "engine": {"port": self.pages.port}, "interval": "5s", "scaling": scaling}

    def create(self, which, spec):
        kind = "ClusterResourceOptimization" if which == "cluster" else "ResourceOptimization"
        path, name = self.paths[which].rsplit("/", 1)
        body = {"apiVersion": "optiinfra.io/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}
        return self.cluster.request("POST", path, body)

    def put(self, which, spec):
        """Replace the spec of what is there; False when the API server refuses it, as it may."""
        path = self.paths[which]
        found = self.cluster.request("GET", path) | {"spec": spec}
        try:
            self.cluster.request("PUT", path, found)
        except ApiError as error:
            if error.code == 409:  # the operator's status came between
                return self.put(which, spec)
            if error.code not in {400, 422} or "spec" not in str(error):
                raise
            self.refused += 1
            return False
        self.taken += 1
        return True

    def told(self, which):
        """The telling conditions of an object whose status is up to date, else None."""
        found = self.cluster.request("GET", self.paths[which])
        conditions = found.get("status", {}).get("conditions", [])
        ready = [each for each in conditions if each["type"] == "Ready"]
        if not ready or ready[0].get("observedGeneration") != found["metadata"]["generation"]:
            return None
        return {each["type"]: (each["status"], each["reason"]) for each in conditions if each["type"] in TELLING}

    def remove_all(self):
        for path in self.paths.values():
            with contextlib.suppress(ApiError):  # the sequence may have ended before it was there
                self.cluster.request("DELETE", path)

    def settled(self, which):
        return eventually(
            lambda: self.told(which), seconds=60, what=f"the {which}'s status is of its newest generation"
        )


@pytest.fixture(scope="module")
def world(apiserver, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mutated")
    prefix = f"mutated-{os.getpid()}"
    with contextlib.ExitStack() as stack:
        pages = stack.enter_context(EnginePages(free_port()))
        installation = stack.enter_context(
            install(apiserver, folder=folder, namespace=f"{prefix}-operator", values={"actuation.enabled": "true"})
        )
        operator = installation.operator(
            OPTIINFRA_INTERVAL_SECONDS="1",
            OPTIINFRA_SCRAPE_INTERVAL_SECONDS="1",
            OPTIINFRA_SCRAPE_TIMEOUT_SECONDS="1",
            OPTIINFRA_SIGNAL_WINDOW_SECONDS="10",
        )
        made = Mutated(apiserver, installation, operator, pages, prefix)
        stack.callback(made.remove)
        stack.callback(operator.kill)
        for what in ("mutated", "scratch"):  # the same around both, so that their states can be compared as they stand
            made.engines(made.namespace(what), "svc", Page(running=30))
            made.hpa(made.made[what], "theirs", manager="argocd")
        operator.start().wait_ready()
        yield made


def one_sequence(world, sequence):
    """Make both objects, change them all the time, and judge what came of it."""
    both = ("object", "cluster")
    specs = {which: world.create(which, world.good(which))["spec"] for which in both}
    try:
        for which, change in sequence:
            changed = change.apply(specs[which])
            if world.put(which, changed):
                specs[which] = changed
        assert world.operator.running
        # What is decided an interval later is as good; what is decided a day later cannot be waited for.
        last = specs["object"] | {"interval": "5s"}
        assert world.put("object", last), "what was taken is taken again"
        world.create("from scratch", last)
        world.settled("cluster")

        def same():
            # Both are asked each time: what was read before the last change may count for a while.
            from_scratch, by_history = world.settled("from scratch"), world.settled("object")
            assert from_scratch == by_history, f"{from_scratch} from scratch, {by_history} by history: {last}"
            return True

        eventually(same, seconds=120, what="the status follows from the object alone")
        for which in both:
            recovered(world, which)
    finally:
        world.remove_all()
    assert world.operator.leading
    assert not world.operator.complaints()


def recovered(world, which):
    """The last good object makes all well again."""
    if which == "object":  # its target and its kind of targets cannot be changed; a new object can
        world.cluster.request("DELETE", world.paths[which])
        world.create(which, world.good(which))
    else:
        assert world.put(which, world.good(which))

    def well():
        told = world.settled(which)
        assert told["Ready"][0] == "True", told
        scaler = world.cluster.request(
            "GET", f"/apis/autoscaling/v2/namespaces/{world.space}/horizontalpodautoscalers/theirs"
        )
        assert "optiinfra.io/held" not in scaler["metadata"].get("labels", {})
        assert "optiinfra" not in {entry["manager"] for entry in scaler["metadata"]["managedFields"]}
        return True

    if which == "object":
        eventually(well, seconds=60, what="the good object is well, and the HPA is its user's")
    else:
        world.settled(which)


def run(world, figures, examples):
    world.taken = world.refused = 0

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(SEQUENCES)
    def sequences(sequence):
        one_sequence(world, sequence)

    sequences()
    figures.add(TOPIC, "specs tried", world.taken + world.refused)
    figures.add(TOPIC, "of these taken by the API server", world.taken)
    figures.add(TOPIC, "crashes, objects without a status, states that depend on history", 0)
    return world.taken + world.refused


def test_five_hundred_mutated_objects_leave_nothing_stuck(world, figures):
    assert run(world, figures, QUICK) >= 500


@pytest.mark.soak
def test_thousands_of_mutated_objects_leave_nothing_stuck(world, figures):
    assert run(world, figures, LONG) >= 5000
