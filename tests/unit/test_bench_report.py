"""How a report is judged by the truth, on documents made by hand."""

import pytest

from bench.report_truth import judge


def model(key, limits=(), hours=100.0):
    namespace, workload = key.split("/")
    told = [{"bottleneck": name, "share": share} for name, share in limits]
    return {"namespace": namespace, "workload": workload, "limits": told, "gpu_hours": {"value": hours}}


def proposal(key, kind, hours):
    return {"subject": key, "type": kind, "saved": {"counted_gpu_hours": hours}}


def true(key, label, *, avoidable=0.0, least=50.0):
    return {
        "key": key,
        "label": label,
        "gpu_hours": 100.0,
        "avoidable_gpu_hours": avoidable,
        "least_gpu_hours": least,
    }


def judged(label, *, limits=(), proposals=(), cost=200.0, hours=100.0, **truth):
    document = {
        "models": [model("a/b", limits, hours)],
        "opportunities": [proposal(*one) for one in proposals],
        "total": {"cost": cost},
        "simulated": True,
    }
    return judge(document, {"models": [true("a/b", label, **truth)], "cost": 200.0, "gpu_hour": 2.0})


@pytest.mark.parametrize(
    ("label", "limits", "proposals", "found"),
    [
        ("Idle", (), [("a/b", "IdleGPU", 100.0)], True),
        ("Idle", (), [("a/b", "Replicas", 100.0)], False),
        ("Idle", (), [("a/other", "IdleGPU", 100.0)], False),
        ("OverProvisioned", (), [("a/b", "Replicas", 20.0)], True),
        ("OverProvisioned", (), [("a/b", "Replicas", 19.0)], False),
        ("KvShort", [("Healthy", 0.6), ("KVCache", 0.3), ("Batch", 0.1)], [], True),
        ("KvShort", [("Healthy", 0.6), ("Batch", 0.3), ("KVCache", 0.1)], [], False),
        ("BatchBound", [("Batch", 0.3)], [], True),
        ("BatchBound", [], [], False),
        ("Healthy", [("Healthy", 1.0)], [], True),
        ("Healthy", [("Healthy", 1.0)], [("a/b", "Replicas", 30.0)], True),
        ("Healthy", [("Healthy", 1.0)], [("a/b", "Replicas", 34.0)], False),
        ("Healthy", [("Healthy", 1.0)], [("a/b", "IdleGPU", 1.0)], False),
    ],
)
def test_a_label_is_found_or_not(label, limits, proposals, found):
    one = judged(label, limits=limits, proposals=proposals)
    assert one.verdicts[0].found is found
    assert one.recall == (1.0 if found or label == "Healthy" else 0.0)
    assert one.wrongly == (["a/b"] if label == "Healthy" and not found else [])
    assert ("MISSED" in next(one.lines())) is not found


def test_money_is_compared_with_the_truth():
    one = judged("Idle", cost=190.0, hours=104.0)
    assert one.cost_off == pytest.approx(-0.05)
    assert one.model_cost_off == pytest.approx(0.04)
    unknown = judged("Idle", cost={"reason": "NotConfigured", "detail": "no price"})
    assert unknown.cost_off == -1.0


def test_what_nobody_can_save_is_counted_apart():
    one = judged("OverProvisioned", proposals=[("a/b", "Replicas", 60.0)], avoidable=40.0, least=50.0)
    assert one.savings_over == pytest.approx(10.0 / 50.0)
    assert one.avoidable_found == pytest.approx(60.0 / 40.0)


def test_a_model_that_is_not_told_is_not_found():
    document = {"models": [], "opportunities": [], "total": {"cost": 200.0}, "simulated": False}
    for label in ("Idle", "Healthy"):
        one = judge(document, {"models": [true("a/b", label)], "cost": 200.0, "gpu_hour": 2.0})
        assert not one.verdicts[0].found
        assert one.model_cost_off == 1.0
