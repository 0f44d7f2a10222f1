"""An hour after the operator died: scaling goes on without it, and nothing of what it left caps anybody.

The hour is that of the HPA controller, which runs fifteen times as fast. The floor and the HPA are taken by the
operator's own code, and then nobody is there any more. The metric is the user's own one, whose server lives on; the
operator's metric has no server at all, as when it is dead.
"""

import asyncio
import time

import pytest

from hack.real_hpa.clock import SPEED, STABILIZATION_SECONDS, TICK_SECONDS
from hack.real_hpa.metrics_api import METRIC
from hack.real_hpa.scalers import LABEL
from hack.real_hpa.stage import Stage, fast_cluster
from optiinfra.cluster.client import KubernetesClient
from optiinfra.cluster.document import Key
from optiinfra.cluster.floor import Floor, FloorHeld
from optiinfra.cluster.own_scaler import OwnScaler, OwnScalers
from tests.operator_process import eventually

pytestmark = [pytest.mark.timeout(900), pytest.mark.soak]

HOUR = 3600.0 / SPEED
APPLY = "application/apply-patch+yaml"
FLOOR, MAXIMUM, AVERAGE = 3, 12, 1000.0
TOPIC = "a dead operator"


def users_scaler(name):
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name},
        "spec": {
            "maxReplicas": MAXIMUM,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "metrics": [
                {
                    "type": "External",
                    "external": {
                        "metric": {"name": METRIC, "selector": {"matchLabels": {LABEL: name}}},
                        "target": {"type": "AverageValue", "averageValue": f"{AVERAGE:.0f}"},
                    },
                }
            ],
        },
    }


async def leave_behind(cluster, namespace):
    """Do what the operator does for one Floor and one Own object, and go."""
    async with KubernetesClient.from_environment(str(cluster.kubeconfig)) as client:
        held = await Floor(client).take(Key(namespace, "floor"), uid="", value=FLOOR)
        assert isinstance(held, FloorHeld)
        own = OwnScaler(
            namespace=namespace,
            owner_name="own",
            owner_uid="11111111-2222-3333-4444-555555555555",
            target_api_version="apps/v1",
            target_kind="Deployment",
            target_name="own",
            min_replicas=1,
            max_replicas=MAXIMUM,
            server_minor=36,
        )
        await OwnScalers(client).apply(own)


def test_scaling_goes_on_for_an_hour_and_nothing_is_capped(figures):
    load = {"floor": 1.0, "own": 1.0}
    with fast_cluster() as cluster, Stage(cluster) as stage:
        path = f"/apis/autoscaling/v2/namespaces/{stage.namespace}/horizontalpodautoscalers"
        stage.add("floor", replicas=FLOOR, answer=lambda _: load["floor"] * AVERAGE)
        stage.add("own", replicas=5, answer=lambda _: load["own"] * AVERAGE)
        stage.ready()
        cluster.request("PATCH", f"{path}/floor?fieldManager=argocd", users_scaler("floor"), content_type=APPLY)
        asyncio.run(leave_behind(cluster, stage.namespace))
        died = time.monotonic()
        seen = []

        def asked(name, count, what):
            def reached():
                seen.append(stage.scalers.look("own").asked)
                return stage.scalers.look(name).asked == count

            eventually(reached, seconds=120, what=what)
            stage.demand()

        load["floor"] = 30.0  # a morning peak, larger than the maximum allows for
        asked("floor", MAXIMUM, "the user's HPA rises to the user's own maximum")
        load["floor"] = 7.0
        asked("floor", 7, "it falls again, by its own metric")
        load["floor"] = 0.5
        asked("floor", FLOOR, "it falls to the floor that was held, and no further")
        load["floor"] = 9.0
        asked("floor", 9, "and rises again")
        while time.monotonic() < died + HOUR:
            seen.append(stage.scalers.look("own").asked)
            time.sleep(TICK_SECONDS)
        # Without a metric the HPA holds what runs; a person may still scale by hand, up to whatever they want.
        assert set(seen) == {5}
        deployment = f"/apis/apps/v1/namespaces/{stage.namespace}/deployments/own"
        cluster.request(
            "PATCH", f"{deployment}/scale", {"spec": {"replicas": 9}}, content_type="application/merge-patch+json"
        )
        time.sleep(2 * STABILIZATION_SECONDS)
        assert stage.scalers.look("own").asked == 9
        stage.demand()
    figures.add(TOPIC, "minutes of the HPA controller's time without it", round(HOUR * SPEED / 60))
    figures.add(TOPIC, "replicas that the user's HPA could not reach because of us", 0)
