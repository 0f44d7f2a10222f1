"""`optiinfra analyze engine` on archives as people send them: recorded, broken, hostile, of several replicas."""

import gzip
import io
import json
import tarfile
from functools import cache

import pytest
from click.testing import CliRunner

from optiinfra.cli import analyze_pages
from optiinfra.cli.main import main
from tests.unit.engines.recorded import BATCH_BOUND, DATA, MEMORY_BOUND, RECORDINGS, lmcache_page, raw

START = 1_795_000_000


def archive(path, members, *, mode="w:gz"):
    """Write (name, content, time) as a tar archive."""
    with tarfile.open(path, mode) as tar:
        for name, content, time in members:
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(content), time
            tar.addfile(member, io.BytesIO(content))
    return path


def run(path, *options):
    return CliRunner().invoke(main, ["analyze", "engine", str(path), *options])


def analysed(path, *options):
    result = run(path, "--json", *options)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@cache
def recorded(name):
    return analysed(RECORDINGS / name)


def pages(first, last, *, name=BATCH_BOUND, folder="", start=START, step=1):
    return [
        (f"{folder}page-{index:03}.txt", content, start + place * step)
        for place, (index, (content, _)) in enumerate(list(enumerate(raw(name)))[first:last])
    ]


def verdicts(found):
    return [one["verdict"] for one in found["pages"]]


def dcgm(*, active, tensor, at):
    lines = [
        f'{name}{{gpu="0",UUID="GPU-1",device="nvidia0",modelName="NVIDIA H100 80GB HBM3",Hostname="n1"}} {value}'
        for name, value in (
            ("DCGM_FI_DEV_GPU_UTIL", 98),
            ("DCGM_FI_PROF_SM_ACTIVE", active),
            ("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", tensor),
            ("DCGM_FI_DEV_FB_USED", 70000),
        )
    ]
    return (f"gpu/gpu-{at:03}.txt", ("\n".join(lines) + "\n").encode(), START + at)


# ---- recorded


def test_the_recorded_phases_have_their_verdicts():
    batch = verdicts(recorded(BATCH_BOUND))
    assert set(batch[:6]) == {"Idle"}
    assert set(batch[8:76]) == {"Healthy"}
    assert set(batch[81:185]) == {"Batch"}
    assert set(batch[190:232]) == {"Healthy"}
    assert set(batch[236:]) == {"Idle"}
    memory = verdicts(recorded(MEMORY_BOUND))
    assert set(memory[8:36]) == {"Healthy"}
    assert set(memory[38:]) == {"KVCache"}


def test_pages_come_in_name_order_with_all_that_was_promised():
    found = recorded(BATCH_BOUND)
    assert [one["page"] for one in found["pages"]] == sorted(one["page"] for one in found["pages"])
    assert found["clock"] == "modified"
    assert found["cpu_seconds_per_page"] > 0
    busy = found["pages"][100]
    assert {"page", "time_s", "verdict", "confidence", "signals", "evidence"} <= busy.keys()
    assert busy["time_s"] == raw(BATCH_BOUND)[100][1]
    assert (busy["signals"]["waiting"], busy["signals"]["running_per_replica_max"]) == (16.0, 8.0)
    assert busy["signals"]["gpu_sm_active"] is None
    assert busy["alternative"]["verdict"] != busy["verdict"]
    waiting = next(fact for fact in busy["evidence"] if fact["signal"] == "requests_waiting")
    assert waiting["value"] == 16.0


def test_advice_comes_with_setting_values_and_reason():
    for name, wanted in ((BATCH_BOUND, "BatchSize"), (MEMORY_BOUND, "KVCache")):
        found = recorded(name)
        assert wanted in {one["type"] for one in found["advice"]}
        for one in found["advice"]:
            assert all(one[field] for field in ("type", "setting", "current", "proposed", "reason", "message"))
            assert 0.0 < one["confidence"] <= 1.0
        assert all(one["reason"] for one in found["refused"])


def test_arguments_make_surer():
    known = analysed(RECORDINGS / BATCH_BOUND, "--arguments", "HF_HOME=/x vllm serve tiny --max-num-seqs 8")
    assert known["pages"][120]["confidence"] > recorded(BATCH_BOUND)["pages"][120]["confidence"]
    assert known["pages"][120]["evidence"][3]["value"] == 8.0


