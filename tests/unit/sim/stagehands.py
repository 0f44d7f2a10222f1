"""A scenario and pods, for the tests that put them on a stage."""

import zlib

from optiinfra_sim.cluster import ContainerView, PodView
from optiinfra_sim.scenario import Scenario

EPOCH = 1_795_000_000.0


def service(name, kind, **more):
    return {"name": name, "kind": kind, "namespace": "inference", "selector": {"app": name}} | more


SCENARIO = Scenario.model_validate(
    {
        "services": [
            service(
                "chat",
                "simulated",
                startup_seconds=15,
                initial_replicas=2,
                trace={"duration_seconds": 240, "compression": 4, "load": 0.5},
            ),
            service("idle", "idle"),
            service("old", "recorded"),
        ]
    }
)


def pod(name, app, *, started=EPOCH - 100, ready=EPOCH - 90, node="gpu-1", gpus=1, address=None, terminating=False):
    return PodView(
        uid=name,
        namespace="inference",
        name=name,
        node=node,
        address=address or f"127.20.0.{zlib.crc32(name.encode()) % 250 + 1}",
        labels=(("app", app),),
        started=started,
        ready_since=ready,
        terminating=terminating,
        containers=(ContainerView(name="vllm", gpus=gpus),),
    )


def agent(node, address):
    return PodView(
        uid=f"agent-{node}",
        namespace="optiinfra",
        name=f"agent-{node}",
        node=node,
        address=address,
        labels=(("app.kubernetes.io/component", "agent"),),
        started=EPOCH,
        ready_since=EPOCH,
        terminating=False,
        containers=(ContainerView(name="agent", gpus=0),),
    )
