"""A recorded engine: right page at the right time, bytes untouched, then the saturated part again."""

import io
import tarfile

import pytest

from optiinfra_sim.errors import RecordingError
from optiinfra_sim.replay import read_recording


def pack(path, pages):
    with tarfile.open(path, "w:gz") as archive:
        for name, mtime, body in pages:
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(body), mtime
            archive.addfile(member, io.BytesIO(body))
    return path


def page(waiting):
    return (
        f'vllm:num_requests_running{{engine="0"}} 1.0\nvllm:num_requests_waiting{{engine="0"}} {waiting}\n'
        f'vllm:kv_cache_usage_perc{{engine="0"}} 0.5\n'
    ).encode()


def test_pages_are_served_unmodified_one_a_second(memory_bound, package):
    with tarfile.open(package / "recordings/vllm-0.32-cpu-memory-bound-part1.tar.gz") as archive:
        original = {member.name: archive.extractfile(member).read() for member in archive}
    assert len(memory_bound.pages) == len(original) == 60
    for second, name in enumerate(sorted(original)):
        assert memory_bound.page(elapsed=second + 0.5).body == original[name]


def test_after_the_end_the_saturated_part_repeats_and_counters_fall(memory_bound, read_gauge):
    first_queue = memory_bound.pages[memory_bound.loop_from]
    assert first_queue.waiting == 11
    assert memory_bound.page(elapsed=60.0) is first_queue
    assert memory_bound.page(elapsed=60.0 + 24 * 5 + 3.2) is memory_bound.pages[memory_bound.loop_from + 3]
    before = read_gauge(memory_bound.page(elapsed=59.9).body, "vllm:generation_tokens_total")
    after = read_gauge(memory_bound.page(elapsed=60.1).body, "vllm:generation_tokens_total")
    assert after < before
    assert all(memory_bound.page(elapsed=second).waiting > 0 for second in range(60, 600))


def test_before_its_time_the_first_page_is_due(memory_bound):
    assert memory_bound.page(elapsed=-5.0) is memory_bound.pages[0]


def test_pages_of_one_second_share_it(tmp_path):
    path = pack(tmp_path / "a.tar.gz", [("0", 10, page(0)), ("1", 11, page(1)), ("2", 11, page(2)), ("3", 12, page(3))])
    recording = read_recording(path)
    assert [one.at for one in recording.pages] == [0, 1, 1.5, 2]
    assert recording.page(elapsed=1.2).waiting == 1
    assert recording.page(elapsed=1.7).waiting == 2


def test_a_series_without_a_queue_repeats_from_its_beginning(tmp_path):
    recording = read_recording(pack(tmp_path / "a.tar.gz", [("0", 10, page(0)), ("1", 11, page(0))]))
    assert recording.loop_from == 0


@pytest.mark.parametrize(
    ("pages", "said"),
    [
        ([("0", 10, page(0))], "at least two"),
        ([("0", 10, page(0)), ("1", 10, page(0))], "same modification time"),
        ([("0", 10, page(0)), ("1", 11, b"<html>")], "lacks running"),
    ],
)
def test_what_is_not_a_series_is_refused(tmp_path, pages, said):
    with pytest.raises(RecordingError, match=said):
        read_recording(pack(tmp_path / "a.tar.gz", pages))


def test_what_is_not_an_archive_is_refused(tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(b"nothing")
    with pytest.raises(RecordingError, match="cannot be read"):
        read_recording(tmp_path / "a.tar.gz")
