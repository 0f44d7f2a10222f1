"""The test cluster itself: what every other test takes for granted about it."""

import base64
import contextlib
import http.server
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from cryptography import x509

from hack.cluster import Cluster, ClusterError
from hack.cluster.addresses import Addresses, slots_in_use
from hack.cluster.errors import ApiError
from hack.cluster.processes import Process, identity_of, start
from hack.cluster.record import Record
from hack.cluster.sessions import sweep

CONFIG_MAPS = "/api/v1/namespaces/{}/configmaps"


def config_map(name):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"kept": "yes"}}


def eventually(is_true, *, seconds=20):
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline, "never became true"
        time.sleep(0.05)


def states_of_children():
    """Pid to state, for every child of this process, zombies included."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
            if int(parent) == os.getpid():
                found[int(path.parent.name)] = state
    return found


@pytest.fixture
def other(tmp_path):
    """A second cluster beside the session's; whatever a test did with it, no zombie is left of it."""
    before = set(states_of_children())
    cluster = Cluster(tmp_path / "other", controllers=False)
    yield cluster
    cluster.down()
    assert set(states_of_children()) <= before


def test_it_is_a_real_api_server_of_the_pinned_version(apiserver):
    version = json.loads(apiserver.kubectl("version", "--output=json"))["serverVersion"]
    assert (version["major"], version["minor"]) == ("1", "36")
    assert apiserver.kubectl("get", "--raw", "/readyz") == "ok"


def test_a_service_account_may_do_nothing_until_it_is_bound(apiserver, namespace):
    apiserver.kubectl("create", "serviceaccount", "reader", "--namespace", namespace)
    kubeconfig = apiserver.service_account_kubeconfig(namespace, "reader")
    listing = ("get", "configmaps", f"--namespace={namespace}", f"--kubeconfig={kubeconfig}")
    who = f"system:serviceaccount:{namespace}:reader"
    with pytest.raises(ClusterError, match=rf'User "{who}" cannot list resource "configmaps"'):
        apiserver.kubectl(*listing)
    # A role of its own: the built-in ones stay empty without the controller that aggregates them.
    inside = f"--namespace={namespace}"
    apiserver.kubectl("create", "role", "lists", "--verb=list", "--resource=configmaps", inside)
    subject = f"--serviceaccount={namespace}:reader"
    apiserver.kubectl("create", "rolebinding", "lists", "--role=lists", subject, inside)

    def allowed():
        # The authorizer reads bindings from a cache of its own.
        try:
            apiserver.kubectl(*listing)
        except ClusterError:
            return False
        return True

    eventually(allowed)


def test_a_token_for_another_audience_does_not_open_the_api_server(apiserver, namespace):
    apiserver.kubectl("create", "serviceaccount", "agent", "--namespace", namespace)
    kubeconfig = apiserver.service_account_kubeconfig(namespace, "agent", "optiinfra")
    with pytest.raises(ClusterError, match=r"Unauthorized|must be logged in"):
        apiserver.kubectl("get", "--raw", "/api", f"--kubeconfig={kubeconfig}")
    token = apiserver.service_account_token(namespace, "agent", "optiinfra")
    review = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": token, "audiences": ["optiinfra"]},
    }
    answer = apiserver.request("POST", "/apis/authentication.k8s.io/v1/tokenreviews", review)["status"]
    assert answer["authenticated"]
    assert answer["user"]["username"] == f"system:serviceaccount:{namespace}:agent"


def test_a_user_is_who_the_certificate_says(apiserver):
    kubeconfig = apiserver.kubeconfig_for("jane", groups=["team-a", "team-b"])
    answer = json.loads(apiserver.kubectl("auth", "whoami", "--output=json", f"--kubeconfig={kubeconfig}"))
    user = answer["status"]["userInfo"]
    assert user["username"] == "jane"
    assert {"team-a", "team-b"} <= set(user["groups"])


def test_service_account_admission_is_on(apiserver, namespace):
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "orphan"},
        "spec": {"serviceAccountName": "absent", "containers": [{"name": "main", "image": "none"}]},
    }
    with pytest.raises(ApiError, match='serviceaccount "absent" not found') as refused:
        apiserver.request("POST", f"/api/v1/namespaces/{namespace}/pods", pod)
    assert refused.value.code == 403


def test_the_front_proxy_has_an_authority_of_its_own(apiserver):
    ours, proxy = (
        x509.load_pem_x509_certificate(path.read_bytes()) for path in (apiserver.ca, apiserver.front_proxy_ca)
    )
    assert ours.public_key() != proxy.public_key()
    path = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication"
    published = apiserver.request("GET", path)["data"]
    assert published["requestheader-client-ca-file"] == apiserver.front_proxy_ca.read_text()
    assert published["client-ca-file"] == apiserver.ca.read_text()


