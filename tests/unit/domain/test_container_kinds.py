"""Containers whose memory follows rules of its own are recognised, and others are not taken for them."""

import pytest

from optiinfra.domain.container_kinds import GIBIBYTE, MEBIBYTE, Role, recognise
from optiinfra.domain.engine_settings import EngineSettings, LMCacheSettings
from optiinfra.domain.readings import EngineKind, Unknown, UnknownReason
from optiinfra.domain.workload import ContainerFacts, Place

NONE = Unknown(UnknownReason.NOT_CONFIGURED, "not set")


def container(name="app", *, limit=NONE, gpus=0.0, place=Place.MAIN, image="", arguments=(), **environment):
    return ContainerFacts(name, NONE, NONE, NONE, limit, gpus, tuple(arguments), environment, place, image)


@pytest.mark.parametrize(
    ("given", "floor"),
    [
        (container(arguments=["java", "-Xmx2g", "-jar", "app.jar"]), 2.0 * GIBIBYTE + 500 * MEBIBYTE),
        (container(arguments=["java", "-Xmx1g"]), 1.25 * GIBIBYTE),
        (container(arguments=["java", "-Xmx1g", "-Xmx512m"]), 640 * MEBIBYTE),
        (container(JAVA_TOOL_OPTIONS="-Xmx64m"), 128 * MEBIBYTE),
        (container(JAVA_OPTS="-Xmx64m", arguments=["java", "-Xmx1g"]), 1.25 * GIBIBYTE),
        (
            container(
                JAVA_TOOL_OPTIONS=(
                    "-XX:MaxHeapSize=1g -XX:MaxMetaspaceSize=100m -XX:MaxDirectMemorySize=50m "
                    "-XX:ReservedCodeCacheSize=100m"
                )
            ),
            GIBIBYTE + 500 * MEBIBYTE,
        ),
    ],
)
def test_a_heap_that_was_given_is_a_floor(given, floor):
    heap = recognise(given).heap
    assert heap is not None
    assert heap.memory == pytest.approx(floor)
    assert not heap.follows_limit


def test_a_heap_in_percent_follows_the_limit():
    given = container(limit=4 * GIBIBYTE, JAVA_TOOL_OPTIONS="-XX:MaxRAMPercentage=75.0", image="acme/shop:1")
    heap = recognise(given).heap
    assert heap is not None
    assert heap.follows_limit
    assert heap.memory == pytest.approx(3 * GIBIBYTE + 500 * MEBIBYTE)


def test_a_jvm_that_was_told_nothing_takes_a_quarter_and_without_a_limit_nobody_knows():
    image = "docker.io/library/eclipse-temurin:21-jre-alpine"
    bounded = recognise(container(limit=8 * GIBIBYTE, image=image)).heap
    assert bounded is not None
    assert bounded.memory == pytest.approx(2 * GIBIBYTE + 500 * MEBIBYTE)
    free = recognise(container(image=image)).heap
    assert free is not None
    assert isinstance(free.memory, Unknown)


@pytest.mark.parametrize(
    "image", ["node:20", "python:3.12", "ghcr.io/acme/javascript-app:1", "nginx", "ninja/kafkaesque"]
)
def test_others_are_no_jvm(image):
    assert recognise(container(image=image)).heap is None


@pytest.mark.parametrize(
    ("arguments", "gib"),
    [
        (["vllm", "serve", "m", "--swap-space", "8"], 16.0),
        (["--cpu-offload-gb=10", "--swap_space=4"], 28.0),
        (["sh", "-c", "vllm serve m --swap-space 2 --port 8000"], 4.0),
    ],
)
def test_host_memory_of_an_engine_is_pinned_for_each_gpu(arguments, gib):
    found = recognise(container(gpus=2.0, arguments=arguments)).host_memory
    assert found is not None
    assert found.memory == gib * GIBIBYTE


def test_a_pool_of_lmcache_counts_for_each_worker_and_an_unknown_one_is_unknown():
    known = EngineSettings(
        engine=EngineKind.VLLM, container="app", lmcache=True, lmcache_settings=LMCacheSettings(local_bytes=5e9)
    )
    found = recognise(container(gpus=4.0), engine=known)
    assert found.model_server
    assert found.host_memory is not None
    assert found.host_memory.memory == 20e9
    unknown = EngineSettings(engine=EngineKind.VLLM, container="app", lmcache=True)
    reserved = recognise(container(gpus=4.0), engine=unknown).host_memory
    assert reserved is not None
    assert isinstance(reserved.memory, Unknown)
    hierarchical = recognise(container(gpus=1.0, arguments=["sglang", "--enable-hierarchical-cache"])).host_memory
    assert hierarchical is not None
    assert isinstance(hierarchical.memory, Unknown)


def test_a_plain_engine_reserves_nothing():
    assert recognise(container(gpus=1.0, arguments=["vllm", "serve", "m"])).host_memory is None
    assert recognise(container(arguments=["--swap-space", "0"])).host_memory is None


@pytest.mark.parametrize(
    ("given", "others", "role"),
    [
        (container(), [], Role.MAIN),
        (container(place=Place.SIDECAR), [container("other")], Role.SIDECAR),
        (container(place=Place.INIT), [container("other")], Role.INIT),
        (container("istio-proxy"), [container("app")], Role.SIDECAR),
        (container("istio-proxy"), [], Role.MAIN),
        (container("helper"), [container("vllm", gpus=1.0)], Role.SIDECAR),
        (container("worker"), [container("api")], Role.MAIN),
        (container("node-exporter"), [container("api")], Role.SIDECAR),
    ],
)
def test_who_works_and_who_helps(given, others, role):
    assert recognise(given, others=others).role is role


def test_cuda_is_seen_by_gpus_and_by_the_image():
    assert recognise(container(gpus=1.0)).cuda
    assert recognise(container(image="nvcr.io/nvidia/pytorch:25.01-py3")).cuda
    assert recognise(container(image="pytorch/pytorch:2.4.0-cuda12.4-cudnn9-runtime")).cuda
    assert not recognise(container(image="barracuda/app:1")).cuda
