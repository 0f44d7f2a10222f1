"""From estimates to proposals: floors, limits, QoS, the HPA's pair, prices, and what is refused and why."""

import json
from dataclasses import replace

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from optiinfra.domain import pod_shape, sizing_advice
from optiinfra.domain.cost import PriceList
from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.evidence import Proposal, Refusal
from optiinfra.domain.pod_shape import PodShape, QosClass, Resource
from optiinfra.domain.readings import EngineKind, Unknown, UnknownReason
from optiinfra.domain.resource_patch import WorkloadName
from optiinfra.domain.right_sizing import ContainerEstimate, SizingEstimate, SizingReason
from optiinfra.domain.sizing_plan import SizingCase
from optiinfra.domain.sizing_rules import ContainerPolicy, ContainerRange, NamespaceRules, VerticalScaler
from optiinfra.domain.workload import ContainerFacts, Place, ScalerFacts, ScalerMetric

NONE = Unknown(UnknownReason.NOT_CONFIGURED, "not set")
MIB, GIB = 2.0**20, 2.0**30
DEPLOYMENT = WorkloadName("Deployment", "shop", "web")


def container(name="app", cpu=2.0, memory=4 * GIB, cpu_limit=NONE, memory_limit=NONE, **parts):
    parts = {"gpus": 0.0} | parts
    return ContainerFacts(name, cpu, cpu_limit, memory, memory_limit, **parts)


def cpu(target=0.5, **parts):
    share = {0.5: 0.6, 0.9: 0.9, 0.95: 0.95, 0.99: 1.0, 1.0: 1.3}
    given = {
        "resource": Resource.CPU,
        "target": target,
        "lower": target * 0.8,
        "upper": target * 1.4,
        "limit": target * 2.0,
        "exceedance": 0.01,
        "confidence": 0.8,
        "samples": 11_520,
        "days": 8.0,
        "percentiles": tuple((key, target * value) for key, value in share.items()),
        "start_up_peak": NONE,
        "reason": SizingReason.SETTLED,
    }
    return SizingEstimate(**(given | parts))


def memory(target=GIB, **parts):
    return cpu(target, **({"resource": Resource.MEMORY, "limit": target * 1.5} | parts))


def case(*containers, first=(), **parts):
    shape = PodShape(containers or (container(),), tuple(first), parts.pop("pod_level", None))
    given = {"workload": DEPLOYMENT, "shape": shape, "replicas": 3, "rules": NamespaceRules((), ())}
    return SizingCase(**(given | parts))


def advise(given, estimates=None, known=86_400.0):
    estimates = estimates or {one.name: ContainerEstimate(cpu(), memory()) for one in given.shape.running}
    return sizing_advice.advise(given, estimates, known_for=dict.fromkeys(estimates, known))


def proposed(answer):
    assert isinstance(answer, Proposal), answer
    return answer


def refused(answer):
    assert isinstance(answer, Refusal), answer
    return answer


def test_every_container_gets_an_answer_for_cpu_and_for_memory():
    first, second = map(proposed, advise(case()))
    assert (first.setting, first.current, first.proposed, first.lower, first.upper) == (
        "containers[app].requests.cpu",
        "2000m",
        "500m",
        "400m",
        "700m",
    )
    assert (second.setting, second.current, second.proposed) == ("containers[app].requests.memory", "4096Mi", "1024Mi")
    assert (first.reason, second.reason) == ("OverRequested", "OverRequested")
    assert first.confidence == 0.8
    statistics = [one.statistic for one in first.evidence if one.signal == "container_cpu_usage"]
    assert statistics == ["p50", "p90", "p95", "p99", "max"]
    assert {"samples", "exceedance", "cpu_request", "cpu_limit"} <= {one.signal for one in first.evidence}
    assert "QoS class stays Burstable" in first.message
    assert len(first.message) < 1024


def test_the_patch_is_what_it_says():
    first, _ = map(proposed, advise(case()))
    (document,) = yaml.safe_load_all(first.patch)
    assert document == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "shop", "namespace": "web"},
        "spec": {"template": {"spec": {"containers": [{"name": "app", "resources": {"requests": {"cpu": "500m"}}}]}}},
    }


def test_freed_requests_have_their_price_for_all_replicas():
    prices = PriceList(cpu_core_hour=0.03, memory_gib_hour=0.004)
    first, second = map(proposed, advise(case(prices=prices)))
    assert first.savings.cpu_cores_freed == pytest.approx(4.5)
    assert first.savings.per_month == pytest.approx(4.5 * 0.03 * 730.0)
    assert second.savings.memory_bytes_freed == pytest.approx(9 * GIB)
    assert second.savings.per_month == pytest.approx(9 * 0.004 * 730.0)


