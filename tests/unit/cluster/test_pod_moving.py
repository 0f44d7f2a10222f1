"""What a pod says about being moved, as it comes through the door."""

import pytest

from optiinfra.cluster.nodes import parse_node
from optiinfra.cluster.pods import parse_pod
from optiinfra.cluster.volumes import parse_claim, parse_volume
from optiinfra.domain.label_rules import LabelOperator, LabelRule
from optiinfra.domain.pod_rules import PodGroup, PodTerm, SpreadRule, Taint, TaintEffect, Toleration


def pod(spec=None, *, annotations=None, labels=None, owner="ReplicaSet", status=None):
    return {
        "metadata": {
            "name": "llama-0",
            "namespace": "inference",
            "uid": "u",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": labels or {"app": "llama", "version": "2"},
            "annotations": annotations or {},
            "ownerReferences": [{"kind": owner, "name": "o", "controller": True}],
        },
        "spec": {"containers": [{"name": "c"}], **(spec or {})},
        "status": status or {},
    }


def facts(*given, **options):
    return parse_pod(pod(*given, **options)).facts


def rule(key, *values, operator=LabelOperator.IN):
    return LabelRule(key, operator, frozenset(values))


def test_resources_are_read_by_name_and_counted_as_the_scheduler_counts_them():
    containers = [
        {"name": "a", "resources": {"limits": {"nvidia.com/gpu": "2", "rdma/hca": "1"}}},
        {"name": "b", "resources": {"requests": {"ephemeral-storage": "2Gi", "cpu": "3"}}},
    ]
    first = [{"name": "i", "resources": {"requests": {"ephemeral-storage": "5Gi"}}}]
    found = dict(facts({"containers": containers, "initContainers": first}).rules.resources)
    assert found == {"nvidia.com/gpu": 2.0, "rdma/hca": 1.0, "ephemeral-storage": 5 * 2.0**30}


def test_affinity_is_read_where_it_is_required():
    selector = {"labelSelector": {"matchLabels": {"app": "llama"}}, "topologyKey": "zone"}
    affinity = {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [
                    {"matchExpressions": [{"key": "gpu", "operator": "In", "values": ["h100"]}]},
                    {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]},
                ]
            }
        },
        "podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [selector],
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "podAffinityTerm": selector}],
        },
        "podAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [
                selector | {"namespaces": ["other"], "matchLabelKeys": ["version"]},
                selector | {"namespaceSelector": {}},
            ]
        },
    }
    rules = facts({"affinity": affinity, "nodeSelector": {"pool": "a"}}).rules
    assert rules.node_selector == (rule("pool", "a"),)
    assert [term.labels for term in rules.node_terms] == [(rule("gpu", "h100"),), ()]
    assert rules.node_terms[1].names == (rule("metadata.name", "n1"),)
    own = rule("app", "llama")
    assert rules.anti_affinity == (PodTerm("zone", (own,), frozenset({"inference"})),)
    assert rules.affinity == (
        PodTerm("zone", (own, rule("version", "2")), frozenset({"other"})),
        PodTerm("zone", (own,), None),
    )
    assert rules.unreadable == ()


def test_spread_binds_only_where_it_forbids():
    constraint = {"topologyKey": "zone", "maxSkew": 2, "labelSelector": {}, "whenUnsatisfiable": "DoNotSchedule"}
    soft = constraint | {"whenUnsatisfiable": "ScheduleAnyway"}
    strict = constraint | {"nodeTaintsPolicy": "Honor", "nodeAffinityPolicy": "Ignore", "minDomains": 3}
    assert facts({"topologySpreadConstraints": [constraint, soft, strict]}).rules.spread == (
        SpreadRule("zone", 2, ()),
        SpreadRule("zone", 2, (), min_domains=3, honours_affinity=False, honours_taints=True),
    )


@pytest.mark.parametrize(
    ("spec", "annotations"),
    [
        ({"resourceClaims": [{"name": "gpu"}]}, {}),
        ({}, {"gpu-fraction": "0.5"}),
        ({}, {"leaderworkerset.sigs.k8s.io/exclusive-topology": "rack"}),
        ({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "z", "labelSelector": {}, "namespaceSelector": {"matchLabels": {"team": "a"}}}]}}}, {}),
        ({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "a", "operator": "Resembles"}]}]}}}}, {}),
    ],
)  # fmt: skip
def test_what_cannot_be_judged_is_said_and_never_dropped(spec, annotations):
    assert facts(spec, annotations=annotations).rules.unreadable


