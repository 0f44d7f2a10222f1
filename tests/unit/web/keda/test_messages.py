"""Every message against protobuf's own encoder and decoder, from KEDA's published proto."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optiinfra.web.keda.messages import (
    MessageError,
    MetricSpec,
    MetricValue,
    read_get_metrics_request,
    read_scaled_object_ref,
    write_is_active,
    write_metric_specs,
    write_metric_values,
)

TEXT = st.text(max_size=40)
METADATA = st.dictionaries(TEXT, TEXT, max_size=6)


@given(name=TEXT, namespace=TEXT, metadata=METADATA, metric=TEXT)
def test_requests_are_read_as_protobuf_writes_them(keda, name, namespace, metadata, metric):
    reference = keda.messages.ScaledObjectRef(name=name, namespace=namespace, scalerMetadata=metadata)
    read = read_scaled_object_ref(reference.SerializeToString())
    assert (read.name, read.namespace, dict(read.scaler_metadata)) == (name, namespace, metadata)
    request = keda.messages.GetMetricsRequest(scaledObjectRef=reference, metricName=metric)
    asked = read_get_metrics_request(request.SerializeToString())
    assert (asked.scaled_object_ref, asked.metric_name) == (read, metric)


@given(
    names=st.lists(st.tuples(st.text(min_size=1, max_size=40), st.integers(0, 2**31)), max_size=4), active=st.booleans()
)
def test_responses_are_written_as_protobuf_reads_them(keda, names, active):
    answer = keda.messages.IsActiveResponse.FromString(write_is_active(active=active))
    assert answer.result is active
    specs = keda.messages.GetMetricSpecResponse.FromString(write_metric_specs([MetricSpec(*each) for each in names]))
    assert [(one.metricName, one.targetSize, one.targetSizeFloat) for one in specs.metricSpecs] == [
        (name, size, float(size)) for name, size in names
    ]
    values = keda.messages.GetMetricsResponse.FromString(write_metric_values([MetricValue(*each) for each in names]))
    assert [(one.metricName, one.metricValue, one.metricValueFloat) for one in values.metricValues] == [
        (name, value, float(value)) for name, value in names
    ]
    assert values.SerializeToString(deterministic=True) == write_metric_values([MetricValue(*each) for each in names])


def test_fields_of_a_later_proto_are_skipped(keda):
    known = keda.messages.ScaledObjectRef(name="a", namespace="b").SerializeToString()
    later = b"\xa0\x06\x01" + b"\xa9\x06" + bytes(8) + b"\xad\x06" + bytes(4) + b"\xa2\x06\x02hi"
    read = read_scaled_object_ref(later + known + later)
    assert (read.name, read.namespace) == ("a", "b")


@pytest.mark.parametrize(
    "noise",
    [b"\x0a", b"\x0a\x05ab", b"\x0a\x02\xff\xfe", b"\x0b", b"\x00\x01", b"\x80" * 11, b"\x08\x01", b"\x1a\x02\x0a\x09"],
)
def test_what_is_no_such_message_is_said(noise):
    with pytest.raises(MessageError):
        read_scaled_object_ref(noise)


@given(st.binary(max_size=200))
def test_noise_raises_nothing_else(noise):
    for read in (read_scaled_object_ref, read_get_metrics_request):
        with contextlib.suppress(MessageError):
            read(noise)