def test_more_is_no_saving_and_has_its_price_too():
    first, _ = advise(case(container(cpu=0.2), prices=PriceList(cpu_core_hour=0.03)))
    assert proposed(first).reason == "UnderRequested"
    assert proposed(first).savings.cpu_cores_freed == 0.0
    assert proposed(first).savings.per_month == pytest.approx(-3 * 0.3 * 0.03 * 730.0)


def test_an_init_container_that_asks_for_as_much_takes_the_saving_away():
    migrate = container("migrate", cpu=2.0, memory=NONE, place=Place.INIT)
    first, _ = advise(case(container(), first=[migrate]))
    assert proposed(first).savings.cpu_cores_freed == 0.0
    assert "init container" in proposed(first).risk
    assert len(advise(case(container(), first=[migrate]))) == 2, "what ends is not sized"


def test_native_sidecars_are_sized_where_they_stand():
    proxy = container("istio-proxy", cpu=1.0, place=Place.SIDECAR)
    answers = advise(case(container(), first=[proxy]))
    assert [proposed(one).subject for one in answers] == ["app", "app", "istio-proxy", "istio-proxy"]
    (document,) = yaml.safe_load_all(proposed(answers[2]).patch)
    assert "initContainers" in document["spec"]["template"]["spec"]


@pytest.mark.parametrize(
    ("estimate", "known", "reason"),
    [
        (Unknown(UnknownReason.NOT_MEASURED, "nobody"), 86_400.0, "NotMeasured"),
        (ContainerEstimate(NONE, memory()), 86_400.0, "NotConfigured"),
        (ContainerEstimate(cpu(), memory()), 600.0, "TooFewSamples"),
        (ContainerEstimate(cpu(1.9), memory()), 86_400.0, "SmallChange"),
    ],
)
def test_what_is_not_known_or_too_small_is_refused(estimate, known, reason):
    first = refused(advise(case(), {"app": estimate}, known)[0])
    assert first.reason == reason
    assert first.message.startswith("containers[app].requests.cpu")


def test_a_request_that_is_missing_is_proposed():
    first, _ = advise(case(container(cpu=NONE)))
    assert (proposed(first).reason, proposed(first).current) == ("RequestMissing", "")
    assert "Remove the cpu request" in proposed(first).undo


# model servers, JVMs, GPUs

ENGINE = EngineSettings(engine=EngineKind.VLLM, container="app")


def test_memory_of_a_model_server_is_recommended_only():
    _, second = advise(case(container(gpus=1.0), engine=ENGINE))
    assert proposed(second).reason == "ModelServerMemory"
    assert proposed(second).confidence == 0.4
    assert "recommendation only" in proposed(second).risk
    first, _ = advise(case(container(gpus=1.0), engine=ENGINE))
    assert proposed(first).reason == "OverRequested"


def test_what_is_loaded_onto_a_gpu_passes_through_the_hosts_memory():
    estimate = ContainerEstimate(cpu(), memory(start_up_peak=3 * GIB))
    _, second = advise(case(container(gpus=1.0)), {"app": estimate})
    assert proposed(second).proposed == "3072Mi"
    assert "peak while it starts" in proposed(second).message
    _, plain = advise(case(), {"app": estimate})
    assert proposed(plain).proposed == "1024Mi"


def test_a_jvm_is_not_cut_below_its_heap():
    _, second = advise(case(container(arguments=("java", "-Xmx2g"))))
    assert proposed(second).proposed == "2548Mi"
    assert "a heap of 2 GiB" in proposed(second).message
    _, unbounded = advise(case(container(image="openjdk:21")))
    assert refused(unbounded).reason == "MemoryFloorUnknown"
    _, more = advise(case(container(image="openjdk:21", memory=512 * MIB)))
    assert proposed(more).reason == "UnderRequested", "more memory is never refused for the heap's sake"


def test_pinned_host_memory_is_a_floor():
    _, second = advise(case(container(gpus=1.0, arguments=("--swap-space", "2"))))
    assert proposed(second).proposed == "2048Mi"


# limits and QoS

FULL = container(cpu=2.0, memory=4 * GIB, cpu_limit=2.0, memory_limit=4 * GIB)


def test_a_guaranteed_pod_stays_guaranteed_at_the_upper_bound():
    given = case(FULL)
    assert pod_shape.qos_class(given.shape) is QosClass.GUARANTEED
    first, second = map(proposed, advise(given))
    assert (first.proposed, second.proposed) == ("700m", "1536Mi")
    for answer in (first, second):
        assert "QoS class stays Guaranteed" in answer.message
        (document,) = yaml.safe_load_all(answer.patch)
        resources = document["spec"]["template"]["spec"]["containers"][0]["resources"]
        assert resources["requests"] == resources["limits"]