def test_a_toleration_of_a_newer_kind_bears_nothing():
    spec = {"tolerations": [{"key": "spot", "operator": "Gt", "value": "5"}, {"operator": "Exists"}]}
    assert facts(spec).rules.tolerations == (Toleration("", exists=True),)


def test_taints_are_borne_as_the_api_says():
    spot = Taint("spot", "yes", TaintEffect.NO_SCHEDULE)
    assert Toleration("", exists=True).tolerates(spot)
    assert Toleration("spot", exists=True).tolerates(spot)
    assert Toleration("spot", exists=False, value="yes", effect=TaintEffect.NO_SCHEDULE).tolerates(spot)
    assert not Toleration("spot", exists=False, value="no").tolerates(spot)
    assert not Toleration("spot", exists=True, effect=TaintEffect.NO_EXECUTE).tolerates(spot)
    assert facts().rules.tolerates(Taint("a", "", TaintEffect.PREFER_NO_SCHEDULE))
    assert not facts().rules.tolerates(spot)


@pytest.mark.parametrize(
    ("labels", "annotations", "group"),
    [
        ({"app": "x"}, {}, None),
        ({"jobset.sigs.k8s.io/jobset-name": "train"}, {}, PodGroup("JobSet", "train")),
        ({"ray.io/cluster": "serve"}, {}, PodGroup("RayCluster", "serve")),
        ({"scheduling.x-k8s.io/pod-group": "g"}, {}, PodGroup("PodGroup", "g")),
        ({}, {"scheduling.k8s.io/group-name": "v"}, PodGroup("PodGroup", "v")),
        (
            {"leaderworkerset.sigs.k8s.io/name": "llama", "leaderworkerset.sigs.k8s.io/group-index": "3"},
            {"leaderworkerset.sigs.k8s.io/size": "4"},
            PodGroup("LeaderWorkerSet", "llama-3", 4),
        ),
    ],
)
def test_what_starts_and_stops_together_is_one_group(labels, annotations, group):
    assert facts(labels=labels, annotations=annotations).group == group


def test_a_protection_that_ends_says_when():
    started = {"startTime": "2026-01-01T01:00:00Z"}
    found = facts(annotations={"karpenter.sh/do-not-disrupt": "1h30m"}, status=started)
    assert found.blockers == ()
    assert found.protected_until - found.created == 3600.0 + 5400.0
    assert facts().protected_until is None


def test_what_a_node_repels_and_forbids():
    node = {
        "metadata": {
            "name": "n1",
            "annotations": {"cluster-autoscaler.kubernetes.io/scale-down-disabled": "true"},
        },
        "spec": {"taints": [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}, {"key": "x", "effect": "Newer"}]},
        "status": {"allocatable": {"cpu": "8", "memory": "1Gi", "pods": "58", "nvidia.com/gpu": "4", "rdma/hca": "2"}},
    }
    found = parse_node(node)
    assert found.taints == (
        Taint("nvidia.com/gpu", "", TaintEffect.NO_SCHEDULE),
        Taint("x", "", TaintEffect.NO_SCHEDULE),
    )
    assert found.pod_limit == 58.0
    assert found.resources == (("nvidia.com/gpu", 4.0), ("rdma/hca", 2.0))
    assert found.protection == "cluster-autoscaler.kubernetes.io/scale-down-disabled"


def test_volumes_say_where_they_can_be_attached():
    zone = {"nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}]}
    host = {"nodeSelectorTerms": [{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In",
                                                         "values": ["n1"]}]}]}  # fmt: skip
    zonal = parse_volume({"spec": {"csi": {}, "nodeAffinity": {"required": zone}}})
    assert not zonal.local
    assert zonal.terms[0].labels == (rule("zone", "a"),)
    assert parse_volume({"spec": {"csi": {}, "nodeAffinity": {"required": host}}}).local
    assert parse_volume({"spec": {"local": {"path": "/x"}}}).local
    assert parse_volume({"spec": {"nfs": {}}}) == parse_volume({"spec": {}})
    bound = {"spec": {"volumeName": "pv"}, "status": {"phase": "Bound", "accessModes": ["ReadWriteOnce"]}}
    assert (parse_claim(bound).volume, parse_claim(bound).many_nodes) == ("pv", False)
    assert parse_claim(bound | {"status": {"phase": "Bound", "accessModes": ["ReadWriteMany"]}}).many_nodes
    assert parse_claim(bound | {"status": {"phase": "Lost"}}).volume == ""
