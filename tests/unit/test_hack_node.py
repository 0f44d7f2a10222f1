"""The parts of a real node that need neither root nor Kubernetes: what is written, parsed and refused."""

import asyncio
import base64
import json
import subprocess

import pytest

from hack.images import archive, build
from hack.node import cgroups, device_plugin, gpu_runtime, machine, metrics_server, pause, relay, requirements
from hack.node.plan import Kept, Plan

V1 = """\
cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,nosuid,nodev,noexec,relatime,cpu,cpuacct 0 0
cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0
cgroup /sys/fs/cgroup/systemd cgroup rw,relatime,xattr,release_agent=/x,name=systemd 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw,nosuid,nsdelegate 0 0
tmpfs /tmp tmpfs rw 0 0
"""
V2 = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,nodev,noexec,relatime,nsdelegate 0 0\n"


def test_trees_are_read_from_the_mounts():
    found = cgroups.hierarchies(V1)
    assert [tree.options for tree in found] == ["cpu,cpuacct", "memory", "none,name=systemd"]
    assert not any(tree.is_v2 for tree in found)
    (only,) = cgroups.hierarchies(V2)
    assert only.is_v2
    assert cgroups.hierarchies("proc /proc proc rw 0 0\n") == ()


def test_a_plan_survives_its_file(tmp_path):
    plan = Plan(
        host_name="node-1",
        group="g",
        trees=(("/sys/fs/cgroup/cpu", "cpu"), ("/sys/fs/cgroup", "")),
        folder="/state",
        tools="/tools",
        bridge="node0",
        address="10.88.0.1/16",
        local=("10.89.0.0/16",),
    )
    plan.write(tmp_path / "plan.json")
    assert Plan.read(tmp_path / "plan.json") == plan
    assert Kept(tmp_path).of("/var/lib/kubelet") == tmp_path / "node" / "var-lib-kubelet"


def test_the_program_of_a_sandbox_runs_and_waits(tmp_path):
    path = tmp_path / "pause"
    path.write_bytes(pause.program())
    path.chmod(0o755)
    process = subprocess.Popen([path])
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    process.kill()
    assert process.wait(10) == -9


def test_an_archive_is_the_same_each_time_and_tells_its_size(tmp_path):
    for name in ("one.tar", "two.tar"):
        pause.archive(tmp_path / name, name="example.test/pause:1")
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    assert archive.size(tmp_path / "one.tar") == len(pause.program())
    assert archive.configuration(tmp_path / "one.tar")["config"]["Entrypoint"] == ["/pause"]


@pytest.mark.parametrize("size", [249_000_000, 251_000_000, 321_000_000])
def test_a_size_is_judged_by_what_is_promised(tmp_path, size):
    image = build.Image(target="operator", tag="t", path=tmp_path, size=size, digest="", seconds=1)
    words = {249_000_000: "within the aim", 251_000_000: "over the aim", 321_000_000: "MORE"}
    assert words[size] in image.verdict


def test_a_device_plugin_says_who_gets_which_gpu():
    long = "GPU-" + "x" * 200
    listed = [
        dict(device_plugin.fields(content)) for _, content in device_plugin.fields(device_plugin.devices(["a", long]))
    ]
    assert listed == [{1: b"a", 2: b"Healthy"}, {1: long.encode(), 2: b"Healthy"}]
    request = b"".join(
        device_plugin.text(1, b"".join(device_plugin.text(1, uuid) for uuid in uuids)) for uuids in (["a", long], ["b"])
    )
    answers = [content for _, content in device_plugin.fields(device_plugin.allocated(request))]
    given = [dict(device_plugin.fields(dict(device_plugin.fields(each))[1]))[2].decode() for each in answers]
    assert given == [f"a,{long}", "b"]


def test_only_containers_that_ask_for_gpus_get_a_driver():
    plain = {"process": {"env": ["PATH=/bin"]}, "mounts": [{"destination": "/proc"}]}
    assert gpu_runtime.with_driver(plain, library="/l", rules="/r") == plain
    void = {"process": {"env": ["NVIDIA_VISIBLE_DEVICES=void"]}}
    assert gpu_runtime.with_driver(void, library="/l", rules="/r") == void
    asking = {"process": {"env": ["NVIDIA_VISIBLE_DEVICES=all"], "args": ["x"]}, "mounts": [{"destination": "/proc"}]}
    changed = gpu_runtime.with_driver(asking, library="/l", rules="/r")
    assert [mount["destination"] for mount in changed["mounts"]] == ["/proc", gpu_runtime.LIBRARY, gpu_runtime.RULES]
    assert all("ro" in mount["options"] for mount in changed["mounts"][1:])
    assert changed["process"]["args"] == ["x"]