def test_a_table_for_people():
    result = run(RECORDINGS / MEMORY_BOUND)
    assert result.exit_code == 0
    assert "KVCache" in result.stdout
    assert "instead:" in result.stdout
    assert "60 pages" in result.stdout


def test_no_verdict_knows_of_later_pages(tmp_path):
    whole = analysed(archive(tmp_path / "whole.tar.gz", pages(60, 100)))
    part = analysed(archive(tmp_path / "part.tar.gz", pages(60, 85)))
    for one, same in zip(whole["pages"], part["pages"], strict=False):
        assert one == same


def test_what_was_counted_before_the_recording_is_not_used(tmp_path):
    # The page after the load carries all counters of a busy past.
    found = analysed(archive(tmp_path / "quiet.tar.gz", pages(234, 239)))
    assert set(verdicts(found)) == {"Idle"}
    assert all(one["signals"]["generation_token_rate"] in {None, 0.0} for one in found["pages"])


def test_confidence_in_idle_grows_with_the_quiet(tmp_path):
    quiet = raw(BATCH_BOUND)[-1][0]
    found = analysed(archive(tmp_path / "quiet.tar.gz", [(f"{at:03}", quiet, START + at * 15) for at in range(30)]))
    assert set(verdicts(found)) == {"Idle"}
    sure = [one["confidence"] for one in found["pages"]]
    assert sure == sorted(sure)
    assert sure[-1] > sure[1]
    assert {one["reason"] for one in found["pages"]} == {"NoWorkYet", "NoWork"}


# ---- times


def test_equal_times_take_the_interval(tmp_path):
    path = archive(tmp_path / "a.tar.gz", pages(80, 100, step=0))
    given = analysed(path, "--interval", "2s")
    assert given["clock"] == "interval"
    assert [one["time_s"] for one in given["pages"]] == [2.0 * place for place in range(20)]
    assert analysed(path)["clock"] == "assumed"
    slower = analysed(path, "--interval", "20")["pages"][10]["signals"]["generation_token_rate"]
    assert given["pages"][10]["signals"]["generation_token_rate"] == pytest.approx(10 * slower)