def test_a_missing_request_can_change_the_class_and_says_so():
    bare = container(cpu=NONE, memory=NONE)
    first, _ = advise(case(bare))
    assert "QoS class changes from BestEffort to Burstable" in proposed(first).message


def test_a_limit_below_the_request_rises_with_it():
    given = case(container(cpu=0.2, cpu_limit=0.3))
    first = proposed(advise(given)[0])
    (document,) = yaml.safe_load_all(first.patch)
    resources = document["spec"]["template"]["spec"]["containers"][0]["resources"]
    assert resources == {"requests": {"cpu": "500m"}, "limits": {"cpu": "1000m"}}
    assert "300m rises to 1000m" in first.message
    assert "its limit to 300m" in first.undo


def test_kills_for_memory_raise_the_limit_even_where_the_request_is_well():
    killed = memory(4 * GIB, reason=SizingReason.OUT_OF_MEMORY, limit=6 * GIB)
    given = case(container(memory_limit=4 * GIB))
    second = proposed(advise(given, {"app": ContainerEstimate(cpu(), killed)})[1])
    assert second.setting == "containers[app].limits.memory"
    assert (second.reason, second.current, second.proposed) == ("OutOfMemory", "4096Mi", "6144Mi")
    (document,) = yaml.safe_load_all(second.patch)
    assert document["spec"]["template"]["spec"]["containers"][0]["resources"] == {"limits": {"memory": "6144Mi"}}


def test_a_limit_is_never_lowered_for_a_burstable_pod():
    first, second = map(proposed, advise(case(container(cpu_limit=8.0, memory_limit=64 * GIB))))
    assert "limits" not in first.patch
    assert "limits" not in second.patch


# HPAs


def hpa(*metrics, name="shop", owner=""):
    return ScalerFacts(
        name=name,
        uid="u",
        resource_version="1",
        min_replicas=1,
        max_replicas=9,
        current_replicas=3,
        desired_replicas=3,
        scaling_active=True,
        scaling_active_reason="",
        owned_by_us=False,
        controller_owner=owner,
        metrics=metrics,
    )


def utilisation(percent=70, resource="cpu", of=""):
    field, kind = ("containerResource", "ContainerResource") if of else ("resource", "Resource")
    source = {"name": resource, "target": {"type": "Utilization", "averageUtilization": percent}}
    if of:
        source["container"] = of
    return ScalerMetric(kind, resource, of, percent, json.dumps({"type": kind, field: source}))


def test_the_request_and_the_percentage_that_keeps_its_meaning_are_one_proposal():
    first, second = map(proposed, advise(case(scalers=(hpa(utilisation()),))))
    assert "HPA shop goes from 70 % to 280 % of the request, so that it still acts at 1400m a pod" in first.message
    workload, scaler = yaml.safe_load_all(first.patch)
    assert workload["kind"] == "Deployment"
    assert scaler["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"] == 280
    threshold = next(one for one in first.effects if one.signal == "hpa_cpu_threshold")
    assert threshold.before == threshold.expected == pytest.approx(1.4)
    assert "apply both documents together" in first.risk
    assert "HPA shop to 70 %" in first.undo
    assert "HPA" not in second.message, "memory is no business of that HPA"
    assert len(list(yaml.safe_load_all(second.patch))) == 1


def test_two_containers_under_one_percentage_change_one_at_a_time():
    answers = advise(case(container(), container("log", cpu=1.0), scalers=(hpa(utilisation()),)))
    first, _, waits, _ = answers
    assert proposed(first).subject == "app"
    assert refused(waits).reason == "OneAtATime"
    own = advise(case(container(), container("log", cpu=1.0), scalers=(hpa(utilisation(of="app")),)))
    assert all(isinstance(one, Proposal) for one in own), "a percentage of one container binds no other"


def test_an_hpa_of_another_controller_gets_words_and_no_half_of_a_patch():
    first, _ = advise(case(scalers=(hpa(utilisation(), owner="ScaledObject/shop"),)))
    assert proposed(first).patch == ""
    assert "write that percentage into ScaledObject/shop" in proposed(first).message


def test_an_hpa_that_cannot_compute_is_named():
    first, *_ = advise(case(container(cpu=NONE), scalers=(hpa(utilisation()),)))
    assert "no percentage is proposed" in proposed(first).message