def api_service(*, port, namespace, bundle):
    """An APIService behind a Service of type ExternalName, the only kind that can lead to loopback."""
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "back"},
        "spec": {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": port}]},
    }
    registration = {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": "v1.aggregated.example.test"},
        "spec": {
            "group": "aggregated.example.test",
            "version": "v1",
            "groupPriorityMinimum": 1000,
            "versionPriority": 10,
            "service": {"name": "back", "namespace": namespace, "port": port},
            "caBundle": bundle,
        },
    }
    return service, registration


def test_aggregation_reaches_loopback_and_shows_the_front_proxy_certificate(apiserver, namespace):
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            peer = self.connection.getpeercert()
            seen.append((self.path, self.headers.get("X-Remote-User"), peer))
            body = json.dumps({"kind": "APIResourceList", "apiVersion": "v1", "resources": []}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pair = apiserver.serving_certificate(f"back.{namespace}.svc")
    tls.load_cert_chain(pair.certificate, pair.key)
    # Only the front proxy's authority: a client certificate of the cluster must not pass.
    tls.load_verify_locations(apiserver.front_proxy_ca)
    tls.verify_mode = ssl.CERT_REQUIRED
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        bundle = base64.b64encode(apiserver.ca.read_bytes()).decode()
        service, registration = api_service(port=server.server_port, namespace=namespace, bundle=bundle)
        try:
            apiserver.request("POST", f"/api/v1/namespaces/{namespace}/services", service)
            apiserver.request("POST", "/apis/apiregistration.k8s.io/v1/apiservices", registration)

            def asked():
                try:
                    apiserver.request("GET", "/apis/aggregated.example.test/v1/things")
                except ApiError:
                    return False
                return True

            eventually(asked)
        finally:
            apiserver.request("DELETE", "/apis/apiregistration.k8s.io/v1/apiservices/v1.aggregated.example.test")
            server.shutdown()
            thread.join()
    _, user, peer = next(each for each in seen if each[0].endswith("/things"))
    assert user == "admin"
    assert peer["subject"] == ((("commonName", "front-proxy-client"),),)


def test_an_api_server_restart_keeps_the_data(apiserver, namespace):
    apiserver.request("POST", CONFIG_MAPS.format(namespace), config_map("stays"))
    url = apiserver.url
    apiserver.stop_apiserver()
    with pytest.raises(ClusterError):
        apiserver.request("GET", "/readyz")
    assert apiserver.status() == {"etcd": True, "kube-apiserver": False}
    apiserver.start_apiserver()
    assert apiserver.url == url
    found = apiserver.request("GET", f"{CONFIG_MAPS.format(namespace)}/stays")
    assert found["data"] == {"kept": "yes"}


def test_the_audit_log_says_who_did_what(apiserver, namespace):
    kubeconfig = apiserver.kubeconfig_for("auditor")
    with pytest.raises(ClusterError):
        apiserver.kubectl("get", "secrets", f"--namespace={namespace}", f"--kubeconfig={kubeconfig}")

    def logged():
        events = map(json.loads, apiserver.audit_log.read_text().splitlines())
        return any(
            event["user"].get("username") == "auditor" and event.get("objectRef", {}).get("resource") == "secrets"
            and event["responseStatus"]["code"] == 403
            for event in events
        )  # fmt: skip

    eventually(logged)


def test_two_clusters_share_nothing_and_down_ends_only_its_own(apiserver, other):
    other.up()
    assert other.url != apiserver.url
    assert other.pod_cidr != apiserver.pod_cidr
    other.request("POST", CONFIG_MAPS.format("default"), config_map("only-there"))
    with pytest.raises(ApiError, match="not found"):
        apiserver.request("GET", f"{CONFIG_MAPS.format('default')}/only-there")
    pids = [process.pid for process in Record.read(other.folder).processes]
    assert other.down()
    assert [identity_of(pid) for pid in pids] == [None] * len(pids)
    assert not other.folder.exists()
    assert apiserver.kubectl("get", "--raw", "/readyz") == "ok"
    assert not other.down(), "a second down finds nothing"


def test_up_is_idempotent_and_brings_back_what_died(other):
    other.up()
    other.request("POST", CONFIG_MAPS.format("default"), config_map("stays"))
    before = Record.read(other.folder)
    other.up()
    assert Record.read(other.folder) == before
    os.kill(before.process("etcd").pid, signal.SIGKILL)
    eventually(lambda: not other.status()["etcd"])
    other.up()
    assert all(other.status().values())
    assert other.request("GET", f"{CONFIG_MAPS.format('default')}/stays")["data"] == {"kept": "yes"}
    with pytest.raises(ClusterError, match="other settings"):
        Cluster(other.folder, controllers=False, audit=True).up()


def test_the_command_line_leaves_it_running_and_ends_it(tmp_path):
    folder = tmp_path / "by-hand"

    def run(*arguments):
        command = [sys.executable, "-m", "hack.cluster", *arguments, f"--dir={folder}"]
        root = Path(__file__).parents[2]
        return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120, check=False)

    up = run("up", "--no-controllers")
    try:
        assert up.returncode == 0, up.stderr
        assert str(folder / "keys" / "admin.kubeconfig") in up.stdout
        status = run("status")
        assert status.returncode == 0
        assert status.stdout.split() == ["etcd", "runs", "kube-apiserver", "runs"]
        assert Cluster.attach(folder).request("GET", "/api")["kind"] == "APIVersions"
    finally:
        down = run("down")
    assert down.stdout == "down\n"
    assert run("status").returncode == 1