def test_times_of_a_copy_are_not_believed_where_an_interval_is_given(tmp_path):
    copied = [(name, content, START + place // 10) for place, (name, content, _) in enumerate(pages(80, 100))]
    assert analysed(archive(tmp_path / "a.tar.gz", copied), "--interval", "5s")["clock"] == "interval"


def test_times_in_no_order_are_not_believed(tmp_path):
    backwards = [(name, content, START - place) for place, (name, content, _) in enumerate(pages(80, 90))]
    assert analysed(archive(tmp_path / "a.tar.gz", backwards))["clock"] == "assumed"


def test_numbers_in_names_order_pages(tmp_path):
    members = [(f"page-{9 + place}.txt", content, time) for place, (_, content, time) in enumerate(pages(80, 84))]
    found = analysed(archive(tmp_path / "a.tar.gz", members))
    assert [one["page"] for one in found["pages"]] == ["page-9.txt", "page-10.txt", "page-11.txt", "page-12.txt"]


# ---- shapes of input


def test_archives_folders_and_single_pages(tmp_path):
    members = pages(80, 90)
    zipped = analysed(archive(tmp_path / "a.tar.gz", members))
    assert analysed(archive(tmp_path / "a.tar", members, mode="w"))["pages"] == zipped["pages"]
    folder = tmp_path / "pages"
    folder.mkdir()
    for name, content, _ in members:
        (folder / name).write_bytes(gzip.compress(content))
    assert verdicts(analysed(folder, "--interval", "1s")) == verdicts(zipped)
    (tmp_path / "one.txt").write_bytes(members[0][1])
    (tmp_path / "one.txt.gz").write_bytes(gzip.compress(members[0][1]))
    for name in ("one.txt", "one.txt.gz"):
        found = analysed(tmp_path / name)
        assert verdicts(found) == ["Batch"]
        assert found["pages"][0]["confidence"] <= 0.5


def test_folders_are_replicas(tmp_path):
    members = [*pages(80, 90, folder="a/"), *pages(40, 50, folder="b/")]
    found = analysed(archive(tmp_path / "two.tar.gz", members))
    last = found["pages"][-1]["signals"]
    assert last["replicas_reporting"] == 2
    assert last["running"] == 13.0


def test_one_odd_scrape_of_many_replicas_counts_once(tmp_path):
    calm = [(f"{name}/{at:02}", raw(BATCH_BOUND)[100][0], START + at) for name in "abcd" for at in range(20)]
    odd = raw(BATCH_BOUND)[50][0]
    members = [(name, odd if name.endswith("/12") else content, time) for name, content, time in calm]
    found = analysed(archive(tmp_path / "a.tar.gz", members))
    assert {one["window_verdict"] for one in found["pages"] if one["page"].endswith("/12")} != {"Batch"}
    assert set(verdicts(found)) == {"Batch"}


@pytest.mark.parametrize("name", ["sglang.txt", "tgi.txt", "nim.txt", "triton.txt", "trtllm.txt", "vllm_v0.txt"])
def test_every_engine_gets_a_verdict(tmp_path, name):
    content = (DATA / name).read_bytes()
    found = analysed(archive(tmp_path / "a.tar.gz", [(f"{at}.txt", content, START + 5 * at) for at in range(4)]))
    assert len(found["pages"]) == 4
    assert all(one["reason"] for one in found["pages"])
    assert not any(one["reason"] == "PageUnreadable" for one in found["pages"])


def test_a_window_holds_two_pages_at_least(tmp_path):
    found = analysed(archive(tmp_path / "a.tar.gz", pages(80, 90, step=10)), "--window", "1s")
    assert found["pages"][-1]["window_s"] == 10.0


def test_lmcache_as_a_guest(tmp_path):
    with_guest = [(name, content + lmcache_page(), time) for name, content, time in pages(80, 84)]
    found = analysed(archive(tmp_path / "a.tar.gz", with_guest))
    assert found["pages"][-1]["signals"]["lmcache_requested_rate"] == 0.0


@pytest.mark.parametrize(("active", "tensor", "verdict"), [(0.97, 0.8, "Compute"), (0.6, 0.2, "Batch")])
def test_gpu_pages_confirm_or_contradict(tmp_path, active, tensor, verdict):
    gpus = [dcgm(active=active, tensor=tensor, at=at) for at in range(20)]
    found = analysed(archive(tmp_path / "a.tar.gz", [*gpus, *pages(80, 100)]))
    assert found["gpu_pages"] == 20
    assert len(found["pages"]) == 20
    assert not any(one["reason"] == "HardwareUnknown" for one in found["refused"])
    assert set(verdicts(found)[2:]) == {verdict}
    assert found["pages"][-1]["signals"]["gpu_tensor_active"] == pytest.approx(tensor)


# ---- what goes wrong


def test_a_page_that_cannot_be_read_is_told_and_skipped(tmp_path):
    good = pages(80, 90)
    bad = [
        ("page-085a.txt", b"<html>Bad gateway</html>", START + 5),
        ("page-085b.txt", b"", START + 5),
        ("page-085c.txt", b"\xff\xfe\x00", START + 5),
        ("page-085d.txt", good[0][1][: good[0][1].index(b"vllm:num_requests_running{") + 40], START + 5),
        ("LABELS.json", b"{}", START + 5),
    ]
    found = analysed(archive(tmp_path / "a.tar.gz", [*good, *bad]))
    told = {one["page"]: one for one in found["pages"]}
    assert len(told) == 15
    for name, _, _ in bad:
        assert (told[name]["verdict"], told[name]["confidence"]) == ("Unknown", 0.0)
        assert told[name]["message"]
    assert told["page-089.txt"]["verdict"] == "Batch"


def test_nothing_readable_is_one_line_and_exit_status_2(tmp_path):
    (tmp_path / "not.tar.gz").write_bytes(b"\x1f\x8bnot gzip at all")
    (tmp_path / "text").write_text("hello")
    (tmp_path / "cut.tar.gz").write_bytes((RECORDINGS / BATCH_BOUND).read_bytes()[:100])
    (tmp_path / "empty").mkdir()
    archive(tmp_path / "labels.tar.gz", [("LABELS.json", b"{}", START)])
    for name in ("not.tar.gz", "text", "cut.tar.gz", "empty", "labels.tar.gz"):
        result = run(tmp_path / name)
        assert result.exit_code == 2, name
        assert result.stderr.count("\n") == 1
        assert name in result.stderr
    assert run(tmp_path / "missing").exit_code == 2


def test_an_archive_that_was_cut_short_gives_what_came_before(tmp_path):
    whole = (RECORDINGS / BATCH_BOUND).read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(whole[: len(whole) // 2])
    found = analysed(tmp_path / "cut.tar.gz")
    assert verdicts(found).count("Healthy") > 20
    assert next(one["message"] for one in found["pages"] if one["verdict"] == "Unknown").startswith(
        "the archive is cut"
    )


def test_nothing_is_written_whatever_members_are_called(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    content = pages(80, 81)[0][1]
    members = [("../../evil.txt", content, START), (str(tmp_path / "evil.txt"), content, START + 1)]
    path = archive(inside / "a.tar.gz", members)
    with tarfile.open(inside / "b.tar", "w") as tar:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        member = tarfile.TarInfo("page")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    assert len(analysed(path)["pages"]) == 2
    linked = analysed(inside / "b.tar")["pages"]
    assert (linked[0]["page"], linked[0]["verdict"]) == ("link", "Unknown")
    assert sorted(one.name for one in tmp_path.rglob("*")) == ["a.tar.gz", "b.tar", "inside"]


def test_sizes_and_counts_are_bounded(tmp_path, monkeypatch):
    members = pages(80, 90)
    path = archive(tmp_path / "a.tar.gz", members)
    monkeypatch.setattr(analyze_pages, "MOST_BYTES", 1000)
    assert run(path).exit_code == 2
    monkeypatch.undo()
    monkeypatch.setattr(analyze_pages, "MOST_MEMBERS", 5)
    assert "more than 5 members" in run(path).stderr
    monkeypatch.undo()
    monkeypatch.setattr(analyze_pages, "MOST_BYTES_IN_ALL", 100_000)
    assert "unpacks to more" in run(path).stderr


@pytest.mark.parametrize(
    "options", [("--interval", "soon"), ("--interval", "0"), ("--objective-ttft", "-1s"), ("--arguments", "vllm 'open")]
)
def test_options_that_cannot_be_meant_are_refused(tmp_path, options):
    path = archive(tmp_path / "a.tar.gz", pages(80, 82))
    result = run(path, *options)
    assert result.exit_code == 2
    assert options[0] in result.stderr


def test_a_promise_makes_slow_tokens_count(tmp_path):
    path = archive(tmp_path / "a.tar.gz", pages(57, 67))
    assert set(verdicts(analysed(path))) == {"Healthy"}
    promised = analysed(path, "--objective-itl", "50ms")
    assert verdicts(promised)[-1] == "Compute"
    assert promised["pages"][-1]["confidence"] < 0.5
    assert promised["objectives"] == {"time_to_first_token_p95": None, "inter_token_latency_p95": 0.05}


def test_the_text_names_its_pages_its_units_and_what_nobody_promised():
    text = run(RECORDINGS / BATCH_BOUND).output
    assert "Advice for the verdict Batch, from the pages of seconds " in text
    assert "promised 3600 s" not in text
    assert "inf s" not in text
    assert "(no objective was given)" in text
    assert "No objective was given with --objective-ttft or --objective-itl" in text
    # Nobody named the arguments: what stands in them is not to be removed.
    assert "Put back what the engine's container had for --max-num-seqs" in text
    assert " ratio" not in text.partition("kv_cache_usage: ")[2].partition("\n")[0]


def test_only_the_objective_that_is_missing_is_named():
    text = run(RECORDINGS / BATCH_BOUND, "--objective-itl", "2s").output
    assert "(promised 2 s)" in text
    assert "No objective was given with --objective-ttft:" in text
