"""Who owns external.metrics.k8s.io is asked again and again, and a loss is said."""

import logging
from dataclasses import dataclass

import pytest

from optiinfra import metrics
from optiinfra.cluster.access import ServiceReference
from optiinfra.cluster.errors import Unavailable
from optiinfra.control.external_api import ExternalApi

OURS = ServiceReference("optiinfra", "optiinfra-operator")
KEDA = ServiceReference("keda", "keda-operator-metrics-apiserver")


@dataclass
class Server:
    """An API server as told by the test."""

    owner: ServiceReference | None = None
    down: bool = False
    asked: int = 0

    async def external_metrics_owner(self) -> ServiceReference | None:
        self.asked += 1
        if self.down:
            raise Unavailable("no connection", path="/apis")
        return self.owner


def served():
    return metrics.REGISTRY.get_sample_value("optiinfra_external_metrics_served")


async def test_it_is_served_while_the_apiservice_leads_to_us():
    api = ExternalApi(Server(OURS), enabled=True, service=OURS)
    assert not api.state.served
    await api.look()
    assert (api.state.served, api.state.message, served()) == (True, "", 1.0)


@pytest.mark.parametrize(
    ("owner", "words"),
    [
        (KEDA, "Service keda/keda-operator-metrics-apiserver owns external.metrics.k8s.io"),
        (ServiceReference("optiinfra", "prometheus-adapter"), "Service optiinfra/prometheus-adapter owns"),
        (None, "no APIService"),
    ],
)
async def test_another_owner_is_named_in_state_metric_and_log(caplog, owner, words):
    server = Server(OURS)
    api = ExternalApi(server, enabled=True, service=OURS)
    await api.look()
    server.owner = owner
    with caplog.at_level(logging.WARNING):
        await api.look()
        await api.look()
    assert words in api.state.message
    assert (api.state.served, served()) == (False, 0.0)
    said = [record for record in caplog.records if "external metrics API" in record.message]
    assert len(said) == 1, "said once, not every half minute"
    assert words in said[0].reason
    server.owner = OURS
    await api.look()
    assert api.state.served


async def test_a_server_that_cannot_be_asked_changes_nothing():
    server = Server(OURS)
    api = ExternalApi(server, enabled=True, service=OURS)
    await api.look()
    server.down = True
    await api.look()
    assert api.state.served


async def test_nobody_is_asked_while_it_is_off():
    server = Server(OURS)
    api = ExternalApi(server, enabled=False, service=OURS)
    await api.look()
    assert (api.state.served, server.asked) == (False, 0)
    assert "externalMetrics.enabled" in api.state.message