def test_what_changed_on_the_machine_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "look", lambda: {"routes": ["a", "b"], "settings": ["x = 1"]})
    machine.keep(tmp_path / "before.json")
    monkeypatch.setattr(machine, "look", lambda: {"routes": ["a", "c"], "settings": ["x = 1"]})
    same, differences = machine.compare(tmp_path / "before.json")
    assert same == {"routes": 1, "settings": 1}
    assert differences == ["routes: new: c", "routes: gone: b"]


def test_a_node_that_runs_beside_is_no_difference(tmp_path, monkeypatch):
    groups = "control groups"
    monkeypatch.setattr(machine, "look", lambda: {groups: ["/g/optiinfra-node-21", "/g/x"]})
    machine.keep(tmp_path / "before.json")
    monkeypatch.setattr(machine, "look", lambda: {groups: ["/g/optiinfra-node-20", "/g/optiinfra-node-22", "/g/x"]})
    same, differences = machine.compare(tmp_path / "before.json", others={"optiinfra-node-21", "optiinfra-node-22"})
    assert same == {groups: 1}
    assert differences == [f"{groups}: new: /g/optiinfra-node-20"], "its own would be one"


def test_a_machine_that_cannot_carry_a_node_is_told_why(monkeypatch, tmp_path):
    monkeypatch.setattr(requirements.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(requirements, "_capabilities", lambda: 0)
    monkeypatch.setattr(requirements, "hierarchies", lambda: ())
    said = " ".join(requirements.unmet([tmp_path]))
    for word in ("root", "CAP_SYS_ADMIN", "control groups"):
        assert word in said
    assert "kind" in requirements.ELSEWHERE
    assert "hack.cluster" in requirements.ELSEWHERE


def test_a_metrics_server_has_the_rights_that_it_needs_and_is_trusted_by_its_certificate(tmp_path):
    authority = tmp_path / "ca.crt"
    authority.write_text("made here\n")
    objects = {path.rpartition("/")[2]: body for path, body in metrics_server.objects(authority)}
    granted = {(tuple(rule["resources"]), tuple(rule["verbs"])) for rule in objects["clusterroles"]["rules"]}
    assert granted == {(("nodes/metrics",), ("get",)), (("pods", "nodes"), ("get", "list", "watch"))}
    service = objects["apiservices"]
    assert base64.b64decode(service["spec"]["caBundle"]) == b"made here\n"
    assert "insecureSkipTLSVerify" not in service["spec"]
    assert objects["endpointslices"]["ports"][0]["port"] == objects["services"]["spec"]["ports"][0]["targetPort"]
    assert not metrics_server.is_available(service)
    service["status"] = {"conditions": [{"type": "Available", "status": "True"}]}
    assert metrics_server.is_available(service)


async def test_the_relay_carries_both_ways_and_ends_with_either_side():
    async def echo(reader, writer):
        writer.write(b"heard " + await reader.read())
        writer.close()

    far = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = far.sockets[0].getsockname()[1]

    async def near(reader, writer):
        await relay.carry(reader, writer, port=port)

    server = await asyncio.start_server(near, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
    writer.write(b"a word")
    writer.write_eof()
    assert await asyncio.wait_for(reader.read(), 10) == b"heard a word"
    writer.close()
    far.close()
    await far.wait_closed()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
    assert await asyncio.wait_for(reader.read(), 10) == b"", "nobody listens at the far end"
    writer.close()
    server.close()
    await server.wait_closed()


def test_configurations_are_what_their_programs_read():
    from hack.node import configurations

    json.dumps([configurations.pod_network(), configurations.kube_proxy(kubeconfig="k", node="n")])
    text = configurations.containerd(network_folder="/n", gpu_runtime="/g")
    import tomllib

    assert tomllib.loads(text)["plugins"]["io.containerd.grpc.v1.cri"]["sandbox_image"] == configurations.PAUSE_IMAGE
