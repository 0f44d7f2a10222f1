"""Answers on disk: a run that was ended goes on, and what is kept is private, bounded, checked and holds no secret."""

import asyncio
import os
import stat
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from yarl import URL

from optiinfra.cluster.errors import Denied, Unconfigured
from optiinfra.cluster.prometheus_answer import Piece
from optiinfra.cluster.prometheus_ask import (
    AskLimits,
    MetricsServer,
    OverBudget,
    PieceCache,
    PrometheusServer,
    TimeGrid,
)
from optiinfra.cluster.prometheus_cache import CacheLimits, default_folder, piece_name
from optiinfra.cluster.prometheus_rows import Rows
from optiinfra.domain.report.frames import Question
from tests.unit.prometheus_stub import prometheus
from tests.unit.promql_stub import series

END = 1_700_006_400.0
STEP = 300.0
DAY = 86_400.0
LOAD = Question("load", "sum by (pod) (rate(load_total{$matchers}[$window]))", ("pod",), ("load_total",))
FLEET = dict(series("load_total", lambda time: time, namespace="a", pod=f"a-{n}") for n in range(4))
SMALL = AskLimits(cells=1_000)
ROWS = Rows((("a",), ("b",)), np.array([[1.0, np.nan], [3.0, 4.0]]), 7, ("odd",), 1)
PIECE = Piece(END, STEP, 2)


class Clock:
    def __init__(self, now=END):
        self.now = now

    def __call__(self):
        return self.now


async def ask(stub, folder, *, since=7 * DAY, end=END, limits=SMALL, cache_limits=None, **server):
    cache = PieceCache(folder, limits=cache_limits or CacheLimits())
    async with MetricsServer(PrometheusServer(URL(stub.url), **server), limits=limits, cache=cache) as session:
        return await session.ask([LOAD], TimeGrid.ending(end, since=since, step=STEP))


def asked_for(stub):
    return [given for given in stub.asked if "rate(" in given.get("query", "")]


