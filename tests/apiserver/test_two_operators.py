"""Two installations by mistake, both seeing the whole cluster: who writes a ClusterResourceOptimization's status.

Services are claimed in the same way; their case plays among the neighbours in `tests/controllers/test_never_fights.py`.
"""

import contextlib
import os
import time

import pytest

from tests.operator_process import eventually, install

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]
PATH = "/apis/optiinfra.io/v1alpha1/clusterresourceoptimizations"
SETTLED = 40.0
"""Seconds for which both look, every second, and nothing is written."""


@contextlib.contextmanager
def running(apiserver, folder, namespace, **values):
    with install(apiserver, folder=folder, namespace=namespace, values=values) as installation:
        operator = installation.operator(OPTIINFRA_INTERVAL_SECONDS="1", OPTIINFRA_RETRY_PERIOD_SECONDS="0.5").start()
        try:
            yield operator.wait_ready(seconds=90)
        finally:
            operator.kill()


def test_one_writes_and_names_the_other_and_both_are_quiet(apiserver, tmp_path, figures):
    first_home, second_home = (f"two-{os.getpid()}-{name}" for name in ("first", "second"))
    name = f"two-{os.getpid()}"

    def status():
        return apiserver.request("GET", f"{PATH}/{name}").get("status", {})

    def degraded():
        return next((one for one in status().get("conditions", ()) if one["type"] == "Degraded"), {})

    with contextlib.ExitStack() as stack:
        for folder in ("first", "second"):
            (tmp_path / folder).mkdir()
        stack.enter_context(running(apiserver, tmp_path / "first", first_home))
        apiserver.request(
            "POST",
            PATH,
            {
                "apiVersion": "optiinfra.io/v1alpha1",
                "kind": "ClusterResourceOptimization",
                "metadata": {"name": name},
                "spec": {},
            },
        )
        stack.callback(apiserver.request, "DELETE", f"{PATH}/{name}")
        owner = f"{first_home}/optiinfra-operator"
        eventually(lambda: status().get("operator") == owner, seconds=60, what="the first one claims it")
        second = running(apiserver, tmp_path / "second", second_home, **{"crds.install": "false"})
        stack.enter_context(second)

        def named():
            found = degraded()
            return found.get("reason") == "OtherOperator" and f"{second_home}/optiinfra-operator" in found["message"]

        started = time.monotonic()
        eventually(named, seconds=60, what="the condition names the other side")
        figures.add("Two operators", "until the status names the other one", time.monotonic() - started, "s")
        version = apiserver.request("GET", f"{PATH}/{name}")["metadata"]["resourceVersion"]
        while time.monotonic() - started < SETTLED:
            assert status()["operator"] == owner
            time.sleep(1.0)
        after = apiserver.request("GET", f"{PATH}/{name}")["metadata"]["resourceVersion"]
        assert after == version, "neither writes any more"
