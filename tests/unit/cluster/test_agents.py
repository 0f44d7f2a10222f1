"""What the real agent writes is what the operator reads: clocks, faults, links, containers, claims, attribution."""

import copy

import orjson
import pytest

from optiinfra.cluster.agents import parse_snapshot
from optiinfra.cluster.errors import Malformed
from optiinfra.domain.agent_readings import Attributor, SharedBy
from optiinfra.domain.readings import Unknown, UnknownReason

DOCUMENT = {
    "version": 1,
    "time": 1795000000.0,
    "node": "gpu-0",
    "sources": {"nvml": {"state": "ok"}, "containers": {"state": "denied", "reason": "no cgroups"}},
    "pressure": {"cpu_some_ratio": 0.25},
    "network": {"receive_bytes_total": 7, "transmit_bytes_total": None, "unknown": {"transmit_bytes_total": "failed"}},
    "gpus": [
        {
            "uuid": "GPU-1",
            "clock_event_reasons": 64,
            "clock_event_seconds": {
                "power_cap": 5, "sync_boost": 1000, "software_thermal": 2, "hardware_thermal": 3,
                "power_brake": None, "unknown": {"power_brake": "unsupported"},
            },
            "pcie_transmit_bytes_total": 10,
            "pcie_receive_bytes_total": 20,
            "xid_errors": [[79, 1], [31, 4]],
            "recovery_action": 2,
            "remap_failed": 0,
            "remap_pending": None,
        }
    ],
    "attribution": {"by": "requests", "reason": "switched off (tier 0)"},
    "allocations": [],
    "claims": [{"driver": "gpu.nvidia.com", "pool": "gpu-0", "device": "gpu-1", "namespace": "n", "pod": "p",
                "container": "c", "claim": "of tomorrow"}],
    "container_fields": ["id", "cpu_seconds_total", "memory_bytes", "working_set_bytes"],
    "pods": {
        "u1": [["aaaaaaaa", 12.5, 100, 90], ["bbbbbbbb", None, 1, 2, {"cpu_seconds_total": "denied"}]],
        "u2": [["cccccccc", 1, 1, 1]],
    },
}  # fmt: skip


def read(document=DOCUMENT, pods=frozenset({"u1"})):
    return parse_snapshot(orjson.dumps(document), pods=pods)


def changed(path, value):
    document = copy.deepcopy(DOCUMENT)
    holder = document
    for step in path[:-1]:
        holder = holder[step]
    holder[path[-1]] = value
    return document


def test_clocks_faults_and_links():
    reading = read()
    gpu = reading.gpus[0]
    assert (gpu.clocks.reasons, gpu.clocks.heat_seconds, gpu.clocks.power_seconds) == (64.0, 5.0, 5.0)
    assert gpu.faults.xids == ((79, 1), (31, 4))
    assert (gpu.faults.recovery_action, gpu.faults.remap_failed) == (2.0, 0.0)
    assert isinstance(gpu.faults.remap_pending, Unknown)
    assert (gpu.pcie_bytes, gpu.pcie_transmit_bytes, gpu.pcie_receive_bytes) == (30.0, 10.0, 20.0)
    assert reading.cpu_pressure_ratio == 0.25
    assert reading.links[0].receive_bytes == 7.0
    assert reading.links[0].transmit_bytes.reason is UnknownReason.INVALID


def test_containers_are_those_of_the_pods_that_are_asked_for():
    reading = read()
    assert [(one.pod_uid, one.id, one.cpu_seconds, one.working_set_bytes) for one in reading.containers] == [
        ("u1", "aaaaaaaa", 12.5, 90.0),
        ("u1", "bbbbbbbb", Unknown(UnknownReason.REFUSED, "agent: cpu_seconds_total denied"), 2.0),
    ]
    assert isinstance(reading.containers[0].cpu_throttled_periods, Unknown)
    assert parse_snapshot(orjson.dumps(DOCUMENT)).containers == ()
    assert reading.containers_source.detail == "no cgroups"


def test_columns_are_found_by_name_and_new_ones_are_read():
    fields = ["cpu_throttled_periods_total", "id", "of tomorrow", "cpu_periods_total", "cpu_seconds_total",
              "cpu_pressure_seconds_total"]  # fmt: skip
    document = DOCUMENT | {
        "container_fields": fields, "pods": {"u1": [[5, "aaaaaaaa", "x", 50, 1, 4.5]]}
    }  # fmt: skip
    one = read(document).containers[0]
    assert (one.cpu_throttled_periods, one.cpu_periods, one.cpu_seconds) == (5.0, 50.0, 1.0)
    assert one.cpu_waiting_seconds == 4.5
    assert isinstance(one.working_set_bytes, Unknown)


def test_what_containers_wait_for_is_read_by_its_own_column():
    fields = ["id", "cpu_seconds_total", "io_pressure_seconds_total", "memory_pressure_seconds_total"]
    document = DOCUMENT | {"container_fields": fields, "pods": {"u1": [["aaaaaaaa", 1, 7, 3]]}}
    one = read(document).containers[0]
    assert (one.memory_waiting_seconds, one.io_waiting_seconds) == (3.0, 7.0)
    assert isinstance(read().containers[0].memory_waiting_seconds, Unknown)


NAMED = DOCUMENT | {
    "pods": {},
    "named_container_fields": ["name", "cpu_seconds_total", "working_set_bytes"],
    "named_pods": [
        {"namespace": "n", "pod": "p", "containers": [["c", 5, 6e9], ["d", None, 1, {"cpu_seconds_total": "failed"}]]},
        {"namespace": "n", "pod": "another", "containers": [["c", 1, 1]]},
    ],
}


