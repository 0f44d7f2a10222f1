"""Events that people see, once."""

import pytest

from optiinfra.cluster.client import KubernetesClient
from optiinfra.cluster.events import EventOutcome, EventRecorder, EventType, ObjectReference


@pytest.fixture
async def client(apiserver):
    async with KubernetesClient.from_environment(str(apiserver.kubeconfig)) as opened:
        yield opened


def about(namespace, name="llama", uid="u-1"):
    return ObjectReference("optiinfra.io/v1alpha1", "ResourceOptimization", namespace, name, uid)


async def events(client, namespace):
    return await client.list(f"/apis/events.k8s.io/v1/namespaces/{namespace}/events")


class Clock:
    now = 1_795_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


async def say(recorder, reference, note="Raised the floor to 4", reason="FloorRaised"):
    return await recorder.record(reference, event_type=EventType.NORMAL, reason=reason, action="HoldFloor", note=note)


async def test_an_event_is_seen_with_kubectl(apiserver, client, namespace, clock):
    recorder = EventRecorder(client, instance="optiinfra-0", clock=clock)
    assert await say(recorder, about(namespace)) is EventOutcome.WRITTEN
    shown = apiserver.kubectl("get", "events", "-n", namespace, "--field-selector", "involvedObject.name=llama")
    assert "FloorRaised" in shown
    assert "Raised the floor to 4" in shown


async def test_repeats_count_up_in_one_event(client, namespace, clock):
    recorder = EventRecorder(client, instance="optiinfra-0", clock=clock)
    outcomes = []
    for _ in range(5):
        outcomes.append(await say(recorder, about(namespace)))
        clock.now += 30.0
    assert outcomes == [
        EventOutcome.WRITTEN,
        EventOutcome.SUPPRESSED,
        EventOutcome.SERIES,
        EventOutcome.SUPPRESSED,
        EventOutcome.SERIES,
    ]
    (event,) = await events(client, namespace)
    assert event["series"]["count"] == 5


async def test_other_words_objects_and_times_are_other_events(client, namespace, clock):
    recorder = EventRecorder(client, instance="optiinfra-0", clock=clock)
    await say(recorder, about(namespace))
    await say(recorder, about(namespace), note="Raised the floor to 5")
    await say(recorder, about(namespace, uid="u-2"))
    clock.now += 601.0
    assert await say(recorder, about(namespace)) is EventOutcome.WRITTEN
    assert len(await events(client, namespace)) == 4


async def test_a_series_whose_event_expired_starts_again(client, namespace, clock):
    recorder = EventRecorder(client, instance="optiinfra-0", clock=clock)
    await say(recorder, about(namespace))
    (event,) = await events(client, namespace)
    await client.delete(f"/apis/events.k8s.io/v1/namespaces/{namespace}/events/{event['metadata']['name']}")
    clock.now += 61.0
    assert await say(recorder, about(namespace)) is EventOutcome.SUPPRESSED
    assert await say(recorder, about(namespace)) is EventOutcome.WRITTEN


async def test_long_notes_are_cut_between_characters_and_cluster_objects_have_a_place(client, clock):
    recorder = EventRecorder(client, instance="optiinfra-0", clock=clock)
    reference = ObjectReference("optiinfra.io/v1alpha1", "ClusterResourceOptimization", "", "pools-of-events", "u-9")
    assert await say(recorder, reference, note="\u20ac" * 2000) is EventOutcome.WRITTEN
    (event,) = [event for event in await events(client, "default") if event["regarding"]["name"] == "pools-of-events"]
    assert event["note"] == "\u20ac" * 341


async def test_an_event_that_cannot_be_written_stops_nothing(client, clock, caplog):
    recorder = EventRecorder(client, instance="optiinfra-0", clock=clock)
    assert await say(recorder, about("no-such-namespace")) is EventOutcome.FAILED
    assert "no-such-namespace" in caplog.text