@given(
    requests=st.lists(st.floats(0.05, 16.0), min_size=1, max_size=3),
    target=st.floats(0.02, 16.0),
    percent=st.integers(10, 100),
    limit=st.one_of(st.none(), st.floats(0.05, 16.0)),
)
def test_no_proposal_ever_changes_where_an_hpa_acts(requests, target, percent, limit):
    containers = tuple(
        container(f"c{number}", cpu=one, cpu_limit=NONE if limit is None else max(one, limit))
        for number, one in enumerate(requests)
    )
    given_case = case(*containers, scalers=(hpa(utilisation(percent)),))
    estimates = {one.name: ContainerEstimate(cpu(target), NONE) for one in containers}
    for answer in sizing_advice.advise(given_case, estimates, known_for=dict.fromkeys(estimates, 86_400.0)):
        if isinstance(answer, Refusal) or not answer.setting.endswith("requests.cpu"):
            continue
        documents = list(yaml.safe_load_all(answer.patch))
        after = {one.name: one.cpu_request_cores for one in containers}
        for entry in documents[0]["spec"]["template"]["spec"]["containers"]:
            after[entry["name"]] = float(entry["resources"]["requests"]["cpu"][:-1]) / 1000.0
        now = documents[1]["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"]
        before, then = sum(requests), sum(after.values())
        assert abs(now * then - percent * before) <= max(0.5, 1.0 - percent * before / then) * then + 0.2


# rules of the namespace


def vertical(mode="Recreate", *policies, target="shop"):
    return VerticalScaler("shop-vpa", "Deployment", target, mode, policies)


@pytest.mark.parametrize(
    ("scaler", "acts"),
    [
        (vertical(), (True, True)),
        (vertical("Auto"), (True, True)),
        (vertical("Initial"), (True, True)),
        (vertical("Off"), (False, False)),
        (vertical(target="other"), (False, False)),
        (vertical("Auto", ContainerPolicy("app", off=True)), (False, False)),
        (vertical("Auto", ContainerPolicy("app", resources=("cpu",))), (True, False)),
        (vertical("Auto", ContainerPolicy("*", off=True), ContainerPolicy("app")), (True, True)),
        (vertical("Auto", ContainerPolicy("*", off=True)), (False, False)),
    ],
)
def test_what_a_vertical_scaler_sets_is_left_to_it(scaler, acts):
    answers = advise(case(rules=NamespaceRules((scaler,), ())))
    for answer, held in zip(answers, acts, strict=True):
        if held:
            assert refused(answer).reason == "VerticalScalerActs"
            assert "shop-vpa" in refused(answer).message
        else:
            proposed(answer)


def test_rules_that_may_not_be_read_are_said_and_marked_pods_believed():
    hidden = NamespaceRules(Unknown(UnknownReason.REFUSED, "forbidden"), ())
    first, _ = advise(case(rules=hidden))
    assert "not known (forbidden)" in proposed(first).risk
    marked, _ = advise(case(rules=hidden, vertically_scaled=True))
    assert refused(marked).reason == "VerticalScalerActs"
    left, _ = advise(case(vertically_scaled=True))
    assert proposed(left).proposed == "500m", "the scaler is gone and its mark stayed"


def test_a_limit_range_bounds_request_limit_and_their_ratio():
    def ranged(**parts):
        return NamespaceRules((), (ContainerRange("defaults", Resource.CPU, **parts),))

    least = proposed(advise(case(rules=ranged(least=0.8)))[0])
    assert least.proposed == "800m"
    assert "LimitRange defaults" in least.message
    most = proposed(advise(case(container(cpu=0.1, cpu_limit=0.2), rules=ranged(most=0.4)))[0])
    assert most.proposed == "400m"
    ratio = proposed(advise(case(container(cpu_limit=2.0), rules=ranged(ratio=2.0)))[0])
    assert ratio.proposed == "1000m"


def test_resources_of_the_pod_as_a_whole_are_not_changed_by_its_containers():
    whole = container("", cpu=2.0, memory=NONE)
    first, second = advise(case(container(), pod_level=whole))
    assert refused(first).reason == "PodLevelResources"
    proposed(second)


def test_what_is_injected_has_no_place_in_the_template():
    proxy = container("istio-proxy", cpu=1.0)
    answers = advise(case(container(), proxy, template=("app",)))
    own, injected = proposed(answers[0]), proposed(answers[2])
    assert own.patch
    assert injected.patch == ""
    assert "sidecar.istio.io/proxyCPU" in injected.message
    assert all(proposed(one).patch for one in advise(case(container(), proxy))), "a template that is not known"


# steadiness


def test_what_was_proposed_stands_while_it_is_as_good():
    standing = {("app", Resource.CPU): 0.53}
    assert proposed(advise(case(standing=standing))[0]).proposed == "530m"
    assert proposed(advise(case(standing={("app", Resource.CPU): 0.6}))[0]).proposed == "500m"
    outside = {"app": ContainerEstimate(cpu(lower=0.49, upper=0.51), NONE)}
    assert proposed(advise(case(standing=standing), outside)[0]).proposed == "500m"


def test_a_kind_whose_lists_do_not_merge_gets_no_patch():
    first, _ = advise(replace(case(), workload=WorkloadName("LeaderWorkerSet", "llama", "ml")))
    assert proposed(first).patch == ""