def by_name(document=NAMED):
    return parse_snapshot(orjson.dumps(document), pods=frozenset({"u1"}), names=frozenset({("n", "p")}))


def test_where_the_agent_knows_names_alone_containers_are_those_of_the_named_pods():
    first, second = by_name().named
    assert tuple(first) == ("n", "p", "c", 5.0, 6e9)
    assert second.cpu_seconds == Unknown(UnknownReason.INVALID, "agent: cpu_seconds_total failed")
    assert read(NAMED).named == ()
    assert by_name(DOCUMENT).named == ()


@pytest.mark.parametrize(
    "pods",
    [
        {"namespace": "n"},
        ["n/p"],
        [{"namespace": "n", "pod": "p", "containers": {}}],
        [{"namespace": "n", "pod": "p", "containers": [["c", 1]]}],
        [{"namespace": "n", "pod": "p", "containers": [[1, 1, 1]]}],
        [{"namespace": "n", "pod": "p", "containers": [["c", 1, 1]] * 4097}],
        [{"namespace": 5, "pod": "p", "containers": []}],
    ],
)
def test_named_pods_that_cannot_be_refuse_the_document(pods):
    with pytest.raises(Malformed):
        by_name(NAMED | {"named_pods": pods})


def test_attribution_and_claims():
    reading = read()
    assert reading.attribution is not None
    assert (reading.attribution.by, reading.attribution.reason) == (Attributor.REQUESTS, "switched off (tier 0)")
    assert reading.claims[0].device == "gpu-1"
    assert read(changed(("attribution",), {})).attribution is None


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("pods",), []),
        (("pods", "u1"), {}),
        (("pods", "u1", 0), ["aaaaaaaa", 1]),
        (("pods", "u1", 0, 0), 5),
        (("container_fields",), [1]),
        (("claims",), [5]),
        (("network", "links"), {}),
        (("gpus", 0, "clock_event_seconds"), []),
    ],
)
def test_what_cannot_be_read_refuses_the_document(path, value):
    with pytest.raises(Malformed):
        read(changed(path, value))


@pytest.mark.parametrize("xids", [[[79]], [[79, -1]], [5], [["79", 1]]])
def test_xids_that_cannot_be_are_unknown_and_never_none(xids):
    found = read(changed(("gpus", 0, "xid_errors"), xids)).gpus[0].faults.xids
    assert found.reason is UnknownReason.INVALID


SHARED = DOCUMENT | {
    "gpus": [DOCUMENT["gpus"][0] | {"uuid": "GPU-7", "index": 3}],
    "sharing": [
        {"gpu_uuid": "GPU-7", "by": "mps", "replicas": 4, "mps_processes": 2},
        {"gpu_uuid": "GPU-8", "by": "of tomorrow"},
    ],
    "gpu_users": [
        [3, "u1", "aaaaaaaa", 2, 1000, 0.25],
        [3, "", "", 1, None, 2, {"memory_bytes": "denied"}],
    ],
}  # fmt: skip


def test_who_uses_a_gpu_and_how_it_is_shared():
    reading = read(SHARED)
    assert [(one.gpu_uuid, one.by, one.replicas) for one in reading.sharing] == [
        ("GPU-7", SharedBy.MPS, 4),
        ("GPU-8", SharedBy.REPLICAS, 0),
    ]
    ours, outside = reading.users
    assert ours == ("GPU-7", "u1", "aaaaaaaa", 2, 1000.0, 0.25)
    assert (outside.pod_uid, outside.memory_bytes.reason, outside.sm_ratio.reason) == (
        "",
        UnknownReason.REFUSED,
        UnknownReason.INVALID,
    )
    assert (read().sharing, read().users) == ((), ())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gpu_users", {}),
        ("gpu_users", [[3, "u1", "a", 2, 1000]]),
        ("gpu_users", [[0, "u1", "a", 2, 1000, 0.5]]),
        ("gpu_users", [[True, "u1", "a", 2, 1000, 0.5]]),
        ("gpu_users", [[3, 5, "a", 2, 1000, 0.5]]),
        ("gpu_users", [[3, "u1", "a", -2, 1000, 0.5]]),
        ("gpu_users", [[3, "u1", "a", 2, 1000, 0.5]] * 20_000),
        ("sharing", [5]),
        ("sharing", [{"gpu_uuid": "GPU-7", "by": "mps"}] * 300),
    ],
)
def test_users_and_sharing_that_cannot_be_refuse_the_document(name, value):
    with pytest.raises(Malformed):
        read(SHARED | {name: value})


def test_an_agent_that_does_not_listen_for_xids_says_nothing_about_them():
    document = changed(("gpus", 0, "xid_errors"), None)
    document["gpus"][0]["unknown"] = {"xid_errors": "denied"}
    assert read(document).gpus[0].faults.xids.reason is UnknownReason.REFUSED


def test_containers_that_were_read_earlier_say_when():
    document = DOCUMENT | {"sources": {"containers": {"state": "ok", "time": 1794999970.5}}}
    assert read(document).containers_at == 1794999970.5
    assert read().containers_at is None


def test_the_busiest_moment_of_the_driver_s_samples():
    assert read(changed(("gpus", 0, "utilization_max_ratio"), 0.75)).gpus[0].utilization_max_ratio == 0.75