def test_a_process_that_dies_during_up_is_named_with_its_last_words(tmp_path, monkeypatch):
    broken = tmp_path / "bin"
    broken.mkdir()
    (broken / "kube-apiserver").write_text("#!/bin/sh\necho 'cannot bind the moon' >&2\nexit 1\n")
    (broken / "kube-apiserver").chmod(0o755)
    monkeypatch.setenv("OPTIINFRA_KUBE_BIN", str(broken))
    cluster = Cluster(tmp_path / "state", controllers=False)
    before = slots_in_use()
    with pytest.raises(ClusterError, match=r"kube-apiserver ended( at once)?; [\s\S]*cannot bind the moon"):
        cluster.up()
    assert slots_in_use() == before, "etcd must not stay behind"
    cluster.down()


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ClusterError, match="choose another --dir"):
        Cluster(tmp_path, controllers=False).up()
    assert not Cluster(tmp_path).down()
    assert (tmp_path / "thesis.txt").exists()


def test_a_reused_pid_is_never_ended(tmp_path):
    sleeper = start("sleeper", ["/bin/sleep", "60"], log=tmp_path / "log")
    try:
        stranger = Process(name="etcd", pid=sleeper.pid, identity=f"{sleeper.identity}0")
        assert not stranger.alive
        stranger.stop(grace=0)
        assert sleeper.alive
    finally:
        sleeper.stop(grace=0)
    assert not sleeper.alive


def test_a_process_whose_first_thread_ended_is_stopped_and_leaves_no_zombie(tmp_path):
    """So every Go program looks for a moment while it dies: a zombie that cannot be collected yet."""
    program = (
        "import ctypes, platform, threading, time\n"
        "threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "ctypes.CDLL(None).syscall({'x86_64': 60, 'aarch64': 93}[platform.machine()], 0)\n"  # exit, of this thread
    )
    process = start("threads", [sys.executable, "-c", program], log=tmp_path / "log")
    eventually(lambda: states_of_children()[process.pid] == "Z")
    assert process.alive
    process.stop(grace=0)
    assert not process.alive
    assert process.pid not in states_of_children()


def test_clusters_of_killed_runs_are_swept(tmp_path):
    etcd = start("etcd", ["/bin/sleep", "60"], log=tmp_path / "log")
    gone = Process(name="owner", pid=1, identity="another-boot:1")
    alive = Process(name="owner", pid=os.getpid(), identity=identity_of(os.getpid()))
    ports = {"etcd": 1, "etcd_peer": 2, "api": 3, "controllers": 4, "scheduler": 5, "kwok": 6}
    for name, owner, processes in (("killed", gone, (etcd,)), ("running", alive, ()), ("by-hand", None, ())):
        (tmp_path / "sessions" / name).mkdir(parents=True)
        record = Record(addresses=Addresses(slot=20, **ports), settings={}, processes=processes, owner=owner)
        record.write(tmp_path / "sessions" / name)
    assert sweep(tmp_path / "sessions") == 1
    assert not etcd.alive
    assert sorted(each.name for each in (tmp_path / "sessions").iterdir()) == ["by-hand", "running"]


def test_every_pod_address_of_a_cluster_can_be_listened_on(apiserver):
    # One listener on all addresses plays every pod; this needs 127.0.0.0/8 to be local as a whole.
    address = apiserver.pod_cidr.replace(".0.0/16", ".3.7")
    with socket.create_server(("0.0.0.0", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection((address, port), timeout=5):
            connection, _ = server.accept()
            with connection:
                assert connection.getsockname()[0] == address


def test_two_starts_at_once_on_one_folder_make_one_cluster(tmp_path):
    clusters = [Cluster(tmp_path / "shared", controllers=False) for _ in range(2)]
    threads = [threading.Thread(target=cluster.up) for cluster in clusters]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert clusters[0].url == clusters[1].url
        assert all(cluster.request("GET", "/api") for cluster in clusters)
        assert len(Record.read(tmp_path / "shared").processes) == 2
    finally:
        clusters[0].down()
