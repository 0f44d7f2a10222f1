"""The first step of a round: facts put together, approvals read, and the right words for what is missing."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from optiinfra.api.conversion import effective
from optiinfra.api.reasons import Reason
from optiinfra.api.v1alpha1 import TargetRef
from optiinfra.cluster.errors import Absent, ClusterError, Invalid, Malformed, TargetWithoutScale, Unavailable
from optiinfra.cluster.targets import TargetFacts
from optiinfra.control.claims import Claims
from optiinfra.control.collect import Collector, choose_scaler, target_problem
from optiinfra.control.keys import ObjectKey
from optiinfra.control.kv_optkit import PlanBoard
from optiinfra.control.model_files import ModelFileTable
from optiinfra.control.prices import PriceBoard
from optiinfra.control.registry import DRY_RUN_ANNOTATION, Registry
from optiinfra.control.sizing_rules import SizingRulesTable
from optiinfra.control.snapshots import SnapshotStore
from optiinfra.control.targets import TargetTable
from optiinfra.control.usage import UsageTable
from optiinfra.control.work import Work
from optiinfra.domain.model_facts import ModelFacts
from optiinfra.domain.pod_rules import DisruptionBudget
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.units import UnixTime
from optiinfra.domain.workload import NodeFacts, PodFacts, ScalerFacts
from tests.unit.control.examples import DEPLOYMENT, NOW, cro, cro_body, page, pod, ro, ro_body, scaler

KEY = ObjectKey("ResourceOptimization", "inference", "svc")
CLUSTER = ObjectKey("ClusterResourceOptimization", "", "cluster")


def target_facts(name: str = "vllm", **changes: Any) -> TargetFacts:
    values: dict[str, Any] = {
        "api_version": "apps/v1",
        "kind": "Deployment",
        "namespace": "inference",
        "name": name,
        "uid": f"uid-of-{name}",
        "resource_version": "3",
        "desired_replicas": 2,
        "replicas": 2,
        "ready_replicas": 2,
        "selector": f"app={name}",
    }
    known = set(TargetFacts.__dataclass_fields__)
    return TargetFacts(**{key: value for key, value in (values | changes).items() if key in known})


@dataclass
class _File:
    """The one file of all models."""

    answer: ModelFacts | Unknown

    async def read(self, *, namespace: str, name: str, key: str) -> ModelFacts | Unknown:
        return self.answer


@dataclass
class World:
    """The mirrored cluster and the targets, scripted."""

    answers: dict[str, TargetFacts | ClusterError] = field(default_factory=lambda: {"vllm": target_facts()})
    pods: dict[str, tuple[PodFacts, ...]] = field(
        default_factory=lambda: {"app=vllm": (pod("a"), pod("b"), pod("c", ready=False), pod("d", terminating=True))}
    )
    scalers: tuple[ScalerFacts, ...] = ()
    all_nodes: dict[str, NodeFacts] = field(default_factory=dict)
    silent: tuple[str, ...] = ()
    selector_errors: dict[str, ClusterError] = field(default_factory=dict)
    registry: Registry = field(default_factory=Registry)
    snapshots: SnapshotStore = field(default_factory=SnapshotStore)
    model_file: ModelFacts | Unknown = field(default_factory=ModelFacts)
    claims: Claims = field(default_factory=Claims)

    def pods_of(self, namespace: str, selector: str) -> tuple[PodFacts, ...]:
        if selector in self.selector_errors:
            raise self.selector_errors[selector]
        return self.pods.get(selector, ())

    def nodes(self) -> Mapping[str, NodeFacts]:
        return self.all_nodes

    def unplaced(self) -> tuple[PodFacts, ...]:
        return ()

    def budgets(self) -> tuple[DisruptionBudget, ...]:
        return ()

    def blind(self, namespace: str) -> tuple[str, ...]:
        return self.silent

    def blind_of_nodes(self) -> tuple[str, ...]:
        return self.silent

    def scalers_of(self, namespace: str, kind: str, name: str) -> tuple[ScalerFacts, ...]:
        return self.scalers

    async def read(self, *, api_version: str, kind: str, namespace: str, name: str) -> TargetFacts:
        answer = self.answers[name]
        if isinstance(answer, ClusterError):
            raise answer
        return answer

    async def collect(
        self, *bodies: dict[str, Any], keys: tuple[ObjectKey, ...] | None = None, refresh: bool = True
    ) -> Work:
        for body in bodies:
            self.registry.upsert(body["kind"], body)
        table = TargetTable(reader=self, clock=lambda: NOW)
        if refresh:
            for key, obj in self.registry.services():
                for target in effective(obj.spec).targets:
                    await table.refresh(key.namespace, target.target_ref)
        model_files = ModelFileTable(_File(self.model_file), self.registry, lambda: NOW, lambda _: None)
        await model_files.refresh()
        collector = Collector(
            self.registry,
            {},
            self,
            table,
            self.snapshots,
            UsageTable(reader=None, clock=lambda: NOW),  # type: ignore[arg-type]  # not read here
            SizingRulesTable(reader=None, clock=lambda: NOW),  # type: ignore[arg-type]  # not read here
            PlanBoard(None),
            model_files,
            lambda: NOW,
            prices=PriceBoard(clock=lambda: NOW),
            claims=self.claims,
        )
        wanted = self.registry.all_keys() if keys is None else keys
        return collector.collect(Work(round_id="r", at=UnixTime(0.0), keys=wanted))


async def one(world: World, body: dict[str, Any] | None = None, **how: Any):
    work = await world.collect(body or ro_body(), **how)
    (service,) = work.services
    return service


async def test_facts_are_put_together_and_only_serving_pods_count_as_ready():
    world = World()
    world.snapshots.page("uid-of-a", page(NOW - 5))
    world.snapshots.page_failed("uid-of-b", Unknown(UnknownReason.UNREACHABLE, "refused"), at=NOW)
    world.snapshots.page("uid-of-a-predecessor", page(NOW - 5))
    service = await one(world)
    (target,) = service.targets
    assert service.problem is None
    assert target.facts.ready_replicas == 2
    assert set(target.facts.pages) == {"a"}
    assert set(target.facts.page_errors) == {"b"}
    assert target.facts.uid == "uid-of-vllm"


async def test_nothing_is_decided_on_pods_that_are_not_seen_any_more():
    path = "/apis/autoscaling/v2/horizontalpodautoscalers"
    service = await one(World(silent=(path,)))
    assert service.problem.reason is Reason.API_ERROR
    assert path in service.problem.message
    assert not service.problem.stalled
    assert service.targets[0].facts is None


async def test_nothing_is_planned_for_nodes_that_are_not_seen_any_more():
    (cluster,) = (await World(silent=("/api/v1/nodes",)).collect(cro_body())).clusters
    assert cluster.problem.reason is Reason.API_ERROR
    assert "/api/v1/nodes" in cluster.problem.message
    (heard,) = (await World().collect(cro_body())).clusters
    assert heard.problem is None


async def test_a_group_of_pods_serves_when_all_of_it_does():
    pods = (pod("vllm-0"), pod("vllm-0-1"), pod("vllm-1"), pod("vllm-1-1", ready=False), pod("vllm-2-1"))
    world = World(answers={"vllm": target_facts(kind="LeaderWorkerSet")}, pods={"app=vllm": pods})
    service = await one(world)
    assert service.targets[0].facts.ready_replicas == 2


async def test_the_round_gets_its_time_from_the_clock():
    work = await World().collect(ro_body())
    assert work.at == NOW


async def test_what_is_gone_broken_or_being_deleted_is_told_apart():
    gone = ObjectKey("ResourceOptimization", "inference", "gone")
    work = await World().collect(
        ro_body("broken", uid="b", interval="soon"),
        ro_body("leaving", uid="l", deleting=True),
        cro_body(),
        keys=(gone, *(ObjectKey("ResourceOptimization", "inference", n) for n in ("broken", "leaving")), CLUSTER),
    )
    assert [key.name for key in work.gone] == ["gone", "leaving"]
    assert [item.key.name for item in work.broken] == ["broken"]
    assert [item.key for item in work.clusters] == [CLUSTER]
    assert work.services == []


async def test_a_target_that_was_not_read_yet_is_being_read():
    service = await one(World(), refresh=False)
    assert service.problem is not None
    assert (service.problem.reason, service.problem.stalled) == (Reason.COLLECTING, False)


REF = TargetRef.model_validate(DEPLOYMENT)
TARGET = effective(ro().spec).targets[0]


@pytest.mark.parametrize(
    ("error", "reason", "stalled"),
    [
        (Absent("no"), Reason.TARGET_NOT_FOUND, True),
        (TargetWithoutScale("no"), Reason.TARGET_WITHOUT_SCALE, True),
        (Invalid("no", code=422), Reason.INVALID_SPEC, True),
        (Unavailable("no", code=503), Reason.API_ERROR, False),
        (Malformed("no"), Reason.API_ERROR, False),
    ],
)
async def test_what_an_error_means_to_the_person_who_named_the_target(error, reason, stalled):
    problem = target_problem(TARGET, error)
    assert (problem.reason, problem.stalled) == (reason, stalled)
    assert "\n" not in problem.message
    if reason is not Reason.INVALID_SPEC:
        assert "Deployment/vllm" in problem.message
    assert (await one(World(answers={"vllm": error}))).problem == problem


async def test_the_younger_of_two_on_one_target_is_told_who_acts():
    work = await World().collect(ro_body("old", uid="a", created=NOW - 99 * 86400), ro_body("young", uid="b"))
    by_name = {service.key.name: service for service in work.services}
    assert by_name["old"].problem is None
    assert by_name["young"].problem.reason is Reason.CONFLICT
    assert "ro/inference/old" in by_name["young"].problem.message


async def test_one_missing_variant_is_not_the_end_of_the_service():
    variants = [{"name": name, "targetRef": DEPLOYMENT | {"name": name}} for name in ("vllm", "spot")]
    service = await one(World(answers={"vllm": target_facts(), "spot": Absent("no")}), ro_body(variants=variants))
    assert service.problem is None
    assert [target.problem is None for target in service.targets] == [True, False]
    service = await one(World(answers={"vllm": Absent("a"), "spot": Absent("b")}), ro_body(variants=variants))
    assert service.problem.reason is Reason.TARGET_NOT_FOUND


async def test_a_selector_that_cannot_be_used_is_the_problem_of_its_own_object():
    world = World(
        answers={"vllm": target_facts(), "odd": target_facts("odd", selector="odd in")},
        selector_errors={"odd in": Invalid("selector 'odd in' is not understood")},
    )
    work = await world.collect(ro_body(), ro_body("odd", uid="u2", targetRef=DEPLOYMENT | {"name": "odd"}))
    by_name = {service.key.name: service for service in work.services}
    assert by_name["svc"].problem is None
    assert by_name["svc"].targets[0].facts.ready_replicas == 2
    assert by_name["odd"].problem is not None
    assert "odd in" in by_name["odd"].problem.message


async def test_a_target_without_a_selector_has_no_pods_rather_than_all():
    world = World(answers={"vllm": target_facts(selector="")}, pods={"": (pod("a"),)})
    service = await one(world)
    assert service.targets[0].facts.pods == ()


# which HPA drives a target

KEDA = {"controller_owner": "ScaledObject/so"}


@pytest.mark.parametrize(
    ("scaling", "scalers", "chosen", "reason"),
    [
        # Signal
        ({}, (), None, None),
        ({}, (scaler("a"),), "a", None),
        ({}, (scaler("a"), scaler("b")), None, Reason.SEVERAL_SCALERS),
        ({}, (scaler("ours", owned_by_us=True),), None, None),
        ({}, (scaler("ours", owned_by_us=True), scaler("a")), "a", None),
        ({}, (scaler("keda", **KEDA),), "keda", None),
        ({"scalerRef": {"name": "a"}}, (scaler("a"),), "a", None),
        ({"scalerRef": {"name": "a"}}, (), None, Reason.SCALER_NOT_FOUND),
        ({"scalerRef": {"name": "a"}}, (scaler("b"),), None, Reason.SCALER_NOT_FOUND),
        ({"scalerRef": {"name": "a"}}, (scaler("a"), scaler("b")), None, Reason.SEVERAL_SCALERS),
        ({"scalerRef": {"name": "ours"}}, (scaler("ours", owned_by_us=True),), None, Reason.SCALER_NOT_FOUND),
        ({"scalerRef": {"kind": "ScaledObject", "name": "so"}}, (scaler("keda", **KEDA),), "keda", None),
        (
            {"scalerRef": {"kind": "ScaledObject", "name": "x"}},
            (scaler("keda", **KEDA),),
            None,
            Reason.SCALER_NOT_FOUND,
        ),
        ({"scalerRef": {"kind": "ScaledObject", "name": "so"}}, (), None, Reason.SCALER_NOT_FOUND),
        # Floor
        ({"actuation": "Floor"}, (), None, Reason.SCALER_NOT_FOUND),
        ({"actuation": "Floor"}, (scaler("a"),), "a", None),
        ({"actuation": "Floor"}, (scaler("a"), scaler("b")), None, Reason.SEVERAL_SCALERS),
        ({"actuation": "Floor"}, (scaler("ours", owned_by_us=True),), None, Reason.SCALER_NOT_FOUND),
        # Own
        ({"actuation": "Own", "minReplicas": 1, "maxReplicas": 9}, (), None, None),
        ({"actuation": "Own", "minReplicas": 1, "maxReplicas": 9}, (scaler("ours", owned_by_us=True),), "ours", None),
        ({"actuation": "Own", "minReplicas": 1, "maxReplicas": 9}, (scaler("theirs"),), None, None),
    ],
)
def test_which_hpa_drives_a_target(scaling, scalers, chosen, reason):
    target = effective(ro(scaling=scaling).spec).targets[0]
    found, problem = choose_scaler(target, scalers)
    assert (found.name if found else None) == chosen
    assert (problem.reason if problem else None) == reason


async def test_a_dry_run_is_asked_for_by_the_word_true_alone():
    for text, dry in (("true", True), ("false", False), ("True", False), ("", False)):
        assert (await one(World(), ro_body(annotations={DRY_RUN_ANNOTATION: text}))).dry_run is dry


# pools, prices, nodes

PRICED = {
    "prices": {"gpuHour": "4", "cpuCoreHour": "0.05"},
    "pools": [
        {"name": "h100", "nodeSelector": {"gpu": "h100"}, "prices": {"gpuHour": "9.5"}},
        {"name": "free", "nodeSelector": {"gpu": "a10"}},
    ],
}


@pytest.mark.parametrize(
    ("spec", "pool", "gpu", "core"),
    [
        (PRICED, "h100", 9.5, 0.05),
        (PRICED, "free", 4.0, 0.05),
        (PRICED, "", 4.0, 0.05),
        (PRICED, "no such pool", 4.0, 0.05),
        ({}, "", None, None),
        ({"prices": {"gpuHour": "0"}}, "", None, None),
    ],
)
def test_prices_come_from_the_pool_then_the_object_and_are_never_guessed_for_gpus(spec, pool, gpu, core):
    found = PriceBoard(clock=lambda: NOW).price({}, cro(**spec).spec).pools
    prices = found.get(pool, found[""])
    if gpu is None:
        assert isinstance(prices.gpu_hour, Unknown)
    else:
        assert prices.gpu_hour == gpu
    if core is not None:
        assert prices.cpu_core_hour == core
    assert prices.memory_gib_hour > 0, "the built-in one"


def node(name: str, **labels: str) -> NodeFacts:
    return NodeFacts(
        name=name,
        pool="",
        gpu_model="H100",
        gpus=8.0,
        cpu_cores=64.0,
        memory_bytes=1e12,
        ready=True,
        unschedulable=False,
        labels=labels,
    )


async def test_nodes_are_joined_with_their_pool_and_their_agent():
    world = World(all_nodes={"n1": node("n1", gpu="h100"), "n2": node("n2", gpu="a10"), "n3": node("n3")})
    broken = Unknown(UnknownReason.UNREACHABLE, "refused")
    world.snapshots.agent_failed("n2", broken, at=NOW)
    work = await world.collect(cro_body(**PRICED), ro_body(poolRef={"name": "h100"}))
    assert {name: facts.pool for name, facts in work.nodes.items()} == {"n1": "h100", "n2": "free", "n3": ""}
    assert work.nodes["n2"].agent_error is broken
    assert work.services[0].prices.gpu_hour == 9.5
    assert work.services[0].currency == "USD"
    assert set(work.clusters[0].prices) == {"", "h100", "free"}


async def test_the_nodes_of_a_targets_pods_that_are_not_ready_are_known():
    gone, other = (dataclasses.replace(node(name), ready=False) for name in ("n1", "n9"))
    world = World(
        all_nodes={"n1": gone, "n9": other}, pods={"app=vllm": (pod("vllm-1", node="n1"), pod("vllm-2", node="n5"))}
    )
    assert (await one(world)).targets[0].lost == ("n1",)
    back = World(all_nodes={"n1": node("n1")}, pods={"app=vllm": (pod("vllm-1", node="n1"), pod("vllm-2", node=""))})
    assert (await one(back)).targets[0].lost == ()


async def test_without_a_cluster_object_a_gpu_has_no_price_and_the_currency_is_that_of_the_defaults():
    service = await one(World())
    assert isinstance(service.prices.gpu_hour, Unknown)
    assert service.currency == "USD"


async def test_defaults_of_the_oldest_cluster_object_hold():
    work = await World().collect(
        cro_body("young", uid="y", created=NOW - 10, defaults={"mode": "Recommend"}),
        cro_body("old", uid="o", created=NOW - 1000, defaults={"mode": "Auto"}),
        ro_body(),
    )
    assert str(work.services[0].settings.modes.scale_up) == "Auto"


async def test_the_file_that_the_object_names_comes_along_or_why_it_does_not():
    named = ro_body(model={"configMapRef": {"name": "llama", "key": "model.json"}})
    found = (await one(World(model_file=ModelFacts(layers=32.0)), named)).model_file
    assert (found.facts.layers, found.notes) == (32.0, ())
    missing = World(model_file=Unknown(UnknownReason.NOT_CONFIGURED, "it has no such key"))
    found = (await one(missing, named)).model_file
    assert found.facts == ModelFacts()
    assert "ConfigMap llama, key model.json" in found.notes[0].message
    assert (await one(World())).model_file.notes == ()