def names(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


async def test_the_same_question_again_reads_nothing(tmp_path):
    with prometheus(fleet=FLEET) as stub:
        first = await ask(stub, tmp_path)
        number = len(asked_for(stub))
        second = await ask(stub, tmp_path)
        assert len(asked_for(stub)) == number > 5
    assert (first.frames[0].values == second.frames[0].values).all()
    assert second.samples.total == 0
    assert second.samples.kept == first.samples.counted
    assert (first.pieces_kept, second.pieces_kept) == (0, number)
    assert second.frames[0].samples == first.frames[0].samples


async def test_a_range_that_moved_on_is_asked_for_the_new_part_only(tmp_path):
    with prometheus(fleet=FLEET) as stub:
        await ask(stub, tmp_path)
        whole = len(asked_for(stub))
        later = await ask(stub, tmp_path, end=END + DAY)
        assert len(asked_for(stub)) - whole <= 0.4 * whole
    assert (later.frames[0].values == later.frames[0].times).all()


async def test_a_run_that_was_ended_goes_on_where_it_was(tmp_path):
    with prometheus(fleet=FLEET) as stub:
        evaluate = stub._range

        async def until(given):
            if len(asked_for(stub)) > 8:
                stub.token = "changed-in-between"
                return await stub.query_denied()
            return await evaluate(given)

        from aiohttp import web

        async def denied():
            return web.Response(status=401, text="expired")

        stub.query_denied = denied
        stub._range = until
        with pytest.raises(Denied, match="what was read is kept: the same command goes on from there"):
            await ask(stub, tmp_path)
        stub.token, stub._range = "", evaluate
        stub.asked.clear()
        asked = await ask(stub, tmp_path)
    assert asked.pieces_kept >= 6
    assert (asked.frames[0].values == asked.frames[0].times).all()


KILLED = """
import asyncio, sys
from pathlib import Path
from yarl import URL
from optiinfra.cluster.prometheus_ask import AskLimits, PieceCache, PrometheusServer, TimeGrid, ask
from optiinfra.domain.report.frames import Question

load = Question(*sys.argv[3:5], ("pod",), ("load_total",))
grid = TimeGrid.ending(float(sys.argv[5]), since=7 * 86400.0, step=300.0)
server, cache = PrometheusServer(URL(sys.argv[1])), PieceCache(Path(sys.argv[2]))
asyncio.run(ask([load], grid, server=server, cache=cache, limits=AskLimits(cells=1_000)))
"""


async def test_a_run_that_was_killed_goes_on_where_it_was(tmp_path):
    with prometheus(fleet=FLEET, delay_over=1, delay_s=0.2) as stub:
        given = [stub.url, str(tmp_path), LOAD.name, LOAD.promql, str(END)]
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", KILLED, *given)
        try:
            for _ in range(1_200):
                if len(names(tmp_path)) >= 3 or process.returncode is not None:
                    break
                await asyncio.sleep(0.05)
        finally:
            process.kill()
            await process.wait()
        done = len([path for path in names(tmp_path) if path.suffix == ".piece"])
        stub.asked.clear()
        stub.delay_s = 0.0
        asked = await ask(stub, tmp_path)
        assert asked.pieces_kept >= done > 0
        whole = len(list(TimeGrid.ending(END, since=7 * DAY, step=STEP).cuts(128)))
        assert len(asked_for(stub)) + asked.pieces_kept == whole
    assert (asked.frames[0].values == asked.frames[0].times).all()


async def test_a_budget_counts_only_what_is_not_there_yet(tmp_path):
    with prometheus(fleet=FLEET) as stub:
        cost = (await ask(stub, tmp_path)).samples.counted
        await ask(stub, tmp_path, limits=AskLimits(cells=1_000, total_samples=cost // 10))
        with pytest.raises(OverBudget):
            await ask(stub, tmp_path, end=END + 7 * DAY, limits=AskLimits(cells=1_000, total_samples=cost // 10))


async def test_what_is_kept_is_for_its_owner_only_and_holds_no_secret(tmp_path):
    folder = tmp_path / "deep" / "cache"
    token = tmp_path / "token"
    token.write_text("sesame-open-1234567")
    with prometheus(fleet=FLEET, token="sesame-open-1234567") as stub:
        await ask(stub, folder, token_file=token, headers=(("X-Api-Key", "key-of-the-tenant"),), tenant="team-a")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files = names(folder)
    assert files
    for path in files:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        for secret in (b"sesame-open", b"key-of-the-tenant"):
            assert secret not in path.read_bytes()
            assert secret not in str(path).encode()


async def test_a_folder_others_may_read_is_closed_and_one_of_somebody_else_refused(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o755)
    PieceCache(folder).open()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
    with pytest.raises(Unconfigured, match="another user's"):
        PieceCache(folder).open()


def test_a_folder_that_cannot_be_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Unconfigured, match="is not usable"):
        PieceCache(tmp_path / "file" / "cache").open()


def test_pieces_are_read_as_they_were_written(tmp_path):
    cache = opened(tmp_path)
    cache.put("ab" * 32, ROWS, end=END, now=END)
    read = cache.get("ab" * 32)
    assert read.keys == ROWS.keys
    np.testing.assert_array_equal(read.values, ROWS.values)
    assert (read.samples, read.warnings, read.merged) == (7, ("odd",), 1)
    assert cache.get("cd" * 32) is None


def opened(folder, limits=None, clock=None):
    cache = PieceCache(folder, limits=limits or CacheLimits(), **({"clock": clock} if clock else {}))
    cache.open()
    return cache


def kept(folder, name="ab" * 32):
    return folder / name[:2] / f"{name}.piece"


@settings(max_examples=150, deadline=None)
@given(place=st.integers(0, 400), change=st.binary(max_size=8), cut=st.integers(0, 400))
def test_damaged_files_are_no_answer(tmp_path_factory, place, change, cut):
    folder = tmp_path_factory.mktemp("cache")
    cache = opened(folder)
    cache.put("ab" * 32, ROWS, end=END, now=END)
    path = kept(folder)
    whole = path.read_bytes()
    damaged = whole[:place] + change + whole[place + len(change) :]
    damaged = damaged[: len(damaged) - cut] if cut else damaged
    path.write_bytes(damaged)
    read = cache.get("ab" * 32)
    if damaged == whole:
        assert read is not None
    else:
        assert read is None
        assert not path.exists()


def test_the_last_hours_are_kept_for_a_short_time_and_the_rest_for_long(tmp_path):
    clock = Clock()
    cache = opened(tmp_path, clock=clock)
    cache.put("ab" * 32, ROWS, end=END, now=END + 60)
    cache.put("cd" * 32, ROWS, end=END, now=END + DAY)
    for name in ("ab" * 32, "cd" * 32):
        os.utime(kept(tmp_path, name), (END, END))
    clock.now = END + 1_700
    assert cache.get("ab" * 32) is not None
    clock.now = END + 3_600
    assert cache.get("ab" * 32) is None
    assert cache.get("cd" * 32) is not None
    clock.now = END + 8 * DAY
    assert cache.get("cd" * 32) is None


def test_the_oldest_go_when_there_is_too_much(tmp_path):
    cache = opened(tmp_path, CacheLimits(bytes=3_000))
    for n in range(40):
        cache.put(f"{n:064x}", ROWS, end=END, now=END)
        os.utime(kept(tmp_path, f"{n:064x}"), (END + n, END + n)) if kept(tmp_path, f"{n:064x}").exists() else None
    files = names(tmp_path)
    assert 0 < sum(path.stat().st_size for path in files) <= 3_000
    assert kept(tmp_path, f"{39:064x}") in files
    assert kept(tmp_path, f"{0:064x}") not in files


def test_what_a_killed_run_left_half_written_is_removed_in_time(tmp_path):
    (tmp_path / "ab").mkdir()
    left = tmp_path / "ab" / ".new-abc"
    left.write_bytes(b"half")
    opened(tmp_path)
    assert left.exists()
    os.utime(left, (1.0, 1.0))
    opened(tmp_path)
    assert not left.exists()


async def test_a_disk_that_cannot_be_written_is_told_and_the_run_goes_on(tmp_path, monkeypatch):
    import tempfile

    def full(**_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "mkstemp", full)
    with prometheus(fleet=FLEET) as stub:
        asked = await ask(stub, tmp_path)
    assert (asked.frames[0].values == asked.frames[0].times).all()
    assert any("answers are not kept any more" in note and "No space left" in note for note in asked.notes)


def test_names_differ_by_all_that_changes_an_answer_and_not_by_what_rotates(tmp_path):
    here = PrometheusServer(URL("http://p:9090"))
    base = piece_name(here, "up", PIECE, by=("pod",))
    others = {
        piece_name(PrometheusServer(URL("http://q:9090")), "up", PIECE, by=("pod",)),
        piece_name(PrometheusServer(URL("http://p:9090"), tenant="a"), "up", PIECE, by=("pod",)),
        piece_name(PrometheusServer(URL("http://p:9090"), user="me", password_file=tmp_path), "up", PIECE, by=("pod",)),
        piece_name(PrometheusServer(URL("http://p:9090"), (("X-Scope", "b"),)), "up", PIECE, by=("pod",)),
        piece_name(here, "up2", PIECE, by=("pod",)),
        piece_name(here, "up", Piece(END, STEP, 3), by=("pod",)),
        piece_name(here, "up", Piece(END + STEP, STEP, 2), by=("pod",)),
        piece_name(here, "up", Piece(END, 60.0, 2), by=("pod",)),
        piece_name(here, "up", PIECE, by=("node",)),
    }
    assert len(others | {base}) == 10
    same = PrometheusServer(URL("http://p:9090"), token_file=tmp_path / "token")
    assert piece_name(same, "up", PIECE, by=("pod",)) == base
    keyed = [PrometheusServer(URL("http://p:9090"), (("Authorization", value),)) for value in ("Basic a", "Basic b")]
    assert len({piece_name(one, "up", PIECE, by=("pod",)) for one in keyed}) == 1


def test_the_usual_folder_is_the_user_s_own(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "optiinfra" / "prometheus"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/me")
    assert str(default_folder()) == "/home/me/.cache/optiinfra/prometheus"
