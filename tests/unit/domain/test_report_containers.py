"""Containers around the GPUs: sized where their requests are known, or known not to be set; else left alone."""

from dataclasses import replace

from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.report.containers import size
from tests.unit.domain import report_fleet as fleet

TIMES = fleet.times_of(4.0)
MODEL = fleet.model(TIMES, "chat", busy=fleet.wave(TIMES, low=0.2, high=1.0), replicas=2)


def proposed(**changed):
    one = replace(fleet.container(TIMES, MODEL), **changed)
    (sized,) = size([one], {MODEL.key: MODEL}, {}, TIMES)
    return sized.proposals


def test_a_request_that_is_far_too_large_is_sized():
    assert proposed()


def test_where_nobody_tells_requests_none_is_proposed_as_if_none_were_set():
    unknown = Unknown(UnknownReason.NOT_MEASURED, "only kube-state-metrics tells requests and limits")
    amounts = ("cpu_request_cores", "cpu_limit_cores", "memory_request_bytes", "memory_limit_bytes")
    assert proposed(**dict.fromkeys(amounts, unknown)) == ()
