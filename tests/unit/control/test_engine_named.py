"""`engine.type` and `engine.containerName`: what is read of a page, of a pod's containers, and of a server's series."""

from pathlib import Path

import pytest

from optiinfra.api.reasons import Reason
from optiinfra.control import engine_analysis
from optiinfra.control.collect import _no_container as no_container
from optiinfra.domain.readings import EngineKind, Unknown, UnknownReason
from optiinfra.domain.workload import ContainerFacts, WorkloadFacts
from optiinfra.engines import settings as engine_settings
from optiinfra.engines.errors import PageError
from optiinfra.engines.page import read
from tests.unit.control.examples import pod, ro, ro_body
from tests.unit.control.test_sources import sources

DATA = Path(__file__).parents[2] / "data" / "engines"
BOTH = (DATA / "vllm_v0.txt").read_bytes() + (DATA / "sglang.txt").read_bytes()
UNSET = Unknown(UnknownReason.NOT_CONFIGURED)


def container(name, *arguments):
    return ContainerFacts(name, UNSET, UNSET, UNSET, UNSET, 1.0, arguments)


def workload(*containers):
    return WorkloadFacts("ns", "Deployment", "chat", "uid", 1, 1, (pod("chat-0", containers=containers),), None)


def test_the_page_decides_unless_an_engine_is_named():
    assert read(BOTH, at=0.0).engine is EngineKind.VLLM
    assert read(BOTH, at=0.0, kind=EngineKind.SGLANG).engine is EngineKind.SGLANG
    assert read(BOTH, at=0.0).engine is EngineKind.VLLM, "what was remembered of the one is not the other's"


@pytest.mark.parametrize("again", range(3))
def test_a_named_engine_that_is_not_there_is_an_invalid_page(again):
    with pytest.raises(PageError, match=r"no metrics of TGI.*spec\.engine\.type"):
        read(BOTH, at=0.0, kind=EngineKind.TGI)


async def test_pages_and_series_are_asked_for_with_the_named_engine():
    body = ro_body(engine={"type": "SGLang", "port": 30_000})
    assert {one.engine for one in (await sources(body)).all() if one.kind == "engine"} == {EngineKind.SGLANG}
    assert {one.engine for one in (await sources(ro_body())).all()} == {None}
    body = ro_body(engine={"source": "Prometheus", "type": "TGI", "port": 80, "containerName": "tgi"})
    named = list((await sources(body)).in_prometheus())
    assert {(one.kind, one.container, one.port) for one in named} == {(EngineKind.TGI, "tgi", 80)}
    assert [one.name for one in named] == ["a", "six", "no-address"], "ready ones; nobody connects to an address"


def test_the_named_container_is_the_one_whose_arguments_count():
    facts = workload(
        container("router", "python", "-m", "sglang_router.launch_router"),
        container("main", "vllm", "serve", "m", "--max-num-seqs", "8"),
        container("spare", "vllm", "serve", "m", "--max-num-seqs", "99"),
    )
    found = engine_settings.read(engine_analysis.containers(facts, named="spare"), None)
    assert (found.container, found.batch_limit) == ("spare", 99.0)
    assert [one.name for one in engine_analysis.containers(facts)] == ["router", "main", "spare"]


def test_a_container_that_no_pod_has_is_told_with_those_that_are():
    facts = workload(container("main"), container("proxy"))
    assert no_container(ro(engine={"containerName": "main"}), facts) is None
    assert no_container(ro(), facts) is None
    problem = no_container(ro(engine={"containerName": "vllm"}), facts)
    assert problem.reason is Reason.INVALID_SPEC
    assert "spec.engine.containerName" in problem.message
    assert "main, proxy" in problem.message
