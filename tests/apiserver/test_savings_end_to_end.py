"""The savings ledger from end to end: a real operator in Auto mode, a node that goes later, restarts, HTTP and CSV.

There is no scaler and no scheduler here: the test sets the replicas that the operator publishes, takes the pods away,
and deletes and makes nodes, as an HPA, a ReplicaSet controller and a node autoscaler would. Hours and money are checked
against the moments that the ledger itself names: what stood from one moment to another is worth exactly that.
"""

import contextlib
import csv
import io
import os
import time
import urllib.request

import pytest

from tests.engine_pages import MERGE, EnginePages, Page, Scene, ready_pod
from tests.operator_process import call, eventually, free_port, install

pytestmark = pytest.mark.timeout(240)

GPUS, CORES, GIB = 2, 16, 128
GPU_HOUR = 3.5
HOUR = 3600.0
SLACK = 4.0
"""Seconds: a round, its jitter, and the second that a status's times are cut to."""
SAVINGS = "/api/v1/savings"


def node_body(name):
    return {
        "metadata": {"name": name, "labels": {"pool": "savings", "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}},
    }


def make_node(cluster, name):
    cluster.request("POST", "/api/v1/nodes", node_body(name))
    resources = {"cpu": str(CORES), "memory": f"{GIB}Gi", "nvidia.com/gpu": str(GPUS), "pods": "110"}
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady"}
    status = {"status": {"capacity": resources, "allocatable": resources, "conditions": [ready]}}
    cluster.request("PATCH", f"/api/v1/nodes/{name}/status", status, content_type=MERGE)


@pytest.fixture(scope="module")
def scene(apiserver, tmp_path_factory):
    folder = tmp_path_factory.mktemp("savings")
    prefix = f"savings-{os.getpid()}"
    with contextlib.ExitStack() as stack:
        pages = stack.enter_context(EnginePages(free_port()))
        installation = stack.enter_context(install(apiserver, folder=folder, namespace=f"{prefix}-operator"))
        operator = installation.operator(
            OPTIINFRA_INTERVAL_SECONDS="1",
            OPTIINFRA_SCRAPE_INTERVAL_SECONDS="1",
            OPTIINFRA_STALE_AFTER_SECONDS="6",
            OPTIINFRA_SIGNAL_WINDOW_SECONDS="10",
            OPTIINFRA_TICK_SECONDS="1",
            OPTIINFRA_HOLD_SECONDS="3",
        )
        made = Scene(apiserver, installation, operator, pages, prefix)
        stack.callback(made.remove)
        stack.callback(operator.kill)
        made.nodes = [f"{prefix}-{letter}" for letter in "ab"]
        for name in made.nodes:
            make_node(apiserver, name)
            stack.callback(forget, apiserver, f"/api/v1/nodes/{name}")
        namespace = made.namespace("a")
        made.cro = f"{prefix}-prices"
        body = {
            "apiVersion": "optiinfra.io/v1alpha1",
            "kind": "ClusterResourceOptimization",
            "metadata": {"name": made.cro},
            "spec": {
                "currency": "EUR",
                "prices": {"gpuHour": str(GPU_HOUR), "cpuCoreHour": "0.05", "memoryGiBHour": "0.005"},
                "pools": [{"name": "savings", "nodeSelector": {"pool": "savings"}}],
            },
        }
        path = "/apis/optiinfra.io/v1alpha1/clusterresourceoptimizations"
        apiserver.request("POST", path, body)
        stack.callback(forget, apiserver, f"{path}/{made.cro}")
        made.cro_path = f"{path}/{made.cro}"
        (first,) = made.engines(namespace, "svc", Page(running=2, kv_cache_usage=0.05), node=made.nodes[0])
        apiserver.request("PATCH", deployment(namespace), {"spec": {"replicas": 4}}, content_type=MERGE)
        for number in range(1, 4):
            address = made.address()
            pages.serve(address, Page(running=2, kv_cache_usage=0.05))
            node = made.nodes[number // 2]
            ready_pod(apiserver, namespace, f"svc-{number}", address, labels={"app": "svc"}, node=node)
        made.optimize(
            namespace,
            scaling={"actuation": "Signal", "maxReplicas": 4},
            policy={"cooldown": "1s", "verifyWindow": "60s"},
        )
        for role in ("view", "edit"):
            made.permit(role, namespace, account="default", account_namespace=namespace)
        assert first
        operator.start().wait_ready()
        yield made


def forget(cluster, path):
    with contextlib.suppress(Exception):
        cluster.request("DELETE", path)


def deployment(namespace):
    return f"/apis/apps/v1/namespaces/{namespace}/deployments/svc"


def token(scene):
    return scene.installation.token("default", namespace=scene.made["a"])


def up_to_date(scene):
    """Both ledgers as of now: a round that was asked for writes whatever time alone has moved."""
    namespace, asked = scene.made["a"], set()

    def written():
        found = scene.status(namespace)
        if found["lastRound"]["id"] in asked:
            return found
        # Asked again: an event in the same moment may have begun a round of its own in place of ours.
        body = {"namespace": namespace, "name": "svc"}
        asked.add(scene.operator.post("/api/v1/optimize/run", body, token=token(scene)).json()["round_id"])
        return None

    return eventually(written, seconds=60, what="the status of a round that was asked for", every=2.0)["savings"]


def cluster_ledger(scene):
    return scene.cluster.request("GET", scene.cro_path).get("status", {}).get("savings", {})


def unix(text):
    return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ")) - time.timezone


def entry_of(ledger, cause="Action"):
    return next((entry for entry in ledger.get("entries", ()) if entry["cause"] == cause), None)


def totals(ledger, *, period="total", cause="Action"):
    lines = [line for line in ledger[period]["lines"] if line["cause"] == cause]
    return {
        key: sum(line["freed"].get(key, 0.0) - line["added"].get(key, 0.0) for line in lines)
        for key in ("gpuHours", "cpuCoreHours", "memoryGiBHours", "freeGpuHours", "money")
    }


def check_hours(ledger):
    """Two replicas that went from the entry's moment to the ledger's own, and not a moment more."""
    entry = entry_of(ledger)
    stood = unix(ledger["asOf"]) - unix(entry["opened"])
    found = totals(ledger)
    assert found["gpuHours"] == pytest.approx(2 * stood / HOUR, abs=2 * SLACK / HOUR)
    assert found["gpuHours"] <= 2 * (stood + 1.0) / HOUR, "never more than stood"
    assert found["memoryGiBHours"] == pytest.approx(32 * found["gpuHours"], rel=1e-3)
    return found


def test_an_action_that_frees_replicas_opens_an_entry_with_its_id_and_saves_no_money(scene):
    namespace = scene.made["a"]
    eventually(lambda: scene.condition(namespace, "Ready").get("status") == "True", seconds=30, what="it is measured")
    # Two are the most from now on: the operator orders what is above it away.
    scene.change(namespace, {"scaling": {"maxReplicas": 2}})
    eventually(lambda: scene.operator.desired(namespace).get("svc") == 2, seconds=60, what="two are published")
    scene.cluster.request("PATCH", deployment(namespace), {"spec": {"replicas": 2}}, content_type=MERGE)
    for number in (2, 3):
        path = f"/api/v1/namespaces/{namespace}/pods/svc-{number}?gracePeriodSeconds=0"
        scene.cluster.request("DELETE", path)

    def opened():
        return entry_of(scene.status(namespace).get("savings", {}))

    entry = eventually(opened, seconds=20, what="the entry is in the status")
    action = next(item for item in scene.status(namespace)["actions"] if item["to"] == "2")
    assert (entry["by"], entry["before"], entry["after"], entry["amount"]) == (action["id"], 4, 2, 2)
    assert (entry["axis"], entry["basis"], entry["pool"]) == ("Replicas", "Measured", "savings")
    time.sleep(6.0)
    found = check_hours(up_to_date(scene))
    assert found["gpuHours"] > 0.0
    assert found["freeGpuHours"] == pytest.approx(found["gpuHours"], abs=2 * SLACK / HOUR)
    assert found["money"] == 0.0, "the node is still there"


def test_money_appears_when_the_node_goes_and_only_from_then_on(scene):
    gone = scene.nodes[1]
    scene.cluster.request("DELETE", f"/api/v1/nodes/{gone}")

    def seen():
        found = cluster_ledger(scene)
        return next((entry for entry in found.get("nodeEntries", ()) if entry["name"] == gone), None)

    entry = eventually(seen, seconds=30, what="the node is in the cluster's ledger")
    assert (entry["before"], entry["after"], entry["nodes"]) == (2, 1, 1)
    price = GPUS * GPU_HOUR + CORES * 0.05 + GIB * 0.005
    assert entry["perHour"] == pytest.approx(price, rel=1e-3)
    ours = f"{scene.made['a']}/svc"
    assert [(share["object"], share["fraction"]) for share in entry["shares"]] == [(ours, 1.0)]
    time.sleep(12.0)
    ledger = up_to_date(scene)
    stood = unix(ledger["asOf"]) - unix(entry["opened"])
    assert totals(ledger)["money"] == pytest.approx(price * stood / HOUR, abs=price * SLACK / HOUR)
    assert ledger["moneyCurrency"] == "EUR"
    check_hours(ledger)


def test_what_an_action_saves_counts_as_realised_once_the_action_is_verified(scene):
    namespace = scene.made["a"]

    def verified():
        action = next(item for item in scene.status(namespace)["actions"] if item["to"] == "2")
        assert action["state"] == "Verified", action
        return True

    eventually(verified, seconds=180, what="the action is verified")
    ledger = up_to_date(scene)
    assert entry_of(ledger)["verified"] is True
    (entry,) = cluster_ledger(scene)["nodeEntries"]
    assert ledger["perMonthRealised"] == pytest.approx(entry["perHour"] * 730, rel=1e-3)
    time.sleep(3.0)
    lines = {line["verified"]: line for line in up_to_date(scene)["total"]["lines"] if line["cause"] == "Action"}
    assert lines[True]["freed"]["money"] > 0.0
    assert lines[False]["freed"]["gpuHours"] > 0.0, "what was not known to hold stays in a line of its own"


@pytest.mark.parametrize("end", ["terminate", "kill"])
def test_a_restart_in_the_middle_loses_nothing_and_counts_nothing_twice(scene, end):
    before = totals(up_to_date(scene))
    getattr(scene.operator, end)()
    time.sleep(4.0)
    # A Lease that was not given back has to run out first.
    scene.operator.start().wait_ready(seconds=60)
    eventually(lambda: scene.operator.leading, seconds=60, what="it leads again")
    time.sleep(4.0)
    ledger = up_to_date(scene)
    after = check_hours(ledger)
    assert after["gpuHours"] > before["gpuHours"]
    entry = next(entry for entry in cluster_ledger(scene)["nodeEntries"] if not entry.get("ended"))
    stood = unix(ledger["asOf"]) - unix(entry["opened"])
    assert after["money"] == pytest.approx(entry["perHour"] * stood / HOUR, abs=entry["perHour"] * SLACK / HOUR)
    assert len([item for item in ledger["entries"] if item["cause"] == "Action"]) == 1


def test_http_and_csv_say_what_the_status_says(scene):
    namespace = scene.made["a"]
    ledger = up_to_date(scene)

    def same():
        answer = scene.operator.get(f"{SAVINGS}?namespace={namespace}&name=svc", token=token(scene))
        assert answer.code == 200, answer
        (item,) = answer.json()["items"]
        told = {key: value for key, value in item["savings"].items() if value != []}
        return told == {key: value for key, value in scene.status(namespace)["savings"].items() if value != []}

    eventually(same, seconds=10, what="both tell the same")
    request = urllib.request.Request(
        f"{scene.operator.url}{SAVINGS}?namespace={namespace}&name=svc&period=total",
        headers={"Authorization": f"Bearer {token(scene)}", "Accept": "text/csv"},
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as response:
        assert response.headers["Content-Type"].startswith("text/csv")
        rows = list(csv.DictReader(io.StringIO(response.read().decode())))
    ours = [row for row in rows if row["cause"] == "Action"]
    wanted = totals(scene.status(namespace)["savings"])
    for column, key in (("gpu_hours", "gpuHours"), ("memory_gib_hours", "memoryGiBHours"), ("money", "money")):
        told = sum(float(row[f"{column}_freed"]) - float(row[f"{column}_added"]) for row in ours)
        assert told == pytest.approx(wanted[key], abs=1e-5)
    assert {row["currency"] for row in rows} == {"EUR"}
    stranger = call(f"{scene.operator.url}{SAVINGS}?format=csv")
    assert stranger.code == 401
    other = scene.operator.get(f"{SAVINGS}?format=csv&kind=ClusterResourceOptimization", token=token(scene))
    assert other.code == 403
    assert ledger["entries"]


def test_metrics_show_hours_and_money_by_cause_and_basis(scene):
    labels = {"cause": "Action", "basis": "Measured", "direction": "freed"}
    hours = scene.operator.series("optiinfra_savings_gpu_hours_total")
    assert hours[tuple(sorted(labels.items()))] > 0.0
    money = scene.operator.series("optiinfra_savings_money_total")
    assert money[tuple(sorted({**labels, "currency": "EUR"}.items()))] > 0.0


def test_a_ledger_that_only_grows_with_time_writes_nothing(scene):
    namespace = scene.made["a"]
    up_to_date(scene)
    time.sleep(2.0)
    before = scene.status(namespace)
    time.sleep(8.0)
    after = scene.status(namespace)
    if after["lastRound"] != before["lastRound"]:
        # Somebody else's news (a slow page on a busy machine) may have been written; hours alone are none.
        changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
        assert changed - {"lastRound", "savings"}, "the ledger alone was written"


def test_what_is_taken_back_ends_and_the_money_with_its_node(scene):
    namespace = scene.made["a"]
    before = totals(up_to_date(scene))
    make_node(scene.cluster, scene.nodes[1])
    scene.cluster.request("PATCH", deployment(namespace), {"spec": {"replicas": 4}}, content_type=MERGE)
    for number in (2, 3):
        address = scene.address()
        scene.pages.serve(address, Page(running=2, kv_cache_usage=0.05))
        ready_pod(scene.cluster, namespace, f"svc-{number}", address, labels={"app": "svc"}, node=scene.nodes[1])

    def ended():
        entry = entry_of(scene.status(namespace)["savings"])
        return entry if entry.get("ended") else None

    entry = eventually(ended, seconds=20, what="the entry ended")
    assert entry["end"] == "TakenBack"
    assert entry["amount"] == 0

    def back():
        return [item for item in cluster_ledger(scene)["nodeEntries"] if item.get("ended")]

    eventually(back, seconds=20, what="the node's entry ended")
    first = totals(up_to_date(scene))
    time.sleep(5.0)
    later = totals(up_to_date(scene))
    assert later == first, "nothing accrues any more"
    assert first["gpuHours"] >= before["gpuHours"]
