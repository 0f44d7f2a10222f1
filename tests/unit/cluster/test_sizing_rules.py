"""VerticalPodAutoscalers and LimitRanges as facts, and what stands in for them where they may not be read."""

import pytest

from optiinfra.cluster.errors import Absent, Denied, Malformed, Unavailable
from optiinfra.cluster.sizing_rules import SizingRules, parse_limit_range, parse_vertical_scaler
from optiinfra.control.sizing_rules import KEPT_S, SizingRulesTable
from optiinfra.domain.pod_shape import Resource
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.sizing_rules import ContainerPolicy, ContainerRange, NamespaceRules

VPA = {
    "metadata": {"name": "shop", "namespace": "web"},
    "spec": {
        "targetRef": {"kind": "Deployment", "name": "shop"},
        "updatePolicy": {"updateMode": "InPlaceOrRecreate"},
        "resourcePolicy": {
            "containerPolicies": [
                {"containerName": "log", "mode": "Off"},
                {"containerName": "*", "controlledResources": ["memory"]},
            ]
        },
    },
}


def test_a_vertical_scaler_says_whom_and_what_it_sets():
    scaler = parse_vertical_scaler(VPA)
    assert (scaler.target_kind, scaler.target_name, scaler.mode) == ("Deployment", "shop", "InPlaceOrRecreate")
    assert scaler.policies == (ContainerPolicy("log", off=True), ContainerPolicy("*", resources=("memory",)))
    assert scaler.acts_on("app", Resource.MEMORY)
    assert not scaler.acts_on("app", Resource.CPU)
    assert not scaler.acts_on("log", Resource.MEMORY)


def test_a_vertical_scaler_without_a_mode_acts():
    bare = {"metadata": {"name": "a"}, "spec": {"targetRef": {"kind": "Deployment", "name": "shop"}}}
    assert parse_vertical_scaler(bare).acts_on("app", Resource.CPU)


def test_limit_ranges_of_containers_are_read_by_resource():
    document = {
        "metadata": {"name": "defaults", "namespace": "web"},
        "spec": {
            "limits": [
                {"type": "Pod", "max": {"cpu": "8"}},
                {"type": "Container", "min": {"cpu": "100m"}, "max": {"memory": "4Gi"}},
                {"type": "Container", "maxLimitRequestRatio": {"cpu": "2"}, "default": {"memory": "1Gi"}},
            ]
        },
    }
    assert parse_limit_range(document) == (
        ContainerRange("defaults", Resource.CPU, least=0.1),
        ContainerRange("defaults", Resource.MEMORY, most=4 * 2.0**30),
        ContainerRange("defaults", Resource.CPU, ratio=2.0),
    )
    allowed = NamespaceRules((), parse_limit_range(document)).range_of(Resource.CPU)
    assert (allowed.least, allowed.most, allowed.ratio) == (0.1, float("inf"), 2.0)


class Server:
    def __init__(self, answer):
        self.answer = answer

    async def list(self, path, *, page_size):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer if "verticalpodautoscalers" in path else []


async def test_what_is_not_installed_is_none_and_known():
    rules = await SizingRules(Server(Absent("no such kind"))).read("web")
    assert rules == NamespaceRules((), ())


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Denied("forbidden"), UnknownReason.REFUSED),
        (Unavailable("away"), UnknownReason.UNREACHABLE),
        (Malformed("nonsense"), UnknownReason.INVALID),
    ],
)
async def test_what_cannot_be_read_is_unknown_with_its_reason(error, reason):
    rules = await SizingRules(Server(error)).read("web")
    assert isinstance(rules.vertical_scalers, Unknown)
    assert rules.vertical_scalers.reason is reason
    assert rules.range_of(Resource.CPU).names == ()


async def test_a_list_is_read_as_it_stands():
    rules = await SizingRules(Server([VPA])).read("web")
    assert not isinstance(rules.vertical_scalers, Unknown)
    assert rules.acting(kind="Deployment", name="shop", container="app", resource=Resource.MEMORY) is not None
    assert rules.acting(kind="StatefulSet", name="shop", container="app", resource=Resource.MEMORY) is None


async def test_rules_are_read_again_after_a_while_and_forgotten_with_their_namespace():
    class Reader:
        asked = 0

        async def read(self, namespace):
            self.asked += 1
            return NamespaceRules((), ())

    now, reader = [0.0], Reader()
    table = SizingRulesTable(reader, clock=lambda: now[0])
    assert isinstance(table.of("web").vertical_scalers, Unknown)
    for moment in (0.0, KEPT_S - 1.0, KEPT_S):
        now[0] = moment
        await table.refresh(["web"])
    assert reader.asked == 2
    assert table.of("web") == NamespaceRules((), ())
    await table.refresh([])
    assert isinstance(table.of("web").vertical_scalers, Unknown)
